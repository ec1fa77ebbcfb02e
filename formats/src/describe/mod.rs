//! A model's GGUF metadata: equal to what llama.cpp's convert_hf_to_gguf.py writes for the same folder.

mod card;
pub(crate) mod chat_templates;
pub(crate) mod general;
mod name;
pub(crate) mod special;
mod yaml;

pub(crate) use chat_templates::ADDITIONAL_TEMPLATES;
use name::Parameters;
pub use special::special_token_ids;

use std::path::Path;

use serde_json::{Map, Value as Json};

use crate::adapter::{AdapterTensor, without_effect};
use crate::error::{Error, Result};
use crate::gguf::{GgufFile, Metadata, Value, i32_array, string_array};
use crate::json;
use crate::model::{Config, Model, Origin};
use crate::tokenizer::check_pre_tokenizer_name;
use crate::tokenizer::files::TokenizerFiles;
use crate::tokenizer::vocabulary::Vocabulary;
use crate::warning::Warning;

/// `GGML_QNT_VERSION`: the version of the block formats.
pub const QUANTIZATION_VERSION: u32 = 2;

/// What a caller decides about the metadata.
#[derive(Clone, Debug)]
pub struct DescribeOptions {
    /// `general.file_type`: `llama_ftype` of the file to be written.
    pub file_type: u32,
    /// One of llama.cpp's names, instead of the pre-tokenizer that the tokenizer's splits tell.
    pub tokenizer_pre: Option<String>,
}

/// A model's metadata, and what of the model it leaves out.
#[derive(Clone, Debug)]
pub struct Description {
    /// What a GGUF of the model says, in the order in which it is written.
    pub metadata: Metadata,
    /// What its user should know of.
    pub warnings: Vec<Warning>,
}

/// The metadata of a GGUF with this model.
///
/// From a folder: all keys that convert_hf_to_gguf.py writes, in its order. From a GGUF: its own, without those that
/// number shards or say how its data is aligned. Neither has ids of special tokens that are no ids.
///
/// # Errors
/// A tokenizer that is missing, malformed, of another size than the embedding or not like any of llama.cpp's; a
/// malformed model card or configuration.
pub fn describe(model: &Model, options: &DescribeOptions) -> Result<Description> {
    match &model.origin {
        Origin::HuggingFace(folder) => describe_folder(model, folder, options),
        Origin::Gguf(file) => describe_gguf(model, file, options),
    }
}

fn describe_gguf(model: &Model, file: &GgufFile, options: &DescribeOptions) -> Result<Description> {
    let mut metadata = file.metadata.without_layout();
    if let Some(name) = &options.tokenizer_pre {
        check_pre_tokenizer_name(name)?;
        metadata.set("tokenizer.ggml.pre", Value::String(name.clone()));
    }
    check_vocabulary_size(file.path(), &metadata, model.config.vocab_size)?;
    let mut warnings = special::drop_bad_ids(&mut metadata);
    if metadata.get("tokenizer.ggml.tokens").is_some() {
        match Vocabulary::from_metadata(file.path(), &metadata) {
            // llama.cpp aborts.
            Err(error @ Error::DuplicateToken { .. }) => return Err(error),
            // Copied all the same: another program may make something of it.
            Err(error) => warnings.push(Warning::UnusableTokenizer { detail: error.to_string() }),
            Ok(_) => {}
        }
    }
    set_file_type(&mut metadata, options.file_type);
    Ok(Description { metadata, warnings })
}

/// llama.cpp takes the number of tokens for the number of rows of the embedding.
///
/// # Errors
/// [`Error::BadValue`] if a GGUF's tokens are fewer or more.
pub(crate) fn check_vocabulary_size(path: &Path, metadata: &Metadata, vocab_size: usize) -> Result<()> {
    let key = "tokenizer.ggml.tokens";
    match metadata.array_len(key) {
        Some(tokens) if tokens != vocab_size => Err(Error::BadValue {
            path: path.to_path_buf(),
            key: key.into(),
            found: format!("{tokens} tokens"),
            expected: format!("{vocab_size}, one for each row of the embedding"),
        }),
        _ => Ok(()),
    }
}

/// Sets `general.file_type` and `general.quantization_version`, in place where they are there.
pub fn set_file_type(metadata: &mut Metadata, file_type: u32) {
    metadata.set("general.file_type", Value::U32(file_type));
    metadata.set("general.quantization_version", Value::U32(QUANTIZATION_VERSION));
}

fn describe_folder(model: &Model, folder: &Path, options: &DescribeOptions) -> Result<Description> {
    let raw = read_config(folder)?;
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", Value::String("plm".into()));
    metadata.set("general.type", Value::String("model".into()));
    let mut warnings = general::add_general(&mut metadata, folder, &raw, model.parameter_count().into())?;
    add_hyperparameters(&mut metadata, &model.config, &raw, options.file_type)?;
    metadata.set("general.quantization_version", Value::U32(QUANTIZATION_VERSION));
    let pre = options.tokenizer_pre.as_deref();
    warnings.extend(add_tokenizer(&mut metadata, folder, &raw, model.config.vocab_size, pre)?);
    Ok(Description { metadata, warnings })
}

/// The metadata of a GGUF with the adapter in `folder`, of these tensors: as convert_lora_to_gguf.py writes it.
///
/// # Errors
/// A malformed model card or configuration.
pub fn describe_adapter(folder: &Path, tensors: &[AdapterTensor], alpha: f32) -> Result<Description> {
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", Value::String("plm".into()));
    metadata.set("general.type", Value::String("adapter".into()));
    metadata.set("adapter.type", Value::String("lora".into()));
    let products = tensors.chunks_exact(2).map(|pair| pair[1].shape[0] * pair[0].shape[1]);
    let raw = json::read_optional(&folder.join("config.json"))?.unwrap_or_default();
    let mut warnings =
        general::add_general(&mut metadata, folder, &raw, Parameters::Adapter(products.sum()))?;
    warnings.extend(without_effect(tensors));
    metadata.set("adapter.lora.alpha", Value::F32(alpha));
    metadata.set("general.quantization_version", Value::U32(QUANTIZATION_VERSION));
    Ok(Description { metadata, warnings })
}

/// `tokenizer.*` of a folder, nothing else.
pub(crate) fn describe_tokenizer(folder: &Path, vocab_size: usize) -> Result<Metadata> {
    let mut metadata = Metadata::new();
    add_tokenizer(&mut metadata, folder, &read_config(folder)?, vocab_size, None)?;
    Ok(metadata)
}

fn add_tokenizer(
    metadata: &mut Metadata,
    folder: &Path,
    raw: &Map<String, Json>,
    vocab_size: usize,
    pre: Option<&str>,
) -> Result<Vec<Warning>> {
    let mut files = TokenizerFiles::read(folder)?;
    let (vocabulary, mut warnings) = Vocabulary::from_files(&mut files, vocab_size, pre)?;
    metadata.set("tokenizer.ggml.model", Value::String("gpt2".into()));
    metadata.set("tokenizer.ggml.pre", Value::String(vocabulary.pre));
    metadata.set("tokenizer.ggml.tokens", string_array(vocabulary.tokens));
    metadata.set("tokenizer.ggml.token_type", i32_array(vocabulary.types.iter().map(|t| *t as i32)));
    if !vocabulary.merges.is_empty() {
        metadata.set("tokenizer.ggml.merges", string_array(vocabulary.merges));
    }
    warnings.extend(special::add_special_tokens(metadata, &files, raw, vocab_size));
    chat_templates::add_chat_templates(metadata, &files)?;
    Ok(warnings)
}

/// `plm.*`, with the file type where the converter puts it.
fn add_hyperparameters(
    metadata: &mut Metadata,
    config: &Config,
    raw: &Map<String, Json>,
    file_type: u32,
) -> Result<()> {
    let mut put = |key: &str, value: usize| put_u32(metadata, key, value);
    put("plm.block_count", config.num_hidden_layers)?;
    put("plm.context_length", config.max_position_embeddings)?;
    put("plm.embedding_length", config.hidden_size)?;
    put("plm.feed_forward_length", config.intermediate_size)?;
    put("plm.attention.head_count", config.num_attention_heads)?;
    if raw.get("num_key_value_heads").is_some_and(|n| !n.is_null()) {
        put("plm.attention.head_count_kv", config.num_attention_heads)?;
    }
    metadata.set("plm.rope.freq_base", Value::F32(config.rope_theta));
    metadata.set("plm.attention.layer_norm_rms_epsilon", Value::F32(config.rms_norm_eps));
    metadata.set("general.file_type", Value::U32(file_type));
    let mut put = |key: &str, value: usize| put_u32(metadata, key, value);
    put("plm.vocab_size", config.vocab_size)?;
    put("plm.attention.kv_lora_rank", config.kv_lora_rank)?;
    put("plm.attention.key_length", config.qk_head_dim())?;
    put("plm.attention.value_length", config.v_head_dim)?;
    put("plm.rope.dimension_count", config.qk_rope_head_dim)
}

fn put_u32(metadata: &mut Metadata, key: &str, value: usize) -> Result<()> {
    let value = u32::try_from(value)
        .map_err(|_| Error::Metadata { key: key.into(), detail: format!("{value} is too large") })?;
    metadata.set(key, Value::U32(value));
    Ok(())
}

/// config.json as it is, for what the checked [`Config`] does not hold.
fn read_config(folder: &Path) -> Result<Map<String, Json>> {
    let path = folder.join("config.json");
    json::read(&path)
}
