//! What a path holds instead of a model, where it is something well known.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::Error;
use crate::gguf::{MAGIC, Metadata};
use crate::json;
use crate::source::InputFile;

/// Something that is not a PLM to convert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// Differences to a base model, which the adapter may name.
    Adapter {
        /// The model it is for, if it says so.
        base: Option<String>,
    },
    /// A model with adapters in it that are not merged.
    UnmergedAdapter,
    /// Weights that are not plain numbers.
    Quantized {
        /// Who quantized them, or how.
        method: String,
    },
    /// Weights of another framework, in this file.
    OtherWeights {
        /// Whose weights they are.
        framework: &'static str,
        /// One of the files.
        file: String,
    },
    /// A folder with these GGUF files.
    Ggufs {
        /// At least one.
        files: Vec<PathBuf>,
    },
    /// An ONNX graph, or a folder with this one.
    Onnx {
        /// The graph's path.
        graph: PathBuf,
    },
    /// A folder whose subfolder is a model.
    Nested {
        /// The subfolder.
        folder: PathBuf,
        /// What the path itself is.
        what: &'static str,
    },
    /// Optimizer states and weights that DeepSpeed or FSDP has split up.
    TrainingState {
        /// One of the files.
        file: String,
    },
    /// A file that belongs to the model in this folder.
    PartOfModel {
        /// The model's folder.
        folder: PathBuf,
    },
    /// A safetensors file without a config.json beside it.
    LoneSafetensors,
    /// A compressed archive.
    Archive {
        /// Which, with its article.
        kind: &'static str,
    },
    /// A GGUF that holds something else than a model.
    GgufOf {
        /// What it holds.
        what: &'static str,
    },
    /// A folder without files.
    EmptyFolder,
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Foreign::Adapter { base: Some(base) } => write!(f, "a LoRA adapter for {base}, not a model"),
            Foreign::Adapter { base: None } => f.write_str("a LoRA adapter, not a model"),
            Foreign::UnmergedAdapter => f.write_str("a model with LoRA adapters that are not merged into it"),
            Foreign::Quantized { method } => write!(f, "the checkpoint is already quantized ({method})"),
            Foreign::OtherWeights { framework, file } => {
                write!(f, "no safetensors here, but weights of {framework} ({file})")
            }
            Foreign::Ggufs { files } => match files.as_slice() {
                [one] => write!(f, "a folder with a GGUF in it, {}", one.display()),
                many => write!(f, "a folder with {} GGUF files in it", many.len()),
            },
            Foreign::Onnx { graph } => write!(f, "an ONNX export ({}), not a checkpoint", graph.display()),
            Foreign::Nested { folder, what } => write!(f, "{what}; a model is in {}", folder.display()),
            Foreign::TrainingState { file } => {
                write!(f, "no safetensors here, but the split state of a training run ({file})")
            }
            Foreign::PartOfModel { folder } => {
                write!(f, "a file of the model whose folder is {}", folder.display())
            }
            Foreign::LoneSafetensors => f.write_str("a safetensors file without config.json beside it"),
            Foreign::Archive { kind } => write!(f, "{kind}, not a model"),
            Foreign::GgufOf { what } => write!(f, "a GGUF with {what}, not a model"),
            Foreign::EmptyFolder => f.write_str("an empty folder"),
        }
    }
}

/// Weights of other frameworks: how their files' names begin and end.
const OTHER_WEIGHTS: [(&str, &str, &str); 12] = [
    ("pytorch_model", ".bin", "PyTorch"),
    ("pytorch_model", ".bin.index.json", "PyTorch"),
    ("consolidated", ".pth", "PyTorch"),
    ("", ".bin", "PyTorch"),
    ("", ".pt", "PyTorch"),
    ("", ".pth", "PyTorch"),
    ("", ".ckpt", "PyTorch"),
    ("", ".h5", "TensorFlow"),
    ("", ".msgpack", "Flax"),
    ("", ".npz", "MLX"),
    ("", ".ot", "rust-bert"),
    ("consolidated", ".safetensors", "another layout"),
];

/// What a trainer writes that is no model: how names begin.
const TRAINING_STATE: [&str; 4] = ["global_step", "pytorch_model_fsdp", "zero_pp_rank", "mp_rank"];

/// Parts of tensor names that quantizers add, and who does.
const QUANTIZED_NAMES: [(&str, &str); 10] = [
    (".qweight", "GPTQ or AWQ"),
    (".qzeros", "GPTQ or AWQ"),
    (".g_idx", "GPTQ"),
    (".SCB", "bitsandbytes"),
    (".absmax", "bitsandbytes"),
    (".quant_state.", "bitsandbytes"),
    (".weight_scale", "FP8 or compressed-tensors"),
    (".weight_packed", "compressed-tensors"),
    (".W_q", "HQQ"),
    (".weight._data", "quanto"),
];

/// Magic bytes of archives and serialized models.
const MAGICS: [(&[u8], Magic); 7] = [
    (b"PK\x03\x04", Magic::Archive("a zip archive, as PyTorch's files are")),
    (b"\x80\x02", Magic::Framework("PyTorch")),
    (b"\x80\x04", Magic::Framework("Python's pickle")),
    (b"\x1f\x8b", Magic::Archive("a gzip archive")),
    (b"\x89HDF", Magic::Framework("TensorFlow")),
    (b"7z\xbc\xaf", Magic::Archive("a 7z archive")),
    (b"BZh", Magic::Archive("a bzip2 archive")),
];

#[derive(Clone, Copy)]
enum Magic {
    Archive(&'static str),
    Framework(&'static str),
}

/// The error that says what `folder` is, where that is why `error` came up.
pub(super) fn explain(folder: &Path, error: Error) -> Error {
    let kind = match &error {
        // PyTorch's weights under a name that they should not have.
        Error::HeaderLength { path, .. } => {
            let path = path.clone();
            return match of_magic(&path, &read_start(&path)) {
                Some(kind) => Error::Foreign { path, kind },
                None => error,
            };
        }
        Error::UnknownTensor { tensor, .. }
        | Error::MissingTensor { tensor, .. }
        | Error::TensorType { tensor, .. }
        | Error::Shape { tensor, .. } => damaged_by(folder, tensor, &error),
        Error::NotFound { path } if *path == folder.join("config.json") => of_folder(folder),
        Error::NoWeights { .. } => of_folder(folder),
        // The config of an export may say anything.
        Error::Architecture { .. } => Entries::of(folder).onnx(folder),
        _ => None,
    };
    match kind {
        Some(kind) => Error::Foreign { path: folder.to_path_buf(), kind },
        None => error,
    }
}

/// What made the tensor other than that of a plain checkpoint.
fn damaged_by(folder: &Path, tensor: &str, error: &Error) -> Option<Foreign> {
    if [".lora_A", ".lora_B", ".base_layer.", ".modules_to_save."].iter().any(|part| tensor.contains(part)) {
        return Some(Foreign::UnmergedAdapter);
    }
    let by_name = QUANTIZED_NAMES.iter().find(|(part, _)| tensor.contains(part)).map(|(_, method)| *method);
    let by_type = match error {
        Error::TensorType { dtype, .. } if dtype.starts_with('F') => Some("FP8 or less"),
        Error::TensorType { dtype, .. } if dtype.starts_with(['I', 'U']) => Some("whole numbers as weights"),
        _ => None,
    };
    let method = quantization_method(folder).or(by_name.or(by_type).map(str::to_string))?;
    Some(Foreign::Quantized { method })
}

/// How the checkpoint says that it is quantized, if it does: in config.json or, with older tools, in a file of its own.
pub(super) fn quantization_method(folder: &Path) -> Option<String> {
    let object = |name: &str| json::read_optional::<Map<String, Value>>(&folder.join(name)).ok().flatten();
    let config = object("config.json").unwrap_or_default();
    let inside = ["quantization_config", "quantization", "compression_config"];
    let found = inside.iter().find_map(|key| Some((*key, config.get(*key)?.as_object()?.clone())));
    let beside = ["quantize_config.json", "quant_config.json", "hf_quant_config.json"];
    let found = found.or_else(|| beside.iter().find_map(|name| Some((*name, object(name)?))));
    let (place, settings) = found.filter(|(_, settings)| !settings.is_empty())?;
    let named = ["quant_method", "quant_algo", "format"].iter().find_map(|key| settings.get(*key)?.as_str());
    let method = match (place, named) {
        (_, Some(name)) => name,
        ("quantization", None) => "MLX",
        ("quantize_config.json", None) => "GPTQ",
        ("quant_config.json", None) => "AWQ",
        _ if settings.contains_key("load_in_4bit") || settings.contains_key("load_in_8bit") => "bitsandbytes",
        _ => "by a method it does not name",
    };
    Some(method.to_string())
}

/// What a folder without a model is.
fn of_folder(folder: &Path) -> Option<Foreign> {
    let entries = Entries::of(folder);
    if entries.has("adapter_config.json") || entries.files.iter().any(|f| f.starts_with("adapter_model.")) {
        let config = json::read_optional::<Map<String, Value>>(&folder.join("adapter_config.json"));
        let base =
            config.ok().flatten().and_then(|c| Some(c.get("base_model_name_or_path")?.as_str()?.to_string()));
        return Some(Foreign::Adapter { base: base.filter(|b| !b.is_empty()) });
    }
    let ggufs: Vec<PathBuf> = entries.with_extension(".gguf").map(|file| folder.join(file)).collect();
    if !ggufs.is_empty() {
        return Some(Foreign::Ggufs { files: ggufs });
    }
    if let Some(onnx) = entries.onnx(folder) {
        return Some(onnx);
    }
    if let Some(nested) = entries.nested(folder) {
        return Some(nested);
    }
    if entries.has_safetensors() {
        return None;
    }
    let training = |name: &&String| TRAINING_STATE.iter().any(|start| name.starts_with(start));
    if let Some(file) = entries.folders.iter().chain(&entries.files).find(training) {
        return Some(Foreign::TrainingState { file: file.clone() });
    }
    let other = OTHER_WEIGHTS.iter().find_map(|(start, end, framework)| {
        let is_weights = |file: &&String| {
            file.starts_with(start) && file.ends_with(end) && !NOT_WEIGHTS.contains(&file.as_str())
        };
        Some(Foreign::OtherWeights { framework, file: entries.files.iter().find(is_weights)?.clone() })
    });
    let empty = entries.files.is_empty() && entries.folders.is_empty();
    other.or(empty.then_some(Foreign::EmptyFolder))
}

/// Files that end as weights do but hold none.
const NOT_WEIGHTS: [&str; 4] = ["training_args.bin", "optimizer.pt", "scheduler.pt", "optimizer.bin"];

/// The error that says what the file at `path` is, where that is why it could not be opened as a GGUF.
pub(super) fn explain_file(path: &Path, error: Error) -> Error {
    let start = match &error {
        Error::BadMagic { .. } | Error::Truncated { .. } => read_start(path),
        _ => return error,
    };
    let is_gguf = start.starts_with(&MAGIC[..start.len().min(MAGIC.len())]);
    match Foreign::of_start(path, &start).filter(|_| !is_gguf) {
        Some(kind) => Error::Foreign { path: path.to_path_buf(), kind },
        None => error,
    }
}

/// The error that says what a GGUF holds, where it is no model.
pub(super) fn explain_gguf(metadata: &Metadata, error: Error) -> Error {
    let Error::Architecture { path, found } = error else { return error };
    let what = match metadata.string("general.type") {
        Some("imatrix") => "an importance matrix or statistics",
        Some("adapter") => "a LoRA adapter",
        Some("mmproj") => "a multimodal projector",
        Some("vocab") => "a vocabulary",
        _ if found.is_empty() => "no `general.architecture`",
        _ => return Error::Architecture { path, found },
    };
    Error::Foreign { path, kind: Foreign::GgufOf { what } }
}

/// The first bytes of a file, or none where it cannot be read.
fn read_start(path: &Path) -> Vec<u8> {
    let Ok(file) = InputFile::open(path) else { return Vec::new() };
    let mut start = vec![0; file.len().min(512) as usize];
    file.read_exact_at(&mut start, 0).map_or_else(|_| Vec::new(), |()| start)
}

impl Foreign {
    /// What a file that is not a model is, by its first bytes, its name and its folder.
    pub fn of_file(path: &Path) -> Option<Foreign> {
        Foreign::of_start(path, &read_start(path))
    }

    fn of_start(path: &Path, start: &[u8]) -> Option<Foreign> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let folder = crate::atomic::parent(path);
        if name.ends_with(".onnx") {
            return Some(Foreign::Onnx { graph: path.to_path_buf() });
        }
        let is_safetensors = start.get(8) == Some(&b'{') || name.ends_with(".safetensors");
        let of_model = [".json", ".safetensors", ".txt", ".jinja", ".md", ".bin"];
        let beside_config =
            folder.join("config.json").is_file() && of_model.iter().any(|end| name.ends_with(end));
        if beside_config || name == "config.json" {
            return Some(Foreign::PartOfModel { folder: folder.to_path_buf() });
        }
        if is_safetensors {
            return Some(Foreign::LoneSafetensors);
        }
        let by_name = OTHER_WEIGHTS.iter().find(|(begin, end, _)| begin.is_empty() && name.ends_with(end));
        match by_name {
            Some((_, _, framework)) => Some(Foreign::OtherWeights { framework, file: name }),
            None => of_magic(path, start),
        }
    }
}

/// What a file's first bytes say that it is.
fn of_magic(path: &Path, start: &[u8]) -> Option<Foreign> {
    if start.get(257..262) == Some(&b"ustar"[..]) {
        return Some(Foreign::Archive { kind: "a tar archive" });
    }
    let (_, kind) = MAGICS.iter().find(|(magic, _)| start.starts_with(magic))?;
    Some(match *kind {
        Magic::Archive(kind) => Foreign::Archive { kind },
        Magic::Framework(framework) => {
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Foreign::OtherWeights { framework, file }
        }
    })
}

/// The names in a folder, in order; nothing where it cannot be read.
#[derive(Default)]
struct Entries {
    files: Vec<String>,
    folders: Vec<String>,
}

impl Entries {
    fn of(folder: &Path) -> Entries {
        let mut entries = Entries::default();
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_hidden = name.starts_with('.');
            let into = if entry.path().is_dir() { &mut entries.folders } else { &mut entries.files };
            into.extend(Some(name).filter(|_| !is_hidden));
        }
        entries.files.sort();
        entries.folders.sort();
        entries
    }

    fn has(&self, file: &str) -> bool {
        self.files.iter().any(|f| f == file)
    }

    fn with_extension<'a>(&'a self, extension: &'a str) -> impl Iterator<Item = &'a String> {
        self.files.iter().filter(move |file| file.to_ascii_lowercase().ends_with(extension))
    }

    fn has_safetensors(&self) -> bool {
        self.with_extension(".safetensors").next().is_some()
    }

    /// A graph here or in the subfolder that optimum uses; not beside weights, which count more.
    fn onnx(&self, folder: &Path) -> Option<Foreign> {
        if self.has_safetensors() {
            return None;
        }
        let below = folder.join("onnx");
        let inner = Entries::of(&below);
        let here = self.with_extension(".onnx").next().map(|file| folder.join(file));
        let graph = here.or_else(|| inner.with_extension(".onnx").next().map(|file| below.join(file)))?;
        Some(Foreign::Onnx { graph })
    }

    /// A subfolder that is a model: a trainer's newest checkpoint, or the only one.
    fn nested(&self, folder: &Path) -> Option<Foreign> {
        let is_model = |inner: &Path| inner.join("config.json").symlink_metadata().is_ok();
        let step = |name: &&String| name.strip_prefix("checkpoint-").and_then(|n| n.parse::<u64>().ok());
        let models = || self.folders.iter().filter(|name| is_model(&folder.join(name)));
        if let Some(newest) = models().filter(|name| step(name).is_some()).max_by_key(|name| step(name)) {
            return Some(Foreign::Nested {
                folder: folder.join(newest),
                what: "the folder of a training run, without config.json",
            });
        }
        let mut models = models();
        let only = models.next().filter(|_| models.next().is_none())?;
        Some(Foreign::Nested { folder: folder.join(only), what: "no config.json in this folder" })
    }
}
