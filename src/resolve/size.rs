//! Sizes as users write them.

use anyhow::Result;

use crate::error::UsageError;

/// `512M` → 512 000 000, `1.1G` → 1 100 000 000, a number alone is of bytes; gguf-split counts in powers of ten.
///
/// # Errors
/// Anything else.
pub(super) fn parse_size(text: &str) -> Result<u64> {
    let bad = || {
        UsageError::with_hint(format!("`{text}` is not a size"), "write e.g. 512M, 2G or a number of bytes")
    };
    let (digits, unit) = match text.char_indices().next_back() {
        Some((at, 'K' | 'k')) => (&text[..at], 1000u64),
        Some((at, 'M' | 'm')) => (&text[..at], 1_000_000),
        Some((at, 'G' | 'g')) => (&text[..at], 1_000_000_000),
        _ if text.contains('.') => return Err(bad().into()),
        _ => (text, 1),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let number = |digits: &str| digits.parse::<u64>().ok().filter(|_| !digits.starts_with('+'));
    let parts = number(whole).zip(number(fraction)).filter(|_| fraction.len() <= 6);
    let bytes = parts.and_then(|(whole, part)| {
        whole.checked_mul(unit)?.checked_add(part * unit / 10u64.pow(fraction.len() as u32))
    });
    Ok(bytes.filter(|&n| n > 0).ok_or_else(bad)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_exact_and_nonsense_is_refused() {
        for (text, bytes) in [
            ("512M", 512_000_000),
            ("1.1G", 1_100_000_000),
            ("4.228512m", 4_228_512),
            ("0.5M", 500_000),
            ("512K", 512_000),
            ("1.5k", 1500),
            ("4228512", 4_228_512),
        ] {
            assert_eq!(parse_size(text).expect("a size"), bytes, "{text}");
        }
        for text in [
            "",
            "M",
            "0",
            "0M",
            "5.5",
            "1T",
            "K",
            "0.0001K",
            "-1M",
            "+1M",
            "1.M",
            ".5M",
            "1.2.3M",
            "1e3M",
            "1.0000001M",
            "99999999999G",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
