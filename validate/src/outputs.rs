//! Logits of scored positions, read some columns of the vocabulary at a time so that memory does not grow with it.

use std::ops::Range;

use crate::batch::Hidden;
use crate::error::{Error, Result};
use crate::evaluator::Evaluator;
use crate::linear::Input;
use crate::reference::Reference;

/// What a model says of the scored positions of some windows.
pub(crate) enum Outputs<'a> {
    /// An evaluator's last hidden states, from which it makes logits.
    Hidden(&'a Evaluator, Hidden),
    /// `[rows, vocab_size]`
    Logits { values: Vec<f32>, vocab_size: usize },
    /// All logits of these windows lie in a file.
    Stored(&'a Reference, Range<usize>),
}

/// [`Outputs`] made ready to be read.
pub(crate) enum Tiles<'a> {
    Head(&'a Evaluator, Input<'a>),
    Logits { values: &'a [f32], vocab_size: usize },
    Stored(&'a Reference, Range<usize>),
}

impl<'a> Outputs<'a> {
    /// A runtime's logits, `[rows, vocab_size]`.
    ///
    /// # Errors
    /// Logits that are not finite.
    pub fn logits(values: Vec<f32>, vocab_size: usize) -> Result<Outputs<'a>> {
        match values.iter().position(|x| !x.is_finite()) {
            Some(bad) => Err(Error::NonFiniteLogits { row: bad / vocab_size }),
            None => Ok(Outputs::Logits { values, vocab_size }),
        }
    }

    /// Readable columns.
    pub fn tiles(&self) -> Tiles<'_> {
        match self {
            Outputs::Hidden(evaluator, hidden) => Tiles::Head(evaluator, evaluator.head(hidden)),
            Outputs::Logits { values, vocab_size } => Tiles::Logits { values, vocab_size: *vocab_size },
            Outputs::Stored(reference, batch) => Tiles::Stored(reference, batch.clone()),
        }
    }

    /// Active FFN neurons and all of them, where they could be seen.
    pub fn activity(&self) -> Option<(u64, u64)> {
        match self {
            Outputs::Hidden(_, hidden) => Some((hidden.active_neurons, hidden.neurons)),
            Outputs::Logits { .. } | Outputs::Stored(..) => None,
        }
    }
}

impl Tiles<'_> {
    /// Replaces `out` by `[rows, columns]` logits.
    ///
    /// # Errors
    /// Logits that are not finite or not readable.
    pub fn read(&self, columns: Range<usize>, out: &mut Vec<f32>) -> Result<()> {
        match self {
            Tiles::Head(evaluator, head) => evaluator.logit_tile(head, columns, out),
            Tiles::Logits { values, vocab_size } => {
                out.clear();
                values.chunks_exact(*vocab_size).for_each(|row| out.extend(&row[columns.clone()]));
                Ok(())
            }
            Tiles::Stored(reference, batch) => reference.read_logits(batch.clone(), columns, out),
        }
    }
}
