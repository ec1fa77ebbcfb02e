//! Byte-level BPE by Hugging Face's library, with llama.cpp's splits.

use tokenizers::decoders::DecoderWrapper;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::{PreTokenizedString, SplitDelimiterBehavior, TokenizerImpl};

use super::pre::PreTokenizer;
use super::vocabulary::Vocabulary;
use crate::error::{Error, Result};

/// A tokenizer without special tokens: those are cut out before.
pub(super) type ByteLevelBpe =
    TokenizerImpl<BPE, NormalizerWrapper, &'static PreTokenizer, PostProcessorWrapper, DecoderWrapper>;

/// The tokenizer of a vocabulary.
///
/// # Errors
/// Splits that are known by name only, or merges that the library refuses.
pub(super) fn byte_level_bpe(vocabulary: &Vocabulary) -> Result<ByteLevelBpe> {
    let pre = vocabulary.pre_tokenizer()?;
    let ids: Vocab = vocabulary.tokens.iter().cloned().zip(0u32..).collect();
    let sides = |merge: &String| {
        let (left, right) = vocabulary.sides(merge)?;
        Ok((left.to_string(), right.to_string()))
    };
    let merges = vocabulary.merges.iter().map(sides).collect::<Result<Vec<_>>>()?;
    let model = BPE::builder().vocab_and_merges(ids, merges).ignore_merges(pre.ignore_merges).build();
    let refused =
        |e: tokenizers::Error| Error::Tokenizer { path: vocabulary.path.clone(), detail: e.to_string() };
    let mut tokenizer = TokenizerImpl::new(model.map_err(refused)?);
    tokenizer.with_pre_tokenizer(Some(pre));
    Ok(tokenizer)
}

impl tokenizers::PreTokenizer for &'static PreTokenizer {
    fn pre_tokenize(&self, text: &mut PreTokenizedString) -> tokenizers::Result<()> {
        for regex in self.regexes() {
            text.split(|_, piece| piece.split(regex, SplitDelimiterBehavior::Isolated))?;
        }
        ByteLevel::new(false, false, false).pre_tokenize(text)
    }
}
