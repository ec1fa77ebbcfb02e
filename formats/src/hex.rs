//! Digests as text.

/// Bytes as lowercase hexadecimal digits, two a byte, as sha256sum prints a digest.
pub fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn small_bytes_have_two_digits() {
        assert_eq!(super::hex([0, 10, 255]), "000aff");
    }
}
