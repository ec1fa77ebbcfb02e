//! Super-blocks in batches: enough of them to fill the lanes of a super-block search, few enough for the cache.

use super::SUPER_BLOCK;

/// Super-blocks per batch: the widest vector has 16 lanes.
pub(super) const BATCH: usize = 16;

/// Some consecutive super-blocks on their way into their blocks.
pub(super) struct Batch<'a> {
    /// The values, `SUPER_BLOCK` per block.
    pub x: &'a [f32],
    /// The importance of every value, repeated for each row; absent in a plain encoding.
    pub importance: Option<&'a [f32]>,
    /// The blocks to write.
    pub out: &'a mut [u8],
}

impl Batch<'_> {
    /// Super-blocks in this batch, at most [`BATCH`].
    pub fn len(&self) -> usize {
        self.x.len() / SUPER_BLOCK
    }
}

/// Calls `encode` for every batch of `values` (`[rows, cols]`) with `importance` (`[cols]`) lined up to it.
pub(super) fn for_each_batch(
    values: &[f32],
    importance: Option<&[f32]>,
    block_bytes: usize,
    out: &mut [u8],
    mut encode: impl FnMut(Batch<'_>),
) {
    let mut lined_up = Vec::new();
    let batches = values.chunks(BATCH * SUPER_BLOCK).zip(out.chunks_mut(BATCH * block_bytes));
    for (index, (x, out)) in batches.enumerate() {
        let importance = importance.map(|row| {
            let first = index * BATCH * SUPER_BLOCK;
            line_up(row, first, x.len(), &mut lined_up);
            lined_up.as_slice()
        });
        encode(Batch { x, importance, out });
    }
}

/// The importance of `len` values from the flat index `first` on. Rows are whole super-blocks.
fn line_up(row: &[f32], first: usize, len: usize, out: &mut Vec<f32>) {
    out.clear();
    for start in (first..first + len).step_by(SUPER_BLOCK) {
        let column = start % row.len();
        out.extend_from_slice(&row[column..column + SUPER_BLOCK]);
    }
}
