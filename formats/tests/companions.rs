//! The files beside an ONNX graph: what clients need is among them, whatever the model was read from.

mod support;

use std::path::Path;

use plmconv_formats::describe::set_file_type;
use plmconv_formats::gguf::{Metadata, Value, string_array};
use plmconv_formats::onnx::{Companions, ExportSpec, Opset, Profile, companions};
use plmconv_formats::{DescribeOptions, Model, TextTokenizer, Warning, describe};
use serde_json::{Map, Value as Json, json};
use support::{fixtures, write_gguf};
use tokenizers::Tokenizer;

const SAMPLE: &str = "The film's 2nd half isn't great: they'LL say 1234567\n\n  Indented\ttext,\r\n naïve 日本語 🦙 \
                      <|im_start|>user\nHi<|im_end|>\n";

/// A copy of the tiny PLM.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        let folder = Folder(tempfile::tempdir().expect("a temporary folder"));
        for entry in std::fs::read_dir(fixtures().join("tiny-plm")).expect("is there") {
            let path = entry.expect("can be read").path();
            std::fs::copy(&path, folder.path(path.file_name().expect("a name"))).expect("can be copied");
        }
        folder
    }

    fn path(&self, name: impl AsRef<Path>) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("has a parent")).expect("can be made");
        std::fs::write(path, text).expect("can be written");
    }

    fn json(&self, name: &str) -> Map<String, Json> {
        serde_json::from_slice(&std::fs::read(self.path(name)).expect("is there")).expect("is JSON")
    }

    /// Takes the template out of tokenizer_config.json.
    fn take_template(&self) -> String {
        let mut config = self.json("tokenizer_config.json");
        let template = config.remove("chat_template").expect("has one");
        self.write("tokenizer_config.json", &Json::Object(config).to_string());
        template.as_str().expect("a text").to_string()
    }

    fn export(&self) -> Export {
        Export::of(&Model::open(self.0.path()).expect("opens"), Profile::Hf)
    }
}

struct Export(Companions);

impl Export {
    fn of(model: &Model, profile: Profile) -> Export {
        Export(companions(model, &ExportSpec::new(profile, Opset::V21), 1).expect("are made"))
    }

    fn bytes(&self, name: &str) -> Option<&[u8]> {
        let file = self.0.files.iter().find(|file| file.path == Path::new(name))?;
        Some(&file.bytes)
    }

    fn json(&self, name: &str) -> Json {
        serde_json::from_slice(self.bytes(name).expect(name)).expect("is JSON")
    }

    fn template(&self) -> Json {
        self.json("tokenizer_config.json")["chat_template"].clone()
    }

    fn ids(&self) -> Vec<u32> {
        let tokenizer =
            Tokenizer::from_bytes(self.bytes("tokenizer.json").expect("is there")).expect("loads");
        tokenizer.encode(SAMPLE, true).expect("ids").get_ids().to_vec()
    }
}

fn tiny_gguf(edit: impl FnOnce(&mut Metadata)) -> Export {
    let model = Model::open(fixtures().join("tiny-plm")).expect("opens");
    let options = DescribeOptions { file_type: 0, tokenizer_pre: None };
    let mut metadata = describe(&model, &options).expect("is described").metadata;
    set_file_type(&mut metadata, 0);
    edit(&mut metadata);
    let guard = tempfile::tempdir().expect("a temporary folder");
    let path = guard.path().join("tiny.gguf");
    write_gguf(&path, &model, &metadata);
    Export::of(&Model::open(&path).expect("opens"), Profile::Hf)
}

#[test]
fn the_template_is_in_tokenizer_config_wherever_it_was() {
    let folder = Folder::new();
    let original = std::fs::read(folder.path("tokenizer_config.json")).expect("is there");
    assert_eq!(folder.export().bytes("tokenizer_config.json"), Some(original.as_slice()), "copied as it is");

    let template = folder.take_template();
    folder.write("chat_template.json", &json!({"chat_template": template}).to_string());
    assert_eq!(folder.export().template(), json!(template));

    folder.write("chat_template.jinja", "{{ 'jinja' }}");
    let export = folder.export();
    assert_eq!(export.template(), json!("{{ 'jinja' }}"));
    assert_eq!(export.bytes("chat_template.jinja"), Some(b"{{ 'jinja' }}".as_slice()));
    assert_eq!(export.json("tokenizer_config.json")["tokenizer_class"], json!("Qwen2Tokenizer"));

    folder.write("additional_chat_templates/tool_use.jinja", "{{ tools }}");
    let export = folder.export();
    let both = json!([
        {"name": "default", "template": "{{ 'jinja' }}"}, {"name": "tool_use", "template": "{{ tools }}"}
    ]);
    assert_eq!(export.template(), both);
    // A file would hide the list.
    assert_eq!(export.bytes("chat_template.jinja"), None);

    std::fs::remove_file(folder.path("tokenizer_config.json")).expect("can be removed");
    assert_eq!(folder.export().template(), both);
}

#[test]
fn a_gguf_gives_a_tokenizer_with_the_same_ids() {
    let original = Folder::new().export();
    let export = tiny_gguf(|_| {});
    assert!(export.0.warnings.is_empty(), "{:?}", export.0.warnings);
    assert_eq!(export.ids(), original.ids());
    assert_eq!(export.template(), original.template());
    let config = export.json("tokenizer_config.json");
    assert_eq!(config["eos_token"], json!("<|endoftext|>"));
    assert_eq!(config["unk_token"], Json::Null);
    assert_eq!(export.json("generation_config.json")["eos_token_id"], json!(4090));
    assert_eq!(export.json("config.json")["eos_token_id"], json!(4090));

    // Read back, it is the tokenizer that the GGUF has.
    let folder = tempfile::tempdir().expect("a temporary folder");
    for file in &export.0.files {
        std::fs::write(folder.path().join(&file.path), &file.bytes).expect("can be written");
    }
    let again = TextTokenizer::from_folder(folder.path(), 4096).expect("has a tokenizer");
    let tiny = Model::open(fixtures().join("tiny-plm")).expect("opens");
    assert_eq!(again.digest(), TextTokenizer::from_model(&tiny).expect("has a tokenizer").digest());
}

#[test]
fn a_gguf_gives_what_it_says_about_writing_text() {
    let export = tiny_gguf(|metadata| {
        metadata.set("tokenizer.ggml.pre", Value::String("llama-bpe".into()));
        metadata.set("tokenizer.ggml.bos_token_id", Value::U32(4091));
        metadata.set("tokenizer.ggml.add_bos_token", Value::Bool(true));
        metadata.set("tokenizer.ggml.add_eos_token", Value::Bool(true));
        metadata.set("tokenizer.ggml.eot_token_id", Value::U32(4092));
        metadata.set("general.sampling.temp", Value::F32(0.7));
        metadata.set("general.sampling.top_k", Value::I32(20));
        metadata.set("tokenizer.chat_templates", string_array(["rag".to_string()]));
        metadata.set("tokenizer.chat_template.rag", Value::String("{{ documents }}".into()));
    });
    let ids = export.ids();
    assert_eq!((ids.first(), ids.last()), (Some(&4091), Some(&4090)));
    let expected = json!({
        "bos_token_id": 4091, "eos_token_id": [4090, 4092], "pad_token_id": 4090,
        "temperature": 0.7, "top_k": 20, "do_sample": true,
    });
    assert_eq!(export.json("generation_config.json"), expected);
    assert_eq!(export.template()[1], json!({"name": "rag", "template": "{{ documents }}"}));
    let model = &export.json("tokenizer.json")["model"];
    assert_eq!(model["ignore_merges"], json!(true));
    assert_eq!(model["vocab"].as_object().expect("a map").len(), 4090);
}

/// A control token among the others, and an id without a token before an added one.
#[test]
fn ids_stay_where_they_are() {
    let token = |metadata: &Metadata, id: usize| {
        metadata.strings("tokenizer.ggml.tokens").expect("are there")[id].to_string()
    };
    let mut special = String::new();
    let export = tiny_gguf(|metadata| {
        special = token(metadata, 5);
        let types = (0..4096).map(|id| match id {
            5 | 4091 | 4094 => 3,
            4093 | 4095 => 5,
            _ => 1,
        });
        metadata.set("tokenizer.ggml.token_type", plmconv_formats::gguf::i32_array(types));
    });
    let tokenizer = Tokenizer::from_bytes(export.bytes("tokenizer.json").expect("is there")).expect("loads");
    assert_eq!(tokenizer.token_to_id(&special), Some(5));
    assert_eq!(tokenizer.token_to_id("<|im_start|>"), Some(4091));
    assert_eq!(tokenizer.token_to_id("[PAD4094]"), Some(4094));
    assert_eq!(tokenizer.token_to_id("[PAD4095]"), None);
    assert_eq!(tokenizer.encode(special.as_str(), false).expect("ids").get_ids(), [5]);
}

#[test]
fn vocab_and_merges_become_a_tokenizer() {
    let folder = Folder::new();
    let original = folder.export().ids();
    std::fs::remove_file(folder.path("tokenizer.json")).expect("can be removed");
    let added = json!({"<|endoftext|>": 4090, "<|im_start|>": 4091, "<|im_end|>": 4092});
    folder.write("added_tokens.json", &added.to_string());
    let export = folder.export();
    assert_eq!(export.ids(), original);
    let kept = std::fs::read(folder.path("tokenizer_config.json")).expect("is there");
    assert_eq!(export.bytes("tokenizer_config.json"), Some(kept.as_slice()));
}

#[test]
fn an_export_without_a_tokenizer_says_so() {
    let without = |export: &Export| {
        assert!(export.bytes("tokenizer.json").is_none());
        assert!(matches!(&export.0.warnings[..], [Warning::NoTokenizer { .. }]), "{:?}", export.0.warnings);
    };
    without(&tiny_gguf(|metadata| metadata.set("tokenizer.ggml.pre", Value::String("falcon".into()))));
    without(&tiny_gguf(|metadata| {
        let keys: Vec<String> = metadata.iter().map(|(key, _)| key.to_string()).collect();
        keys.iter().filter(|key| key.starts_with("tokenizer.")).for_each(|key| drop(metadata.remove(key)));
    }));
    let folder = Folder::new();
    for name in ["tokenizer.json", "vocab.json", "merges.txt"] {
        std::fs::remove_file(folder.path(name)).expect("can be removed");
    }
    without(&folder.export());
}

#[test]
fn ids_that_are_no_tokens_are_in_no_file() {
    let folder = Folder::new();
    let mut config = folder.json("config.json");
    config.insert("pad_token_id".into(), json!(-1));
    folder.write("config.json", &Json::Object(config).to_string());
    let bad = json!({"eos_token_id": [4092, 70_000], "bos_token_id": 4096, "pad_token_id": null, "top_k": 5});
    folder.write("generation_config.json", &bad.to_string());
    let model = Model::open(folder.0.path()).expect("opens");
    let export = Export::of(&model, Profile::Genai);
    assert_eq!(export.0.warnings.len(), 3, "{:?}", export.0.warnings);
    let expected = json!({"eos_token_id": [4092], "pad_token_id": null, "top_k": 5});
    assert_eq!(export.json("generation_config.json"), expected);
    assert_eq!(export.json("config.json").get("pad_token_id"), None);
    assert_eq!(export.json("genai_config.json")["model"]["eos_token_id"], json!(4092));

    folder.write("generation_config.json", "no json {");
    let export = Export::of(&model, Profile::Hf);
    assert!(export.bytes("generation_config.json").is_none());
    assert!(export.0.warnings.iter().any(|w| matches!(w, Warning::Unreadable { .. })));
}
