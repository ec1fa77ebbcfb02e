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
    let transposed = |m: Matrix<'_, f32>| -> Vec<f32> {
        (0..m.cols()).flat_map(|j| (0..m.rows()).map(move |i| m.at(i, j))).collect()
    };
    let (a_transposed, b_transposed) = (transposed(a), transposed(b));
    let a_transposed = Matrix::new(&a_transposed, depth, rows).transposed();
    let b_transposed = Matrix::new(&b_transposed, cols, depth).transposed();
    let mut out = vec![7.0; rows * stride];
    add_product(a_transposed.rows_of(3..20), b_transposed.columns(10..41), &mut out[5..], stride);
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

/// Values, five of six of them zero, as squared ReLU leaves them.
fn sparse_values(count: usize, seed: u64) -> Vec<f32> {
    let kept = values(count, seed ^ 0x5eed);
    values(count, seed).into_iter().zip(kept).map(|(x, kept)| if kept > 0.7 { x } else { 0.0 }).collect()
}

#[test]
fn sparse_products_have_the_bits_of_dense_ones() {
    for [rows, depth, cols] in SHAPES {
        let (a, b, start) =
            (sparse_values(rows * depth, 10), values(depth * cols, 11), values(rows * cols, 12));
        let (dense, b) = (Matrix::new(&a, rows, depth), Matrix::new(&b, depth, cols));
        let sparse = SparseMatrix::new(&a, depth);
        let part = rows / 3..rows;
        for level in Level::available() {
            let (mut expected, mut found) = (start.clone(), start.clone());
            add_product_with(level, dense.rows_of(part.clone()), b, &mut expected, cols);
            add_sparse_product_with(level, &sparse, part.clone(), b, &mut found, cols);
            assert!(expected == found, "{level} {rows} {depth} {cols}");
        }
    }
}

#[test]
fn sampled_products_follow_their_definition_bit_for_bit() {
    for [rows, depth, cols] in SHAPES {
        let (a, b) = (values(rows * depth, 13), values(cols * depth, 14));
        let places = SparseMatrix::new(&sparse_values(rows * cols, 15), cols);
        let dot = |i: usize, j: usize| {
            let (a, b) = (&a[i * depth..][..depth], &b[j * depth..][..depth]);
            let runs = a.chunks(DEPTH).zip(b.chunks(DEPTH));
            runs.fold(0.0, |sum, (a, b)| {
                let mut lanes = [0.0f32; 16];
                for (k, (&a, &b)) in a.iter().zip(b).enumerate() {
                    lanes[k % 16] = libm::fmaf(a, b, lanes[k % 16]);
                }
                for half in [8, 4, 2, 1] {
                    (0..half).for_each(|l| lanes[l] += lanes[l + half]);
                }
                sum + lanes[0]
            })
        };
        for level in Level::available() {
            let found = sampled_product_with(level, &a, &b, depth, &places);
            for row in 0..rows {
                let found: Vec<(usize, f32)> = found.row(row).collect();
                let expected: Vec<(usize, f32)> = places.row(row).map(|(j, _)| (j, dot(row, j))).collect();
                assert!(found == expected, "{level} {rows} {depth} {cols}: row {row}");
            }
        }
    }
}

#[test]
fn sparse_matrices_are_what_they_were_made_of() {
    let (rows, cols) = (600, 700);
    let dense = sparse_values(rows * cols, 16);
    let sparse = SparseMatrix::new(&dense, cols);
    assert!(sparse.dense(0..cols) == dense);
    let part = sparse.dense(256..700);
    assert!(part.chunks_exact(444).zip(dense.chunks_exact(cols)).all(|(part, row)| *part == row[256..]));
    let transposed = sparse.transposed();
    let expected: Vec<f32> = (0..cols).flat_map(|j| dense[j..].iter().step_by(cols).copied()).collect();
    assert!(transposed.dense(0..rows) == expected);
    assert!(transposed == SparseMatrix::new(&expected, rows));
    let bytes = sparse.to_bytes();
    assert!(SparseMatrix::from_bytes(rows, cols, &bytes).as_ref() == Some(&sparse));
    assert_eq!(SparseMatrix::from_bytes(rows, cols, &bytes[..bytes.len() - 1]), None);
    assert_eq!(SparseMatrix::from_bytes(rows - 1, cols, &bytes), None);
    let squares: f32 = dense[cols..2 * cols].iter().map(|x| x * x).sum();
    assert_eq!(sparse.row_squares(1), squares);
}
