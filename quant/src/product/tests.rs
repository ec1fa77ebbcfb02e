use super::*;

/// A deterministic stream of values in -1..1, some of them zero.
fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let value = (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        if state.is_multiple_of(5) { 0.0 } else { value }
    };
    (0..count).map(|_| next()).collect()
}

fn wide(values: Vec<f32>) -> Vec<f64> {
    values.into_iter().map(f64::from).collect()
}

const SHAPES: [[usize; 3]; 6] =
    [[1, 1, 1], [12, 300, 32], [13, 256, 33], [40, 517, 70], [5, 1000, 16], [30, 7, 5000]];

#[test]
fn products_follow_their_definition_bit_for_bit() {
    for [rows, depth, cols] in SHAPES {
        let (a, b, start) = (values(rows * depth, 1), values(depth * cols, 2), values(rows * cols, 3));
        let mut expected = start.clone();
        for i in 0..rows {
            for j in 0..cols {
                for run in (0..depth).step_by(DEPTH) {
                    let terms = run..(run + DEPTH).min(depth);
                    let term = |sum, k| libm::fmaf(a[i * depth + k], b[k * cols + j], sum);
                    expected[i * cols + j] += terms.fold(0.0, term);
                }
            }
        }
        for level in Level::available() {
            let mut out = start.clone();
            let (a, b) = (Matrix::new(&a, rows, depth), Matrix::new(&b, depth, cols));
            add_product_with(level, a, b, &mut out, cols);
            assert!(out == expected, "{level} {rows} {depth} {cols}");
        }
    }
}

#[test]
fn products_in_f64_follow_theirs() {
    for [rows, depth, cols] in SHAPES {
        let (a, b) = (wide(values(rows * depth, 4)), wide(values(depth * cols, 5)));
        let mut expected = vec![0.0; rows * cols];
        for i in 0..rows {
            for j in 0..cols {
                for run in (0..depth).step_by(DEPTH) {
                    let terms = run..(run + DEPTH).min(depth);
                    expected[i * cols + j] +=
                        terms.fold(0.0, |sum, k| sum + a[i * depth + k] * b[k * cols + j]);
                }
            }
        }
        for level in Level::available() {
            let mut out = vec![0.0; rows * cols];
            let (a, b) = (Matrix::new(&a, rows, depth), Matrix::new(&b, depth, cols));
            add_product_with(level, a, b, &mut out, cols);
            assert!(out == expected, "{level} {rows} {depth} {cols}");
        }
    }
}

#[test]
fn operands_may_be_transposed_or_parts() {
    let (rows, depth, cols, stride) = (29, 40, 50, 64);
    let (a, b) = (values(rows * depth, 6), values(depth * cols, 7));
    let (a, b) = (Matrix::new(&a, rows, depth), Matrix::new(&b, depth, cols));
    let mut expected = vec![0.0; rows * cols];
    add_product(a, b, &mut expected, cols);
    let turned = |m: Matrix<'_, f32>| -> Vec<f32> {
        (0..m.cols()).flat_map(|j| (0..m.rows()).map(move |i| m.at(i, j))).collect()
    };
    let (a_turned, b_turned) = (turned(a), turned(b));
    let a_turned = Matrix::new(&a_turned, depth, rows).transposed();
    let b_turned = Matrix::new(&b_turned, cols, depth).transposed();
    let mut out = vec![7.0; rows * stride];
    add_product(a_turned.rows_of(3..20), b_turned.columns(10..41), &mut out[5..], stride);
    for i in 0..rows {
        for j in 0..stride {
            let inside = i < 17 && (5..36).contains(&j);
            let product = if inside { expected[(i + 3) * cols + j + 5] } else { 0.0 };
            let found = out[i * stride + j] - 7.0;
            assert!((found - product).abs() < 1e-5, "[{i}, {j}] {found} {product}");
        }
    }
}

#[test]
fn threads_change_nothing() {
    let (rows, depth, cols) = (700, 300, 90);
    let (a, b) = (values(rows * depth, 8), values(depth * cols, 9));
    let product = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        let mut out = vec![0.0; rows * cols];
        pool.install(|| {
            add_product(Matrix::new(&a, rows, depth), Matrix::new(&b, depth, cols), &mut out, cols)
        });
        out
    };
    assert!(product(1) == product(3));
}

#[test]
fn every_level_rounds_a_term_once() {
    // Sums that f64 rounds to half-way between two f32, sums below the normal numbers, and those that overflow.
    let tie = [1.0 + f32::EPSILON, 1.0 - f32::EPSILON / 2.0, 1.0, 16_777_217.0, 3.0];
    let tiny = [f32::MIN_POSITIVE, 1e-40, -1e-45, 1.5e-38, -0.0];
    let odd = [8_388_609.0, -0.333_333_34, 1e-9, f32::MAX, 1e30];
    let all: Vec<f32> = tie.into_iter().chain(tiny).chain(odd).flat_map(|x| [x, -x, x * 0.5]).collect();
    let all = &all[..TILE_COLS];
    for &first in all {
        for &a in all {
            // The first term is the number itself, the second is added to it.
            let left: Vec<f32> = [[1.0; TILE_ROWS], [a; TILE_ROWS]].concat();
            let right = [&[first; TILE_COLS][..], all].concat();
            for level in Level::available() {
                let mut found = [[0.0; TILE_COLS]; TILE_ROWS];
                tile(level, &left, &right, &mut found);
                for (&b, found) in all.iter().zip(found[3]) {
                    let expected = libm::fmaf(a, b, first + 0.0);
                    let same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
                    assert!(same, "{level}: {a} * {b} + {first} = {expected}, not {found}");
                }
            }
        }
    }
}
