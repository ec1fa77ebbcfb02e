//! Bytes say what was chosen, and feedback lowers the loss it is meant to lower.

use super::*;
use crate::block_symmetric::BlockSymmetric;
use crate::codec;
use crate::simd::Level;

const TYPES: [DType; 19] = [
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q8_0,
    DType::Iq4Nl,
    DType::Iq4Xs,
    DType::Q2K,
    DType::Q3K,
    DType::Q4K,
    DType::Q5K,
    DType::Q6K,
    DType::Iq1S,
    DType::Iq1M,
    DType::Iq2Xxs,
    DType::Iq2Xs,
    DType::Iq2S,
    DType::Iq3Xxs,
    DType::Iq3S,
];

/// Reproducible values, roughly normal.
fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..count).map(|_| (0..6).map(|_| uniform()).sum()).collect()
}

/// A covariance of rank `samples`, as full matrix and packed.
fn covariance(size: usize, samples: usize, seed: u64) -> (Vec<f32>, BlockSymmetric) {
    let common = noise(samples, seed);
    let mut x = noise(samples * size, seed + 1);
    for (t, row) in x.chunks_exact_mut(size).enumerate() {
        row.iter_mut().enumerate().for_each(|(j, x)| *x += common[t] * (j % 5) as f32 / 2.0);
    }
    let full: Vec<f32> = (0..size * size)
        .map(|at| (0..samples).map(|t| x[t * size + at / size] * x[t * size + at % size]).sum())
        .collect();
    let upper = (0..size).flat_map(|i| full[i * size + i..(i + 1) * size].iter().copied()).collect();
    (full, BlockSymmetric::from_values(size, size, upper).expect("a triangle"))
}

/// `trace(G E H Eᵀ)`.
fn loss(error: &[f32], rows: usize, cols: usize, g: &[f32], h: &[f32]) -> f64 {
    let mut eh = vec![0f64; rows * cols];
    for i in 0..rows {
        for k in 0..cols {
            let e = f64::from(error[i * cols + k]);
            (0..cols).for_each(|j| eh[i * cols + j] += e * f64::from(h[k * cols + j]));
        }
    }
    let mut total = 0.0;
    for i in 0..rows {
        for k in 0..rows {
            let inner: f64 = (0..cols).map(|j| eh[i * cols + j] * f64::from(error[k * cols + j])).sum();
            total += f64::from(g[i * rows + k]) * inner;
        }
    }
    total
}

fn lattice(dtype: DType) -> Lattice {
    match codec(dtype).map(|codec| codec.guided) {
        Some(Guided::Points { shape, pack }) => Lattice::new(dtype, shape, pack, Effort::Normal),
        other => panic!("{dtype}: {other:?}"),
    }
}

fn encoded(dtype: DType, values: &[f32], columns: &ColumnFactor, rows: Option<&RowFactor>) -> Vec<u8> {
    let mut out = vec![0; dtype.encoded_len(values.len()).expect("whole blocks")];
    encode_group(dtype, &mut values.to_vec(), columns, rows, Effort::Normal, &mut out).expect("valid input");
    out
}

fn decoded(dtype: DType, bytes: &[u8], count: usize) -> Vec<f32> {
    let mut out = vec![0.0; count];
    codec::decode(dtype, bytes, &mut out).expect("whole blocks");
    out
}

#[test]
fn each_direction_of_feedback_lowers_the_loss_of_every_type() {
    let (rows, cols) = (24, 512);
    let values = noise(rows * cols, 3);
    let (h, inputs) = covariance(cols, 700, 5);
    let (g, outputs) = covariance(rows, 60, 9);
    let columns = ColumnFactor::new(&inputs).expect("a covariance");
    let mut groups = RowFactor::per_group(&outputs).expect("a covariance");
    let group = groups.remove(0);
    let importance: Vec<f32> = (0..cols).map(|j| h[j * cols + j]).collect();
    for dtype in TYPES {
        let error = |bytes: &[u8]| -> f64 {
            let decoded = decoded(dtype, bytes, values.len());
            let error: Vec<f32> = decoded.iter().zip(&values).map(|(a, b)| a - b).collect();
            loss(&error, rows, cols, &g, &h)
        };
        let mut plain = vec![0; dtype.encoded_len(values.len()).expect("whole blocks")];
        codec::encode_rows(dtype, &values, cols, Some(&importance), &mut plain).expect("valid input");
        let one = error(&encoded(dtype, &values, &columns, None));
        let both = error(&encoded(dtype, &values, &columns, Some(&group)));
        let plain = error(&plain);
        assert!(one < 0.8 * plain, "{dtype}: columns {one:e} against {plain:e}");
        assert!(both < 0.8 * one, "{dtype}: both {both:e} against columns alone {one:e}");
    }
}

/// With nothing to feed back, what is decoded is at most half a step away: the packed bytes say what was chosen.
#[test]
fn without_correlation_values_are_rounded_to_the_nearest() {
    let (rows, cols) = (3, 512);
    let values = noise(rows * cols, 11);
    let mut identity = BlockSymmetric::zeros(cols, cols);
    let mut at = 0;
    for row in 0..cols {
        identity.values_mut()[at] = 1.0;
        at += cols - row;
    }
    let columns = ColumnFactor::new(&identity).expect("a covariance");
    for dtype in TYPES {
        let ours = decoded(dtype, &encoded(dtype, &values, &columns, None), values.len());
        let mut bytes = vec![0; dtype.encoded_len(values.len()).expect("whole blocks")];
        codec::encode_rows(dtype, &values, cols, Some(&vec![1.0; cols]), &mut bytes).expect("valid input");
        let theirs = decoded(dtype, &bytes, values.len());
        let square =
            |other: &[f32]| -> f64 { other.iter().zip(&values).map(|(a, b)| f64::from(a - b).powi(2)).sum() };
        assert!(square(&ours) < 1.05 * square(&theirs), "{dtype}: {} {}", square(&ours), square(&theirs));
    }
}

/// `Grid`s as ONNX has them, but for the type of scales.
fn block_grids() -> impl Iterator<Item = grid::Grid> {
    let sizes = [16, 32, 64, 128, 256].into_iter();
    sizes.flat_map(|block_size| {
        [(4, true), (4, false), (8, true), (8, false)].map(|(bits, symmetric)| grid::Grid {
            bits,
            block_size,
            symmetric,
            scale_type: DType::F32,
        })
    })
}

fn in_blocks(
    grid: &grid::Grid,
    values: &[f32],
    columns: &ColumnFactor,
    rows: Option<&RowFactor>,
) -> (Blocks, Vec<f32>) {
    let (mut blocks, mut back) = (Blocks::default(), Vec::new());
    let effort = Effort::Normal;
    encode_group_in_blocks(grid, &mut values.to_vec(), columns, rows, effort, &mut blocks)
        .expect("valid input");
    grid::dequantize(grid, &blocks, columns.cols(), &mut back);
    (blocks, back)
}

#[test]
fn each_direction_of_feedback_lowers_the_loss_of_every_grid() {
    let (rows, cols) = (12, 512);
    // One row is below zero throughout: its zero point is at the end of the codes.
    let mut values = noise(rows * cols, 3);
    values[..cols].iter_mut().for_each(|x| *x = -x.abs() - 0.5);
    let (h, inputs) = covariance(cols, 700, 5);
    let (g, outputs) = covariance(rows, 60, 9);
    let columns = ColumnFactor::new(&inputs).expect("a covariance");
    let group = &RowFactor::per_group(&outputs).expect("a covariance")[0];
    let importance: Vec<f32> = (0..cols).map(|j| h[j * cols + j]).collect();
    for grid in block_grids() {
        let harm = |back: &[f32]| -> f64 {
            let error: Vec<f32> = back.iter().zip(&values).map(|(a, b)| a - b).collect();
            loss(&error, rows, cols, &g, &h)
        };
        let (mut blocks, mut back) = (Blocks::default(), Vec::new());
        grid::quantize(&grid, &values, cols, Some(&importance), &mut blocks).expect("valid input");
        grid::dequantize(&grid, &blocks, cols, &mut back);
        let plain = harm(&back);
        let one = harm(&in_blocks(&grid, &values, &columns, None).1);
        let both = harm(&in_blocks(&grid, &values, &columns, Some(group)).1);
        assert!(one < 0.8 * plain, "{grid:?}: columns {one:e} against {plain:e}");
        assert!(both < 0.8 * one, "{grid:?}: both {both:e} against columns alone {one:e}");
    }
}

#[test]
fn symmetric_blocks_of_32_are_those_of_ggml() {
    let (rows, cols) = (4, 512);
    let values = noise(rows * cols, 21);
    let (_, inputs) = covariance(cols, 600, 5);
    let (_, outputs) = covariance(rows, 60, 9);
    let columns = ColumnFactor::new(&inputs).expect("a covariance");
    let group = &RowFactor::per_group(&outputs).expect("a covariance")[0];
    for (bits, dtype) in [(4, DType::Q4_0), (8, DType::Q8_0)] {
        let grid = grid::Grid { bits, block_size: 32, symmetric: true, scale_type: DType::F32 };
        let ours = in_blocks(&grid, &values, &columns, Some(group)).1;
        assert_eq!(ours, decoded(dtype, &encoded(dtype, &values, &columns, Some(group)), values.len()));
    }
}

#[test]
fn zeros_are_zeros_on_every_grid_and_rows_of_whole_blocks_are_asked_for() {
    let (_, inputs) = covariance(512, 40, 1);
    let columns = ColumnFactor::new(&inputs).expect("a covariance");
    for grid in block_grids() {
        let (blocks, back) = in_blocks(&grid, &[0.0; 2 * 512], &columns, None);
        assert!(back.iter().all(|&x| x == 0.0), "{grid:?}");
        assert!(blocks.codes.iter().all(|&code| i32::from(code) <= grid.max_code()), "{grid:?}");
    }
    let narrow = ColumnFactor::new(&BlockSymmetric::zeros(96, 96)).expect("zeros are a covariance");
    let grid = grid::Grid { bits: 4, block_size: 64, symmetric: true, scale_type: DType::F32 };
    let (mut values, mut blocks) = (vec![0.0; 96], Blocks::default());
    let found = encode_group_in_blocks(&grid, &mut values, &narrow, None, Effort::Normal, &mut blocks);
    assert!(matches!(found, Err(Error::RowLength { .. })));
}

#[test]
fn zeros_and_a_group_cut_into_blocks_are_encoded() {
    let (_, inputs) = covariance(512, 40, 1);
    let (_, outputs) = covariance(4, 40, 2);
    let blocks = BlockSymmetric::zeros(512, 256);
    let group = &RowFactor::per_group(&outputs).expect("a covariance")[0];
    for dtype in TYPES {
        for inputs in [&inputs, &blocks] {
            let columns = ColumnFactor::new(inputs).expect("a covariance");
            let zeros = vec![0.0; 4 * 512];
            let bytes = encoded(dtype, &zeros, &columns, Some(group));
            assert!(decoded(dtype, &bytes, zeros.len()).iter().all(|&x| x == 0.0), "{dtype}");
        }
    }
}

#[test]
fn wrong_lengths_and_types_are_refused() {
    let columns = ColumnFactor::new(&BlockSymmetric::zeros(256, 256)).expect("zeros are a covariance");
    let run = |dtype, values: usize, bytes: usize| {
        encode_group(dtype, &mut vec![0.0; values], &columns, None, Effort::Normal, &mut vec![0; bytes])
    };
    assert!(run(DType::Q4K, 512, 288).is_ok());
    assert!(matches!(run(DType::F16, 512, 1024), Err(Error::CannotEncode { .. })));
    assert!(matches!(run(DType::Q4K, 500, 288), Err(Error::PartialRow { .. })));
    assert!(matches!(run(DType::Q4K, 512, 287), Err(Error::EncodedLength { .. })));
}

/// Types whose codes are points of a grid.
const LATTICES: [DType; 7] =
    [DType::Iq1S, DType::Iq1M, DType::Iq2Xxs, DType::Iq2Xs, DType::Iq2S, DType::Iq3Xxs, DType::Iq3S];

fn encoded_by(lattice: Lattice, values: &[f32], columns: &ColumnFactor, rows: Option<&RowFactor>) -> Vec<u8> {
    let mut out = vec![0; lattice.dtype().encoded_len(values.len()).expect("whole blocks")];
    let sweep = Sweep::new(lattice, columns, rows).expect("whole blocks");
    sweep.encode(&mut values.to_vec(), &mut out).expect("valid input");
    out
}

#[test]
fn every_level_chooses_the_same_points() {
    let values = noise(2 * 256, 31);
    let (_, inputs) = covariance(256, 300, 5);
    let columns = ColumnFactor::new(&inputs).expect("a covariance");
    for dtype in LATTICES {
        let by = |level| {
            let mut lattice = lattice(dtype);
            lattice.level = level;
            encoded_by(lattice, &values, &columns, None)
        };
        let expected = by(Level::Generic);
        for level in Level::available() {
            assert_eq!(by(level), expected, "{dtype} {level}");
        }
    }
}

#[test]
fn rows_chosen_anew_cost_less() {
    let (rows, cols) = (24, 256);
    let values = noise(rows * cols, 3);
    let (h, inputs) = covariance(cols, 300, 5);
    let (g, outputs) = covariance(rows, 60, 9);
    let columns = ColumnFactor::new(&inputs).expect("a covariance");
    let group = &RowFactor::per_group(&outputs).expect("a covariance")[0];
    for dtype in [DType::Iq1M, DType::Iq2Xxs, DType::Iq3S] {
        let cost = |polishes| {
            let mut lattice = lattice(dtype);
            lattice.search.polishes = polishes;
            let bytes = encoded_by(lattice, &values, &columns, Some(group));
            let back = decoded(dtype, &bytes, values.len());
            let error: Vec<f32> = back.iter().zip(&values).map(|(a, b)| a - b).collect();
            loss(&error, rows, cols, &g, &h)
        };
        let (once, again) = (cost(0), cost(2));
        assert!(again < 0.97 * once, "{dtype}: {again:e} after {once:e}");
    }
}

#[test]
fn what_a_half_cannot_hold_is_refused() {
    let mut values = vec![1.0; 2 * 256];
    values[300] = 3e9;
    let columns = ColumnFactor::new(&BlockSymmetric::zeros(256, 256)).expect("zeros are a covariance");
    for dtype in TYPES {
        let mut out = vec![0; dtype.encoded_len(values.len()).expect("whole blocks")];
        let found = encode_group(dtype, &mut values.clone(), &columns, None, Effort::Normal, &mut out);
        assert!(matches!(found, Err(Error::NotRepresentable { row: 1, .. })), "{dtype}: {found:?}");
    }
}
