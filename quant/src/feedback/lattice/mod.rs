//! Lines of the types whose codes are points of a grid: eight values (a word) are chosen together, words of a sub-block
//! under one scale, sub-blocks of a super-block under scales that are small integers of a common one.

mod polish;
mod refine;
mod step;
mod sub_block;
mod word;

use half::f16;
use plmconv_formats::DType;

use super::line::{Encoded, Line, Rounder, Sheet};
use super::sweep::Effort;
use crate::codec::{Chosen, Shape, Signs, Trie};
use crate::simd::{Level, Loop};
use step::Step;
use sub_block::SubBlock;
use word::WORD;

/// Values of a super-block, which is a line.
const SUPER_BLOCK: usize = 256;
/// Values of the longest sub-block.
const MOST_SUB: usize = 32;

/// How much larger the scales begin than those under which points are as large as values: feedback makes values larger,
/// and small points are needed more often than large ones.
const HEADROOM: f32 = 1.35;

/// Rounds a type whose codes are points of a grid.
pub(super) struct Lattice {
    dtype: DType,
    shape: &'static Shape,
    trie: &'static Trie,
    pack: fn(&Chosen, &mut [u8]),
    pub(super) search: Search,
    pub(super) level: Level,
}

/// How much is tried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Search {
    /// Scales of the super-block, as parts of the one that its largest sub-block asks for.
    scales: &'static [f32],
    /// Codes of a sub-block's scale on each side of the likeliest.
    reach: i32,
    /// Nodes that are opened for a word.
    nodes: u32,
    /// How often the sub-blocks of a super-block are chosen anew.
    passes: usize,
    /// How often those of all rows are.
    pub(super) polishes: usize,
}

impl Search {
    fn new(shape: &Shape, effort: Effort) -> Search {
        // Where the number of signs must be even, many paths fail only at their end.
        let nodes = match (shape.signs, shape.group) {
            (Signs::Shifted { .. }, _) => 64,
            (Signs::Each, _) => 96,
            (Signs::Even, WORD) => 128,
            (Signs::Even, _) => 256,
        };
        match effort {
            Effort::Normal => Search { scales: &[1.0], reach: 8, nodes, passes: 2, polishes: 2 },
            Effort::Max => {
                Search { scales: &[1.0, 0.85, 1.15], reach: 15, nodes: 4 * nodes, passes: 4, polishes: 4 }
            }
        }
    }
}

impl Lattice {
    /// The rounding of `dtype`.
    pub fn new(dtype: DType, shape: &'static Shape, pack: fn(&Chosen, &mut [u8]), effort: Effort) -> Lattice {
        let search = Search::new(shape, effort);
        Lattice { dtype, shape, trie: shape.trie, pack, search, level: Level::detect() }
    }
}

impl Rounder for Lattice {
    type Step = Step;
    type Chosen = Found;
    const SETTLES: bool = true;

    fn step(&self, corner: &[f32], stride: usize, _width: usize) -> Step {
        Step::new(corner, stride, self.shape.sub)
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn block_len(&self) -> usize {
        SUPER_BLOCK
    }

    fn block_bytes(&self) -> usize {
        self.dtype.block_bytes()
    }

    fn round(
        &self,
        line: &Line<'_>,
        step: &Step,
        rounded: &mut [f32],
        errors: &mut [f32],
        _bytes: &mut [u8],
    ) -> Option<Found> {
        let found = if self.shape.group == WORD {
            self.level.run(Rounding::<8> { lattice: self, line, step })
        } else {
            self.level.run(Rounding::<16> { lattice: self, line, step })
        }?;
        rounded.copy_from_slice(&found.values);
        found.errors_over_pivots(line, errors);
        Some(found)
    }

    fn settle(&self, mut sheet: Sheet<'_, Found>, mut out: Encoded<'_>) {
        if self.shape.group == WORD {
            self.polish::<8>(&mut sheet);
        } else {
            self.polish::<16>(&mut sheet);
        }
        let rows = sheet.target.len() / sheet.cols;
        for (index, found) in sheet.chosen.iter().enumerate() {
            (self.pack)(&found.chosen, out.line(index % rows, index / rows));
        }
    }
}

/// The rounding of a line whose levels are `L` lanes.
struct Rounding<'a, const L: usize> {
    lattice: &'a Lattice,
    line: &'a Line<'a>,
    step: &'a Step,
}

impl<const L: usize> Loop for Rounding<'_, L> {
    type Output = Option<Found>;

    #[inline(always)]
    fn run(self) -> Option<Found> {
        let mut found = self.lattice.best_block::<L>(self.line, self.step)?;
        if let Some(refinement) = &self.step.refinement {
            self.lattice.refine::<L>(self.line, refinement, &mut found);
        }
        Some(found)
    }
}

/// A rounded super-block.
pub(super) struct Found {
    loss: f32,
    chosen: Chosen,
    values: [f32; SUPER_BLOCK],
}

impl Lattice {
    /// The best of some scales of the super-block; `None` if they are beyond half precision.
    #[inline(always)]
    fn best_block<const L: usize>(&self, line: &Line<'_>, step: &Step) -> Option<Found> {
        let shape = self.shape;
        let subs = line.target.chunks_exact(shape.sub).zip(line.importance.chunks_exact(shape.sub));
        let largest = subs.fold(0f32, |largest, (x, w)| largest.max(self.start(x, w)));
        let d = largest / (shape.scale)(1.0, shape.top_code);
        let mut best: Option<Found> = None;
        for factor in self.search.scales {
            let limit = best.as_ref().map_or(f32::INFINITY, |best| best.loss);
            let d = f16::from_f32(d * factor);
            if !d.is_finite() {
                return None;
            }
            best = self.round_under::<L>(line, step, d, limit).or(best);
        }
        best
    }

    /// Rounds all sub-blocks under a scale of the super-block, unless that costs `limit` or more.
    #[inline(always)]
    fn round_under<const L: usize>(&self, line: &Line<'_>, step: &Step, d: f16, limit: f32) -> Option<Found> {
        let sub = self.shape.sub;
        let mut rest: [f32; SUPER_BLOCK] = line.target.try_into().expect("a line is a super-block");
        let chosen = Chosen { d: d.to_bits(), ..Chosen::default() };
        let mut found = Found { loss: 0.0, chosen, values: [0.0; SUPER_BLOCK] };
        for at in (0..SUPER_BLOCK).step_by(sub) {
            let x = &rest[at..at + sub];
            let start = self.start(x, &line.importance[at..at + sub]);
            let part = sub_block::Part {
                factor: &step.factor[at * (SUPER_BLOCK + 1)..],
                stride: SUPER_BLOCK,
                corners: &step.corners[at / WORD..],
            };
            let best = self.choose::<L>(x, part, d.to_f32(), start, limit - found.loss)?;
            found.loss += best.loss;
            found.take(&best, at, self.shape);
            for (j, word) in best.words[..sub / WORD].iter().enumerate() {
                line.charge_from(&mut rest, at + WORD * j, at + sub, &word.errors);
            }
        }
        Some(found)
    }

    /// A scale for a sub-block to begin with.
    #[inline(always)]
    fn start(&self, x: &[f32], importance: &[f32]) -> f32 {
        let (mut sum, mut weights) = (0.0, 0.0);
        for (x, importance) in x.iter().zip(importance) {
            let weight = importance.sqrt();
            sum += weight * x * x;
            weights += weight;
        }
        (sum / weights).sqrt() / self.trie.size() * HEADROOM
    }
}

impl Found {
    /// Takes over a sub-block from column `at` on.
    #[inline(always)]
    fn take(&mut self, best: &SubBlock, at: usize, shape: &Shape) {
        self.chosen.scales[at / shape.sub] = best.code;
        let per_word = WORD / shape.group;
        for (index, word) in best.words[..shape.sub / WORD].iter().enumerate() {
            let first = at + WORD * index;
            self.values[first..first + WORD].copy_from_slice(&word.values);
            self.chosen.signs[first / WORD] = word.signs;
            self.chosen.down[first / WORD] = best.down[index];
            self.chosen.points[first / shape.group..][..per_word].copy_from_slice(&word.points[..per_word]);
        }
    }

    /// What the columns after are charged with.
    fn errors_over_pivots(&self, line: &Line<'_>, errors: &mut [f32]) {
        let mut rest: [f32; SUPER_BLOCK] = line.target.try_into().expect("a line is a super-block");
        for at in 0..SUPER_BLOCK {
            errors[at] = (rest[at] - self.values[at]) / line.corner[at * (line.stride + 1)];
            line.charge_from(&mut rest, at, at + 1, &errors[at..=at]);
        }
    }
}
