//! Types below four bits whose codes are points of a lattice: a group of eight (or four) values shares one index into a
//! table of the combinations that occur most, the grid. IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S, IQ1_S and IQ1_M, in
//! super-blocks of 256 values.
//!
//! Encoding gives the bytes of llama-quantize (`quantize_row_iq…_impl` in ggml-quants.c on x86-64 without fused
//! multiply-add), decoding the values of `dequantize_row_iq…`. Each type has a file with its layout; `search` and `split`
//! hold the searches that they share, `grid` the candidates for a combination that a grid lacks, and `nearest` the
//! choice among these.

#![allow(
    clippy::needless_range_loop,
    reason = "lanes of several arrays go side by side, which vectors follow"
)]

mod grid;
pub(super) mod iq1_m;
pub(super) mod iq1_s;
pub(super) mod iq2_s;
pub(super) mod iq2_xs;
pub(super) mod iq2_xxs;
pub(super) mod iq3_s;
pub(super) mod iq3_xxs;
mod nearest;
mod parts;
mod points;
mod search;
mod shape;
mod split;
mod trie;

use std::marker::PhantomData;

use crate::simd::{Level, Loop};
pub(crate) use grid::code_bits;
#[cfg(target_arch = "x86_64")]
use nearest::{Avx2Nearest, Avx512Nearest};
use nearest::{Nearest, Plain};
pub(crate) use shape::{Chosen, Shape, Signs};
pub(crate) use trie::{Node, Trie};

const SUPER_BLOCK: usize = 256;

/// A type.
trait Encode {
    /// Encodes whole rows, `importance` is `[cols]`. Every kernel gives the same bytes. To be marked `#[inline(always)]`.
    fn encode<K: Nearest>(kernel: K, values: &[f32], importance: Option<&[f32]>, out: &mut [u8]);
}

fn encode<T: Encode>(level: Level, values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let dtype = PhantomData::<T>;
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(token) => {
            level.run(Encoding { kernel: Avx2Nearest(token), dtype, values, importance, out });
        }
        #[cfg(target_arch = "x86_64")]
        Level::Avx512(token) => {
            level.run(Encoding { kernel: Avx512Nearest(token), dtype, values, importance, out });
        }
        _ => level.run(Encoding { kernel: Plain, dtype, values, importance, out }),
    }
}

struct Encoding<'a, T, K> {
    kernel: K,
    dtype: PhantomData<T>,
    values: &'a [f32],
    importance: Option<&'a [f32]>,
    out: &'a mut [u8],
}

impl<T: Encode, K: Nearest> Loop for Encoding<'_, T, K> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        T::encode(self.kernel, self.values, self.importance, self.out);
    }
}
