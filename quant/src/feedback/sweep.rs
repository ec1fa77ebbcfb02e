//! The order of rounding: some columns at a time, in them row after row, sub-block after sub-block.

use plmconv_formats::DType;

use super::factor::{ColumnFactor, RowFactor};
use super::grid::{Block, Grid, MAX_BLOCK, MAX_SUB, ScaleForm, half};
use super::pack::{Loose, pack};
use super::search::{Affine, Rounded, fit, round};
use crate::Error;
use crate::grid::{self, Blocks};

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
    let grid = Grid::of(dtype).ok_or(Error::CannotEncode { dtype })?;
    Sweep::new(grid, columns, rows, effort)?.encode(values, out)
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
    let sweep = Sweep::new(Grid::of_blocks(grid), columns, rows, effort)?;
    let mut bytes = vec![0; values.len() / sweep.cols * sweep.row_bytes];
    sweep.encode(values, &mut bytes)?;
    Loose::take_apart(&bytes, grid.block_size, out);
    grid::check_range(grid, out, columns.cols())
}

struct Sweep<'a> {
    grid: Grid,
    columns: &'a ColumnFactor,
    rows: Option<&'a RowFactor>,
    effort: Effort,
    cols: usize,
    row_bytes: usize,
}

impl<'a> Sweep<'a> {
    fn new(
        grid: Grid,
        columns: &'a ColumnFactor,
        rows: Option<&'a RowFactor>,
        effort: Effort,
    ) -> Result<Sweep<'a>, Error> {
        let cols = columns.cols();
        let row_bytes = grid.encoded_len(cols).filter(|_| cols > 0);
        let error = Error::RowLength { dtype: grid.dtype(), cols, block_len: grid.block() };
        Ok(Sweep { grid, columns, rows, effort, cols, row_bytes: row_bytes.ok_or(error)? })
    }

    fn encode(&self, values: &mut [f32], out: &mut [u8]) -> Result<(), Error> {
        let (cols, found) = (self.cols, out.len());
        if !values.len().is_multiple_of(cols) || self.rows.is_some_and(|r| r.rows() != values.len() / cols) {
            return Err(Error::PartialRow { values: values.len(), cols });
        }
        let expected = values.len() / cols * self.row_bytes;
        if found != expected {
            let dtype = self.grid.dtype();
            return Err(Error::EncodedLength { dtype, values: values.len(), expected, found });
        }
        match self.grid.sub {
            0..=MAX_SUB => self.run::<MAX_SUB>(values, out),
            33..=128 => self.run::<128>(values, out),
            _ => self.run::<MAX_BLOCK>(values, out),
        }
    }

    fn run<const N: usize>(&self, values: &mut [f32], out: &mut [u8]) -> Result<(), Error> {
        let block_len = self.columns.block_len();
        for (index, start) in (0..self.cols).step_by(block_len).enumerate() {
            let end = (start + block_len).min(self.cols);
            for first in (start..end).step_by(STEP) {
                let step = first..(first + STEP).min(end);
                let mut errors = self.round_step::<N>(values, out, index, start, step.clone())?;
                if let Some(rows) = self.rows {
                    charge_rows_below(rows, &mut errors, step.len());
                }
                self.charge_columns_after(values, &errors, index, start, step, end);
            }
        }
        Ok(())
    }

    /// Rounds the columns `step` of all rows; returns their errors over pivots, `[rows, step]`.
    fn round_step<const N: usize>(
        &self,
        values: &mut [f32],
        out: &mut [u8],
        index: usize,
        start: usize,
        step: std::ops::Range<usize>,
    ) -> Result<Vec<f32>, Error> {
        let (count, width) = (values.len() / self.cols, step.len());
        let stride = self.columns.block_len().min(self.cols - start);
        let corner = &self.columns.block(index)[(step.start - start) * (stride + 1)..];
        let importance = &self.columns.importance()[step.clone()];
        let mut targets = vec![0.0; count * width];
        for (target, row) in targets.chunks_exact_mut(width).zip(values.chunks_exact(self.cols)) {
            target.copy_from_slice(&row[step.clone()]);
        }
        let mut errors = vec![0.0; count * width];
        let mut rounded = vec![0.0; width];
        let per_row = self.grid.encoded_len(width).expect("steps are whole blocks");
        let offset = self.grid.encoded_len(step.start).expect("steps are whole blocks");
        for i in 0..count {
            let target = &targets[i * width..(i + 1) * width];
            let bytes = &mut out[i * self.row_bytes + offset..][..per_row];
            let line = Line { sweep: self, corner, stride, importance };
            let finite =
                line.round::<N>(target, &mut rounded, &mut errors[i * width..(i + 1) * width], bytes);
            if !finite {
                return Err(Error::NotRepresentable { dtype: self.grid.dtype(), row: i });
            }
            let Some(rows) = self.rows else { continue };
            rounded.iter_mut().zip(target).for_each(|(q, t)| *q = t - *q);
            for k in i + 1..count {
                let share = rows.row(i)[k];
                let below = &mut targets[k * width..(k + 1) * width];
                below.iter_mut().zip(&rounded).for_each(|(t, e)| *t -= share * e);
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
        let factor = self.columns.block(index);
        let width = step.len();
        for (row, errors) in values.chunks_exact_mut(self.cols).zip(errors.chunks_exact(width)) {
            let rest = &mut row[step.end..end];
            let factor_row =
                |j: usize| &factor[(step.start - start + j) * stride + step.end - start..][..end - step.end];
            // Four rows of the factor at a time: the targets are then loaded and stored a quarter as often.
            let (fours, tail) = errors.as_chunks::<4>();
            for (j, e) in fours.iter().enumerate() {
                let [a, b, c, d] = std::array::from_fn(|k| factor_row(4 * j + k));
                for (((t, a), (b, c)), d) in rest.iter_mut().zip(a).zip(b.iter().zip(c)).zip(d) {
                    *t -= e[0] * a + e[1] * b + e[2] * c + e[3] * d;
                }
            }
            for (j, e) in tail.iter().enumerate() {
                rest.iter_mut().zip(factor_row(4 * fours.len() + j)).for_each(|(t, u)| *t -= e * u);
            }
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
            let share = rows.row(i)[k];
            below.iter_mut().zip(above).for_each(|(b, a)| *b += share * a);
        }
    }
}

/// Some columns of one row.
struct Line<'a> {
    sweep: &'a Sweep<'a>,
    /// The column factor from the first of these columns on, in rows of `stride`.
    corner: &'a [f32],
    stride: usize,
    importance: &'a [f32],
}

impl Line<'_> {
    /// Rounds `target` into `rounded`, `errors` and `bytes`. False if a scale is beyond half precision.
    fn round<const N: usize>(
        &self,
        target: &[f32],
        rounded: &mut [f32],
        errors: &mut [f32],
        bytes: &mut [u8],
    ) -> bool {
        let grid = &self.sweep.grid;
        let mut rest = target.to_vec();
        let mut blocks = bytes.chunks_exact_mut(grid.block_bytes());
        for first in (0..target.len()).step_by(grid.block()) {
            let mut block = self.open_block(&rest, first);
            for sub in 0..grid.subs {
                let at = first + sub * grid.sub;
                let x = &rest[at..at + grid.sub];
                let corner = &self.corner[at * (self.stride + 1)..];
                let (chosen, result) =
                    self.choose::<N>(&mut block, x, &self.importance[at..at + grid.sub], corner);
                block.codes.extend_from_slice(&result.codes[..grid.sub]);
                for (j, &code) in result.codes[..grid.sub].iter().enumerate() {
                    rounded[at + j] = chosen.scale * grid.level(code) - chosen.offset;
                }
                errors[at..at + grid.sub].copy_from_slice(&result.errors[..grid.sub]);
                let after = at + grid.sub;
                for j in 0..grid.sub {
                    let row = &self.corner[(at + j) * self.stride + after..][..target.len() - after];
                    rest[after..].iter_mut().zip(row).for_each(|(t, u)| *t -= result.errors[j] * u);
                }
            }
            if !(block.d.is_finite() && block.dmin.is_finite()) {
                return false;
            }
            pack(grid.form, &block, blocks.next().expect("as many blocks as bytes for them"));
        }
        true
    }

    /// A block's common scales, from its targets as they stand when its first column is reached.
    fn open_block(&self, rest: &[f32], first: usize) -> Block {
        let grid = &self.sweep.grid;
        let ScaleForm::Integer { low, high } = grid.scale else { return Block::default() };
        let (mut peak, mut offset) = (0f32, 0f32);
        for at in (first..first + grid.block()).step_by(grid.sub) {
            let fit = fit(grid, &rest[at..at + grid.sub], &self.importance[at..at + grid.sub]);
            if fit.scale.abs() > peak.abs() {
                peak = fit.scale;
            }
            if fit.offset > offset {
                offset = fit.offset;
            }
        }
        let extreme = if low < 0 { low } else { high };
        let dmin = grid.max_offset.map_or(0.0, |max| half(offset / max as f32));
        Block { d: half(peak / extreme as f32), dmin, ..Block::default() }
    }

    /// The scale (and offset) under which rounding with feedback costs least.
    fn choose<const N: usize>(
        &self,
        block: &mut Block,
        x: &[f32],
        importance: &[f32],
        corner: &[f32],
    ) -> (Affine, Rounded<N>) {
        let grid = &self.sweep.grid;
        let start = fit(grid, x, importance);
        let mut best = (Affine::default(), None::<Rounded<N>>);
        let mut attempt = |fit: Affine| -> bool {
            let limit = best.1.as_ref().map_or(f32::INFINITY, |r| r.loss);
            let result = round(grid, x, corner, self.stride, fit, limit);
            let better = result.loss < limit;
            if better {
                best = (fit, Some(result));
            }
            better
        };
        match grid.scale {
            ScaleForm::Half => {
                self.half_candidates(start).for_each(|fit| {
                    if attempt(fit) {
                        (block.d, block.dmin) = (fit.scale, fit.offset);
                    }
                });
            }
            ScaleForm::HalfAndZeroPoint => {
                self.zero_point_candidates(start).for_each(|(fit, zero_point)| {
                    if attempt(fit) {
                        (block.d, block.dmin) = (fit.scale, zero_point as f32);
                    }
                });
            }
            ScaleForm::Integer { .. } => {
                let mut chosen = (0, 0);
                for (scale, offset) in self.integer_candidates(block, start) {
                    let fit = Affine { scale: block.d * scale as f32, offset: block.dmin * offset as f32 };
                    if attempt(fit) {
                        chosen = (scale, offset);
                    }
                }
                block.scales.push(chosen.0);
                if grid.max_offset.is_some() {
                    block.offsets.push(chosen.1);
                }
            }
        }
        let (fit, result) = best;
        let result = result.unwrap_or_else(|| round(grid, x, corner, self.stride, fit, f32::INFINITY));
        (fit, result)
    }

    fn half_candidates(&self, start: Affine) -> impl Iterator<Item = Affine> {
        let wide = self.sweep.effort == Effort::Max;
        let offsets = match self.sweep.grid.max_offset {
            Some(_) if wide => 4,
            Some(_) => 2,
            None => 0,
        };
        let signs: &[f32] = if offsets == 0 { &[1.0, -1.0] } else { &[1.0] };
        let reach = if wide { 20 } else { 8 };
        nearest_first(reach).flat_map(move |s| {
            signs.iter().flat_map(move |sign| {
                nearest_first(offsets).map(move |o| Affine {
                    scale: sign * half(start.scale * (1.0 + 0.015 * s as f32)),
                    offset: half(start.offset + start.scale * 0.15 * o as f32),
                })
            })
        })
    }

    /// Scales with the zero points near the offset that suits them.
    fn zero_point_candidates(&self, start: Affine) -> impl Iterator<Item = (Affine, i32)> {
        let wide = self.sweep.effort == Effort::Max;
        let (reach, zero_points) = if wide { (16, 2) } else { (6, 1) };
        let max = self.sweep.grid.max_offset.unwrap_or(0);
        nearest_first(reach).flat_map(move |s| {
            let scale = half(start.scale * (1.0 + 0.015 * s as f32));
            let nearest = if scale > 0.0 { (start.offset / scale).round() as i32 } else { 0 };
            nearest_first(zero_points).map(move |o| {
                let zero_point = (nearest.min(max) + o).clamp(0, max);
                (Affine { scale, offset: scale * zero_point as f32 }, zero_point)
            })
        })
    }

    fn integer_candidates(&self, block: &Block, start: Affine) -> impl Iterator<Item = (i32, i32)> + use<> {
        let ScaleForm::Integer { low, high } = self.sweep.grid.scale else {
            unreachable!("only called for integer scales")
        };
        let unit = |value: f32, unit: f32| if unit != 0.0 { (value / unit).round() as i32 } else { 0 };
        let max_offset = self.sweep.grid.max_offset;
        let scale = unit(start.scale, block.d).clamp(low, high);
        let offset = unit(start.offset, block.dmin).clamp(0, max_offset.unwrap_or(0));
        let reach = match high {
            127.. => 4,
            _ => 3,
        };
        let wide = if self.sweep.effort == Effort::Max { 3 } else { 1 };
        let offset_reach = if max_offset.is_some() { 2 * wide } else { 0 };
        // A symmetric grid is not: -8 has no +8. The scale's other sign is worth a try.
        let signs: &[i32] = if low < 0 { &[1, -1] } else { &[1] };
        nearest_first(reach * wide).flat_map(move |s| {
            signs.iter().flat_map(move |sign| {
                nearest_first(offset_reach).filter_map(move |o| {
                    let (scale, offset) = (sign * (scale + s), offset + o);
                    let inside =
                        (low..=high).contains(&scale) && (0..=max_offset.unwrap_or(0)).contains(&offset);
                    inside.then_some((scale, offset))
                })
            })
        })
    }
}

/// 0, 1, -1, 2, -2, … up to `reach`: a good candidate early lets the others be given up soon.
fn nearest_first(reach: i32) -> impl Iterator<Item = i32> + Clone {
    (0..=2 * reach).map(|i| if i % 2 == 1 { i / 2 + 1 } else { -(i / 2) })
}

const _: () = assert!(STEP.is_multiple_of(MAX_BLOCK));

#[cfg(test)]
mod tests;
