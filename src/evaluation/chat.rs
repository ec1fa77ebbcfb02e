//! Chat templates: a user's message as the model wants to see it.

use anyhow::{Context, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, context};
use minijinja_contrib::pycompat::unknown_method_callback;
use plmconv_formats::TextTokenizer;

use crate::error::UsageError;

/// Renders one user message with the model's template, the assistant's turn opened.
///
/// # Errors
/// A model without a template, or a template that does not render.
pub fn render_user_message(tokenizer: &TextTokenizer, content: &str) -> Result<String> {
    let template = tokenizer.chat_template().ok_or_else(|| {
        UsageError::with_hint(
            "this model has no chat template",
            "leave --chat away to continue the prompt as plain text",
        )
    })?;
    let special = |id: Option<u32>| {
        let bytes = id.map(|id| tokenizer.token_bytes(id)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    render(template, content, &special(tokenizer.bos()), &special(tokenizer.eos()))
        .context("the model's chat template does not render")
}

fn render(template: &str, content: &str, bos: &str, eos: &str) -> Result<String, minijinja::Error> {
    let mut environment = Environment::new();
    // What transformers' environment offers to a template.
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
    environment.set_syntax(syntax);
    environment.set_unknown_method_callback(unknown_method_callback);
    environment.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.render_str(
        template,
        context! {
            messages => [context! { role => "user", content => content }],
            add_generation_prompt => true,
            bos_token => bos,
            eos_token => eos,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_form() {
        let template = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + \
                        message['content'].strip() + '<|im_end|>\\n' }}{% endfor %}\
                        {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
        let found = render(template, " Hi\n", "", "").expect("renders");
        assert_eq!(found, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
    }

    #[test]
    fn a_template_may_refuse() {
        let error = render("{{ raise_exception('no system role') }}", "Hi", "", "").expect_err("refuses");
        assert!(error.to_string().contains("no system role"));
    }
}
