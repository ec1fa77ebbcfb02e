//! JSON as a checkpoint's files hold it: what Python's `json` reads and writes, which is a little more than JSON.
//!
//! Every JSON file of a folder is read here. Accepted besides JSON: a byte order mark, and the numbers `NaN`,
//! `Infinity`, `-Infinity` and those too large for a double, all of which become `null` as in JavaScript's
//! `JSON.stringify`. A key that nobody asks for may thus hold one; where a number is needed, a `null` is none.

use std::ops::Range;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::small_file;

/// Values that any file may hold, and one more for each [`BYTES_PER_VALUE`] of its length. A parsed value takes some
/// 100 bytes, so that what two characters stand for could be fifty times as large as the file.
const MOST_VALUES: usize = 500_000;
const BYTES_PER_VALUE: usize = 16;

/// Reads a file.
///
/// # Errors
/// A file that cannot be read ([`small_file::read`]), and [`Error::Json`] with line and column where it is not what
/// is expected.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    parse(path, small_file::read(path)?)
}

/// Reads a file, or `None` if nothing has this name.
///
/// # Errors
/// As [`read`]; a link that leads nowhere is an error too.
pub fn read_optional<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    small_file::read_optional(path)?.map(|bytes| parse(path, bytes)).transpose()
}

/// Parses what was read from `path`, which only errors need.
///
/// # Errors
/// Not UTF-8, or [`Error::Json`].
pub fn parse<T: DeserializeOwned>(path: &Path, bytes: Vec<u8>) -> Result<T> {
    let text = Standard::of(path, bytes)?;
    serde_json::from_str(&text.json).map_err(|e| text.error(path, &e))
}

/// The same text as JSON that every parser reads: without a byte order mark, `null` for what is not finite. All other
/// bytes stay, so that most files stay as they are. Whether it is JSON otherwise is not looked at.
///
/// # Errors
/// Not UTF-8, or too many values.
pub fn to_standard(path: &Path, bytes: Vec<u8>) -> Result<Vec<u8>> {
    Ok(Standard::of(path, bytes)?.json.into_bytes())
}

/// JSON text, and where it is longer than what was read.
struct Standard {
    json: String,
    /// Offsets of the `null`s that stand for a `NaN`, which is a character shorter.
    longer: Vec<usize>,
}

impl Standard {
    fn of(path: &Path, bytes: Vec<u8>) -> Result<Standard> {
        let text = small_file::utf8(path, bytes)?;
        let Scan { values, non_finite } = Scan::of(&text);
        let most = MOST_VALUES + text.len() / BYTES_PER_VALUE;
        if values > most {
            let detail = format!("{values} values are more than such a file can have ({most})");
            return Err(Error::Json { path: path.into(), detail });
        }
        if non_finite.is_empty() {
            return Ok(Standard { json: text, longer: Vec::new() });
        }
        let mut standard = Standard { json: String::with_capacity(text.len()), longer: Vec::new() };
        let mut copied = 0;
        for number in non_finite {
            standard.json.push_str(&text[copied..number.start]);
            if number.len() < "null".len() {
                standard.longer.push(standard.json.len());
            }
            // Padded, so that what follows keeps its column.
            standard.json.push_str(&format!("{:width$}", "null", width = number.len()));
            copied = number.end;
        }
        standard.json.push_str(&text[copied..]);
        Ok(standard)
    }

    /// With the place in the file as it was read.
    fn error(&self, path: &Path, error: &serde_json::Error) -> Error {
        let (line, column) = (error.line(), error.column());
        let message = error.to_string();
        let detail = match message.strip_suffix(&format!(" at line {line} column {column}")) {
            None => message,
            Some(what) => {
                let start: usize = self.json.split_inclusive('\n').take(line - 1).map(str::len).sum();
                let within = start..start + column;
                let added = self.longer.iter().filter(|offset| within.contains(offset)).count();
                format!("{what} at line {line}, column {}", column - added)
            }
        };
        Error::Json { path: path.into(), detail }
    }
}

/// What is seen of a text without parsing it.
struct Scan {
    /// At least as many as there are values.
    values: usize,
    /// Where there are numbers that JSON does not have.
    non_finite: Vec<Range<usize>>,
}

impl Scan {
    fn of(text: &str) -> Scan {
        let bytes = text.as_bytes();
        let mut scan = Scan { values: 1, non_finite: Vec::new() };
        let mut at = 0;
        while at < bytes.len() {
            match bytes[at] {
                b'"' => at = string_end(bytes, at),
                b'-' | b'0'..=b'9' | b'N' | b'I' => {
                    let end = at + bytes[at..].iter().take_while(|b| is_part_of_number(**b)).count();
                    if is_non_finite(&text[at..end]) {
                        scan.non_finite.push(at..end);
                    }
                    at = end;
                }
                byte => {
                    scan.values += usize::from(matches!(byte, b',' | b':' | b'[' | b'{'));
                    at += 1;
                }
            }
        }
        scan
    }
}

/// The offset after a string that begins at `start`.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn is_part_of_number(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')
}

fn is_non_finite(word: &str) -> bool {
    // Rust also parses `inf` and the like, which Python's json does not.
    let is_number = word.ends_with(|c: char| c.is_ascii_digit());
    matches!(word, "NaN" | "Infinity" | "-Infinity")
        || (is_number && word.parse().is_ok_and(f64::is_infinite))
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value, json};

    use super::*;

    fn value(text: &str) -> Result<Value> {
        parse(Path::new("x.json"), text.into())
    }

    fn detail(text: &str) -> String {
        value(text).expect_err("is no JSON").to_string()
    }

    #[test]
    fn what_python_reads_is_read() {
        let read = value(
            "\u{feff}{\"a\": [0.0, Infinity, -Infinity,NaN,1e999],\r\n \"b\": \"NaN, \\\"Infinity\"}\r\n",
        );
        let expected = json!({"a": [0.0, null, null, null, null], "b": "NaN, \"Infinity"});
        assert_eq!(read.expect("is read"), expected);
        assert_eq!(value("NaN").expect("is read"), Value::Null);
        assert_eq!(value("1e308").expect("is read"), json!(1e308));
        for no in
            ["inf", "nan", "-inf", "Inf", "infinity", "+Infinity", "--Infinity", "NaN5", "{NaN: 1}", "{a: 1}"]
        {
            assert!(value(no).is_err(), "{no}");
        }
    }

    #[test]
    fn errors_name_file_line_and_column() {
        assert_eq!(detail("{\n  \"a\": 1,,\n}"), "x.json: key must be a string at line 2, column 10");
        // The column is that of the file, whatever numbers come before it.
        let end = detail("\n[NaN, NaN, Infinity, -Infinity, 1e400 x]");
        assert!(end.ends_with("at line 2, column 39"), "{end}");
        assert!(detail("[\"a\"").starts_with("x.json: EOF while parsing a list at line 1"));
        let typed = parse::<Map<String, Value>>(Path::new("y.json"), b"[]".to_vec());
        assert!(typed.expect_err("is no object").to_string().contains("y.json: invalid type: sequence"));
    }

    #[test]
    fn other_encodings_are_named() {
        let utf16: Vec<u8> = "\u{feff}{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for bytes in [utf16.clone(), utf16[2..].to_vec()] {
            let error = parse::<Value>(Path::new("x.json"), bytes).expect_err("is no UTF-8").to_string();
            assert_eq!(error, "x.json: not UTF-8: it is UTF-16");
        }
        let error = parse::<Value>(Path::new("x.json"), b"{\n \"a\": \"\xe9\"}".to_vec());
        let error = error.expect_err("is no UTF-8").to_string();
        assert_eq!(error, "x.json: not UTF-8: byte 0xe9 at line 2, column 8");
    }

    #[test]
    fn values_are_counted_before_they_are_made() {
        let many = format!("[{}0]", "0,".repeat(700_000));
        assert!(detail(&many).contains("700002 values"), "{}", detail(&many));
        let few = format!("[{}0]", "0,".repeat(300_000));
        assert!(value(&few).is_ok());
        // Not those inside a text.
        assert!(value(&format!("\"{}\"", ",".repeat(700_000))).is_ok());
        assert!(detail(&"[".repeat(100_000)).contains("recursion limit"));
    }

    #[test]
    fn standard_text_keeps_everything_else() {
        let standard = |text: &str| to_standard(Path::new("x.json"), text.into()).expect("is UTF-8");
        let plain = "{ \"b\":1.50,\r\n\t\"a\" : [ ] }";
        assert_eq!(standard(plain), plain.as_bytes());
        assert_eq!(standard("\u{feff}{\"a\": NaN, \"b\": -Infinity}"), b"{\"a\": null, \"b\": null     }");
    }

    proptest::proptest! {
        #[test]
        fn json_is_read_as_serde_json_reads_it(text in "[-{}\\[\\]\",:\\\\ 0-9eE.+a-zA-Z\n]{0,40}") {
            if let Ok(expected) = serde_json::from_str::<Value>(&text) {
                proptest::prop_assert_eq!(value(&text).expect("is JSON"), expected);
            } else {
                let _ = value(&text);
            }
        }
    }
}
