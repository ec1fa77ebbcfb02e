//! Opening any file takes memory of at most twice its bytes and some more: the worst files of each kind that are
//! accepted, and those just past what is.

#[path = "support/counting.rs"]
mod counting;

use std::path::Path;
use std::sync::Mutex;

use counting::Counting;
use plmconv_formats::gguf::{GgufFile, ValueType};
use plmconv_formats::limits::{MAX_MERGES, MAX_TENSORS, MAX_TOKENS};
use plmconv_formats::onnx::OnnxFile;
use plmconv_formats::safetensors::SafetensorsFile;
use plmconv_formats::{Imatrix, Model, Result, TextTokenizer};
use tempfile::TempDir;

/// What reading may take besides twice the file; the program itself and its report have the rest of 64 MB.
const ALLOWED: usize = 48 << 20;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Tests measure one at a time, and hold nothing else meanwhile.
static TURN: Mutex<()> = Mutex::new(());

/// Runs `open` and checks the most that it held at a time. `input` are the bytes it read.
#[track_caller]
fn bounded<T>(input: usize, open: impl FnOnce() -> T) -> T {
    let (opened, taken) = counting::peak(open);
    eprintln!("{:?}: {input} bytes, {taken} in memory", std::panic::Location::caller());
    assert!(taken <= 2 * input + ALLOWED, "{taken} bytes in memory for {input} in the file");
    opened
}

/// Opens a file of these bytes.
#[track_caller]
fn open<T>(name: &str, bytes: Vec<u8>, open: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let dir = TempDir::new().expect("tempdir");
    let path = dir.path().join(name);
    std::fs::write(&path, &bytes).expect("write");
    let input = bytes.len();
    drop(bytes);
    bounded(input, || open(&path))
}

#[track_caller]
fn refused<T>(opened: Result<T>, message: &str) {
    match opened {
        Ok(_) => panic!("opens, but should say: {message}"),
        Err(e) => assert!(e.to_string().contains(message), "{e}"),
    }
}

fn alone() -> std::sync::MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The head of a GGUF, written by hand: what our writer would not write.
#[derive(Default)]
struct Gguf {
    pairs: u64,
    tensors: u64,
    body: Vec<u8>,
    directory: Vec<u8>,
}

impl Gguf {
    fn string(out: &mut Vec<u8>, text: &[u8]) {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text);
    }

    fn pair(&mut self, key: &str, kind: ValueType, value: &[u8]) {
        self.pairs += 1;
        Gguf::string(&mut self.body, key.as_bytes());
        self.body.extend((kind as u32).to_le_bytes());
        self.body.extend(value);
    }

    /// An array of `count` times the bytes of `element`.
    fn array(&mut self, key: &str, kind: ValueType, count: usize, element: &[u8]) {
        let mut value = (kind as u32).to_le_bytes().to_vec();
        value.extend((count as u64).to_le_bytes());
        value.extend(element.repeat(count));
        self.pair(key, ValueType::Array, &value);
    }

    /// A tensor of one axis and no values.
    fn tensor(&mut self, name: &str) {
        self.tensors += 1;
        Gguf::string(&mut self.directory, name.as_bytes());
        self.directory.extend(1u32.to_le_bytes());
        self.directory.extend([0; 8 + 4 + 8]);
    }

    fn bytes(self) -> Vec<u8> {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(self.tensors.to_le_bytes());
        bytes.extend(self.pairs.to_le_bytes());
        bytes.extend(self.body);
        bytes.extend(self.directory);
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes
    }
}

fn gguf(fill: impl FnOnce(&mut Gguf)) -> Result<GgufFile> {
    let mut file = Gguf::default();
    fill(&mut file);
    open("x.gguf", file.bytes(), |path| GgufFile::open(path))
}

const TOO_LARGE: &str = "more than 40 MB of memory";

#[test]
fn arrays_of_a_gguf() {
    let _alone = alone();
    let empty_array = [[4, 0, 0, 0].as_slice(), &[0; 8]].concat();
    let one_letter = [1, 0, 0, 0, 0, 0, 0, 0, b'x'];
    for (kind, element) in [
        (ValueType::U8, [0].as_slice()),
        (ValueType::Bool, &[1]),
        (ValueType::F32, &[0; 4]),
        (ValueType::String, &[0; 8]),
        (ValueType::String, &one_letter),
        (ValueType::Array, &empty_array),
    ] {
        gguf(|file| file.array("a", kind, 400_000, element)).expect("is not too large");
        refused(gguf(|file| file.array("a", kind, 2_000_000, element)), TOO_LARGE);
        // Neither is the limit that of a single value.
        if element.len() <= 4 {
            let arrays = |file: &mut Gguf| {
                (0..100).for_each(|i| file.array(&format!("a{i}"), kind, 40_000, element));
            };
            refused(gguf(arrays), TOO_LARGE);
        }
    }
    let nested = [9u32.to_le_bytes().as_slice(), &1u64.to_le_bytes()].concat().repeat(1000);
    refused(gguf(|file| file.pair("a", ValueType::Array, &nested)), "arrays in arrays");
    refused(
        gguf(|file| file.array("a", ValueType::String, 0, &[])).and(gguf(|file| {
            let head = [8u32.to_le_bytes().as_slice(), &u64::MAX.to_le_bytes()].concat();
            file.pair("a", ValueType::Array, &head);
        })),
        "truncated",
    );
}

#[test]
fn pairs_and_tensors_of_a_gguf() {
    let _alone = alone();
    let pairs = |count| gguf(|file| (0..count).for_each(|i| file.pair(&format!("{i}"), ValueType::U8, &[0])));
    assert_eq!(pairs(4096).expect("opens").metadata.len(), 4096);
    refused(pairs(4097), "more than 4096 metadata pairs");
    let tensors = |count| gguf(|file| (0..count).for_each(|i| file.tensor(&format!("{i}"))));
    let file = tensors(MAX_TENSORS).expect("opens");
    assert_eq!(file.tensor("77").expect("is found").name, "77");
    assert!(file.tensor("no such").is_none());
    refused(tensors(MAX_TENSORS + 1), "more than 65536 tensors");
    refused(tensors(1 << 20), "more than 65536 tensors");
}

/// As much vocabulary as the largest models have: 262,144 tokens with scores and types, 514,906 merges.
#[test]
fn a_large_vocabulary_opens() {
    let _alone = alone();
    let file = gguf(|file| {
        let token = [7u64.to_le_bytes().as_slice(), b"a token"].concat();
        file.array("tokenizer.ggml.tokens", ValueType::String, 262_144, &token);
        file.array("tokenizer.ggml.scores", ValueType::F32, 262_144, &[0; 4]);
        file.array("tokenizer.ggml.token_type", ValueType::I32, 262_144, &[1, 0, 0, 0]);
        let merge = [10u64.to_le_bytes().as_slice(), b"merge this"].concat();
        file.array("tokenizer.ggml.merges", ValueType::String, 514_906, &merge);
        (0..10_000).for_each(|i| file.tensor(&format!("blk.{i}.ffn_up.weight")));
    });
    assert_eq!(file.expect("opens").metadata.array_len("tokenizer.ggml.merges"), Some(514_906));
}

fn safetensors(header: &str) -> Result<SafetensorsFile> {
    let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
    open("x.safetensors", bytes, |path| SafetensorsFile::open(path))
}

#[test]
fn headers_of_safetensors() {
    let _alone = alone();
    let entry = |name: usize| format!(r#""{name}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#);
    let tensors = |count| {
        let entries: Vec<String> = (0..count).map(entry).collect();
        let header = format!("{{{}}}", entries.join(","));
        drop(entries);
        safetensors(&header)
    };
    assert_eq!(tensors(MAX_TENSORS).expect("opens").tensors.len(), MAX_TENSORS);
    refused(tensors(MAX_TENSORS + 1), "more than 65536 tensors");
    refused(tensors(200_000), "more than 65536 tensors");
    let texts = |count| {
        let entries: Vec<String> = (0..count).map(|i| format!(r#""{i:x}":"""#)).collect();
        safetensors(&format!(r#"{{"__metadata__":{{{}}}}}"#, entries.join(",")))
    };
    assert_eq!(texts(1 << 16).expect("opens").metadata.len(), 1 << 16);
    refused(texts(1 << 20), "more than 65536 texts");
    let long = "x".repeat(30_000_000);
    safetensors(&format!(r#"{{"__metadata__":{{"a":"{long}"}}}}"#)).expect("opens");
    let axes =
        format!(r#"{{"a":{{"dtype":"F32","shape":[{}0],"data_offsets":[0,0]}}}}"#, "0,".repeat(2_000_000));
    refused(safetensors(&axes), "more than 16 axes");
    refused(safetensors(&format!("{{\"a\":{}", "[".repeat(1_000_000))), "malformed");
    refused(safetensors(&format!(r#"{{"a":{{"x":{}"#, "[".repeat(1_000_000))), "malformed");
}

/// A field of protobuf's wire format that holds bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend(bytes);
    out
}

fn onnx(graph: Vec<u8>) -> Result<OnnxFile> {
    open("x.onnx", field(7, &graph), OnnxFile::open)
}

#[test]
fn graphs() {
    let _alone = alone();
    let initializers = |count: usize| {
        let one = |i: usize| field(5, &field(8, format!("{i:x}").as_bytes()));
        onnx((0..count).flat_map(one).collect())
    };
    let file = initializers(MAX_TENSORS).expect("opens");
    // They are constants, not weights.
    assert_eq!((file.initializers.len(), file.weights().len()), (MAX_TENSORS, 0));
    drop(file);
    refused(initializers(1_000_000), "more than 65536 tensors");
    let inputs = |count: usize| onnx((0..count).flat_map(|_| field(11, &[])).collect());
    inputs(1 << 15).expect("opens");
    refused(inputs(1 << 20), "more than 32768 inputs");
    let shape = |axes: usize| onnx(field(11, &field(2, &field(1, &field(2, &field(1, &[]).repeat(axes))))));
    shape(16).expect("opens");
    refused(shape(17), "more than 16 axes");
    refused(shape(2_000_000), "65536 are expected");
    // Nodes of any size are walked.
    for part in [1, 2, 5] {
        onnx(field(1, &field(part, &[]).repeat(2_000_000))).expect("opens");
    }
    let operators = |count: usize| {
        onnx((0..count).flat_map(|i| field(1, &field(4, format!("{i}").as_bytes()))).collect())
    };
    assert_eq!(operators(4096).expect("opens").operators.len(), 4096);
    refused(operators(4097), "more than 4096 kinds of operators");
    refused(onnx(field(5, &field(1, &vec![0; 2_000_000]))), "more than 16 axes");
    refused(onnx(field(5, &[1 << 3, 0].repeat(2_000_000))), "more than 16 axes");
    refused(onnx(field(5, &field(13, &[]).repeat(2_000_000))), "no name");
}

#[test]
fn importance_matrices() {
    let _alone = alone();
    let dat = |count: i32| {
        let mut bytes = count.to_le_bytes().to_vec();
        for i in 0..count {
            bytes.extend(7i32.to_le_bytes());
            bytes.extend(format!("{i:07}").as_bytes());
            bytes.extend([1, 0, 0, 0, 0, 0, 0, 0]);
        }
        open("x.dat", bytes, |path| Imatrix::open(path))
    };
    assert_eq!(dat(60_000).expect("opens").entries.len(), 60_000);
    refused(dat(1_000_000), "more than 65536 matrices");
    let sums = 4_000_000i32;
    let mut bytes = [1, 1, 0].map(i32::to_le_bytes).concat();
    bytes.truncate(8);
    bytes.extend(b"x");
    bytes.extend([1i32, sums].map(i32::to_le_bytes).concat());
    bytes.extend(vec![0; sums as usize * 4]);
    assert_eq!(
        open("x.dat", bytes, |path| Imatrix::open(path)).expect("opens").entries[0].sums.len(),
        4_000_000
    );
}

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).expect("write");
}

/// A folder with a tokenizer of these tokens and merges, and its bytes.
fn tokenizer(tokens: usize, merges: &str) -> (TempDir, usize) {
    let dir = TempDir::new().expect("tempdir");
    let name = |i: usize| match i {
        0 => "left".into(),
        1 => "right".into(),
        2 => "leftright".into(),
        _ => format!("token{i}"),
    };
    let vocabulary: Vec<String> = (0..tokens).map(|i| format!(r#""{}":{i}"#, name(i))).collect();
    let split = r#"{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},"behavior":"Isolated","invert":false},{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":false,"use_regex":false}]}"#;
    let json = format!(
        r#"{{"pre_tokenizer":{split},"model":{{"type":"BPE","vocab":{{{}}},"merges":[{merges}]}}}}"#,
        vocabulary.join(",")
    );
    write(dir.path(), "tokenizer.json", &json);
    write(dir.path(), "config.json", "{}");
    (dir, json.len())
}

#[test]
fn tokenizers() {
    let _alone = alone();
    let open = |tokens: usize, merges: &str, vocab_size: usize| {
        let (dir, bytes) = tokenizer(tokens, merges);
        // The model's file has an embedding of so many rows, if only of 16 columns.
        let embedding = vocab_size * 16 * 2;
        bounded(bytes + embedding, || TextTokenizer::from_folder(dir.path(), vocab_size))
    };
    let merges = |count: usize| vec![r#"["left","right"]"#; count].join(",");
    open(151_936, &merges(151_387), 151_936).expect("opens");
    open(100, &merges(1), 262_144).expect("opens");
    refused(open(100, &merges(MAX_MERGES + 1), 100), "more than");
    refused(open(100, &vec![r#""left right""#; MAX_MERGES + 1].join(","), 100), "more than 1048576 merges");
    refused(open(MAX_TOKENS + 1, &merges(1), MAX_TOKENS), "more than");
}

fn folder(files: &[(&str, &str)]) -> (TempDir, usize) {
    let dir = TempDir::new().expect("tempdir");
    files.iter().for_each(|(name, text)| write(dir.path(), name, text));
    (dir, files.iter().map(|(_, text)| text.len()).sum())
}

#[test]
fn files_of_a_folder() {
    let _alone = alone();
    let config = r#"{"model_type":"plm","architectures":["PLMForCausalLM"]}"#;
    let lists = format!("{{\"a\":[{}[]]}}", "[],".repeat(1_000_000));
    let objects = format!("{{\"a\":[{}{{}}]}}", "{},".repeat(1_000_000));
    let keys: Vec<String> = (0..1_000_000).map(|i| format!(r#""{i:x}":0"#)).collect();
    let keys = format!("{{{}}}", keys.join(","));
    for json in [&lists, &objects, &keys] {
        let (dir, bytes) = folder(&[("config.json", json)]);
        assert!(bounded(bytes, || Model::open(dir.path())).is_err());
        let (dir, bytes) = folder(&[("config.json", config), ("tokenizer_config.json", json)]);
        assert!(bounded(bytes, || TextTokenizer::from_folder(dir.path(), 10)).is_err());
    }
}
