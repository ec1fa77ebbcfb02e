//! What the sweep and the rounding of a type tell each other: some columns of one row, and of all rows.

use plmconv_formats::DType;

use super::factor::RowFactor;

/// How a type's values are rounded: what the sweep does not know.
pub(super) trait Rounder {
    /// What it needs of some columns' factor, for all rows.
    type Step;

    /// What was chosen for a line.
    type Chosen;

    /// Lines are chosen anew when all are done, and written only then: see [`settle`](Self::settle).
    const SETTLES: bool;

    /// From a square of `width` columns of `corner`, which has rows of `stride`.
    fn step(&self, corner: &[f32], stride: usize, width: usize) -> Self::Step;

    /// What an error calls it.
    fn dtype(&self) -> DType;

    /// Values in a block, by which [`STEP`](super::sweep::STEP) is divided or which divides it.
    fn block_len(&self) -> usize;

    /// Bytes of a block.
    fn block_bytes(&self) -> usize;

    /// Rounds a line's target into `rounded`, its errors over pivots and `bytes`. `None` if a scale is beyond half
    /// precision.
    fn round(
        &self,
        line: &Line<'_>,
        step: &Self::Step,
        rounded: &mut [f32],
        errors: &mut [f32],
        bytes: &mut [u8],
    ) -> Option<Self::Chosen>;

    /// Chooses the lines of a sheet anew under what all others left, and writes their bytes.
    fn settle(&self, _sheet: Sheet<'_, Self::Chosen>, _out: Encoded<'_>) {}

    /// Bytes of `values` values, unless these are not whole blocks.
    fn encoded_len(&self, values: usize) -> Option<usize> {
        let whole = values.is_multiple_of(self.block_len());
        whole.then(|| values / self.block_len() * self.block_bytes())
    }
}

/// All rows of the columns that make up for each other's errors, rounded.
pub(super) struct Sheet<'a, C> {
    /// `[rows, cols]`: what was to be rounded.
    pub target: Vec<f32>,
    pub cols: usize,
    /// What was chosen, row after row of one step, step after step.
    pub chosen: Vec<C>,
    /// What errors in these columns cost, `[cols, cols]`.
    pub costs: Vec<f32>,
    pub rows: Option<&'a RowFactor>,
}

/// Where a sheet's bytes go.
pub(super) struct Encoded<'a> {
    pub bytes: &'a mut [u8],
    /// Of a row of the matrix.
    pub row_bytes: usize,
    /// Where the sheet begins in a row.
    pub offset: usize,
    /// Of a line.
    pub line_bytes: usize,
}

impl Encoded<'_> {
    /// The bytes of a row's line of step `step`.
    pub fn line(&mut self, row: usize, step: usize) -> &mut [u8] {
        let start = row * self.row_bytes + self.offset + step * self.line_bytes;
        &mut self.bytes[start..start + self.line_bytes]
    }
}

/// Some columns of one row.
pub(super) struct Line<'a> {
    pub target: &'a [f32],
    /// The column factor from the first of these columns on, in rows of `stride`.
    pub corner: &'a [f32],
    pub stride: usize,
    pub importance: &'a [f32],
}

impl Line<'_> {
    /// The column factor from column `at` of the line on.
    pub fn corner_at(&self, at: usize) -> &[f32] {
        &self.corner[at * (self.stride + 1)..]
    }

    /// Moves what is left of the line to make up for the errors of the columns from `at` on.
    #[inline(always)]
    pub fn charge(&self, rest: &mut [f32], at: usize, errors: &[f32]) {
        self.charge_from(rest, at, at + errors.len(), errors);
    }

    /// The same from column `after` on only.
    #[inline(always)]
    pub fn charge_from(&self, rest: &mut [f32], at: usize, after: usize, errors: &[f32]) {
        charge(self.corner, self.stride, rest, at, after, errors);
    }
}

/// Moves what is left of some columns, from `after` on, to make up for the errors of those from `at` on. `corner` is
/// the factor from the first of these columns on, in rows of `stride`.
#[inline(always)]
pub(super) fn charge(
    corner: &[f32],
    stride: usize,
    rest: &mut [f32],
    at: usize,
    after: usize,
    errors: &[f32],
) {
    let rest = &mut rest[after..];
    for (j, error) in errors.iter().enumerate() {
        let row = &corner[(at + j) * stride + after..][..rest.len()];
        rest.iter_mut().zip(row).for_each(|(t, u)| *t -= error * u);
    }
}
