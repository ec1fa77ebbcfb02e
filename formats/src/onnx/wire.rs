//! Protobuf's wire format, read from a file front to back in bounded memory: what is long is skipped, not loaded.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::source::InputFile;

/// Bytes read at a time.
const WINDOW: u64 = 64 << 10;

/// One field of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub number: u64,
    pub payload: Payload,
}

/// A field's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Payload {
    /// A varint, or the bits of a fixed-width number.
    Number(u64),
    /// Bytes (a string, a message, packed numbers) that end here, inside the message; the reader is at their start.
    Bytes { end: u64 },
}

/// A place in the file and some bytes from there on.
#[derive(Debug)]
pub(super) struct Wire {
    file: Arc<InputFile>,
    at: u64,
    window: Vec<u8>,
    window_start: u64,
}

impl Wire {
    pub(super) fn new(file: Arc<InputFile>) -> Wire {
        Wire { file, at: 0, window: Vec::new(), window_start: 0 }
    }

    /// Where the reader is.
    pub(super) fn position(&self) -> u64 {
        self.at
    }

    /// Goes on at `position`, which is inside the file.
    pub(super) fn skip_to(&mut self, position: u64) {
        self.at = position;
    }

    /// The next field of a message that ends at `end`, or none. The field before has to be read or skipped.
    ///
    /// # Errors
    /// What is not the wire format, and fields that run past `end`.
    pub(super) fn field(&mut self, end: u64) -> Result<Option<Field>> {
        if self.at == end {
            return Ok(None);
        }
        let key = self.varint(end)?;
        let payload = match key & 7 {
            0 => Payload::Number(self.varint(end)?),
            1 => Payload::Number(self.fixed(8, end)?),
            2 => {
                let length = self.varint(end)?;
                let last = self.at.checked_add(length).filter(|&last| last <= end);
                Payload::Bytes { end: last.ok_or_else(|| self.past_end(length, end))? }
            }
            5 => Payload::Number(self.fixed(4, end)?),
            other => return Err(self.malformed(format!("wire type {other} is not one that ONNX files have"))),
        };
        match key >> 3 {
            0 => Err(self.malformed("a field has number 0".into())),
            number => Ok(Some(Field { number, payload })),
        }
    }

    /// A varint that lies before `end`.
    pub(super) fn varint(&mut self, end: u64) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.fixed(1, end)?;
            value |= (byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.malformed("a number has more than ten bytes".into()))
    }

    /// The bytes up to `end`, at most `limit`: of what is known to be short.
    ///
    /// # Errors
    /// More bytes than `limit`.
    pub(super) fn bytes(&mut self, end: u64, limit: u64) -> Result<Vec<u8>> {
        let length = end - self.at;
        if length > limit {
            return Err(self.malformed(format!("{length} bytes where at most {limit} are expected")));
        }
        (0..length).map(|_| self.byte()).collect()
    }

    /// The text up to `end`, at most `limit` bytes.
    ///
    /// # Errors
    /// More bytes than `limit`, or not UTF-8.
    pub(super) fn string(&mut self, end: u64, limit: u64) -> Result<String> {
        let bytes = self.bytes(end, limit)?;
        String::from_utf8(bytes).map_err(|_| self.malformed("a name is not UTF-8".into()))
    }

    /// A little-endian number of `count` bytes.
    fn fixed(&mut self, count: u64, end: u64) -> Result<u64> {
        if end - self.at < count {
            return Err(self.past_end(count, end));
        }
        let mut value = 0;
        for i in 0..count {
            value |= u64::from(self.byte()?) << (8 * i);
        }
        Ok(value)
    }

    /// The byte at the reader's place, which is inside the file.
    fn byte(&mut self) -> Result<u8> {
        let loaded = self.window_start..self.window_start + self.window.len() as u64;
        if !loaded.contains(&self.at) {
            self.window.resize(WINDOW.min(self.file.len() - self.at) as usize, 0);
            self.file.read_exact_at(&mut self.window, self.at)?;
            self.window_start = self.at;
        }
        let byte = self.window[(self.at - self.window_start) as usize];
        self.at += 1;
        Ok(byte)
    }

    /// `count` bytes from here on do not fit before `end`.
    fn past_end(&self, count: u64, end: u64) -> Error {
        if end == self.file.len() {
            return Error::Truncated {
                path: self.file.path().into(),
                what: "a field of the graph".into(),
                end: self.at.saturating_add(count),
                len: end,
            };
        }
        self.malformed(format!("a field of {count} bytes runs past the end of its message"))
    }

    pub(super) fn malformed(&self, detail: String) -> Error {
        Error::Malformed { path: self.file.path().into(), offset: self.at, detail }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wire(bytes: &[u8]) -> (tempfile::NamedTempFile, Wire) {
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), bytes).expect("write");
        let wire = Wire::new(InputFile::open(file.path()).expect("opens"));
        (file, wire)
    }

    #[test]
    fn fields_of_every_kind() {
        // 1: varint 300; 2: two bytes; 3: fixed32 1; 4: fixed64 2.
        let bytes = [0x08, 0xac, 0x02, 0x12, 2, b'a', b'b', 0x1d, 1, 0, 0, 0, 0x21, 2, 0, 0, 0, 0, 0, 0, 0];
        let (_file, mut wire) = wire(&bytes);
        let end = bytes.len() as u64;
        let field = |number, payload| Some(Field { number, payload });
        assert_eq!(wire.field(end).expect("reads"), field(1, Payload::Number(300)));
        assert_eq!(wire.field(end).expect("reads"), field(2, Payload::Bytes { end: 7 }));
        assert_eq!(wire.bytes(7, 2).expect("reads"), b"ab");
        assert_eq!(wire.field(end).expect("reads"), field(3, Payload::Number(1)));
        assert_eq!(wire.field(end).expect("reads"), field(4, Payload::Number(2)));
        assert_eq!(wire.field(end).expect("reads"), None);
    }

    #[test]
    fn lengths_are_believed_only_as_far_as_the_file_goes() {
        let (_file, mut long) = wire(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f, 1]);
        assert!(matches!(long.field(7), Err(Error::Truncated { .. })));
        let (_file, mut inner) = wire(&[0x0a, 4, 0x0a, 9, 1, 1, 1]);
        assert!(matches!(inner.field(7), Ok(Some(_))));
        assert!(matches!(inner.field(6), Err(Error::Malformed { .. })));
        let (_file, mut endless) = wire(&[0xff; 20]);
        assert!(matches!(endless.field(20), Err(Error::Malformed { .. })));
        let (_file, mut short) = wire(&[0x0a, 3, 1, 2, 3]);
        short.field(5).expect("reads");
        assert!(matches!(short.bytes(5, 2), Err(Error::Malformed { .. })));
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_a_field_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let (_file, mut wire) = wire(&bytes);
            while let Ok(Some(field)) = wire.field(bytes.len() as u64) {
                if let Payload::Bytes { end } = field.payload {
                    prop_assert!(end <= bytes.len() as u64);
                    wire.skip_to(end);
                }
            }
        }
    }
}
