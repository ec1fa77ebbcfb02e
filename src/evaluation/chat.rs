//! Chat templates: a user's message as the model wants to see it.

use anyhow::{Context, Result};
use plmconv_formats::{TextTokenizer, chat};
use serde_json::{Map, Value, json};

use crate::error::UsageError;

/// Renders one user message with the model's template, the assistant's turn opened.
///
/// # Errors
/// A model without a template, or a template that does not render.
pub fn render_user_message(tokenizer: &TextTokenizer, content: &str) -> Result<String> {
    let template = tokenizer.chat_template().ok_or_else(|| {
        UsageError::with_hint(
            "this model has no chat template",
            "leave out --chat to continue the prompt as plain text",
        )
    })?;
    chat::render(template, &variables(tokenizer, content))
        .context("the model's chat template does not render")
}

/// What transformers' `apply_chat_template` gives to a template.
fn variables(tokenizer: &TextTokenizer, content: &str) -> Map<String, Value> {
    let mut variables = tokenizer.special_tokens().clone();
    variables.insert("messages".into(), json!([{"role": "user", "content": content}]));
    variables.insert("tools".into(), Value::Null);
    variables.insert("documents".into(), Value::Null);
    variables.insert("add_generation_prompt".into(), Value::Bool(true));
    variables
}
