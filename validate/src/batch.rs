//! What a forward pass is given and what comes out of it.

use std::ops::Range;

use crate::state::KvCache;

/// Tokens of one sequence, to be run after what its cache holds.
#[derive(Debug)]
pub struct Sequence<'a> {
    /// Token ids, in order.
    pub tokens: &'a [u32],
    /// Tokens whose logits are wanted.
    pub wanted: Range<usize>,
    /// The sequence's past, extended by this call; without one the sequence starts at position 0.
    pub cache: Option<&'a mut KvCache>,
}

/// The normalized last hidden states of the wanted tokens, sequence after sequence.
#[derive(Clone, Debug)]
pub struct Hidden {
    /// `[rows, hidden_size]`
    pub values: Vec<f32>,
    /// Number of wanted tokens, over all sequences.
    pub rows: usize,
    /// FFN neurons, over all tokens and layers, whose activation was not zero.
    pub active_neurons: u64,
    /// All of them.
    pub neurons: u64,
}

impl Hidden {
    /// Some of the rows; the counts stay those of the whole.
    pub(crate) fn part(&self, rows: Range<usize>) -> Hidden {
        let width = self.values.len() / self.rows.max(1);
        let values = self.values[rows.start * width..rows.end * width].to_vec();
        Hidden { values, rows: rows.len(), ..*self }
    }
}
