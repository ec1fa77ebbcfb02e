//! Transposed tensors take shape in memory: a step's rows are a short stretch of every row of the transpose, and
//! writing each stretch on its own would take millions of calls.

use std::sync::{Mutex, PoisonError};

/// One transposed tensor in the making. Steps go front to back, so that only a few tensors are in memory at a time.
#[derive(Debug)]
pub struct Assembly {
    /// Bytes of the whole tensor, and of one of its rows.
    bytes: usize,
    stride: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Empty until the first stretch comes.
    buffer: Vec<u8>,
    filled: usize,
}

impl Assembly {
    /// A tensor of `bytes` bytes in rows of `stride`.
    pub fn new(bytes: u64, stride: usize) -> Assembly {
        Assembly { bytes: bytes as usize, stride, state: Mutex::default() }
    }

    /// Puts `stretches`, one for each row and all of the same length, `at` bytes into their rows. The call that
    /// completes the tensor gets all of it.
    pub fn put(&self, stretches: &[u8], at: usize) -> Option<Vec<u8>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.buffer.is_empty() {
            state.buffer = vec![0; self.bytes];
        }
        let length = stretches.len() / (self.bytes / self.stride);
        for (row, stretch) in state.buffer.chunks_exact_mut(self.stride).zip(stretches.chunks_exact(length)) {
            row[at..at + length].copy_from_slice(stretch);
        }
        state.filled += stretches.len();
        (state.filled == self.bytes).then(|| std::mem::take(&mut state.buffer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_in_any_order_make_the_tensor() {
        let assembly = Assembly::new(8, 4);
        assert_eq!(assembly.put(&[3, 4, 7, 8], 2), None);
        assert_eq!(assembly.put(&[1, 5], 0), None);
        assert_eq!(assembly.put(&[2, 6], 1), Some(vec![1, 2, 3, 4, 5, 6, 7, 8]));
    }
}
