//! Lines of types with one level for each value: sub-block after sub-block, each under the scale that costs least.

use plmconv_formats::DType;

use super::form::Form;
use super::grid::{Block, Grid, MAX_BLOCK, MAX_SUB, ScaleForm, half};
use super::line::{Line, Rounder};
use super::search::{Affine, Rounded, Targets, cheapest, fit, round};
use super::sweep::{Effort, nearest_first};
use crate::simd::{Level, Loop};

/// Rounds values one by one.
pub(super) struct Scalar {
    grid: Grid,
    form: Form,
    effort: Effort,
    level: Level,
}

impl Scalar {
    pub fn new(grid: Grid, form: Form, effort: Effort) -> Scalar {
        Scalar { grid, form, effort, level: Level::detect() }
    }
}

impl Rounder for Scalar {
    type Step = ();
    type Chosen = ();
    const SETTLES: bool = false;

    fn step(&self, _corner: &[f32], _stride: usize, _width: usize) {}

    fn dtype(&self) -> DType {
        self.form.dtype()
    }

    fn block_len(&self) -> usize {
        self.grid.block_len()
    }

    fn block_bytes(&self) -> usize {
        self.form.block_bytes()
    }

    fn round(
        &self,
        line: &Line<'_>,
        (): &(),
        rounded: &mut [f32],
        errors: &mut [f32],
        bytes: &mut [u8],
    ) -> Option<()> {
        let level = self.level;
        match self.grid.sub {
            0..=MAX_SUB => level.run(Rounding::<MAX_SUB> { scalar: self, line, rounded, errors, bytes }),
            33..=128 => level.run(Rounding::<128> { scalar: self, line, rounded, errors, bytes }),
            _ => level.run(Rounding::<MAX_BLOCK> { scalar: self, line, rounded, errors, bytes }),
        }
    }
}

/// A line, with sub-blocks of at most `N` values.
struct Rounding<'a, const N: usize> {
    scalar: &'a Scalar,
    line: &'a Line<'a>,
    rounded: &'a mut [f32],
    errors: &'a mut [f32],
    bytes: &'a mut [u8],
}

impl<const N: usize> Loop for Rounding<'_, N> {
    type Output = Option<()>;

    #[inline(always)]
    fn run(self) -> Option<()> {
        let Rounding { scalar, line, rounded, errors, bytes } = self;
        scalar.round_line::<N>(line, rounded, errors, bytes)
    }
}

impl Scalar {
    #[inline(always)]
    fn round_line<const N: usize>(
        &self,
        line: &Line<'_>,
        rounded: &mut [f32],
        errors: &mut [f32],
        bytes: &mut [u8],
    ) -> Option<()> {
        let grid = &self.grid;
        let mut rest = line.target.to_vec();
        let mut blocks = bytes.chunks_exact_mut(self.form.block_bytes());
        for first in (0..rest.len()).step_by(grid.block_len()) {
            let mut block = self.open_block(line, &rest, first);
            for sub in 0..grid.subs {
                let at = first + sub * grid.sub;
                let (chosen, result) = self.choose::<N>(&mut block, line, &rest, at);
                block.codes.extend_from_slice(&result.codes[..grid.sub]);
                for (j, &code) in result.codes[..grid.sub].iter().enumerate() {
                    rounded[at + j] = chosen.scale * grid.level(code) - chosen.offset;
                }
                errors[at..at + grid.sub].copy_from_slice(&result.errors[..grid.sub]);
                line.charge(&mut rest, at, &result.errors[..grid.sub]);
            }
            if !(block.d.is_finite() && block.dmin.is_finite()) {
                return None;
            }
            self.form.pack(&block, blocks.next().expect("as many blocks as bytes for them"));
        }
        Some(())
    }

    /// A block's common scales, from its targets at the time its first column is reached.
    fn open_block(&self, line: &Line<'_>, rest: &[f32], first: usize) -> Block {
        let grid = &self.grid;
        let ScaleForm::Integer { low, high } = grid.scale else { return Block::default() };
        let (mut peak, mut offset) = (0f32, 0f32);
        for at in (first..first + grid.block_len()).step_by(grid.sub) {
            let fit = fit(self.level, grid, &rest[at..at + grid.sub], &line.importance[at..at + grid.sub]);
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
    #[inline(always)]
    fn choose<const N: usize>(
        &self,
        block: &mut Block,
        line: &Line<'_>,
        rest: &[f32],
        at: usize,
    ) -> (Affine, Rounded<N>) {
        let grid = &self.grid;
        let targets =
            Targets { x: &rest[at..at + grid.sub], factor: line.corner_at(at), stride: line.stride };
        let start = fit(self.level, grid, targets.x, &line.importance[at..at + grid.sub]);
        let mut fits = Vec::with_capacity(64);
        let cheapest = |fits: &[Affine]| cheapest::<N>(self.level, grid, targets, fits);
        let chosen = match grid.scale {
            ScaleForm::Half => {
                fits.extend(self.half_candidates(start));
                let chosen = cheapest(&fits);
                if let Some(index) = chosen {
                    (block.d, block.dmin) = (fits[index].scale, fits[index].offset);
                }
                chosen
            }
            ScaleForm::HalfAndZeroPoint => {
                let mut zero_points = Vec::with_capacity(64);
                for (fit, zero_point) in self.zero_point_candidates(start) {
                    fits.push(fit);
                    zero_points.push(zero_point);
                }
                let chosen = cheapest(&fits);
                if let Some(index) = chosen {
                    (block.d, block.dmin) = (fits[index].scale, zero_points[index] as f32);
                }
                chosen
            }
            ScaleForm::Integer { .. } => {
                let integers: Vec<(i32, i32)> = self.integer_candidates(block, start).collect();
                let (d, dmin) = (block.d, block.dmin);
                let fit = |&(scale, offset): &(i32, i32)| Affine {
                    scale: d * scale as f32,
                    offset: dmin * offset as f32,
                };
                fits.extend(integers.iter().map(fit));
                let chosen = cheapest(&fits);
                let (scale, offset) = chosen.map_or((0, 0), |index| integers[index]);
                block.scales.push(scale);
                if grid.max_offset.is_some() {
                    block.offsets.push(offset);
                }
                chosen
            }
        };
        if chosen.is_none() {
            // Every scale that the values ask for is beyond half precision, which the line then reports.
            block.d = f32::INFINITY;
        }
        let fit = chosen.map_or_else(Affine::default, |index| fits[index]);
        (fit, round(grid, targets, fit))
    }

    fn half_candidates(&self, start: Affine) -> impl Iterator<Item = Affine> {
        let wide = self.effort == Effort::Max;
        let offsets = match self.grid.max_offset {
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
        let wide = self.effort == Effort::Max;
        let (reach, zero_points) = if wide { (16, 2) } else { (6, 1) };
        let max = self.grid.max_offset.unwrap_or(0);
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
        let ScaleForm::Integer { low, high } = self.grid.scale else {
            unreachable!("only called for integer scales")
        };
        let unit = |value: f32, unit: f32| if unit != 0.0 { (value / unit).round() as i32 } else { 0 };
        let max_offset = self.grid.max_offset;
        let scale = unit(start.scale, block.d).clamp(low, high);
        let offset = unit(start.offset, block.dmin).clamp(0, max_offset.unwrap_or(0));
        let reach = match high {
            127.. => 4,
            _ => 3,
        };
        let wide = if self.effort == Effort::Max { 3 } else { 1 };
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
