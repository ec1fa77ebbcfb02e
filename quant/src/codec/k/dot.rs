//! Products of k-quants with activations.

use std::marker::PhantomData;

use super::layout::Layout;
use crate::codec::dot::{self, DotType, IntRow, Lanes};
use crate::codec::field::RUN;
use crate::simd::Level;

/// A type with this layout.
struct Blocks<T>(PhantomData<T>);

/// The sum over columns of weight times activation of one row.
pub(super) fn dot<T: Layout>(level: Level, bytes: &[u8], row: &IntRow) -> f32 {
    dot::dot::<Blocks<T>>(level, bytes, row)
}

impl<T: Layout> DotType for Blocks<T> {
    #[inline(always)]
    fn sums<L: Lanes>(lanes: L, bytes: &[u8], row: &IntRow) -> L::F {
        const { assert!(!T::MINS || T::SUB == RUN, "activations are summed up run by run") };
        let mut total = lanes.splat(0.0);
        for (block, activations) in bytes.chunks_exact(T::BYTES).zip(row.blocks()) {
            let scales = T::scales(block);
            let scale = lanes.floats(&scales.scale);
            let mut sums = lanes.splat(0.0);
            unroll!(run in [0 1 2 3 4 5 6 7] {
                let products = lanes.products(T::fields(run), T::ZERO, block, activations.run(run));
                let scale = if T::SUB == RUN {
                    lanes.splat(scale[run])
                } else {
                    lanes.halves(scale[2 * run], scale[2 * run + 1])
                };
                sums = lanes.add(sums, lanes.mul(products, scale));
            });
            total = lanes.add(total, lanes.mul(sums, lanes.splat(scales.d * activations.scale)));
            if T::MINS {
                let mins = std::array::from_fn(|run| f32::from(scales.min[run]));
                let mins = lanes.mul(lanes.load(&mins), lanes.load(activations.sums));
                total = lanes.sub(total, lanes.mul(lanes.splat(scales.dmin * activations.scale), mins));
            }
        }
        total
    }
}
