//! Symmetric matrices as their upper triangle: sums of outer products, such as the factors of a curvature.

mod quadratic_form;

/// A symmetric matrix, cut along its diagonal into blocks of at most `block_len`: what lies outside them is not
/// kept. Each block is its upper triangle, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockSymmetric {
    size: usize,
    block_len: usize,
    values: Vec<f32>,
}

/// Values of a triangle of `n` rows.
fn triangle(n: usize) -> usize {
    n * (n + 1) / 2
}

impl BlockSymmetric {
    /// Zeros.
    pub fn zeros(size: usize, block_len: usize) -> BlockSymmetric {
        let block_len = block_len.clamp(1, size.max(1));
        BlockSymmetric { size, block_len, values: vec![0.0; BlockSymmetric::stored_len(size, block_len)] }
    }

    /// A matrix from its stored values, or `None` if their number is another.
    pub fn from_values(size: usize, block_len: usize, values: Vec<f32>) -> Option<BlockSymmetric> {
        let block_len = block_len.clamp(1, size.max(1));
        (values.len() == BlockSymmetric::stored_len(size, block_len)).then_some(BlockSymmetric {
            size,
            block_len,
            values,
        })
    }

    /// Number of values stored.
    pub fn stored_len(size: usize, block_len: usize) -> usize {
        let block_len = block_len.clamp(1, size.max(1));
        size / block_len * triangle(block_len) + triangle(size % block_len)
    }

    /// Rows (and columns) of the whole matrix.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Rows of every block but the last, which may be shorter.
    pub fn block_len(&self) -> usize {
        self.block_len
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.size.div_ceil(self.block_len)
    }

    /// The stored values, block by block.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The stored values, to be accumulated into.
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    /// Rows of block `index` and its upper triangle.
    pub fn block(&self, index: usize) -> (usize, &[f32]) {
        let len = self.block_len.min(self.size - index * self.block_len);
        let start = index * triangle(self.block_len);
        (len, &self.values[start..start + triangle(len)])
    }

    /// The upper triangle of block `index`, to be filled.
    pub(crate) fn block_mut(&mut self, index: usize) -> &mut [f32] {
        let len = self.block_len.min(self.size - index * self.block_len);
        let start = index * triangle(self.block_len);
        &mut self.values[start..start + triangle(len)]
    }

    /// The diagonal, `[size]`.
    pub fn diagonal(&self) -> Vec<f32> {
        let mut out = Vec::with_capacity(self.size);
        for index in 0..self.blocks() {
            let (len, upper) = self.block(index);
            let mut at = 0;
            for row in 0..len {
                out.push(upper[at]);
                at += len - row;
            }
        }
        out
    }

    /// Multiplies the entry of row `i` and column `j` by `factor(i) * factor(j)`.
    pub fn scale(&mut self, factor: impl Fn(usize) -> f32) {
        let factors: Vec<f32> = (0..self.size).map(factor).collect();
        let mut rest = &mut self.values[..];
        for block in factors.chunks(self.block_len) {
            for row in 0..block.len() {
                let (line, after) = rest.split_at_mut(block.len() - row);
                rest = after;
                line.iter_mut().zip(&block[row..]).for_each(|(value, other)| *value *= block[row] * other);
            }
        }
    }

    /// Sets all but the diagonal to zero.
    pub fn keep_diagonal(&mut self) {
        let diagonal = self.diagonal();
        self.values.fill(0.0);
        let (mut at, mut row) = (0, 0);
        for value in diagonal {
            self.values[at] = value;
            let end = (row / self.block_len + 1) * self.block_len;
            at += end.min(self.size) - row;
            row += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_scaled_by_their_row_and_column() {
        // Blocks of 2 and 1 rows.
        let mut matrix =
            BlockSymmetric::from_values(3, 2, vec![1.0; 4]).expect("as many values as the form has");
        matrix.scale(|i| [2.0, 3.0, 5.0][i]);
        assert_eq!(matrix.values(), [4.0, 6.0, 9.0, 25.0]);
    }

    #[test]
    fn only_the_diagonal_is_kept() {
        let values: Vec<f32> = (1..=9).map(|x| x as f32).collect();
        // Blocks of 3 and 2 rows: 6 + 3 values.
        let mut matrix = BlockSymmetric::from_values(5, 3, values).expect("as many values as the form has");
        assert_eq!(matrix.diagonal(), [1.0, 4.0, 6.0, 7.0, 9.0]);
        matrix.keep_diagonal();
        assert_eq!(matrix.values(), [1.0, 0.0, 0.0, 4.0, 0.0, 6.0, 7.0, 0.0, 9.0]);
    }
}
