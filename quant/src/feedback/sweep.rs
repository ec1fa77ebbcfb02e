//! The order of rounding: some columns at a time, in them row after row, sub-block after sub-block.

use plmconv_formats::DType;

use super::factor::{ColumnFactor, RowFactor};
use super::form::{self, Form};
use super::grid::{MAX_BLOCK, of_blocks};
use super::lattice::Lattice;
use super::line::{Encoded, Line, Rounder, Sheet};
use super::scalar::Scalar;
use crate::Error;
use crate::codec::{Guided, codec};
use crate::grid::{self, Blocks};
use crate::simd::{Level, Loop};

/// Columns handled at a time: one block of the types with super-blocks.
const STEP: usize = 256;

/// How many scales are tried for each sub-block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Near the best under the importance alone.
    Normal,
    /// A wider neighbourhood.
    Max,
}

/// Encodes one group of rows as `dtype`. `values` is `[rows, columns.cols()]`, row-major, and is used up (it ends
/// as the targets that the values were moved to); `out` takes the encoded rows.
///
/// Groups do not influence each other; within one, the result does not depend on threads.
///
/// # Errors
/// A type that feedback does not know, rows that are not whole blocks, lengths that do not fit each other, a
/// scale beyond half precision.
pub fn encode_group(
    dtype: DType,
    values: &mut [f32],
    columns: &ColumnFactor,
    rows: Option<&RowFactor>,
    effort: Effort,
    out: &mut [u8],
) -> Result<(), Error> {
    match codec(dtype).map(|codec| codec.guided) {
        Some(Guided::Scalar { grid, pack }) => {
            let form = Form::Ggml { dtype, pack };
            Sweep::new(Scalar::new(*grid, form, effort), columns, rows)?.encode(values, out)
        }
        Some(Guided::Points { shape, pack }) => {
            Sweep::new(Lattice::new(dtype, shape, pack, effort), columns, rows)?.encode(values, out)
        }
        Some(Guided::No) | None => Err(Error::CannotEncode { dtype }),
    }
}

/// The same on an integer grid with a scale, and if it is asymmetric a zero point, for each block. Symmetric blocks of 32
/// get the codes and scales of Q4_0 or Q8_0.
///
/// # Errors
/// As [`encode_group`].
pub fn encode_group_in_blocks(
    grid: &grid::Grid,
    values: &mut [f32],
    columns: &ColumnFactor,
    rows: Option<&RowFactor>,
    effort: Effort,
    out: &mut Blocks,
) -> Result<(), Error> {
    let sweep = Sweep::new(Scalar::new(of_blocks(grid), Form::loose(grid), effort), columns, rows)?;
    let mut bytes = vec![0; values.len() / sweep.cols * sweep.row_bytes];
    sweep.encode(values, &mut bytes)?;
    form::take_apart(&bytes, grid.block_size, out);
    grid::check_range(grid, out, columns.cols())
}

struct Sweep<'a, R> {
    rounder: R,
    columns: &'a ColumnFactor,
    rows: Option<&'a RowFactor>,
    cols: usize,
    row_bytes: usize,
}

impl<'a, R: Rounder> Sweep<'a, R> {
    fn new(
        rounder: R,
        columns: &'a ColumnFactor,
        rows: Option<&'a RowFactor>,
    ) -> Result<Sweep<'a, R>, Error> {
        let cols = columns.cols();
        let row_bytes = rounder.encoded_len(cols).filter(|_| cols > 0);
        let error = Error::RowLength { dtype: rounder.dtype(), cols, block_len: rounder.block_len() };
        Ok(Sweep { rounder, columns, rows, cols, row_bytes: row_bytes.ok_or(error)? })
    }

    fn encode(&self, values: &mut [f32], out: &mut [u8]) -> Result<(), Error> {
        let (cols, found) = (self.cols, out.len());
        if !values.len().is_multiple_of(cols) || self.rows.is_some_and(|r| r.rows() != values.len() / cols) {
            return Err(Error::PartialRow { values: values.len(), cols });
        }
        let expected = values.len() / cols * self.row_bytes;
        if found != expected {
            let dtype = self.rounder.dtype();
            return Err(Error::EncodedLength { dtype, values: values.len(), expected, found });
        }
        self.run(values, out)
    }

    fn run(&self, values: &mut [f32], out: &mut [u8]) -> Result<(), Error> {
        let block_len = self.columns.block_len();
        for (index, start) in (0..self.cols).step_by(block_len).enumerate() {
            let end = (start + block_len).min(self.cols);
            let target = if R::SETTLES {
                values.chunks_exact(self.cols).flat_map(|row| &row[start..end]).copied().collect()
            } else {
                Vec::new()
            };
            let mut chosen = Vec::new();
            for first in (start..end).step_by(STEP) {
                let step = first..(first + STEP).min(end);
                let mut errors = self.round_step(values, out, index, start, step.clone(), &mut chosen)?;
                if let Some(rows) = self.rows {
                    charge_rows_below(rows, &mut errors, step.len());
                }
                self.charge_columns_after(values, &errors, index, start, step, end);
            }
            if R::SETTLES {
                let costs = self.columns.costs(index);
                let sheet = Sheet { target, cols: end - start, chosen, costs, rows: self.rows };
                let encoded = Encoded {
                    bytes: out,
                    row_bytes: self.row_bytes,
                    offset: self.rounder.encoded_len(start).expect("steps are whole blocks"),
                    line_bytes: self.rounder.encoded_len(STEP).expect("steps are whole blocks"),
                };
                self.rounder.settle(sheet, encoded);
            }
        }
        Ok(())
    }

    /// Rounds the columns `step` of all rows; returns their errors over pivots, `[rows, step]`.
    fn round_step(
        &self,
        values: &mut [f32],
        out: &mut [u8],
        index: usize,
        start: usize,
        step: std::ops::Range<usize>,
        chosen: &mut Vec<R::Chosen>,
    ) -> Result<Vec<f32>, Error> {
        let (count, width) = (values.len() / self.cols, step.len());
        let stride = self.columns.block_len().min(self.cols - start);
        let corner = &self.columns.block(index)[(step.start - start) * (stride + 1)..];
        let importance = &self.columns.importance()[step.clone()];
        let prepared = self.rounder.step(corner, stride, width);
        let mut targets = vec![0.0; count * width];
        for (target, row) in targets.chunks_exact_mut(width).zip(values.chunks_exact(self.cols)) {
            target.copy_from_slice(&row[step.clone()]);
        }
        let mut errors = vec![0.0; count * width];
        let mut rounded = vec![0.0; width];
        let per_row = self.rounder.encoded_len(width).expect("steps are whole blocks");
        let offset = self.rounder.encoded_len(step.start).expect("steps are whole blocks");
        for i in 0..count {
            let target = &targets[i * width..(i + 1) * width];
            let bytes = &mut out[i * self.row_bytes + offset..][..per_row];
            let line = Line { target, corner, stride, importance };
            let errors = &mut errors[i * width..(i + 1) * width];
            let Some(found) = self.rounder.round(&line, &prepared, &mut rounded, errors, bytes) else {
                return Err(Error::NotRepresentable { dtype: self.rounder.dtype(), row: i });
            };
            if R::SETTLES {
                chosen.push(found);
            }
            let Some(rows) = self.rows else { continue };
            rounded.iter_mut().zip(target).for_each(|(q, t)| *q = t - *q);
            for k in i + 1..count {
                let share = rows.row(i)[k];
                let below = &mut targets[k * width..(k + 1) * width];
                Level::detect().run(Charge { targets: below, share, errors: &rounded });
            }
        }
        Ok(errors)
    }

    /// Moves the columns from `step.end` to `end` to make up for `errors`.
    fn charge_columns_after(
        &self,
        values: &mut [f32],
        errors: &[f32],
        index: usize,
        start: usize,
        step: std::ops::Range<usize>,
        end: usize,
    ) {
        let stride = self.columns.block_len().min(self.cols - start);
        let corner = &self.columns.block(index)[(step.start - start) * stride + step.end - start..];
        let width = step.len();
        for (row, errors) in values.chunks_exact_mut(self.cols).zip(errors.chunks_exact(width)) {
            let rest = &mut row[step.end..end];
            Level::detect().run(ChargeColumns { rest, corner, stride, errors });
        }
    }
}

/// Adds to each row's errors its share of the errors of the rows above, so that later columns are charged with
/// both: the two directions' factors multiply.
fn charge_rows_below(rows: &RowFactor, errors: &mut [f32], width: usize) {
    for k in (1..rows.rows()).rev() {
        let (above, below) = errors.split_at_mut(k * width);
        let below = &mut below[..width];
        for (i, above) in above.chunks_exact(width).enumerate() {
            // A charge is taken away; these are added.
            Level::detect().run(Charge { targets: below, share: -rows.row(i)[k], errors: above });
        }
    }
}

/// Takes a share of `errors` away from as many `targets`.
struct Charge<'a> {
    targets: &'a mut [f32],
    share: f32,
    errors: &'a [f32],
}

impl Loop for Charge<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Charge { targets, share, errors } = self;
        targets.iter_mut().zip(errors).for_each(|(target, error)| *target -= share * error);
    }
}

/// Moves what is `rest` of a row to make up for `errors`, by the rows of the factor: `corner`, rows of `stride`.
struct ChargeColumns<'a> {
    rest: &'a mut [f32],
    corner: &'a [f32],
    stride: usize,
    errors: &'a [f32],
}

impl Loop for ChargeColumns<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let ChargeColumns { rest, corner, stride, errors } = self;
        if rest.is_empty() {
            return;
        }
        // Four rows of the factor at a time: the targets are then loaded and stored a quarter as often.
        let (fours, tail) = errors.as_chunks::<4>();
        for (j, e) in fours.iter().enumerate() {
            let [a, b, c, d] = std::array::from_fn(|k| &corner[(4 * j + k) * stride..][..rest.len()]);
            for (((t, a), (b, c)), d) in rest.iter_mut().zip(a).zip(b.iter().zip(c)).zip(d) {
                *t -= e[0] * a + e[1] * b + e[2] * c + e[3] * d;
            }
        }
        for (j, e) in tail.iter().enumerate() {
            let row = &corner[(4 * fours.len() + j) * stride..][..rest.len()];
            rest.iter_mut().zip(row).for_each(|(t, u)| *t -= e * u);
        }
    }
}

/// 0, 1, -1, 2, -2, … up to `reach`: a good candidate early lets the others be given up soon.
pub(super) fn nearest_first(reach: i32) -> impl Iterator<Item = i32> + Clone {
    (0..=2 * reach).map(|i| if i % 2 == 1 { i / 2 + 1 } else { -(i / 2) })
}

const _: () = assert!(STEP.is_multiple_of(MAX_BLOCK));

#[cfg(test)]
mod tests;
