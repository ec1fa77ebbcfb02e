//! What may reach a terminal.
//!
//! Names, values and messages come from files of anybody. In a terminal, control characters move the cursor, change the
//! window's title or answer for the user, and those for the direction of writing show a text that is not there. So all
//! that is printed for people goes through here: main.rs denies `println` and `eprintln` everywhere.

use std::borrow::Cow;
use std::fmt::{Arguments, Write as _};
use std::io::{IsTerminal, Write};

/// A line on stderr.
macro_rules! tell {
    ($($text:tt)+) => {
        $crate::terminal::tell(format_args!($($text)+))
    };
}

/// Prints a line on stderr. Nobody is left to be told of a closed one.
pub fn tell(line: Arguments<'_>) {
    let line = line.to_string();
    let _ = writeln!(std::io::stderr(), "{}", visible(&line));
}

/// Text with its control characters made visible, except line ends and tabs.
pub fn visible(text: &str) -> Cow<'_, str> {
    escaped(text, |c| is_hidden(c) && !matches!(c, '\n' | '\t'), |c| c.escape_unicode().to_string())
}

/// A name or value that has to stay on its line.
pub fn one_line(text: &str) -> Cow<'_, str> {
    let sign = |c: char| match c {
        '\n' => "\\n".into(),
        '\t' => "\\t".into(),
        '\r' => "\\r".into(),
        c => c.escape_unicode().to_string(),
    };
    escaped(text, is_hidden, sign)
}

/// JSON that is the same document without a control character: they occur in strings only, where JSON has a name for
/// each.
pub fn visible_json(json: &str) -> Cow<'_, str> {
    let sign = |c: char| {
        let mut out = String::new();
        for unit in c.encode_utf16(&mut [0; 2]) {
            write!(out, "\\u{unit:04x}").expect("writing into a string succeeds");
        }
        out
    };
    escaped(json, |c| is_hidden(c) && c != '\n', sign)
}

/// True where stdout is read by a person.
pub fn stdout_is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Control characters (C0, DEL, C1), those for the direction of writing, line separators, and signs without a shape.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{206f}'
                | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
        )
}

fn escaped(text: &str, hidden: impl Fn(char) -> bool, sign: impl Fn(char) -> String) -> Cow<'_, str> {
    if !text.contains(&hidden) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if hidden(c) { out.push_str(&sign(c)) } else { out.push(c) }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_hidden_is_left() {
        let text = "a\u{1b}]0;t\u{7}\u{9b}31m\r\u{7f}\u{202e}b\u{2066}\u{e0041}\tc\nü😀👨\u{200d}👩";
        for shown in [visible(text), one_line(text), visible_json(text)] {
            assert!(!shown.chars().any(|c| is_hidden(c) && !matches!(c, '\n' | '\t')), "{shown}");
        }
        assert_eq!(visible("a\u{1b}[0m\n\tü"), "a\\u{1b}[0m\n\tü");
        assert_eq!(one_line("a\n\u{202e}"), "a\\n\\u{202e}");
        assert!(matches!(visible("plain"), Cow::Borrowed(_)));
    }

    #[test]
    fn json_stays_the_same_document() {
        let value = serde_json::json!({"a\u{9b}\u{7f}": "\u{1b}\u{202e}\u{e0041}\n"});
        let shown = serde_json::to_string_pretty(&value).expect("serializes");
        let found: serde_json::Value = serde_json::from_str(&visible_json(&shown)).expect("JSON");
        assert_eq!(found, value);
    }
}
