use super::*;

/// A deterministic stream of values in -1..1.
fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn available() -> impl Iterator<Item = (Level, Kernels)> {
    Level::available().map(|level| (level, Kernels(level)))
}

fn integers(count: usize, limit: i32, seed: u64) -> Vec<i16> {
    values(count, seed).into_iter().map(|x| (x * limit as f32) as i16).collect()
}

#[test]
fn float_tiles_are_equal_bit_for_bit() {
    for k in [1, 7, 192, 517] {
        let (a, w) = (values(k * TILE_TOKENS, 1), values(k * TILE_OUTPUTS, 2));
        let mut expected = [[0.0; TILE_OUTPUTS]; TILE_TOKENS];
        Kernels(Level::Generic).tile_f32(&a, &w, &mut expected);
        for (kernel, table) in available() {
            let mut tile = [[f32::NAN; TILE_OUTPUTS]; TILE_TOKENS];
            table.tile_f32(&a, &w, &mut tile);
            assert!(tile == expected, "{kernel} k={k}");
        }
    }
}

#[test]
fn integer_tiles_are_equal_bit_for_bit() {
    for groups in [1, 3, 32] {
        let activations = integers(groups * GROUP * TILE_TOKENS, 5787, 3);
        let weights = integers(groups * GROUP * TILE_OUTPUTS, 5787, 4);
        let activation_scales = values(groups * TILE_TOKENS, 5);
        let weight_scales = values(groups * TILE_OUTPUTS, 6);
        let operands = IntOperands {
            activations: &activations,
            activation_scales: &activation_scales,
            weights: &weights,
            weight_scales: &weight_scales,
        };
        let mut expected = [[0.0; TILE_OUTPUTS]; TILE_TOKENS];
        generic::tile_i16(operands, &mut expected);
        for (kernel, table) in available() {
            let mut tile = [[f32::NAN; TILE_OUTPUTS]; TILE_TOKENS];
            table.tile_i16(operands, &mut tile);
            assert!(tile == expected, "{kernel}, {groups} groups");
        }
    }
}

#[test]
fn integer_tiles_hold_the_largest_groups() {
    let kernels = Kernels(Level::Generic);
    let mut spike = [0.0; GROUP];
    (spike[0], spike[1]) = (1e9, -1e9);
    for group in [[0.37f32; GROUP], spike] {
        let (mut row, mut weights) = ([0i16; GROUP], vec![0i16; GROUP * TILE_OUTPUTS]);
        let scale = kernels.round_group(&group, &mut row);
        let mut weight_scales = [0.0; TILE_OUTPUTS];
        let rows: Vec<f32> = group.map(|x| -x).repeat(TILE_OUTPUTS);
        kernels.interleave_weights(&rows, GROUP, &mut weights, &mut weight_scales);
        let pairs = row.as_chunks::<2>().0;
        let activations: Vec<i16> = pairs.iter().flat_map(|p| p.repeat(TILE_TOKENS)).collect();
        let operands = IntOperands {
            activations: &activations,
            activation_scales: &[scale; TILE_TOKENS],
            weights: &weights,
            weight_scales: &weight_scales,
        };
        let exact = -group.iter().map(|x| *x as f64 * *x as f64).sum::<f64>();
        for (kernel, table) in available() {
            let mut tile = [[0.0; TILE_OUTPUTS]; TILE_TOKENS];
            table.tile_i16(operands, &mut tile);
            assert!(tile.iter().flatten().all(|&x| (x as f64 / exact - 1.0).abs() < 2e-4), "{kernel}");
        }
    }
}

#[test]
fn exponentials_are_right_and_equal_bit_for_bit() {
    let inputs: Vec<f32> = (0..4099).map(|i| 5.0 - i as f32 * 0.025).collect();
    let mut expected = inputs.clone();
    let sum = Kernels(Level::Generic).exp_minus(&mut expected, 5.0);
    for (&x, &found) in inputs.iter().zip(&expected) {
        let exact = ((x as f64 - 5.0).max(-87.0)).exp();
        assert!((found as f64 - exact).abs() <= 3e-7 * exact, "exp({})", x - 5.0);
    }
    for (kernel, table) in available() {
        let mut found = inputs.clone();
        assert_eq!(table.exp_minus(&mut found, 5.0), sum, "{kernel}");
        assert!(found == expected, "{kernel}");
    }
}

#[test]
fn scalar_products_are_equal_bit_for_bit() {
    for len in [0, 1, 63, 64, 200, 2048] {
        let (a, b) = (values(len, 7), values(len, 8));
        let exact: f64 = a.iter().zip(&b).map(|(x, y)| *x as f64 * *y as f64).sum();
        let expected = Kernels(Level::Generic).dot(&a, &b);
        assert!((expected as f64 - exact).abs() < 1e-5 * len.max(1) as f64);
        for (kernel, table) in available() {
            assert_eq!(table.dot(&a, &b), expected, "{kernel} {len}");
        }
    }
}

#[test]
fn interleaved_weights_stand_for_the_rows() {
    let mut rows = values(TILE_OUTPUTS * GROUP, 11);
    rows[GROUP..2 * GROUP].fill(0.0);
    let mut expected = (vec![0i16; rows.len()], vec![f32::NAN; TILE_OUTPUTS]);
    Kernels(Level::Generic).interleave_weights(&rows, GROUP, &mut expected.0, &mut expected.1);
    for (kernel, table) in available() {
        let mut found = (vec![0i16; rows.len()], vec![f32::NAN; TILE_OUTPUTS]);
        table.interleave_weights(&rows, GROUP, &mut found.0, &mut found.1);
        assert!(found == expected, "{kernel}");
    }
    for r in 0..TILE_OUTPUTS {
        let scale = expected.1[r];
        for k in 0..GROUP {
            let value = expected.0[((k / 2) * TILE_OUTPUTS + r) * 2 + k % 2] as f32 * scale;
            assert!((value - rows[r * GROUP + k]).abs() <= 0.501 * scale, "row {r} column {k}");
        }
    }
}

#[test]
fn groups_of_tiny_numbers_are_kept_within_the_norm_that_sums_allow() {
    for magnitude in [1e-14f32, 1e-17, 1e-22, 1e-30] {
        let group: [f32; GROUP] = std::array::from_fn(|i| magnitude * (1.0 - 0.001 * i as f32));
        for (kernel, table) in available() {
            let mut integers = [0; GROUP];
            let scale = table.round_group(&group, &mut integers);
            let squares: i64 = integers.iter().map(|&i| i64::from(i) * i64::from(i)).sum();
            assert!(squares < i64::from(i32::MAX), "{kernel} {magnitude}: {squares}");
            for (&x, &i) in group.iter().zip(&integers) {
                assert!((f32::from(i) * scale - x).abs() < 2e-4 * magnitude, "{kernel} {magnitude}");
            }
        }
    }
}
