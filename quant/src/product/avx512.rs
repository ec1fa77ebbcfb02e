//! Tiles of AVX-512: 24 of its 32 registers hold sums.

use std::arch::x86_64::*;

use super::sparse::{LANES, PANEL_COLS, add_lanes, sparse_functions};
use super::tile::{Real, TILE_ROWS, tile_function};

tile_function! {
    tile_f32: f32, "avx512f", rows [0 1 2 3 4 5 6 7 8 9 10 11], vectors [0 1], 16 lanes,
    _mm512_setzero_ps(), _mm512_loadu_ps, _mm512_storeu_ps, _mm512_set1_ps,
    |sum, a, b| _mm512_fmadd_ps(a, b, sum)
}

tile_function! {
    tile_f64: f64, "avx512f", rows [0 1 2 3 4 5 6 7 8 9 10 11], vectors [0 1], 8 lanes,
    _mm512_setzero_pd(), _mm512_loadu_pd, _mm512_storeu_pd, _mm512_set1_pd,
    |sum, a, b| _mm512_add_pd(sum, _mm512_mul_pd(a, b))
}

sparse_functions! {
    "avx512f", vectors [0 1 2 3], parts [0], 16 lanes,
    _mm512_setzero_ps(), _mm512_loadu_ps, _mm512_storeu_ps, _mm512_set1_ps,
    |sum, a, b| _mm512_fmadd_ps(a, b, sum), |a, b| _mm512_add_ps(a, b)
}
