//! Tiles of AVX2 with FMA: parts of six rows by two vectors, whose sums take 12 of 16 registers.

use std::arch::x86_64::*;

use super::sparse::{LANES, PANEL_COLS, add_lanes, sparse_functions};
use super::tile::{Real, TILE_ROWS, tile_function};

tile_function! {
    tile_f32: f32, "avx2,fma", rows [0 1 2 3 4 5], vectors [0 1], 8 lanes,
    _mm256_setzero_ps(), _mm256_loadu_ps, _mm256_storeu_ps, _mm256_set1_ps,
    |sum, a, b| _mm256_fmadd_ps(a, b, sum)
}

tile_function! {
    tile_f64: f64, "avx2,fma", rows [0 1 2 3 4 5], vectors [0 1], 4 lanes,
    _mm256_setzero_pd(), _mm256_loadu_pd, _mm256_storeu_pd, _mm256_set1_pd,
    |sum, a, b| _mm256_add_pd(sum, _mm256_mul_pd(a, b))
}

sparse_functions! {
    "avx2,fma", vectors [0 1 2 3 4 5 6 7], parts [0 1], 8 lanes,
    _mm256_setzero_ps(), _mm256_loadu_ps, _mm256_storeu_ps, _mm256_set1_ps,
    |sum, a, b| _mm256_fmadd_ps(a, b, sum), |a, b| _mm256_add_ps(a, b)
}
