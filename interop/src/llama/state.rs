//! A sequence's cached keys and values as llama.cpp saves them, and a longer state made of copies of a short one.
//!
//! How long attention takes depends on how many cells the cache has, not on what is in them. Computing 16k tokens of a
//! 1.8B model takes half an hour on two cores; copying the first 512 takes a second.

use crate::error::{Error, Result};

/// What `llama_state_seq_get_data` gives: two words of header, the number of streams (1) and of cells, three words a
/// cell (position, number of sequences, sequence), then keys and values layer by layer
/// (`llama_kv_cache::state_write` in llama-kv-cache.cpp).
#[derive(Debug, Clone)]
pub struct SequenceState {
    pub(super) bytes: Vec<u8>,
}

impl SequenceState {
    /// The state of `cells` tokens at positions 0, 1, …, with the keys and values of this one's tokens over and over.
    ///
    /// # Errors
    /// [`Error::State`] for a state that is laid out in another way.
    pub fn repeated(&self, cells: usize) -> Result<SequenceState> {
        let mut from = Reader { bytes: &self.bytes, at: 0 };
        let header = from.take(8)?;
        expect(from.word()? == 1, "it has several streams")?;
        let known = from.word()? as usize;
        expect(known > 0, "it is empty")?;
        let mut to = Vec::with_capacity((self.bytes.len() / known + 1).saturating_mul(cells));
        to.extend_from_slice(header);
        to.extend_from_slice(&1u32.to_le_bytes());
        to.extend_from_slice(&small(cells)?.to_le_bytes());
        let mut sequence = [0; 4];
        for _ in 0..known {
            from.take(4)?;
            expect(from.word()? == 1, "a cell belongs to several sequences")?;
            sequence.copy_from_slice(from.take(4)?);
        }
        for position in 0..small(cells)? {
            to.extend_from_slice(&position.to_le_bytes());
            to.extend_from_slice(&1u32.to_le_bytes());
            to.extend_from_slice(&sequence);
        }
        let transposed = from.copy_word(&mut to)? == 1;
        let layers = from.copy_word(&mut to)?;
        to.extend_from_slice(from.take(8)?);
        for _ in 0..layers {
            from.copy_rows(known, cells, &mut to)?;
        }
        // A cache whose values are the keys' first part (MLA's latent) has none of its own.
        while from.at < self.bytes.len() {
            if transposed {
                from.copy_columns(known, cells, &mut to)?
            } else {
                from.copy_rows(known, cells, &mut to)?
            }
        }
        Ok(SequenceState { bytes: to })
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let taken = self.at.checked_add(count).and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or(Error::State { why: "it ends early" })?;
        self.at += count;
        Ok(taken)
    }

    fn word(&mut self) -> Result<u32> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes(bytes.try_into().expect("four bytes were taken")))
    }

    fn copy_word(&mut self, to: &mut Vec<u8>) -> Result<u32> {
        let word = self.word()?;
        to.extend_from_slice(&word.to_le_bytes());
        Ok(word)
    }

    /// A layer's tensor with a row a cell: type, bytes of a row (64 bits), rows.
    fn copy_rows(&mut self, known: usize, cells: usize, to: &mut Vec<u8>) -> Result<()> {
        self.copy_word(to)?;
        let row_bytes = self.copy_word(to)? as usize;
        expect(self.copy_word(to)? == 0, "its rows are longer than 4 GiB")?;
        self.copy_cells(row_bytes, known, cells, to)
    }

    /// A layer's tensor with a column a cell: type, bytes of an element, rows, and the known elements of each row.
    fn copy_columns(&mut self, known: usize, cells: usize, to: &mut Vec<u8>) -> Result<()> {
        self.copy_word(to)?;
        let element_bytes = self.copy_word(to)? as usize;
        for _ in 0..self.copy_word(to)? {
            self.copy_cells(element_bytes, known, cells, to)?;
        }
        Ok(())
    }

    /// What `known` cells hold, over and over until there are `cells`.
    fn copy_cells(&mut self, cell_bytes: usize, known: usize, cells: usize, to: &mut Vec<u8>) -> Result<()> {
        let held = self.take(cell_bytes.saturating_mul(known))?;
        to.extend(held.iter().cycle().take(cell_bytes * cells));
        Ok(())
    }
}

fn expect(holds: bool, why: &'static str) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::State { why }) }
}

fn small(cells: usize) -> Result<u32> {
    u32::try_from(cells).map_err(|_| Error::State { why: "more cells are wanted than 32 bits count" })
}
