//! Inputs to begin with, made of the fixtures and by the program itself.

use std::path::{Path, PathBuf};

use plmconv_calibrate::{Silent, resume};
use plmconv_formats::DType;
use plmconv_formats::gguf::{Directory, Metadata, Value, string_array};
use serde_json::Value as Json;

use crate::conversion::{self, COMMANDS};
use crate::scratch;

/// A model of some 10,000 weights, with the vocabulary of [`TOKENIZER`].
pub const CONFIG: &str = r#"{
"vocab_size": 32, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
"num_key_value_heads": 2, "kv_lora_rank": 32, "q_lora_rank": null, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16,
"v_head_dim": 16, "hidden_act": "relu2", "max_position_embeddings": 64, "rms_norm_eps": 1e-06,
"tie_word_embeddings": true, "rope_theta": 100000.0, "rope_scaling": null, "attention_bias": false,
"rope_interleave": true, "model_type": "plm", "architectures": ["PLMForCausalLM"], "torch_dtype": "bfloat16",
"bos_token_id": 22, "eos_token_id": 23
}"#;

/// tokenizer.json of a few tokens: an input's length and its time are mostly those of its vocabulary.
const TOKENIZER: &str = r#"{
"added_tokens": [
{"id": 22, "content": "<|im_start|>", "special": true}, {"id": 23, "content": "<|endoftext|>", "special": true}],
"normalizer": null, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
"post_processor": {"type": "ByteLevel"}, "model": {"type": "BPE", "vocab": {
"H": 0, "e": 1, "l": 2, "o": 3, ",": 4, "Ġ": 5, "w": 6, "r": 7, "d": 8, "!": 9, "i": 10, "t": 11, "'": 12, "s": 13,
"1": 14, "Ċ": 15, "Ã": 16, "¶": 17, "ll": 18, "it": 19, "'s": 20, "Ġw": 21},
"merges": ["l l", "i t", "' s", "Ġ w"]}
}"#;

/// tokenizer_config.json for it.
const TOKENIZER_CONFIG: &str = r#"{
"added_tokens_decoder": {"22": {"content": "<|im_start|>", "special": true}}, "add_bos_token": true,
"bos_token": "<|im_start|>", "eos_token": {"content": "<|endoftext|>"}, "pad_token": null,
"chat_template": "{% for m in messages %}{{ m.role + m.content }}{% endfor %}", "tokenizer_class": "Qwen2Tokenizer"
}"#;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures")
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(fixtures().join(name)).expect("a fixture")
}

fn text_of(json: &Json) -> Vec<u8> {
    match json {
        Json::String(text) => text.clone().into_bytes(),
        other => other.to_string().into_bytes(),
    }
}

/// The files of every case of fixtures/describe, but for the ids of the vocabulary that they were made for.
fn cases() -> Vec<Vec<(String, Vec<u8>)>> {
    let mut paths: Vec<_> = std::fs::read_dir(fixtures().join("describe"))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "json") && !path.ends_with("tokenizer.json"))
        .collect();
    paths.sort();
    let files = |path: &PathBuf| {
        let mut case: Json = serde_json::from_slice(&std::fs::read(path).expect("a case")).expect("JSON");
        if let Some(config) = case["files"]["tokenizer_config.json"].as_object_mut() {
            config.remove("added_tokens_decoder");
        }
        let files = case["files"].as_object().expect("files");
        files.iter().map(|(name, text)| (name.clone(), text_of(text))).collect()
    };
    paths.iter().map(files).collect()
}

/// The files of a whole folder, but for its card and its weights.
pub fn describing() -> Vec<(String, Vec<u8>)> {
    vec![
        ("config.json".into(), CONFIG.into()),
        ("tokenizer.json".into(), TOKENIZER.into()),
        ("tokenizer_config.json".into(), TOKENIZER_CONFIG.into()),
        ("generation_config.json".into(), r#"{"eos_token_id": 23}"#.into()),
    ]
}

fn join(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let files: Vec<(&str, &[u8])> = files.iter().map(|(n, b)| (n.as_str(), b.as_slice())).collect();
    scratch::joined(&files)
}

pub fn folder() -> Vec<Vec<u8>> {
    let case = |mut files: Vec<(String, Vec<u8>)>| {
        if !files.iter().any(|(name, _)| name == "tokenizer.json" || name == "vocab.json") {
            files.push(("tokenizer.json".into(), TOKENIZER.into()));
        }
        join(&files)
    };
    cases().into_iter().chain([describing(), original_files()]).map(case).collect()
}

/// A folder without tokenizer.json.
fn original_files() -> Vec<(String, Vec<u8>)> {
    let files = [
        ("config.json", CONFIG),
        ("tokenizer_config.json", r#"{"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>"}"#),
        ("vocab.json", r#"{"a": 0, "b": 1, "ab": 2}"#),
        ("merges.txt", "#version: 0.2\na b\n"),
        ("added_tokens.json", r#"{"<|im_end|>": 3}"#),
    ];
    files.map(|(name, text)| (name.to_string(), text.into())).into()
}

/// One folder for each command.
pub fn conversion() -> Vec<Vec<u8>> {
    let seed = |command: usize| {
        let mut files = describing();
        files.push(("weights".into(), b"any bytes".to_vec()));
        [&[command as u8, command as u8], join(&files).as_slice()].concat()
    };
    (0..COMMANDS.len()).map(seed).collect()
}

/// What a command makes of the smallest model.
fn converted(command: &[&str]) -> PathBuf {
    conversion::run(&conversion()[0]);
    let folder = scratch::folder().join("model");
    conversion::convert(&folder, command).expect("the seed converts")
}

pub fn gguf() -> Vec<Vec<u8>> {
    let of = |command| std::fs::read(converted(command)).expect("written");
    vec![of(COMMANDS[0]), of(COMMANDS[8]), of(COMMANDS[10]), empty_gguf(&[])]
}

/// A GGUF without tensors.
fn empty_gguf(pairs: &[(&str, Value)]) -> Vec<u8> {
    let mut metadata = Metadata::new();
    pairs.iter().for_each(|(key, value)| metadata.set(*key, value.clone()));
    Directory::new(&metadata, []).expect("can be laid out").head
}

pub fn gguf_set() -> Vec<Vec<u8>> {
    let shard = |number: u16, tensor: &str| {
        let mut metadata = Metadata::new();
        metadata.set("split.no", Value::U16(number));
        metadata.set("split.count", Value::U16(2));
        metadata.set("split.tensors.count", Value::I32(2));
        zeros(&metadata, &[(tensor, &[32])])
    };
    let (first, second) = (shard(0, "a"), shard(1, "b"));
    vec![[&(first.len() as u16).to_le_bytes(), first.as_slice(), &second].concat()]
}

/// A GGUF of these F32 tensors, all zero.
fn zeros(metadata: &Metadata, tensors: &[(&str, &[usize])]) -> Vec<u8> {
    let entries = tensors.iter().map(|(name, shape)| (name.to_string(), DType::F32, shape.to_vec()));
    let directory = Directory::new(metadata, entries).expect("can be laid out");
    let mut bytes = directory.head;
    bytes.resize(directory.file_bytes as usize, 0);
    bytes
}

pub fn safetensors() -> Vec<Vec<u8>> {
    let header = |bytes: &[u8]| {
        let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
        [&[1], &bytes[8..8 + length]].concat()
    };
    let small = safetensors::serialize(
        [(
            "a",
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![2, 2], &[0; 16])
                .expect("sized"),
        )],
        Some([("format".to_string(), "pt".to_string())].into()),
    )
    .expect("serializes");
    vec![small.clone(), header(&small), header(&fixture("tiny-plm/model.safetensors"))]
}

/// A product for the output projection of [`CONFIG`]'s model, of rank 2 in f32.
pub fn adapter() -> Vec<Vec<u8>> {
    let config =
        r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "rank_pattern": {"x.*": 3}, "use_dora": false}"#;
    let name = |part: &str| format!("base_model.model.model.layers.0.self_attn.o_proj.lora_{part}.weight");
    let (a, b) = (name("A"), name("B"));
    let header = format!(
        r#"{{"{a}":{{"dtype":"F32","shape":[2,32],"data_offsets":[0,256]}},"{b}":{{"dtype":"F32","shape":[32,2],"data_offsets":[256,512]}}}}"#
    );
    vec![scratch::joined(&[
        ("adapter_config.json", config.as_bytes()),
        ("adapter_model.safetensors", header.as_bytes()),
    ])]
}

pub fn onnx() -> Vec<Vec<u8>> {
    let of = |command| std::fs::read(conversion::graph(&converted(command))).expect("written");
    vec![of(COMMANDS[4]), of(COMMANDS[12]), of(COMMANDS[13])]
}

pub fn imatrix_gguf() -> Vec<Vec<u8>> {
    let mut metadata = Metadata::new();
    metadata.set("general.type", Value::String("imatrix".into()));
    metadata.set("imatrix.datasets", string_array(["a.txt".to_string()]));
    metadata.set("imatrix.chunk_count", Value::U32(2));
    let tensors: [(&str, &[usize]); 2] =
        [("blk.0.ffn_up.weight.in_sum2", &[32]), ("blk.0.ffn_up.weight.counts", &[1])];
    vec![zeros(&metadata, &tensors), fixture("golden/imatrix.gguf")]
}

pub fn imatrix_dat() -> Vec<Vec<u8>> {
    let name = b"blk.0.ffn_up.weight";
    let mut bytes = [1, name.len() as i32].map(i32::to_le_bytes).concat();
    bytes.extend(name);
    bytes.extend([1, 2].map(i32::to_le_bytes).concat());
    bytes.extend([1f32, 2.0].map(f32::to_le_bytes).concat());
    bytes.extend([3, 1].map(i32::to_le_bytes).concat());
    bytes.push(b'x');
    vec![bytes, fixture("golden/imatrix.dat")]
}

pub fn tokenizer() -> Vec<Vec<u8>> {
    vec![fixture("describe/tokenizer.json"), TOKENIZER.into()]
}

pub fn config() -> Vec<Vec<u8>> {
    let all = cases().into_iter().flatten().filter(|(name, _)| name == "config.json").map(|(_, text)| text);
    all.chain([CONFIG.into(), fixture("tiny-plm/config.json")]).collect()
}

pub fn card() -> Vec<Vec<u8>> {
    let cards = cases().into_iter().flatten().filter(|(name, _)| name == "README.md").map(|(_, text)| text);
    let anchors = b"---\na: &x [b, {c: 'd'}]\nbase_model: [*x, {name: y}]\n---\n".to_vec();
    cards.chain([anchors]).collect()
}

pub fn statistics() -> Vec<Vec<u8>> {
    let mut metadata = Metadata::new();
    metadata.set("imatrix.datasets", string_array(["a.txt".to_string()]));
    metadata.set("imatrix.chunk_count", Value::U32(1));
    metadata.set("imatrix.chunk_size", Value::U32(64));
    metadata.set("plmconv.calibration.version", Value::U32(plmconv_calibrate::statistics::VERSION));
    metadata.set("plmconv.calibration.model_digest", Value::String("x".into()));
    metadata.set("plmconv.calibration.request", Value::String("x".into()));
    metadata.set("plmconv.calibration.layout", Value::String("plm".into()));
    let part = |name: &str, len: usize| (format!("blk.0.ffn_up.weight.{name}"), vec![len]);
    let parts = [
        part("in_sum2", 32),
        part("counts", 1),
        part("active", 32),
        part("inputs", 528),
        part("outputs", 528),
    ];
    let tensors: Vec<(&str, &[usize])> = parts.iter().map(|(n, s)| (n.as_str(), s.as_slice())).collect();
    vec![zeros(&metadata, &tensors)]
}

pub fn journal() -> Vec<Vec<u8>> {
    let output = scratch::empty("journal").join("out.gguf");
    let (file, mut finished) = resume::start(&output, true, 64, Some("key"), &Silent).expect("starts");
    finished.extra = b"more".to_vec();
    let _ = resume::keep(file, "key", 64, finished).expect("kept");
    vec![std::fs::read(resume::partial_path(&output)).expect("kept")]
}

pub fn reference() -> Vec<Vec<u8>> {
    let view = |dtype, shape: &[usize], bytes: &'static [u8]| {
        safetensors::tensor::TensorView::new(dtype, shape.to_vec(), bytes).expect("sized")
    };
    use safetensors::Dtype::{F32, I32, I64};
    let full = [("input_ids", view(I64, &[1, 4], &[0; 32])), ("logits", view(F32, &[1, 4, 5], &[0; 80]))];
    let short = [
        ("input_ids", view(I32, &[1, 4], &[0; 16])),
        ("target_log_probs", view(F32, &[1, 1], &[0; 4])),
        ("top_ids", view(I32, &[1, 1, 2], &[0; 8])),
        ("top_log_probs", view(F32, &[1, 1, 2], &[0; 8])),
    ];
    let vocabulary = [("plmconv.vocab_size".to_string(), "5".to_string())];
    vec![
        safetensors::serialize(full, None).expect("serializes"),
        safetensors::serialize(short, Some(vocabulary.into())).expect("serializes"),
    ]
}

/// The templates of the fixtures and of the tiny PLM, and what templates use.
pub fn template() -> Vec<Vec<u8>> {
    let config: Json = serde_json::from_slice(&fixture("tiny-plm/tokenizer_config.json")).expect("JSON");
    let own = text_of(&config["chat_template"]);
    let files = cases().into_iter().flatten();
    let files = files.filter(|(name, _)| name.ends_with(".jinja")).map(|(_, text)| text);
    let more = [
        "{%- set ns = namespace(found=false) -%}{%- for m in messages[1:] if m.role != 'x' -%}{%- set ns.found = loop.first -%}{%- endfor -%}{{ ns.found }}",
        "{% macro f(a, b='c') %}{{ a ~ b }}{% endmacro %}{{ f('x') | upper | trim }}{{ messages | tojson(indent=2) }}",
        "{{ bos_token }}{% if tools is defined and tools %}{% for t in tools %}{{ t | tojson }}{% endfor %}{% endif %}",
        "{% generation %}{{ messages[0]['content'].split('a')[-1].strip() }}{% endgeneration %}{{ strftime_now('%d %b %Y') }}",
        "{% for i in range(3) %}{{ loop.index0 }}{{ raise_exception('no') if i == 9 }}{% endfor %}",
        "{{ 'a'.replace('a', 'b' * 3) }}{{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
    ];
    files.chain([own]).chain(more.map(|text| text.as_bytes().to_vec())).collect()
}

pub fn blocks() -> Vec<Vec<u8>> {
    let types = (0u8..41).filter_map(|id| Some((id, DType::from_ggml_id(id.into())?)));
    types.map(|(id, dtype)| [&[id], vec![0x11; 2 * dtype.block_bytes()].as_slice()].concat()).collect()
}
