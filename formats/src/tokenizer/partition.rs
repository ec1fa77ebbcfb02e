//! Cutting tokens that are matched in the text itself out of it, in llama.cpp's order.

use super::vocabulary::{TokenType, Vocabulary};

/// A piece of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fragment<'t> {
    Text(&'t str),
    Token(u32),
}

/// Tokens matched in text, longest first: for each, all text is searched before the next one is tried.
#[derive(Debug)]
pub(super) struct Matched {
    tokens: Vec<MatchedToken>,
}

#[derive(Debug)]
struct MatchedToken {
    id: u32,
    text: String,
    /// Matched only where special tokens are asked for.
    control: bool,
}

/// Texts that llama.cpp takes for control tokens that end generation, whatever their type says.
const ENDS: [&str; 22] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// The same for fill-in-the-middle. Those that look like `<|...|>` are control tokens by type already.
const FILL_IN: [&str; 16] = [
    "<fim-prefix>",
    "<fim_prefix>",
    "<PRE>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<SUF>",
    "<fim-middle>",
    "<fim_middle>",
    "<MID>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<REPO>",
    "<fim-repo>",
    "<reponame>",
];

/// True for a text that ends generation wherever it is a token.
pub(super) fn ends_generation(text: &str) -> bool {
    ENDS.contains(&text)
}

impl Matched {
    /// The control and user-defined tokens of a vocabulary.
    pub fn new(vocabulary: &Vocabulary) -> Matched {
        let all = (0u32..).zip(vocabulary.tokens.iter().zip(&vocabulary.types));
        let mut tokens: Vec<_> = all
            .filter(|(_, (text, _))| !text.is_empty())
            .filter_map(|(id, (text, kind))| {
                let control = match kind {
                    TokenType::Control | TokenType::Unknown => true,
                    TokenType::UserDefined => ENDS.iter().chain(&FILL_IN).any(|t| t == text),
                    _ => return None,
                };
                Some(MatchedToken { id, text: text.clone(), control })
            })
            .collect();
        tokens.sort_by_key(|t| std::cmp::Reverse(t.text.len()));
        Matched { tokens }
    }

    /// Cuts a text. Control tokens are text like any other unless `parse_special`.
    pub fn cut<'t>(&self, text: &'t str, parse_special: bool) -> Vec<Fragment<'t>> {
        let mut fragments = vec![Fragment::Text(text)];
        for token in self.tokens.iter().filter(|t| parse_special || !t.control) {
            if text.contains(&token.text) {
                fragments = fragments.into_iter().flat_map(|f| cut_fragment(f, token)).collect();
            }
        }
        fragments.retain(|f| *f != Fragment::Text(""));
        fragments
    }
}

fn cut_fragment<'t>(fragment: Fragment<'t>, token: &MatchedToken) -> Vec<Fragment<'t>> {
    let Fragment::Text(text) = fragment else { return vec![fragment] };
    let mut cut = Vec::new();
    for (i, piece) in text.split(token.text.as_str()).enumerate() {
        if i > 0 {
            cut.push(Fragment::Token(token.id));
        }
        cut.push(Fragment::Text(piece));
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::Fragment::{Text, Token};
    use super::*;

    fn matched() -> Matched {
        let entries = [
            ("a", TokenType::Normal),
            ("<|x|>", TokenType::Control),
            ("<think>", TokenType::UserDefined),
            ("<think><think>", TokenType::UserDefined),
            ("<eos>", TokenType::UserDefined),
            ("[PAD5]", TokenType::Unused),
        ];
        Matched::new(&Vocabulary {
            path: "test".into(),
            tokens: entries.iter().map(|(t, _)| t.to_string()).collect(),
            types: entries.iter().map(|(_, k)| *k).collect(),
            merges: Vec::new(),
            pre: "qwen2".into(),
        })
    }

    #[test]
    fn control_tokens_are_text_unless_asked_for() {
        let text = "a<|x|>b<think>[PAD5]<eos>";
        assert_eq!(matched().cut(text, false), [Text("a<|x|>b"), Token(2), Text("[PAD5]<eos>")]);
        let parsed = [Text("a"), Token(1), Text("b"), Token(2), Text("[PAD5]"), Token(4)];
        assert_eq!(matched().cut(text, true), parsed);
    }

    #[test]
    fn longest_token_first() {
        assert_eq!(matched().cut("<think><think><think>", false), [Token(3), Token(2)]);
        assert_eq!(matched().cut("", true), []);
    }
}
