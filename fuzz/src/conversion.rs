//! A whole conversion of a model of a few thousand weights: the program's own command on a folder whose files are the
//! input. What it writes without an error has to open.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use plmconv_formats::gguf::GgufFile;
use plmconv_formats::onnx::OnnxFile;
use plmconv_formats::{Config, Model};
use safetensors::tensor::{Dtype, TensorView};

use crate::readers::DESCRIBING;
use crate::scratch;

/// Values and positions of a model that is converted; the time is the fuzzer's.
const MOST_VALUES: usize = 100_000;
const MOST_POSITIONS: usize = 256;

/// What follows the name of the program; the first byte of an input chooses.
pub const COMMANDS: [&[&str]; 14] = [
    &["convert", "--to", "gguf"],
    &["convert", "--to", "gguf", "--dtype", "f16"],
    &["convert", "--to", "gguf", "--layout", "latent", "--dtype", "f32"],
    &["convert", "--to", "gguf", "--passes", "fold-latent-norm,turn-latent,turn-values,sort-neurons"],
    &["convert", "--to", "onnx"],
    &["convert", "--to", "onnx", "--dtype", "f16", "--profile", "hf"],
    &["convert", "--to", "onnx", "--profile", "genai", "--opset", "23"],
    &["quantize", "q8"],
    &["quantize", "q4"],
    &["quantize", "q4_k_m", "--pure"],
    &["quantize", "q2_k", "--layout", "latent"],
    &["quantize", "tq1_0"],
    &["quantize", "q4", "--to", "onnx"],
    &["quantize", "q8", "--to", "onnx", "--quant-format", "qdq"],
];

/// Names of an input's sections besides [`DESCRIBING`]: bytes of which the weights are made, a header of
/// safetensors instead of the model's own, an index.
const WEIGHTS: &str = "weights";
const HEADER: &str = "header";
const INDEX: &str = "model.safetensors.index.json";

/// Two bytes (command; types of the tensors), then sections ([`scratch::sections`]).
pub fn run(input: &[u8]) {
    let [command, types, files @ ..] = input else { return };
    let known: Vec<&str> = DESCRIBING.iter().copied().chain([WEIGHTS, HEADER, INDEX]).collect();
    let sections = scratch::sections(files, &known);
    let section = |name: &str| sections.iter().find(|(n, _)| *n == name).map(|(_, bytes)| *bytes);

    let Some(config) = section("config.json") else { return };
    let Ok(config) = Config::from_json(Path::new("config.json"), config.to_vec()) else { return };
    let values = |shape: &[usize]| shape.iter().try_fold(1usize, |n, &axis| n.checked_mul(axis));
    if config.num_hidden_layers > 4 || config.max_position_embeddings > MOST_POSITIONS {
        return;
    }
    let tensors = config.expected_tensors();
    let total = tensors.iter().try_fold(0usize, |sum, (_, shape)| sum.checked_add(values(shape)?));
    if total.is_none_or(|total| total > MOST_VALUES) {
        return;
    }

    let folder = scratch::empty("model");
    for (name, bytes) in &sections {
        if *name != WEIGHTS && *name != HEADER {
            scratch::write(&format!("model/{name}"), bytes);
        }
    }
    let dtype = [Dtype::BF16, Dtype::F16, Dtype::F32, Dtype::F64][usize::from(*types) % 4];
    let weights = section(WEIGHTS).unwrap_or_default();
    let file = checkpoint(&tensors, dtype, weights);
    let file = match section(HEADER) {
        Some(header) => {
            let data = &file[8 + u64::from_le_bytes(file[..8].try_into().expect("eight bytes")) as usize..];
            [&(header.len() as u64).to_le_bytes(), header, data].concat()
        }
        None => file,
    };
    scratch::write("model/model.safetensors", &file);
    convert(&folder, COMMANDS[usize::from(*command) % COMMANDS.len()]);
}

/// All tensors of a model, of values that `weights` say; these are from -2 to 2.
fn checkpoint(tensors: &[(plmconv_formats::TensorKey, Vec<usize>)], dtype: Dtype, weights: &[u8]) -> Vec<u8> {
    let mut bits = weights.iter().copied().cycle();
    let mut number = 0u8;
    let mut value = move || {
        number = number.wrapping_mul(73).wrapping_add(bits.next().unwrap_or(41));
        (f32::from(number) - 128.0) / 64.0
    };
    let data: Vec<(String, &[usize], Vec<u8>)> = tensors
        .iter()
        .map(|(key, shape)| {
            let mut bytes = Vec::new();
            for _ in 0..shape.iter().product() {
                let value = value();
                match dtype {
                    Dtype::F64 => bytes.extend(f64::from(value).to_le_bytes()),
                    Dtype::F32 => bytes.extend(value.to_le_bytes()),
                    Dtype::BF16 => bytes.extend(&value.to_le_bytes()[2..]),
                    // The quarters from -2 to 2 are exact in half precision whose exponent is cut from f32's.
                    _ => bytes.extend(half_bits(value).to_le_bytes()),
                }
            }
            let name = key.hugging_face_name().expect("a checkpoint's tensor");
            (name, shape.as_slice(), bytes)
        })
        .collect();
    let views = data.iter().map(|(name, shape, bytes)| {
        (name, TensorView::new(dtype, shape.to_vec(), bytes).expect("sized by its shape"))
    });
    safetensors::serialize(views, None).expect("serializes")
}

/// A value from -2 to 2 with few bits, in half precision.
fn half_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    if value == 0.0 {
        return 0;
    }
    let exponent = ((bits >> 23) & 0xff) + 15 - 127;
    ((bits >> 31) << 15 | exponent << 10 | (bits >> 13) & 0x3ff) as u16
}

/// Runs the command on a folder; opens what it wrote.
pub fn convert(folder: &Path, command: &[&str]) -> Option<PathBuf> {
    let to_onnx = command.contains(&"onnx");
    let output = scratch::folder().join(if to_onnx { "out-onnx" } else { "out.gguf" });
    let mut arguments: Vec<OsString> = vec!["plmconv".into()];
    let positional = if command[0] == "quantize" { 2 } else { 1 };
    arguments.extend(command[..positional].iter().map(Into::into));
    arguments.push(folder.into());
    arguments.extend(command[positional..].iter().map(Into::into));
    arguments.extend(["--force", "--quiet", "--json", "--threads", "1", "-o"].map(Into::into));
    arguments.push(output.clone().into());
    plmconv::execute(arguments).ok()?;
    if to_onnx {
        let file = OnnxFile::open(&graph(&output)).expect("what was written opens");
        assert!(!file.weights().is_empty());
    } else {
        let file = GgufFile::open(&output).expect("what was written opens");
        let model = Model::open(&output).expect("what was written is a model");
        assert_eq!(file.tensors.len(), model.tensors.len());
    }
    Some(output)
}

/// The graph of an exported folder.
pub fn graph(folder: &Path) -> PathBuf {
    plmconv::onnx::find_graph(folder).expect("one graph").expect("an export has a graph")
}
