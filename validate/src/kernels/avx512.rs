//! AVX-512 with VNNI.

use std::arch::x86_64::*;

use super::{GROUP, IntOperands, TILE_OUTPUTS, TILE_TOKENS, Tile};

/// Vectors of a tile's row.
const WIDTH: usize = TILE_OUTPUTS / 16;

/// Adds the products of pairs of 16-bit values to 32-bit sums. `_mm512_dpwssd_epi32` means the same, but LLVM
/// takes it apart into a multiplication and an addition, which halves the speed.
#[target_feature(enable = "avx512f,avx512vnni")]
#[inline]
fn add_products(mut sums: __m512i, a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: one instruction of AVX512-VNNI on registers, without other effects.
    unsafe {
        std::arch::asm!(
            "vpdpwssd {sums}, {a}, {b}",
            sums = inout(zmm_reg) sums, a = in(zmm_reg) a, b = in(zmm_reg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn tile_i16(operands: IntOperands<'_>, tile: &mut Tile) {
    let groups = operands.groups();
    *tile = [[0.0; TILE_OUTPUTS]; TILE_TOKENS];
    let (mut a, mut w) = (operands.activations.as_ptr(), operands.weights.as_ptr());
    for group in 0..groups {
        let mut sums = [[_mm512_setzero_si512(); WIDTH]; TILE_TOKENS];
        for _ in 0..GROUP / 2 {
            // SAFETY: groups * GROUP / 2 steps of TILE_TOKENS and TILE_OUTPUTS pairs lie within the slices.
            unsafe {
                let row = [_mm512_loadu_si512(w.cast()), _mm512_loadu_si512(w.add(32).cast())];
                unroll!(token in [0 1 2 3 4 5 6 7 8 9 10 11] {
                    let pair = _mm512_set1_epi32(a.add(2 * token).cast::<i32>().read_unaligned());
                    sums[token][0] = add_products(sums[token][0], pair, row[0]);
                    sums[token][1] = add_products(sums[token][1], pair, row[1]);
                });
                a = a.add(2 * TILE_TOKENS);
                w = w.add(2 * TILE_OUTPUTS);
            }
        }
        let a_scales = &operands.activation_scales[group * TILE_TOKENS..][..TILE_TOKENS];
        let w_scales = &operands.weight_scales[group * TILE_OUTPUTS..][..TILE_OUTPUTS];
        // SAFETY: both slices and the tile's rows hold two vectors.
        unsafe {
            let scales = [_mm512_loadu_ps(w_scales.as_ptr()), _mm512_loadu_ps(w_scales.as_ptr().add(16))];
            unroll!(token in [0 1 2 3 4 5 6 7 8 9 10 11] {
                let a_scale = _mm512_set1_ps(a_scales[token]);
                unroll!(half in [0 1] {
                    let out = tile[token].as_mut_ptr().add(16 * half);
                    let sum = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[token][half]), scales[half]);
                    _mm512_storeu_ps(out, _mm512_add_ps(_mm512_loadu_ps(out), _mm512_mul_ps(sum, a_scale)));
                });
            });
        }
    }
}
