//! Products of activations with encoded weights: decoded once per call into panels that stay in the caches,
//! by all threads, then multiplied by all threads over the tokens. No sum is split between threads, so the
//! result does not depend on how many there are.

mod pack;
mod sparse;

use std::ops::Range;

use plmconv_quant::codec::dot::{self, EncodedDot, IntRow};
use rayon::prelude::*;

pub use pack::Rows;
pub(crate) use pack::{Strips, pack_strip_f32};

use crate::arithmetic::{ActivationRounding, Arithmetic};
use crate::buffers::{Buffer, Buffers};
use crate::kernels::{GROUP, IntOperands, Kernels, TILE_OUTPUTS, TILE_TOKENS, Tile};
use crate::network::Workspace;
use crate::weights::Matrix;

/// Decoded weights held at a time: they stay in the last-level cache while all tokens pass by.
const PANEL_BYTES: usize = 4 << 20;
/// Up to this many tokens (writing text) weights are multiplied row by row: as they are stored where there is a
/// kernel for it, else decoded.
const FEW_TOKENS: usize = 4;
/// Rows that a thread takes at a time then.
const FEW_ROWS: usize = 16;

/// Activations, ready to be multiplied with the matrices that they were prepared for.
#[derive(Debug)]
pub struct Input<'a> {
    rows: Rows<'a>,
    forms: Vec<Form>,
}

/// Activations as one kind of matrix wants them.
#[derive(Debug)]
struct Form {
    rounding: ActivationRounding,
    /// `[tokens, width]`, if anything is rounded.
    rounded: Option<Buffer<f32>>,
    packed: Packed,
}

/// Activations in the form that a product wants them in.
#[derive(Debug)]
enum Packed {
    /// Of a few tokens; as integers if whole blocks of columns and not exact.
    Few(Option<Vec<IntRow>>),
    Many(Strips),
}

impl Input<'_> {
    /// Number of tokens.
    pub(crate) fn tokens(&self) -> usize {
        self.rows.count()
    }

    /// The form for one matrix, and its rows.
    fn form(&self, rounding: ActivationRounding) -> (&Form, Rows<'_>) {
        let form = self.forms.iter().find(|form| form.rounding == rounding);
        let form = form.expect("an input is multiplied with what it was prepared for");
        (form, form.rounded.as_ref().map_or(self.rows, |rounded| Rows::all(rounded, self.rows.width)))
    }
}

/// How products are computed.
pub(crate) struct Linear {
    pub workspace: Workspace,
    /// f32 throughout; otherwise operands are rounded to 16 bits in groups of [`GROUP`].
    pub exact: bool,
    /// Whose rounding activations go through first.
    pub arithmetic: Arithmetic,
    integers: Buffers<i16>,
}

/// Where a product goes: columns from `offset` on of rows of `stride`.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub stride: usize,
    pub offset: usize,
}

impl Linear {
    pub fn new(kernels: Kernels, exact: bool, arithmetic: Arithmetic) -> Linear {
        Linear { workspace: Workspace::new(kernels), exact, arithmetic, integers: Buffers::default() }
    }

    /// Rounds and packs activations for all of `matrices`.
    pub fn prepare<'a>(&self, rows: Rows<'a>, matrices: &[&Matrix]) -> Input<'a> {
        let mut roundings: Vec<ActivationRounding> = Vec::new();
        for matrix in matrices {
            let rounding = self.arithmetic.rounding(matrix.dtype);
            if !roundings.contains(&rounding) {
                roundings.push(rounding);
            }
        }
        self.prepare_rounded(rows, &roundings)
    }

    /// Packs activations rounded in each of these ways.
    pub fn prepare_rounded<'a>(&self, rows: Rows<'a>, roundings: &[ActivationRounding]) -> Input<'a> {
        Input { rows, forms: roundings.iter().map(|&rounding| self.form(rows, rounding)).collect() }
    }

    fn form(&self, rows: Rows<'_>, rounding: ActivationRounding) -> Form {
        let rounded = (rounding != ActivationRounding::None).then(|| self.rounded(rows, rounding));
        let rows = rounded.as_ref().map_or(rows, |rounded| Rows::all(rounded, rows.width));
        let packed = if rows.count() <= FEW_TOKENS {
            let whole = !self.exact && rows.width.is_multiple_of(dot::BLOCK);
            Packed::Few(whole.then(|| (0..rows.count()).map(|t| IntRow::new(rows.row(t))).collect()))
        } else if self.exact {
            Packed::Many(Strips::F32(self.pack_f32(rows)))
        } else {
            Packed::Many(self.pack_i16(rows))
        };
        Form { rounding, rounded, packed }
    }

    /// `[tokens, width]`
    fn rounded(&self, rows: Rows<'_>, rounding: ActivationRounding) -> Buffer<f32> {
        let mut out = self.workspace.floats.take(rows.count() * rows.width);
        out.par_chunks_exact_mut(rows.width).enumerate().for_each(|(t, out)| {
            out.copy_from_slice(rows.row(t));
            rounding.apply(out);
        });
        out
    }

    /// `[tokens, matrix.rows]`: every row of the matrix times every token.
    pub fn product(&self, matrix: &Matrix, input: &Input<'_>) -> Buffer<f32> {
        let mut out = self.workspace.floats.take(input.rows.count() * matrix.rows);
        let target = Target { stride: matrix.rows, offset: 0 };
        self.product_into(matrix, 0..matrix.rows, input, &mut out, target);
        out
    }

    /// Rows `rows` of the matrix times every token, into some columns of `out` (`[tokens, target.stride]`).
    pub fn product_into(
        &self,
        matrix: &Matrix,
        rows: Range<usize>,
        input: &Input<'_>,
        out: &mut [f32],
        target: Target,
    ) {
        assert_eq!(matrix.cols, input.rows.width);
        assert_eq!(out.len(), input.rows.count() * target.stride);
        assert!(target.offset + rows.len() <= target.stride);
        let (form, activations) = input.form(self.arithmetic.rounding(matrix.dtype));
        match &form.packed {
            Packed::Few(integers) => match (integers, EncodedDot::of(matrix.dtype)) {
                (Some(tokens), Some(dot)) => {
                    self.few(matrix, rows, tokens.len(), out, target, |row, products, _| {
                        let bytes = matrix.encoded_row(row);
                        for (product, token) in products.iter_mut().zip(tokens) {
                            *product = self.workspace.kernels.dot_encoded(dot, bytes, token);
                        }
                    });
                }
                _ => self.few(matrix, rows, input.tokens(), out, target, |row, products, weights| {
                    matrix.decode_row(row, weights);
                    for (t, product) in products.iter_mut().enumerate() {
                        *product = self.workspace.kernels.dot(weights, activations.row(t));
                    }
                }),
            },
            Packed::Many(Strips::F32(values)) => self.many_f32(matrix, rows, values, out, target),
            Packed::Many(Strips::I16 { values, scales }) => {
                self.many_i16(matrix, rows, values, scales, out, target);
            }
        }
    }

    /// `out[t][c] = sum over r of input[t][r] * matrix[rows.start + r][c]`: the matrix transposed, in f32.
    pub fn transposed_product_into(
        &self,
        matrix: &Matrix,
        rows: Range<usize>,
        input: Rows<'_>,
        out: &mut [f32],
        target: Target,
    ) {
        assert_eq!(input.width, rows.len());
        assert_eq!(out.len(), input.count() * target.stride);
        assert!(target.offset + matrix.cols <= target.stride);
        let depth = rows.len();
        let panels = pack::transposed_panels(matrix, rows);
        let strips = self.pack_f32(input);
        self.over_tokens(out, target, matrix.cols, |strip, panel, tile| {
            let strip = &strips[strip * TILE_TOKENS * depth..][..TILE_TOKENS * depth];
            self.workspace.kernels.tile_f32(
                strip,
                &panels[panel * TILE_OUTPUTS * depth..][..TILE_OUTPUTS * depth],
                tile,
            );
        });
    }

    /// `compute` fills one row's products with all tokens; it is given room for a decoded row.
    fn few(
        &self,
        matrix: &Matrix,
        rows: Range<usize>,
        tokens: usize,
        out: &mut [f32],
        target: Target,
        compute: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
    ) {
        let mut products = self.workspace.floats.take(rows.len() * tokens);
        products.par_chunks_mut(FEW_ROWS * tokens).enumerate().for_each_init(
            || vec![0.0; matrix.cols],
            |weights, (chunk, products)| {
                for (r, products) in products.chunks_exact_mut(tokens).enumerate() {
                    compute(rows.start + chunk * FEW_ROWS + r, products, weights);
                }
            },
        );
        for (t, out) in out.chunks_exact_mut(target.stride).enumerate() {
            let products = products.iter().skip(t).step_by(tokens);
            for (out, product) in out[target.offset..].iter_mut().zip(products) {
                *out = *product;
            }
        }
    }

    fn many_f32(&self, matrix: &Matrix, rows: Range<usize>, strips: &[f32], out: &mut [f32], target: Target) {
        let width = matrix.cols;
        for_groups(rows, width * TILE_OUTPUTS * size_of::<f32>(), |group| {
            let panels = group.len().div_ceil(TILE_OUTPUTS);
            let mut panels = self.workspace.floats.take(panels * TILE_OUTPUTS * width);
            panels.par_chunks_mut(width * TILE_OUTPUTS).enumerate().for_each_init(
                Vec::new,
                |scratch, (p, panel)| {
                    pack::panel_f32(matrix, panel_rows(&group, p), scratch, panel);
                },
            );
            let target = Target { offset: target.offset + group.start, ..target };
            self.over_tokens(out, target, group.len(), |strip, panel, tile| {
                let strip = &strips[strip * TILE_TOKENS * width..][..TILE_TOKENS * width];
                let panel = &panels[panel * TILE_OUTPUTS * width..][..TILE_OUTPUTS * width];
                self.workspace.kernels.tile_f32(strip, panel, tile);
            });
        });
    }

    fn many_i16(
        &self,
        matrix: &Matrix,
        rows: Range<usize>,
        strips: &[i16],
        strip_scales: &[f32],
        out: &mut [f32],
        target: Target,
    ) {
        let groups = matrix.cols.div_ceil(GROUP);
        let width = groups * GROUP;
        for_groups(rows, width * TILE_OUTPUTS * size_of::<i16>(), |group| {
            let panels = group.len().div_ceil(TILE_OUTPUTS);
            let mut values = self.integers.take(panels * TILE_OUTPUTS * width);
            let mut scales = self.workspace.floats.take(panels * TILE_OUTPUTS * groups);
            values
                .par_chunks_mut(width * TILE_OUTPUTS)
                .zip(scales.par_chunks_mut(groups * TILE_OUTPUTS))
                .enumerate()
                .for_each_init(Vec::new, |scratch, (p, (values, scales))| {
                    let rows = panel_rows(&group, p);
                    pack::panel_i16(&self.workspace.kernels, matrix, rows, scratch, values, scales);
                });
            let target = Target { offset: target.offset + group.start, ..target };
            self.over_tokens(out, target, group.len(), |strip, panel, tile| {
                let operands = IntOperands {
                    activations: &strips[strip * TILE_TOKENS * width..][..TILE_TOKENS * width],
                    activation_scales: &strip_scales[strip * TILE_TOKENS * groups..][..TILE_TOKENS * groups],
                    weights: &values[panel * TILE_OUTPUTS * width..][..TILE_OUTPUTS * width],
                    weight_scales: &scales[panel * TILE_OUTPUTS * groups..][..TILE_OUTPUTS * groups],
                };
                self.workspace.kernels.tile_i16(operands, tile);
            });
        });
    }

    /// Fills `outputs` columns from `target.offset` on, tile by tile: threads take runs of strips, a panel
    /// stays in a thread's cache while its strips pass by.
    fn over_tokens(
        &self,
        out: &mut [f32],
        target: Target,
        outputs: usize,
        compute: impl Fn(usize, usize, &mut Tile) + Sync,
    ) {
        let strip_len = TILE_TOKENS * target.stride;
        let strips = out.len().div_ceil(strip_len);
        let run = strips.div_ceil(4 * rayon::current_num_threads()).clamp(1, 8);
        out.par_chunks_mut(run * strip_len).enumerate().for_each(|(first, out)| {
            let mut tile = [[0.0; TILE_OUTPUTS]; TILE_TOKENS];
            for panel in 0..outputs.div_ceil(TILE_OUTPUTS) {
                let column = panel * TILE_OUTPUTS;
                let width = TILE_OUTPUTS.min(outputs - column);
                for (strip, out) in out.chunks_mut(strip_len).enumerate() {
                    compute(first * run + strip, panel, &mut tile);
                    for (row, out) in tile.iter().zip(out.chunks_exact_mut(target.stride)) {
                        out[target.offset + column..][..width].copy_from_slice(&row[..width]);
                    }
                }
            }
        });
    }
}

/// Calls `each` with runs of rows whose panels together take about [`PANEL_BYTES`]; runs are counted from
/// the range's start, `panel_rows` finds the matrix's rows again.
fn for_groups(rows: Range<usize>, panel_bytes: usize, mut each: impl FnMut(Group)) {
    let step = (PANEL_BYTES / panel_bytes).max(1) * TILE_OUTPUTS;
    for start in (0..rows.len()).step_by(step) {
        each(Group { first_row: rows.start, start, end: (start + step).min(rows.len()) });
    }
}

/// A run of output columns `start..end`, whose weights are rows from `first_row + start` on.
struct Group {
    first_row: usize,
    start: usize,
    end: usize,
}

impl Group {
    fn len(&self) -> usize {
        self.end - self.start
    }
}

/// The matrix's rows in panel `panel` of a group.
fn panel_rows(group: &Group, panel: usize) -> Range<usize> {
    let start = group.start + panel * TILE_OUTPUTS;
    group.first_row + start..group.first_row + group.end.min(start + TILE_OUTPUTS)
}
