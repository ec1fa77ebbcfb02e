//! Large vectors that are used again. Fresh ones would be mapped, zeroed page by page and unmapped for every
//! product of every layer, which costs a tenth of the time.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex};

/// Vectors waiting to be used again.
#[derive(Clone, Debug)]
pub(crate) struct Buffers<T>(Arc<Mutex<Vec<Vec<T>>>>);

impl<T> Default for Buffers<T> {
    fn default() -> Buffers<T> {
        Buffers(Arc::default())
    }
}

impl<T: Copy + Default> Buffers<T> {
    /// A vector of `len` values, which are whatever its last user left: every one must be written.
    pub fn take(&self, len: usize) -> Buffer<T> {
        let mut waiting = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let large_enough = waiting.iter().enumerate().filter(|(_, v)| v.capacity() >= len);
        // The smallest that fits; failing that the largest grows, so that there are never more vectors than
        // were in use at once.
        let best = large_enough.min_by_key(|(_, v)| v.capacity()).map(|(i, _)| i);
        let best = best.or_else(|| (0..waiting.len()).max_by_key(|&i| waiting[i].capacity()));
        let mut values = best.map_or_else(Vec::new, |i| waiting.swap_remove(i));
        drop(waiting);
        if values.capacity() < len {
            values = vec![T::default(); len];
        }
        values.resize(len, T::default());
        Buffer { values, home: self.clone() }
    }

    /// A vector of `len` zeros.
    pub fn zeroed(&self, len: usize) -> Buffer<T> {
        let mut buffer = self.take(len);
        buffer.fill(T::default());
        buffer
    }
}

/// A vector that goes back when it is dropped.
#[derive(Debug)]
pub struct Buffer<T: Copy + Default> {
    values: Vec<T>,
    home: Buffers<T>,
}

impl<T: Copy + Default> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.values
    }
}

impl<T: Copy + Default> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.values
    }
}

impl<T: Copy + Default> Drop for Buffer<T> {
    fn drop(&mut self) {
        let mut waiting = self.home.0.lock().unwrap_or_else(|e| e.into_inner());
        waiting.push(std::mem::take(&mut self.values));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_come_back() {
        let buffers = Buffers::<f32>::default();
        let mut large = buffers.take(100);
        large.fill(1.0);
        let small = buffers.take(10);
        let place = large.as_ptr();
        drop(large);
        drop(small);
        assert_eq!(buffers.take(10).len(), 10);
        let again = buffers.zeroed(90);
        assert_eq!(again.as_ptr(), place);
        assert!(again.iter().all(|x| *x == 0.0));
        assert_eq!(buffers.0.lock().expect("not poisoned").len(), 1);
    }
}
