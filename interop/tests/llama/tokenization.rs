//! llama.cpp splits texts as Hugging Face's tokenizer does, from the vocabulary that plmconv wrote.

use plmconv_interop::golden::fixtures;
use tokenizers::Tokenizer;

use super::Workspace;

/// Texts at the seams of the pre-tokenizer's expression. All are in normal form C: Hugging Face's tokenizer brings
/// a text into it first, llama.cpp has no such step.
const TRICKY: &[&str] = &[
    "",
    " ",
    "   ",
    "\n",
    "\n\n\n",
    "\r\n \r\n",
    "\t\tindented\n\t more",
    "a",
    " a",
    "  a  b   c ",
    "trailing space ",
    "trailing spaces   \n",
    "Hello, world!",
    "don't DON'T we'll I've he'd they're it's I'M",
    "'tis the 'sixties",
    "1234567890 3.14159 1,000,000 0x1F",
    "٣٤ ½ Ⅷ ²",
    "snake_case camelCase kebab-case SCREAMING_CASE",
    "fn main() { println!(\"{}\", x[0] + y[1] * 2); } // ...",
    "...!!!???---___***",
    "a.b,c;d:e",
    "\"quoted\" 'single' “curly” «guillemets»",
    "naïve café Straße Ångström",
    "Ελληνικά Русский עברית العربية हिन्दी ไทย",
    "中文字符 日本語テキスト 한국어",
    "混ぜた text と english",
    "👍 🏽 👩‍👩‍👧‍👦 🇩🇪 🙂\u{fe0f}",
    "zero\u{200b}width\u{200d}joiner\u{feff}mark",
    "non\u{a0}breaking\u{2009}thin\u{3000}wide",
    "\u{85}next line\u{2028}separator",
    "\u{0}\u{1}\u{7f}",
    "end of paragraph.\n\nNext one.\n    Indented.",
    "https://example.org/a?b=c&d=%20#frag",
    "user@example.org",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "The quick brown fox jumps over the lazy dog.",
];

/// Texts with the vocabulary's control tokens, whole, broken and glued.
const WITH_CONTROL_TOKENS: &[&str] = &[
    "<|endoftext|>",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "word<|im_end|>word",
    " <|im_start|> spaced <|im_end|> ",
    "<|im_start|><|im_start|><|im_end|>",
    "<|im_start",
    "<|im_start |>",
    "<|IM_START|>",
    "<<|im_end|>>",
];

fn hugging_face(encode_special_tokens: bool) -> Tokenizer {
    let mut tokenizer = Tokenizer::from_file(fixtures().join("tiny-plm/tokenizer.json"))
        .unwrap_or_else(|error| panic!("the fixture's tokenizer: {error}"));
    tokenizer.set_encode_special_tokens(encode_special_tokens);
    tokenizer
}

/// Checks that both split `texts` alike; control tokens in them become one token or, without `parse_special`, plain
/// text.
fn check<'a>(texts: impl IntoIterator<Item = &'a str>, parse_special: bool) {
    let workspace = Workspace::new();
    let model = workspace.load_tiny_plm("q8_0");
    let tokenizer = hugging_face(!parse_special);
    for text in texts {
        let encoding = tokenizer.encode(text, false).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        let expected: Vec<i32> = encoding.get_ids().iter().map(|&id| id as i32).collect();
        let found = model.tokenize(text, true, parse_special).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(found, expected, "{text:?} is {:?} to Hugging Face", encoding.get_tokens());
    }
}

#[test]
fn tricky_texts_split_alike() {
    check(TRICKY.iter().copied(), true);
}

#[test]
fn all_tricky_texts_in_one_split_alike() {
    let text = TRICKY.join(" ");
    check([text.as_str()], true);
    let text = TRICKY.concat();
    check([text.as_str()], true);
}

#[test]
fn control_tokens_are_one_token_where_asked_for() {
    check(WITH_CONTROL_TOKENS.iter().copied(), true);
}

#[test]
fn control_tokens_are_plain_text_otherwise() {
    check(WITH_CONTROL_TOKENS.iter().copied(), false);
}

#[test]
fn tokens_give_back_the_text() {
    let workspace = Workspace::new();
    let model = workspace.load_tiny_plm("q8_0");
    for text in TRICKY.iter().chain(WITH_CONTROL_TOKENS) {
        let tokens = model.tokenize(text, true, true).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(model.detokenize(&tokens).unwrap_or_else(|error| panic!("{error}")), *text);
    }
}

#[test]
fn nothing_is_put_before_a_text() {
    let workspace = Workspace::new();
    let model = workspace.load_tiny_plm("q8_0");
    assert!(!model.adds_bos());
    let end = model.tokenize("<|endoftext|>", false, true).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(end, [model.bos()], "PLM begins and ends a text with the same token");
}
