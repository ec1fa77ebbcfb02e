//! The alphabet of byte-level BPE: every byte has a printable character (GPT-2's `bytes_to_unicode`).

use std::borrow::Cow;

/// Bytes that are printable in Latin-1 stand for themselves; the others follow from U+0100 on.
const fn is_printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// The byte a character of the alphabet stands for.
pub(super) fn byte_of(character: char) -> Option<u8> {
    let code = u32::from(character);
    if let Ok(byte) = u8::try_from(code) {
        return is_printable(byte).then_some(byte);
    }
    let index = usize::try_from(code.checked_sub(256)?).ok()?;
    (0..=255u8).filter(|&b| !is_printable(b)).nth(index)
}

/// The bytes a token of the vocabulary stands for. A character outside the alphabet stands for its own UTF-8.
pub(super) fn decode(token: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(token.len());
    for character in token.chars() {
        match byte_of(character) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes
}

/// Merges are written as `left right`, so a space inside a token must be in the alphabet's form.
pub(super) fn escape_space(token: &str) -> Cow<'_, str> {
    if token.contains(' ') { Cow::Owned(token.replace(' ', "\u{120}")) } else { Cow::Borrowed(token) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alphabet_covers_every_byte_once() {
        let mut seen = [false; 256];
        for code in 0..=0x143 {
            let Some(byte) = char::from_u32(code).and_then(byte_of) else { continue };
            assert!(!seen[usize::from(byte)], "byte {byte} appears twice");
            seen[usize::from(byte)] = true;
        }
        assert!(seen.iter().all(|&s| s));
        assert_eq!(byte_of('\u{144}'), None);
    }

    #[test]
    fn known_characters() {
        assert_eq!(decode("Ġhello"), b" hello");
        assert_eq!(decode("Ċ"), b"\n");
        assert_eq!(decode("Ã¤"), "ä".as_bytes());
        assert_eq!(decode("<|im_end|>"), b"<|im_end|>");
        assert_eq!(decode("日"), "日".as_bytes());
    }
}
