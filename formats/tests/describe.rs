//! Metadata of folders, compared with what llama.cpp's convert_hf_to_gguf.py writes for the same folders.

mod support;

use std::path::{Path, PathBuf};

use plmconv_formats::describe::set_file_type;
use plmconv_formats::gguf::{Metadata, Value, string_array};
use plmconv_formats::model::Origin;
use plmconv_formats::{
    Config, DescribeOptions, Description, Error, Model, TextTokenizer, Warning, describe, hex,
};
use serde_json::{Map, Value as Json, json};
use sha2::{Digest, Sha256};
use support::{fixtures, write_gguf};

/// `LLAMA_FTYPE_MOSTLY_BF16`, which the golden files have.
const BF16: u32 = 32;

fn read_json(path: impl AsRef<Path>) -> Json {
    let text = std::fs::read_to_string(path.as_ref()).expect("the fixture is there");
    serde_json::from_str(&text).expect("the fixture is JSON")
}

fn options() -> DescribeOptions {
    DescribeOptions { file_type: BF16, tokenizer_pre: None }
}

/// A folder that a test writes.
struct Folder {
    path: PathBuf,
    _guard: tempfile::TempDir,
}

impl Folder {
    /// A case of fixtures/describe.
    fn of_case(case: &Json) -> Folder {
        let guard = tempfile::tempdir().expect("a temporary folder");
        let path = guard.path().join(case["folder"].as_str().expect("folder"));
        std::fs::create_dir(&path).expect("can be made");
        let folder = Folder { path, _guard: guard };
        for (name, content) in case["files"].as_object().expect("files") {
            folder.write(name, content);
        }
        if let Some(patch) = case["tokenizer_patch"].as_object() {
            let mut tokenizer = read_json(fixtures().join("describe/tokenizer.json"));
            merge(tokenizer.as_object_mut().expect("an object"), patch);
            folder.write("tokenizer.json", &tokenizer);
        }
        folder
    }

    fn write(&self, name: &str, content: &Json) {
        let path = self.path.join(name);
        std::fs::create_dir_all(path.parent().expect("has a parent")).expect("can be made");
        let text = content.as_str().map_or_else(|| content.to_string(), str::to_string);
        std::fs::write(path, text).expect("can be written");
    }

    /// A model without tensors: metadata needs none.
    fn model(&self) -> Model {
        let path = self.path.join("config.json");
        let config = std::fs::read(&path).expect("config.json");
        let config = Config::from_json(&path, config).expect("a PLM's config");
        let origin = Origin::HuggingFace(self.path.clone());
        Model {
            config,
            tensors: Vec::new(),
            origin,
            warnings: Vec::new(),
            inputs: Vec::new(),
            adapters: Vec::new(),
        }
    }

    fn describe(&self) -> Result<Metadata, Error> {
        describe(&self.model(), &options()).map(|description| description.metadata)
    }

    /// The metadata, and what is said about it.
    fn describe_with_warnings(&self) -> (Metadata, Vec<String>) {
        let Description { metadata, warnings } = describe(&self.model(), &options()).expect("is described");
        (metadata, warnings.iter().map(Warning::to_string).collect())
    }
}

fn merge(into: &mut Map<String, Json>, patch: &Map<String, Json>) {
    for (key, value) in patch {
        match (into.get_mut(key), value) {
            (Some(Json::Object(into)), Json::Object(patch)) if ["model", "vocab"].contains(&key.as_str()) => {
                merge(into, patch);
            }
            _ => drop(into.insert(key.clone(), value.clone())),
        }
    }
}

fn qwen_style() -> Json {
    read_json(fixtures().join("describe/qwen_style.json"))
}

/// Metadata in the form of the golden files.
fn to_json(metadata: &Metadata, whole_arrays: bool) -> Map<String, Json> {
    let one = |(key, value): (&str, &Value)| {
        let (kind, value) = match value {
            Value::U32(n) => ("UINT32", json!(n)),
            Value::I32(n) => ("INT32", json!(n)),
            Value::F32(f) => ("FLOAT32", json!(f64::from(*f))),
            Value::Bool(b) => ("BOOL", json!(b)),
            Value::String(s) => ("STRING", json!(s)),
            Value::Array(array) => return (key.to_string(), array_to_json(&array.values, whole_arrays)),
            other => panic!("{key}: unexpected {other:?}"),
        };
        (key.to_string(), json!({"type": [kind], "value": value}))
    };
    metadata.iter().map(one).collect()
}

fn array_to_json(values: &[Value], whole: bool) -> Json {
    let (kind, values): (_, Vec<Json>) = match values.first() {
        Some(Value::I32(_)) => ("INT32", values.iter().map(|v| json!(v.as_i64())).collect()),
        _ => ("STRING", values.iter().map(|v| json!(v.as_str())).collect()),
    };
    let line = |v: &Json| v.as_str().map_or_else(|| v.to_string(), str::to_string);
    let lines: Vec<String> = values.iter().map(line).collect();
    let digest = hex(Sha256::digest(lines.join("\n")));
    let mut json = json!({"type": ["ARRAY", kind], "count": values.len(), "sha256_of_lines": digest});
    if whole && values.len() <= 20 {
        json["value"] = Json::Array(values);
    }
    json
}

/// Same keys in the same order, same types, same values.
fn assert_same(found: &Map<String, Json>, expected: &Map<String, Json>, case: &str) {
    for (key, value) in expected {
        assert_eq!(found.get(key), Some(value), "{case}: {key}");
    }
    assert!(found.keys().eq(expected.keys()), "{case}: {:?}", found.keys().collect::<Vec<_>>());
}

#[test]
fn tiny_plm_has_the_converters_metadata() {
    let model = Model::open(fixtures().join("tiny-plm")).expect("opens");
    let metadata = describe(&model, &options()).expect("is described").metadata;
    let mut golden = read_json(fixtures().join("golden/metadata.json"));
    let golden = golden.as_object_mut().expect("an object");
    for value in golden.values_mut() {
        value.as_object_mut().expect("an object").remove("first");
    }
    assert_same(&to_json(&metadata, false), golden, "tiny-plm");
}

/// The hyperparameters of PLM-1.8B. Its tokenizer is too large to be kept here; the small one takes its place.
#[test]
fn plm_1_8b_has_the_converters_hyperparameters() {
    let mut case = qwen_style();
    case["folder"] = json!("plm18b");
    let sizes = json!({
        "vocab_size": 151_936, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 32,
        "num_attention_heads": 16, "num_key_value_heads": 16, "kv_lora_rank": 512, "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 128, "v_head_dim": 128,
    });
    let config = case["files"]["config.json"].as_object_mut().expect("an object");
    config.extend(sizes.as_object().expect("an object").clone());
    let metadata = Folder::of_case(&case).describe().expect("is described");
    let golden = read_json(fixtures().join("golden/metadata-qwen.json"));
    let found = to_json(&metadata, false);
    let mut compared = 0;
    for (key, value) in golden.as_object().expect("an object") {
        if !key.starts_with("tokenizer.") && key != "general.size_label" {
            assert_eq!(found.get(key), Some(value), "{key}");
            compared += 1;
        }
    }
    assert_eq!(compared, 18);
    assert_eq!(metadata.array_len("tokenizer.ggml.tokens"), Some(151_936));
}

#[test]
fn every_case_has_the_converters_metadata() {
    let mut cases = 0;
    for entry in std::fs::read_dir(fixtures().join("describe")).expect("the folder is there") {
        let path = entry.expect("can be read").path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if path.extension().is_none_or(|e| e != "json") || name == "tokenizer" {
            continue;
        }
        let case = read_json(&path);
        let metadata = Folder::of_case(&case).describe().unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_same(&to_json(&metadata, true), case["expected"].as_object().expect("expected"), &name);
        cases += 1;
    }
    assert_eq!(cases, 24);
}

#[test]
fn a_folder_without_tokenizer_json_has_the_same_tokens() {
    let whole = Folder::of_case(&qwen_style()).describe().expect("is described");
    let parts = read_json(fixtures().join("describe/no_tokenizer_json.json"));
    let parts = Folder::of_case(&parts).describe().expect("is described");
    for key in ["tokens", "token_type", "merges", "pre"].map(|key| format!("tokenizer.ggml.{key}")) {
        assert_eq!(whole.get(&key), parts.get(&key), "{key}");
    }
}

#[test]
fn a_named_pre_tokenizer_overrides() {
    let mut case = qwen_style();
    case["tokenizer_patch"] = json!({"pre_tokenizer": {"type": "Metaspace"}});
    let folder = Folder::of_case(&case);
    match folder.describe() {
        Err(Error::UnknownPreTokenizer { regex, .. }) => assert!(regex.contains("Metaspace"), "{regex}"),
        other => panic!("{other:?}"),
    }
    let with = |name: &str| {
        let options = DescribeOptions { file_type: BF16, tokenizer_pre: Some(name.into()) };
        describe(&folder.model(), &options).map(|description| description.metadata)
    };
    let metadata = with("llama-bpe").expect("is described");
    assert_eq!(metadata.string("tokenizer.ggml.pre"), Some("llama-bpe"));
    let error = with("lama-bpe").expect_err("is not a name").to_string();
    assert!(error.contains("llama-bpe"), "{error}");
}

#[test]
fn an_unknown_regex_is_named_in_the_error() {
    let mut case = qwen_style();
    let split =
        json!({"type": "Split", "pattern": {"Regex": "\\w+"}, "behavior": "Isolated", "invert": false});
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false});
    case["tokenizer_patch"] = json!({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, bytes]}});
    let error = Folder::of_case(&case).describe().expect_err("is not known").to_string();
    assert!(error.contains("\\w+"), "{error}");
}

fn added(content: &str, id: u32) -> Json {
    json!({"id": id, "content": content, "special": false, "normalized": false})
}

/// Faulty tokenizers: what is put into tokenizer.json of the qwen_style case, and how the error is to look.
#[test]
fn every_defect_has_its_error() {
    let list = |tokens: &[Json]| json!({"added_tokens": tokens});
    let normalizer = |kind: &str| json!({"normalizer": {"type": kind}});
    let vocab = |token: &str, id: u32| json!({"added_tokens": [], "model": {"vocab": {token: id}}});
    let merges = |merge: &str| json!({"added_tokens": [], "model": {"merges": [merge]}});
    type Is = fn(&Error) -> bool;
    let defects: Vec<(Json, Is)> = vec![
        (list(&[added("<hole>", 305)]), |e| matches!(e, Error::MisplacedToken { id: 305, loaded: 300, .. })),
        (list(&[added("!", 300)]), |e| matches!(e, Error::MisplacedToken { id: 300, loaded: 0, .. })),
        (vocab("far", 330), |e| matches!(e, Error::TokenOutOfRange { id: 330, vocab_size: 330, .. })),
        (vocab("twice", 7), |e| matches!(e, Error::DuplicateTokenId { id: 7, .. })),
        (vocab("[PAD301]", 300), |e| matches!(e, Error::DuplicateToken { first: 300, second: 301, .. })),
        (
            merges("x nothere"),
            |e| matches!(e, Error::MergeOutOfVocabulary { merge, .. } if merge == "x nothere"),
        ),
        (merges("Z Z"), |e| matches!(e, Error::MergeOutOfVocabulary { .. })),
        (merges("one"), |e| matches!(e, Error::MergeOutOfVocabulary { .. })),
        (
            normalizer("Lowercase"),
            |e| matches!(e, Error::Normalizer { normalizer, .. } if normalizer.contains("Lowercase")),
        ),
        (
            json!({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Replace"}]}}),
            |e| matches!(e, Error::Normalizer { normalizer, .. } if normalizer.contains("Replace")),
        ),
        (json!({"model": {"type": "Unigram"}}), |e| e.to_string().contains("Unigram")),
        (json!({"model": {"byte_fallback": true}}), |e| e.to_string().contains("byte-level")),
        (json!({"model": {"end_of_word_suffix": "</w>"}}), |e| e.to_string().contains("</w>")),
        (json!({"model": {"vocab": 3}}), |e| matches!(e, Error::Json { .. })),
        (json!({"model": {"ignore_merges": true}}), |e| e.to_string().contains("ignore_merges")),
    ];
    for (patch, is) in defects {
        let mut case = qwen_style();
        let config = &mut case["files"]["tokenizer_config.json"];
        *config = json!({"tokenizer_class": "Qwen2Tokenizer", "eos_token": null, "pad_token": null, "unk_token": null});
        case["tokenizer_patch"] = patch.clone();
        let error = Folder::of_case(&case).describe().expect_err(&patch.to_string());
        assert!(is(&error), "{patch}: {error}");
    }
}

#[test]
fn accepted_normalizers() {
    for normalizer in [json!(null), json!({"type": "Sequence", "normalizers": [{"type": "NFC"}]})] {
        let mut case = qwen_style();
        case["tokenizer_patch"] = json!({"normalizer": normalizer});
        let metadata = Folder::of_case(&case).describe().expect("is described");
        assert_same(&to_json(&metadata, true), case["expected"].as_object().expect("expected"), "normalizer");
    }
}

#[test]
fn defects_of_other_files() {
    let with = |name: &str, content: Json| {
        let mut case = qwen_style();
        case["files"][name] = content;
        Folder::of_case(&case).describe()
    };
    let without_tokenizer = |files: Json| {
        let mut case = qwen_style();
        case["tokenizer_patch"] = Json::Null;
        for (name, content) in files.as_object().expect("files") {
            case["files"][name] = content.clone();
        }
        Folder::of_case(&case).describe()
    };
    assert!(matches!(without_tokenizer(json!({})), Err(Error::NoTokenizer { .. })));
    assert!(matches!(without_tokenizer(json!({"vocab.json": {"a": 0}})), Err(Error::NoTokenizer { .. })));
    let unknown_class =
        json!({"vocab.json": {"a": 0}, "merges.txt": "", "tokenizer_config.json": {"tokenizer_class": "X"}});
    match without_tokenizer(unknown_class) {
        Err(Error::UnknownPreTokenizer { regex, .. }) => assert!(regex.contains("`X`"), "{regex}"),
        other => panic!("{other:?}"),
    }
    let bad_merges = json!({"vocab.json": {"a": 0}, "merges.txt": "#version: 0.2\na b c\n"});
    assert!(
        matches!(without_tokenizer(bad_merges), Err(Error::Tokenizer { detail, .. }) if detail.contains("line 2"))
    );
    assert!(matches!(with("tokenizer_config.json", json!("{")), Err(Error::Json { .. })));
    let misplaced =
        json!({"added_tokens_decoder": {"328": {"content": "<x>"}}, "tokenizer_class": "Qwen2Tokenizer"});
    assert!(matches!(
        with("tokenizer_config.json", misplaced),
        Err(Error::MisplacedToken { loaded: 326, .. })
    ));
}

#[test]
fn ids_that_are_no_tokens_are_left_out_and_named() {
    let mut case = qwen_style();
    let config = case["files"]["config.json"].as_object_mut().expect("an object");
    let bad = json!({"bos_token_id": -1, "mask_token_id": 330, "sep_token_id": 5_000_000_000_u64, "unk_token_id": 329});
    config.extend(bad.as_object().expect("an object").clone());
    let (metadata, warnings) = Folder::of_case(&case).describe_with_warnings();
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    for (warning, parts) in warnings.iter().zip([["bos", "-1"], ["sep", "5000000000"], ["mask", "330"]]) {
        assert!(parts.iter().all(|part| warning.contains(part)), "{warning}");
        assert!(warning.contains("config.json") && warning.contains("0 to 329"), "{warning}");
    }
    let id = |key: &str| metadata.unsigned(&format!("tokenizer.ggml.{key}_token_id"));
    assert_eq!(["bos", "mask", "seperator"].map(id), [None; 3]);
    assert_eq!(id("unknown"), Some(329));
}

#[test]
fn no_token_is_added_that_is_not_known() {
    let mut case = qwen_style();
    case["files"]["tokenizer_config.json"] = json!({"add_bos_token": true, "add_eos_token": true});
    case["files"]["config.json"].as_object_mut().expect("an object").remove("bos_token_id");
    case["files"]["config.json"]["eos_token_id"] = json!(7);
    case["tokenizer_patch"]["post_processor"] = Json::Null;
    let (metadata, warnings) = Folder::of_case(&case).describe_with_warnings();
    let flag = |key: &str| metadata.get(&format!("tokenizer.ggml.add_{key}_token"));
    assert_eq!(flag("bos"), Some(&Value::Bool(false)));
    assert_eq!(flag("eos"), Some(&Value::Bool(true)));
    assert!(matches!(&warnings[..], [one] if one.contains("bos")), "{warnings:?}");
}

#[test]
fn what_a_gguf_cannot_say_is_named() {
    let mut case = qwen_style();
    let token = |content: &str, id: u32, rule: &str| json!({"id": id, "content": content, rule: true});
    let added =
        [token("<a>", 300, "lstrip"), token("<b>", 301, "normalized"), token("<c>", 302, "single_word")];
    case["tokenizer_patch"] = json!({"added_tokens": added});
    case["files"]["tokenizer_config.json"] = json!({});
    let (_, warnings) = Folder::of_case(&case).describe_with_warnings();
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    assert!(warning.contains("\"<a>\" (lstrip)") && warning.contains("\"<c>\" (single_word)"), "{warning}");
    assert!(!warning.contains("<b>"), "{warning}");
}

/// As transformers 5 saves them, or 4 with a name for each. One that is there already stays what it was.
#[test]
fn extra_special_tokens_are_added() {
    for extra in [json!(["<x>", "<tool>"]), json!({"image_token": {"content": "<x>"}, "tool": "<tool>"})] {
        let mut case = qwen_style();
        case["tokenizer_patch"] = json!({"added_tokens": [added("<tool>", 300)]});
        case["files"]["tokenizer_config.json"] = json!({"extra_special_tokens": extra});
        let metadata = Folder::of_case(&case).describe().expect("is described");
        let tokens = metadata.strings("tokenizer.ggml.tokens").expect("are there");
        assert_eq!(tokens[300..303], ["<tool>", "<x>", "[PAD302]"]);
        let types = &metadata.array("tokenizer.ggml.token_type").expect("are there").values;
        assert_eq!(types[300..303], [Value::I32(4), Value::I32(3), Value::I32(5)]);
    }
}

#[test]
fn sampler_parameters_never_stop_a_conversion() {
    let with = |content: Json| {
        let mut case = qwen_style();
        case["files"]["generation_config.json"] = content;
        Folder::of_case(&case).describe_with_warnings()
    };
    let (metadata, warnings) = with(json!({"top_k": "many", "top_p": 0.5}));
    assert_eq!(metadata.get("general.sampling.top_p"), Some(&Value::F32(0.5)));
    assert!(matches!(&warnings[..], [one] if one.contains("`top_k` is \"many\"")), "{warnings:?}");
    let (_, warnings) = with(json!("not json {"));
    assert!(matches!(&warnings[..], [one] if one.contains("generation_config.json")), "{warnings:?}");
}

/// A snapshot in the hub's cache is called after its model, not after its commit.
#[test]
fn a_snapshot_of_the_hub_has_its_models_name() {
    let mut case = qwen_style();
    case["folder"] = json!("hub");
    let folder = Folder::of_case(&case);
    let snapshot = folder.path.join("models--PLM-Team--PLM-1.8B-Instruct/snapshots/3f2a9c0d1e4b");
    std::fs::create_dir_all(&snapshot).expect("can be made");
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::rename(folder.path.join(name), snapshot.join(name)).expect("can be moved");
    }
    let folder = Folder { path: snapshot, ..folder };
    let metadata = folder.describe().expect("is described");
    let text = |key: &str| metadata.string(&format!("general.{key}")).unwrap_or_default();
    assert_eq!(text("name"), "PLM 1.8B Instruct");
    assert_eq!(text("organization"), "PLM Team");
    assert_eq!(text("finetune"), "Instruct");
    assert_eq!(text("basename"), "PLM");
}

/// A copy of the tiny PLM as a GGUF, with other metadata.
fn tiny_gguf(edit: impl FnOnce(&mut Metadata)) -> (tempfile::TempDir, Model) {
    let model = Model::open(fixtures().join("tiny-plm")).expect("opens");
    let mut metadata = describe(&model, &options()).expect("is described").metadata;
    edit(&mut metadata);
    let guard = tempfile::tempdir().expect("a temporary folder");
    let path = guard.path().join("tiny.gguf");
    write_gguf(&path, &model, &metadata);
    (guard, Model::open(&path).expect("opens"))
}

#[test]
fn a_ggufs_ids_are_checked_too() {
    let (_guard, model) = tiny_gguf(|metadata| {
        metadata.set("tokenizer.ggml.bos_token_id", Value::I32(-1));
        metadata.set("tokenizer.ggml.eos_token_id", Value::I32(4090));
        metadata.set("tokenizer.ggml.padding_token_id", Value::U32(u32::MAX));
        metadata.set("tokenizer.ggml.eot_token_id", Value::U64(4096));
        metadata.set("tokenizer.ggml.add_bos_token", Value::Bool(true));
    });
    let Description { metadata, warnings } = describe(&model, &options()).expect("is described");
    let said: Vec<String> = warnings.iter().map(Warning::to_string).collect();
    assert_eq!(said.len(), 4, "{said:?}");
    for found in ["-1", "4294967295", "4096", "bos"] {
        assert!(said.iter().any(|s| s.contains(found)), "{found}: {said:?}");
    }
    assert_eq!(metadata.get("tokenizer.ggml.eos_token_id"), Some(&Value::U32(4090)));
    assert_eq!(metadata.get("tokenizer.ggml.add_bos_token"), Some(&Value::Bool(false)));
    for key in ["bos", "padding", "eot"] {
        assert_eq!(metadata.get(&format!("tokenizer.ggml.{key}_token_id")), None, "{key}");
    }
}

/// llama.cpp loads neither: it takes the number of tokens for the embedding's rows, and wants each token once.
#[test]
fn a_gguf_that_nothing_loads_is_not_written_again() {
    let tokens = |metadata: &Metadata| -> Vec<String> {
        let tokens = metadata.strings("tokenizer.ggml.tokens").expect("are there");
        tokens.into_iter().map(str::to_string).collect()
    };
    let (_guard, model) = tiny_gguf(|metadata| {
        let fewer = tokens(metadata).into_iter().take(4000);
        metadata.set("tokenizer.ggml.tokens", string_array(fewer));
    });
    let error = describe(&model, &options()).expect_err("too few tokens").to_string();
    assert!(error.contains("4000") && error.contains("4096"), "{error}");
    assert!(TextTokenizer::from_model(&model).is_err());

    let (_guard, model) = tiny_gguf(|metadata| {
        let mut twice = tokens(metadata);
        twice[4095] = twice[10].clone();
        metadata.set("tokenizer.ggml.tokens", string_array(twice));
    });
    assert!(matches!(
        describe(&model, &options()),
        Err(Error::DuplicateToken { first: 10, second: 4095, .. })
    ));
}

#[test]
fn a_tokenizer_that_cannot_be_used_here_is_copied() {
    let (_guard, model) = tiny_gguf(|metadata| {
        let merges = string_array(["nothing here".to_string()]);
        metadata.set("tokenizer.ggml.merges", merges);
    });
    let Description { metadata, warnings } = describe(&model, &options()).expect("is described");
    assert_eq!(metadata.array_len("tokenizer.ggml.merges"), Some(1));
    assert!(matches!(&warnings[..], [Warning::UnusableTokenizer { .. }]), "{warnings:?}");
}

#[test]
fn a_gguf_keeps_its_own_metadata() {
    let model = Model::open(fixtures().join("tiny-plm")).expect("opens");
    let mut metadata = describe(&model, &options()).expect("is described").metadata;
    metadata.set("general.note", Value::String("kept".into()));
    metadata.set("split.no", Value::U16(0));
    metadata.set("split.count", Value::U16(1));
    let guard = tempfile::tempdir().expect("a temporary folder");
    let path = guard.path().join("tiny.gguf");
    write_gguf(&path, &model, &metadata);
    let model = Model::open(&path).expect("opens");
    let options = DescribeOptions { file_type: 15, tokenizer_pre: Some("qwen35".into()) };
    let again = describe(&model, &options).expect("is described").metadata;

    metadata.remove("split.no");
    metadata.remove("split.count");
    set_file_type(&mut metadata, 15);
    metadata.set("tokenizer.ggml.pre", Value::String("qwen35".into()));
    assert_eq!(again, metadata);
}
