//! What `plmconv generate --json` wrote.

use anyhow::Result;
use plmconv_formats::TextTokenizer;
use serde_json::json;

use super::print_document;

/// Prints the tokens that continue a prompt, and their text.
pub fn print(tokenizer: &TextTokenizer, prompt: &[u32], tokens: &[u32]) -> Result<()> {
    let mut stream = tokenizer.stream();
    let mut text: String = tokens.iter().map(|&token| stream.push(token)).collect();
    text.push_str(&stream.finish());
    print_document("generation", &json!({ "prompt_tokens": prompt.len(), "tokens": tokens, "text": text }))
}
