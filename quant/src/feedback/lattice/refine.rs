//! Second thoughts: when all of a super-block is chosen, each sub-block is chosen anew under what the others left, those
//! after it too, and the common scale is fitted to the codes.

use half::f16;

use super::step::Refinement;
use super::sub_block::Part;
use super::{Found, Lattice, MOST_SUB, SUPER_BLOCK};
use crate::feedback::sweep::Line;

impl Lattice {
    #[inline(always)]
    pub(super) fn refine<const L: usize>(&self, line: &Line<'_>, refinement: &Refinement, found: &mut Found) {
        for pass in 0..self.search.passes {
            if pass == 0 {
                refit(line, refinement, found);
            }
            let mut gradient = refinement.gradient(line.target, &found.values);
            for sub in 0..SUPER_BLOCK / self.shape.sub {
                self.choose_again::<L>(refinement, sub, found, &mut gradient);
            }
        }
    }

    /// Chooses a sub-block anew if that costs less; `gradient` follows.
    #[inline(always)]
    fn choose_again<const L: usize>(
        &self,
        refinement: &Refinement,
        sub: usize,
        found: &mut Found,
        gradient: &mut [f32; SUPER_BLOCK],
    ) {
        let len = self.shape.sub;
        let at = sub * len;
        let own = &refinement.subs[sub];
        // Were the sub-block free, it would move by this and end at `target`.
        let (mut target, mut cost) = ([0.0; MOST_SUB], 0.0);
        for i in 0..len {
            let row = &own.inverse[i * len..(i + 1) * len];
            let step: f32 = row.iter().zip(&gradient[at..]).map(|(a, b)| a * b).sum();
            target[i] = found.values[at + i] + step;
            cost += step * gradient[at + i];
        }
        let part = Part { factor: &own.factor, stride: len, corners: &own.corners };
        let d = f16::from_bits(found.chosen.d).to_f32();
        let code = i32::from(found.chosen.scales[sub]);
        let limit = cost * 0.9999;
        let Some(best) = self.choose_near::<L>(&target[..len], part, d, code, 1, limit) else { return };
        let before: [f32; MOST_SUB] =
            std::array::from_fn(|i| if i < len { found.values[at + i] } else { 0.0 });
        found.take(&best, at, self.shape);
        for i in 0..len {
            let change = found.values[at + i] - before[i];
            if change != 0.0 {
                let row = &refinement.cost[(at + i) * SUPER_BLOCK..][..SUPER_BLOCK];
                gradient.iter_mut().zip(row).for_each(|(g, m)| *g -= change * m);
            }
        }
    }
}

/// Gives the super-block the scale that suits its codes best.
#[inline(always)]
fn refit(line: &Line<'_>, refinement: &Refinement, found: &mut Found) {
    let mv = refinement.times(&found.values);
    let dot = |x: &[f32]| -> f32 { x.iter().zip(&mv).map(|(a, b)| a * b).sum() };
    let (tq, qq) = (dot(line.target), dot(&found.values));
    if !(qq > 0.0 && tq > 0.0) {
        return;
    }
    let old = f16::from_bits(found.chosen.d);
    let new = f16::from_f32(old.to_f32() * (tq / qq));
    if new == old || !new.is_finite() || new.to_f32() == 0.0 {
        return;
    }
    let ratio = new.to_f32() / old.to_f32();
    found.chosen.d = new.to_bits();
    found.values.iter_mut().for_each(|v| *v *= ratio);
}

impl Refinement {
    /// `M x`.
    #[inline(always)]
    fn times(&self, x: &[f32; SUPER_BLOCK]) -> [f32; SUPER_BLOCK] {
        let mut out = [0.0; SUPER_BLOCK];
        for (x, row) in x.iter().zip(self.cost.chunks_exact(SUPER_BLOCK)) {
            out.iter_mut().zip(row).for_each(|(out, m)| *out += x * m);
        }
        out
    }

    /// Half the gradient of the cost by the values, turned around.
    #[inline(always)]
    fn gradient(&self, target: &[f32], values: &[f32; SUPER_BLOCK]) -> [f32; SUPER_BLOCK] {
        self.times(&std::array::from_fn(|i| target[i] - values[i]))
    }
}
