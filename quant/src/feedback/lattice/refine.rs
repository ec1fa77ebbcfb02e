//! Second thoughts: when all of a super-block is chosen, each sub-block is chosen anew under what the others left, those
//! after it too, and the common scale is fitted to the codes.

use half::f16;

use super::step::Refinement;
use super::sub_block::Part;
use super::{Found, Lattice, MOST_SUB, SUPER_BLOCK};
use crate::feedback::line::Line;

/// Codes of a sub-block's scale that are tried on each side of the one it has.
const REACH: i32 = 1;
/// What is chosen anew has to be better by more than rounding.
const LESS: f32 = 0.9999;

impl Lattice {
    /// Refines a super-block by itself.
    #[inline(always)]
    pub(super) fn refine<const L: usize>(&self, line: &Line<'_>, refinement: &Refinement, found: &mut Found) {
        let mut gradient = [0.0; SUPER_BLOCK];
        for (i, row) in refinement.costs.chunks_exact(SUPER_BLOCK).enumerate() {
            let error = line.target[i] - found.values[i];
            gradient.iter_mut().zip(row).for_each(|(g, m)| *g += error * m);
        }
        for _ in 0..self.search.passes {
            self.choose_again::<L>(refinement, 0, found, &mut gradient);
        }
    }

    /// Chooses the scale and the sub-blocks of a super-block anew that begins at column `first`. `gradient` is half of
    /// what an error less would take off the costs, and follows.
    #[inline(always)]
    pub(super) fn choose_again<const L: usize>(
        &self,
        refinement: &Refinement,
        first: usize,
        found: &mut Found,
        gradient: &mut [f32],
    ) {
        refit(refinement, first, found, gradient);
        for sub in 0..SUPER_BLOCK / self.shape.sub {
            self.choose_sub_block_again::<L>(refinement, first, sub, found, gradient);
        }
    }

    #[inline(always)]
    fn choose_sub_block_again<const L: usize>(
        &self,
        refinement: &Refinement,
        first: usize,
        sub: usize,
        found: &mut Found,
        gradient: &mut [f32],
    ) {
        let len = self.shape.sub;
        let at = sub * len;
        let own = &refinement.subs[first / len + sub];
        let slope = &gradient[first + at..][..len];
        // Were the sub-block free, it would move by this and end at `target`.
        let (mut target, mut cost) = ([0.0; MOST_SUB], 0.0);
        for i in 0..len {
            let row = &own.inverse[i * len..(i + 1) * len];
            let step = row.iter().zip(slope).fold(0.0, |sum, (a, b)| sum + a * b);
            target[i] = found.values[at + i] + step;
            cost += step * slope[i];
        }
        let part = Part { factor: &own.factor, stride: len, corners: &own.corners };
        let d = f16::from_bits(found.chosen.d).to_f32();
        let code = i32::from(found.chosen.scales[sub]);
        let best = self.choose_near::<L>(&target[..len], part, d, code, REACH, cost * LESS);
        let Some(best) = best else { return };
        let before = found.values;
        found.take(&best, at, self.shape);
        let changes = before.iter().zip(&found.values).enumerate().skip(at).take(len);
        for (i, (before, after)) in changes {
            refinement.move_value(first + i, after - before, gradient);
        }
    }
}

/// Gives a super-block the scale that suits its codes best.
#[inline(always)]
fn refit(refinement: &Refinement, first: usize, found: &mut Found, gradient: &mut [f32]) {
    let (mut slope, mut cost) = (0.0, 0.0);
    for (i, value) in found.values.iter().enumerate() {
        let row = &refinement.costs[(first + i) * refinement.size + first..][..SUPER_BLOCK];
        let product = row.iter().zip(&found.values).fold(0.0, |sum, (m, v)| sum + m * v);
        cost += value * product;
        slope += value * gradient[first + i];
    }
    let old = f16::from_bits(found.chosen.d);
    let new = f16::from_f32(old.to_f32() * (1.0 + slope / cost));
    // Also where all values are zero, and where the scale would change its sign.
    if new == old || !(new.is_finite() && new > f16::ZERO) {
        return;
    }
    let ratio = new.to_f32() / old.to_f32();
    found.chosen.d = new.to_bits();
    for i in 0..SUPER_BLOCK {
        let value = found.values[i] * ratio;
        refinement.move_value(first + i, value - found.values[i], gradient);
        found.values[i] = value;
    }
}

impl Refinement {
    /// What a change of one value does to the gradient.
    #[inline(always)]
    fn move_value(&self, column: usize, change: f32, gradient: &mut [f32]) {
        if change != 0.0 {
            let row = &self.costs[column * self.size..][..self.size];
            gradient.iter_mut().zip(row).for_each(|(g, m)| *g -= change * m);
        }
    }
}
