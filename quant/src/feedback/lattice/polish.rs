//! Last thoughts: when all rows are chosen, each is chosen anew under what all others left, those below it too.

use super::step::Refinement;
use super::{Found, Lattice, SUPER_BLOCK};
use crate::feedback::line::Sheet;
use crate::product::{Matrix, add_product};
use crate::simd::Loop;

impl Lattice {
    pub(super) fn polish<const L: usize>(&self, sheet: &mut Sheet<'_, Found>) {
        let costs = std::mem::take(&mut sheet.costs);
        let Some(refinement) = Refinement::new(costs, sheet.cols, self.shape.sub) else { return };
        let mut slopes = slopes(sheet, &refinement);
        for _ in 0..self.search.polishes {
            self.level.run(Pass::<L> {
                lattice: self,
                refinement: &refinement,
                sheet: &mut *sheet,
                slopes: &mut slopes,
            });
        }
    }
}

/// Errors times costs, `[rows, cols]`.
fn slopes(sheet: &Sheet<'_, Found>, refinement: &Refinement) -> Vec<f32> {
    let cols = sheet.cols;
    let rows = sheet.target.len() / cols;
    let mut errors = sheet.target.clone();
    for (index, found) in sheet.chosen.iter().enumerate() {
        let at = index % rows * cols + index / rows * SUPER_BLOCK;
        errors[at..at + SUPER_BLOCK].iter_mut().zip(&found.values).for_each(|(e, v)| *e -= v);
    }
    let mut out = vec![0.0; rows * cols];
    let costs = Matrix::new(&refinement.costs, cols, cols);
    add_product(Matrix::new(&errors, rows, cols), costs, &mut out, cols);
    out
}

/// One pass over all rows.
struct Pass<'a, 'b, const L: usize> {
    lattice: &'a Lattice,
    refinement: &'a Refinement,
    sheet: &'a mut Sheet<'b, Found>,
    slopes: &'a mut [f32],
}

impl<const L: usize> Loop for Pass<'_, '_, L> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Pass { lattice, refinement, sheet, slopes } = self;
        let cols = sheet.cols;
        let rows = slopes.len() / cols;
        for i in 0..rows {
            // What the errors of all rows cost together with this one's, in units of what its own do.
            let mut before = slopes[i * cols..(i + 1) * cols].to_vec();
            if let Some(factor) = sheet.rows {
                let shares = factor.costs(i);
                for (k, slopes) in slopes.chunks_exact(cols).enumerate().filter(|(k, _)| *k != i) {
                    let share = shares[k] / shares[i];
                    before.iter_mut().zip(slopes).for_each(|(b, s)| *b += share * s);
                }
            }
            let mut after = before.clone();
            for step in 0..cols / SUPER_BLOCK {
                let found = &mut sheet.chosen[step * rows + i];
                lattice.choose_again::<L>(refinement, step * SUPER_BLOCK, found, &mut after);
            }
            let own = slopes[i * cols..].iter_mut().zip(after.iter().zip(&before));
            own.for_each(|(s, (after, before))| *s += after - before);
        }
    }
}
