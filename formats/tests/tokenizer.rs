//! Text to ids and back: folder against GGUF, and against Hugging Face's own reading of tokenizer.json.

mod support;

use std::path::Path;

use plmconv_formats::gguf::{Metadata, Value};
use plmconv_formats::{DescribeOptions, Error, Model, TextTokenizer, describe};
use proptest::prelude::*;
use support::{fixtures, write_gguf};

const ENDOFTEXT: u32 = 4090;
const IM_START: u32 = 4091;
const IM_END: u32 = 4092;

/// Words, contractions, numbers, white space of all kinds, scripts, emoji, line breaks, invalid-looking text.
const SAMPLE: &str = "The film's 2nd half isn't great: they'LL say \"it's 1234567 minutes\"!!\n\n\n  Indented\ttext,\r\n\
     trailing   \u{a0}\u{3000}spaces   \nĞüzel çocuk — naïve café; 日本語のテキスト。한국어 العربية हिन्दी\n\
     👩‍👩‍👧 🦙🦙 ½ ² ٣٤ _under_score_ __init__ a+b=c; x<=y && z>>1 \\n \u{200b}zero-width'\u{0}end   ";

fn tiny() -> Model {
    Model::open(fixtures().join("tiny-plm")).expect("opens")
}

fn metadata() -> Metadata {
    describe(&tiny(), &DescribeOptions { file_type: 32, tokenizer_pre: None }).expect("is described").metadata
}

fn tokenizer() -> TextTokenizer {
    TextTokenizer::from_model(&tiny()).expect("has a tokenizer")
}

fn from(metadata: &Metadata) -> Result<TextTokenizer, Error> {
    TextTokenizer::from_metadata(Path::new("test.gguf"), metadata)
}

#[test]
fn folder_and_gguf_agree() {
    let folder = tokenizer();
    let guard = tempfile::tempdir().expect("a temporary folder");
    let path = guard.path().join("tiny.gguf");
    write_gguf(&path, &tiny(), &metadata());
    let gguf = TextTokenizer::from_model(&Model::open(&path).expect("opens")).expect("has a tokenizer");
    assert_eq!(folder.digest(), gguf.digest());
    assert_eq!(folder.encode(SAMPLE).expect("ids"), gguf.encode(SAMPLE).expect("ids"));
    assert_eq!(folder.chat_template(), gguf.chat_template());
    assert_eq!((gguf.bos(), gguf.eos(), gguf.add_bos()), (Some(ENDOFTEXT), Some(ENDOFTEXT), false));
    assert_eq!(gguf.vocab_size(), 4096);
    assert_eq!(gguf.pre_tokenizer(), "qwen2");
    assert!(gguf.chat_template().expect("a template").contains("<|im_start|>"));
}

/// Ids of `llama_tokenize` for texts at the seams of the regex and for random ones, with and without `parse_special`
/// (and the other way round `add_special`), from the same tokenizer.
#[test]
fn ids_are_those_of_llama_cpp() {
    #[derive(serde::Deserialize)]
    struct Golden {
        text: String,
        plain: Vec<u32>,
        chat: Vec<u32>,
    }
    let golden = std::fs::read_to_string(fixtures().join("golden/token_ids.json")).expect("the fixture");
    let golden: Vec<Golden> = serde_json::from_str(&golden).expect("is JSON");
    assert_eq!(golden.len(), 82);
    let tokenizer = tokenizer();
    for Golden { text, plain, chat } in golden {
        assert_eq!(tokenizer.encode(&text).expect("ids"), plain, "{text:?}");
        assert_eq!(tokenizer.encode_chat(&text).expect("ids"), chat, "{text:?}");
    }
}

/// The same ids as the `tokenizers` library gives when it reads tokenizer.json itself.
#[test]
fn folder_agrees_with_hugging_face() {
    let mut oracle =
        tokenizers::Tokenizer::from_file(fixtures().join("tiny-plm/tokenizer.json")).expect("loads");
    oracle.set_encode_special_tokens(true);
    let ours = tokenizer();
    for text in [SAMPLE, "", " ", "\n", "a<|im_end|>b", "don't"] {
        let expected = oracle.encode_fast(text, false).expect("encodes");
        assert_eq!(ours.encode(text).expect("ids"), expected.get_ids(), "{text:?}");
    }
    oracle.set_encode_special_tokens(false);
    let chat = "<|im_start|>user\nHello there<|im_end|>\n<|im_start|>assistant\n";
    let expected = oracle.encode_fast(chat, false).expect("encodes");
    assert_eq!(ours.encode_chat(chat).expect("ids"), expected.get_ids());
}

#[test]
fn control_tokens_in_a_text_are_text() {
    let tokenizer = tokenizer();
    let plain = tokenizer.encode("a<|im_end|>").expect("ids");
    assert!(!plain.contains(&IM_END) && plain.len() > 2, "{plain:?}");
    assert_eq!(tokenizer.decode(&plain), "a<|im_end|>");
    let chat = tokenizer.encode_chat("<|im_start|>a<|im_end|>").expect("ids");
    assert_eq!((chat[0], chat[chat.len() - 1]), (IM_START, IM_END));
    assert_eq!(tokenizer.decode(&chat), "a");
    assert!(tokenizer.ends_generation(IM_END) && tokenizer.ends_generation(ENDOFTEXT));
    assert!(!tokenizer.ends_generation(IM_START));
}

/// llama.cpp does not compose characters, Hugging Face's NFC normalizer does.
#[test]
fn text_is_not_normalized() {
    let tokenizer = tokenizer();
    let (composed, decomposed) = ("caf\u{e9}", "cafe\u{301}");
    assert_eq!(tokenizer.decode(&tokenizer.encode(decomposed).expect("ids")), decomposed);
    assert_ne!(tokenizer.encode(composed).expect("ids"), tokenizer.encode(decomposed).expect("ids"));
}

#[test]
fn begin_and_end_are_added_where_the_model_wants_them() {
    let mut metadata = metadata();
    let plain = from(&metadata).expect("loads").encode("a").expect("ids");
    metadata.set("tokenizer.ggml.add_bos_token", Value::Bool(true));
    metadata.set("tokenizer.ggml.bos_token_id", Value::U32(IM_START));
    metadata.set("tokenizer.ggml.add_eos_token", Value::Bool(true));
    let tokenizer = from(&metadata).expect("loads");
    assert!(tokenizer.add_bos() && tokenizer.add_eos());
    let all: Vec<u32> = [IM_START].into_iter().chain(plain.clone()).chain([ENDOFTEXT]).collect();
    assert_eq!(tokenizer.encode("a").expect("ids"), all);
    assert_eq!(tokenizer.encode_chat("a").expect("ids"), plain);
    assert_eq!(tokenizer.encode("").expect("ids"), [IM_START, ENDOFTEXT]);
}

#[test]
fn user_defined_tokens_are_matched_in_every_text() {
    let mut metadata = metadata();
    let Some(Value::Array(mut types)) = metadata.remove("tokenizer.ggml.token_type") else {
        panic!("no types")
    };
    types.values[IM_START as usize] = Value::I32(4);
    metadata.set("tokenizer.ggml.token_type", Value::Array(types));
    let tokenizer = from(&metadata).expect("loads");
    let ids = tokenizer.encode("a<|im_start|>b<|im_end|>").expect("ids");
    assert!(ids.contains(&IM_START) && !ids.contains(&IM_END), "{ids:?}");
    assert_eq!(tokenizer.decode(&ids), "a<|im_start|>b<|im_end|>");
}

#[test]
fn digests_tell_tokenizers_apart() {
    let digest = |metadata: &Metadata| from(metadata).expect("loads").digest();
    let (metadata, mut changed) = (metadata(), metadata());
    assert_eq!(digest(&metadata), digest(&changed));
    changed.set("tokenizer.ggml.padding_token_id", Value::U32(IM_END));
    changed.set("tokenizer.ggml.pre", Value::String("deepseek-r1-qwen".into()));
    assert_eq!(digest(&metadata), digest(&changed), "neither changes an id");
    changed.set("tokenizer.ggml.pre", Value::String("gpt-2".into()));
    assert_ne!(digest(&metadata), digest(&changed));
    changed.set("tokenizer.ggml.pre", Value::String("qwen2".into()));
    changed.set("tokenizer.ggml.add_bos_token", Value::Bool(true));
    assert_ne!(digest(&metadata), digest(&changed));
}

#[test]
fn faulty_metadata_has_its_errors() {
    let with = |key: &str, value: Value| {
        let mut metadata = metadata();
        metadata.set(key, value);
        from(&metadata).expect_err(key)
    };
    let without = |key: &str| {
        let mut metadata = metadata();
        metadata.remove(key).expect("was there");
        from(&metadata)
    };
    for key in ["model", "tokens", "merges"].map(|key| format!("tokenizer.ggml.{key}")) {
        assert!(matches!(without(&key), Err(Error::MissingKey { key: k, .. }) if k == key));
    }
    let error = with("tokenizer.ggml.model", Value::String("llama".into()));
    assert!(matches!(error, Error::BadValue { .. }), "{error}");
    let error = with("tokenizer.ggml.token_type", plmconv_formats::gguf::i32_array([1, 1]));
    assert!(matches!(error, Error::BadValue { .. }), "{error}");
    let error = with("tokenizer.ggml.pre", Value::String("falcon".into()));
    assert!(matches!(error, Error::UnknownSplits { .. }), "{error}");
    let merges = plmconv_formats::gguf::string_array(["Ġ Ġwonderful".to_string()]);
    let error = with("tokenizer.ggml.merges", merges);
    assert!(matches!(error, Error::MergeOutOfVocabulary { .. }), "{error}");
    assert!(from(&Metadata::new()).is_err());
}

/// A file may name no token, or one that is not there: llama.cpp then takes token 11, where it needs one.
#[test]
fn special_tokens_that_are_not_there_are_those_of_llama_cpp() {
    for bos in [None, Some(Value::U32(4096)), Some(Value::I32(-1))] {
        let mut metadata = metadata();
        metadata.remove("tokenizer.ggml.bos_token_id");
        if let Some(bos) = bos {
            metadata.set("tokenizer.ggml.bos_token_id", bos);
        }
        assert_eq!(from(&metadata).expect("is read").bos(), None);
        metadata.set("tokenizer.ggml.add_bos_token", Value::Bool(true));
        let tokenizer = from(&metadata).expect("is read");
        assert_eq!((tokenizer.bos(), tokenizer.add_bos()), (Some(11), true));
    }
}

/// Added tokens with rules that llama.cpp does not have: where a text comes out otherwise, it is seen.
#[test]
fn other_tokens_than_in_transformers_are_seen() {
    let guard = tempfile::tempdir().expect("a temporary folder");
    for name in ["config.json", "tokenizer_config.json"] {
        std::fs::copy(fixtures().join("tiny-plm").join(name), guard.path().join(name))
            .expect("can be copied");
    }
    let text = std::fs::read_to_string(fixtures().join("tiny-plm/tokenizer.json")).expect("is there");
    let mut json: serde_json::Value = serde_json::from_str(&text).expect("is JSON");
    let added = json["added_tokens"].as_array_mut().expect("a list");
    added.push(serde_json::json!({"id": 4093, "content": "[SEP]", "special": false, "normalized": false,
        "single_word": false, "lstrip": true, "rstrip": false}));
    std::fs::write(guard.path().join("tokenizer.json"), json.to_string()).expect("can be written");
    let tokenizer = TextTokenizer::from_folder(guard.path(), 4096).expect("has a tokenizer");
    let difference = |text: &str| {
        let ids = tokenizer.encode(text).expect("ids");
        tokenizer.differs_from_transformers(text, &ids)
    };
    assert_eq!(difference("The film.[SEP] It was"), None);
    let found = difference("The film. [SEP] It was").expect("the space goes");
    assert_eq!(found.theirs, Some(4093));
    assert_ne!(found.ours, Some(4093));
    assert!(found.position > 0);
    assert!(difference("The <|im_end|>").is_some(), "control tokens are text here");
    assert_eq!(tokenizer.differs_from_transformers("", &[]), None);
}

#[test]
fn a_stream_gives_whole_characters() {
    let tokenizer = tokenizer();
    let ids = tokenizer.encode(SAMPLE).expect("ids");
    let mut stream = tokenizer.stream();
    let mut text = String::new();
    for id in ids.iter().copied().chain([IM_END, 4095, u32::MAX]) {
        text.push_str(&stream.push(id));
    }
    assert_eq!(text + &stream.finish(), SAMPLE);
    assert_eq!(tokenizer.decode(&ids), SAMPLE);

    let mut cut = tokenizer.stream();
    let llama = tokenizer.encode("🦙").expect("ids");
    assert!(llama.len() > 1);
    assert_eq!(cut.push(llama[0]), "");
    assert_eq!(cut.finish(), "\u{fffd}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_text_comes_back(text in "\\PC{0,40}|[ \\n\\r\\ta-c'0-9<|>]{0,60}") {
        thread_local!(static TOKENIZER: TextTokenizer = tokenizer());
        TOKENIZER.with(|tokenizer| {
            let ids = tokenizer.encode(&text).expect("ids");
            prop_assert_eq!(tokenizer.decode(&ids), text);
            Ok(())
        })?;
    }
}
