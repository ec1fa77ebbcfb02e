//! Tiles of Arm's 128-bit vectors: parts of six rows by four vectors, whose sums take 24 of 32 registers.

use std::arch::aarch64::*;

use super::sparse::{LANES, PANEL_COLS, add_lanes, sparse_functions};
use super::tile::{Real, TILE_ROWS, tile_function};

tile_function! {
    tile_f32: f32, "neon", rows [0 1 2 3 4 5], vectors [0 1 2 3], 4 lanes,
    vdupq_n_f32(0.0), vld1q_f32, vst1q_f32, vdupq_n_f32,
    |sum, a, b| vfmaq_f32(sum, a, b)
}

tile_function! {
    tile_f64: f64, "neon", rows [0 1 2 3 4 5], vectors [0 1 2 3], 2 lanes,
    vdupq_n_f64(0.0), vld1q_f64, vst1q_f64, vdupq_n_f64,
    |sum, a, b| vaddq_f64(sum, vmulq_f64(a, b))
}

sparse_functions! {
    "neon", vectors [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15], parts [0 1 2 3], 4 lanes,
    vdupq_n_f32(0.0), vld1q_f32, vst1q_f32, vdupq_n_f32,
    |sum, a, b| vfmaq_f32(sum, a, b), |a, b| vaddq_f32(a, b)
}
