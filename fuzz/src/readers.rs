//! A target per reader. What is read is also looked at as the program would.

use std::hint::black_box;
use std::path::Path;
use std::sync::{LazyLock, OnceLock};

use plmconv_calibrate::statistics::Statistics;
use plmconv_calibrate::{Silent, resume};
use plmconv_formats::adapter::{Adapter, gguf_tensors};
use plmconv_formats::gguf::GgufFile;
use plmconv_formats::model::{Model, Origin};
use plmconv_formats::onnx::OnnxFile;
use plmconv_formats::safetensors::SafetensorsFile;
use plmconv_formats::source::RowSource;
use plmconv_formats::{Config, DType, DescribeOptions, Imatrix, TextTokenizer, chat, describe};
use plmconv_quant::codec;
use plmconv_validate::reference::Reference;
use serde_json::{Map, Value as Json, json};

use crate::scratch;

/// Text that has all that a tokenizer splits at.
const TEXT: &str = "Hello, wörld! <|im_start|>it's 12345\n\n  \tdone<s> 漢字";

/// A whole file, or (an odd first byte) a header's JSON, whose length is put before it, and some data after it.
pub fn safetensors(input: &[u8]) {
    let bytes = match input {
        [first, json @ ..] if first % 2 == 1 => {
            let length = (json.len() as u64).to_le_bytes();
            [&length, json, &vec![0; usize::from(first / 2) * 16]].concat()
        }
        _ => input.to_vec(),
    };
    let path = scratch::write("x.safetensors", &bytes);
    if let Ok(file) = SafetensorsFile::open(&path) {
        for data in file.tensors.iter().filter_map(|tensor| tensor.data.as_ref()) {
            read_ends(data);
        }
    }
}

/// An adapter's config, and the header of its tensors, which are zeros.
pub fn adapter(input: &[u8]) {
    let folder = scratch::empty("adapter");
    for (name, bytes) in scratch::sections(input, &ADAPTER) {
        let header = bytes.trim_ascii_end();
        let length = (header.len() as u64).to_le_bytes();
        let bytes = match name {
            "adapter_model.safetensors" => [&length, header, &vec![0; ADAPTER_DATA]].concat(),
            _ => bytes.to_vec(),
        };
        scratch::write(&format!("adapter/{name}"), &bytes);
    }
    if let Ok(adapter) = Adapter::open(&folder, 0.5)
        && let Ok((tensors, _)) = gguf_tensors(&adapter, &SEED_CONFIG)
    {
        tensors.iter().for_each(|tensor| read_ends(&*tensor.source));
    }
}

const ADAPTER: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];
/// Bytes of the tensors of [`crate::seeds::adapter`].
pub const ADAPTER_DATA: usize = 512;

/// The first and the last row of a tensor, decoded.
fn read_ends(source: &dyn RowSource) {
    let (rows, mut bytes) = (source.rows(), Vec::new());
    if rows == 0 || source.row_bytes() > 1 << 20 {
        return;
    }
    let mut values = vec![0.0; source.cols()];
    for row in [0, rows - 1] {
        source.read_rows(row..row + 1, &mut bytes).expect("a checked tensor is there");
        let _ = black_box(codec::decode(source.dtype(), &bytes, &mut values));
    }
}

fn look_at_gguf(file: &GgufFile) {
    for tensor in &file.tensors {
        assert!(file.tensor(&tensor.name).is_some());
        read_ends(&tensor.data);
    }
    let _ = black_box(Config::from_gguf(file.path(), &file.metadata));
    if let Ok(tokenizer) = TextTokenizer::from_metadata(file.path(), &file.metadata) {
        look_at_tokenizer(&tokenizer);
    }
}

fn look_at_tokenizer(tokenizer: &TextTokenizer) {
    if let Ok(ids) = tokenizer.encode(TEXT) {
        black_box(tokenizer.decode(&ids));
    }
    let _ = black_box(tokenizer.encode_chat(TEXT));
    black_box(tokenizer.digest());
}

pub fn gguf(input: &[u8]) {
    let path = scratch::write("x.gguf", input);
    if let Ok(file) = GgufFile::open(&path) {
        look_at_gguf(&file);
    }
    if let Ok(model) = Model::open(&path) {
        black_box(model.parameter_count());
    }
}

/// Two shards: the length of the first in two bytes, then both.
pub fn gguf_set(input: &[u8]) {
    let Some((length, shards)) = input.split_first_chunk() else { return };
    let cut = usize::from(u16::from_le_bytes(*length)).min(shards.len());
    let path = scratch::write("set-00001-of-00002.gguf", &shards[..cut]);
    scratch::write("set-00002-of-00002.gguf", &shards[cut..]);
    if let Ok(file) = GgufFile::open(&path) {
        look_at_gguf(&file);
    }
}

pub fn onnx(input: &[u8]) {
    static DATA: OnceLock<()> = OnceLock::new();
    DATA.get_or_init(|| drop(scratch::write("model.onnx.data", &[0; 4096])));
    let path = scratch::write("model.onnx", input);
    if let Ok(file) = OnnxFile::open(&path) {
        black_box((file.weights(), file.profile()));
    }
}

pub fn imatrix(input: &[u8]) {
    let _ = black_box(Imatrix::open(scratch::write("imatrix", input)));
}

/// tokenizer.json.
pub fn tokenizer(input: &[u8]) {
    static CONFIG: OnceLock<()> = OnceLock::new();
    CONFIG.get_or_init(|| drop(scratch::write("tokenizer/config.json", b"{}")));
    let path = scratch::write("tokenizer/tokenizer.json", input);
    let folder = path.parent().expect("it stands in a folder");
    if let Ok(tokenizer) = TextTokenizer::from_folder(folder, 512) {
        look_at_tokenizer(&tokenizer);
    }
}

/// The files of a folder that describe a model.
pub const DESCRIBING: [&str; 12] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "README.md",
    "additional_chat_templates/tool_use.jinja",
];

/// A folder's small files, as [`scratch::sections`] takes them apart.
pub fn describe_folder(input: &[u8]) {
    let folder = scratch::empty("describe");
    for (name, bytes) in scratch::sections(input, &DESCRIBING) {
        scratch::write(&format!("describe/{name}"), bytes);
    }
    describe_model(&folder);
    if let Ok(tokenizer) = TextTokenizer::from_folder(&folder, 32) {
        look_at_tokenizer(&tokenizer);
    }
}

static SEED_CONFIG: LazyLock<Config> = LazyLock::new(|| {
    Config::from_json(Path::new("config.json"), crate::seeds::CONFIG.into()).expect("a seed")
});

fn describe_model(folder: &Path) {
    let (config, origin) = (SEED_CONFIG.clone(), Origin::HuggingFace(folder.into()));
    let model = Model {
        config,
        tensors: Vec::new(),
        origin,
        warnings: Vec::new(),
        inputs: Vec::new(),
        adapters: Vec::new(),
    };
    let _ = black_box(describe(&model, &DescribeOptions { file_type: 0, tokenizer_pre: None }));
}

pub fn config(input: &[u8]) {
    if let Ok(config) = Config::from_json(Path::new("config.json"), input.to_vec()) {
        // Each check of a shape multiplies what the file says.
        if config.num_hidden_layers <= 64 {
            black_box(config.expected_tensors());
        }
    }
}

/// README.md of a folder that is otherwise whole.
pub fn card(input: &[u8]) {
    static REST: OnceLock<()> = OnceLock::new();
    REST.get_or_init(|| {
        for (name, bytes) in crate::seeds::describing() {
            scratch::write(&format!("card/{name}"), &bytes);
        }
    });
    let path = scratch::write("card/README.md", input);
    describe_model(path.parent().expect("it stands in a folder"));
}

pub fn statistics(input: &[u8]) {
    let path = scratch::write("statistics", input);
    let Ok(statistics) = Statistics::open(&path) else { return };
    let _ = black_box((statistics.check_model("x"), statistics.answers("x")));
    for name in ["blk.0.ffn_up.weight", "token_embd.weight"] {
        let _ = black_box((statistics.importance(name), statistics.tokens(name), statistics.lookups(name)));
        let _ = black_box((statistics.inputs(name, 32), statistics.outputs(name, 32)));
        black_box((statistics.has_curvature(name), statistics.has_outputs(name)));
    }
}

/// Work that an interrupted run kept.
pub fn journal(input: &[u8]) {
    let folder = scratch::empty("journal");
    let output = folder.join("out.gguf");
    scratch::write("journal/out.gguf.partial", input);
    let _ = black_box(resume::start(&output, true, 64, Some("key"), &Silent));
    resume::discard(&output);
}

pub fn reference(input: &[u8]) {
    let path = scratch::write("reference", input);
    if let Ok(reference) = Reference::open(&path) {
        black_box((reference.windows().count(), reference.vocab_size(), reference.stored()));
    }
}

/// A chat template, rendered with what `generate --chat` gives it.
pub fn template(input: &[u8]) {
    let Ok(template) = std::str::from_utf8(input) else { return };
    static VARIABLES: OnceLock<Map<String, Json>> = OnceLock::new();
    let variables = VARIABLES.get_or_init(|| {
        let json = json!({
            "messages": [{"role": "user", "content": "What is it?"}], "tools": null, "documents": null,
            "add_generation_prompt": true, "bos_token": "<s>", "eos_token": "<|im_end|>",
        });
        json.as_object().expect("an object").clone()
    });
    let _ = black_box(chat::render(template, variables));
}

/// The id of a type, then blocks. What decodes to finite values encodes again.
pub fn blocks(input: &[u8]) {
    let Some((&id, bytes)) = input.split_first() else { return };
    let Some(dtype) = DType::from_ggml_id(u32::from(id) % 41) else { return };
    let blocks = bytes.len() / dtype.block_bytes();
    let bytes = &bytes[..blocks * dtype.block_bytes()];
    let mut values = vec![0.0; blocks * dtype.block_len()];
    let decoded = codec::decode(dtype, bytes, &mut values);
    assert_eq!(decoded.is_ok(), codec::can_decode(dtype));
    if decoded.is_err()
        || blocks == 0
        || codec::first_non_finite(&values).is_some()
        || !codec::can_encode(dtype)
    {
        return;
    }
    let mut encoded = vec![0; bytes.len()];
    if codec::encode_rows(dtype, &values, values.len(), None, &mut encoded).is_ok() {
        codec::decode(dtype, &encoded, &mut values).expect("blocks of ours");
        assert!(codec::first_non_finite(&values).is_none(), "finite values become {dtype} that is not");
    }
}
