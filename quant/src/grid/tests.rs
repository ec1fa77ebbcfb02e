use super::*;
use proptest::prelude::*;

const ALL: [Grid; 4] = [grid(4, true), grid(4, false), grid(8, true), grid(8, false)];

const fn grid(bits: u32, symmetric: bool) -> Grid {
    Grid { bits, block_size: 32, symmetric, scale_type: DType::F32 }
}

/// A fixed sequence with outliers, in [-1, 1] but for them.
fn sample(len: usize) -> Vec<f32> {
    let mut state = 12345u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|i| if i % 97 == 0 { 4.0 * next() } else { next() }).collect()
}

fn error(grid: &Grid, values: &[f32], cols: usize, weights: Option<&[f32]>) -> f64 {
    let (mut blocks, mut back) = (Blocks::default(), Vec::new());
    quantize(grid, values, cols, weights, &mut blocks).expect("quantizes");
    dequantize(grid, &blocks, cols, &mut back);
    let weight = |i: usize| weights.map_or(1.0, |w| f64::from(w[i % cols]));
    values.iter().zip(&back).enumerate().map(|(i, (a, b))| weight(i) * f64::from(a - b).powi(2)).sum()
}

/// Round to nearest with the extreme on the outermost code, without any search.
fn plain_error(grid: &Grid, values: &[f32]) -> f64 {
    let mut sum = 0.0;
    for block in values.chunks(grid.block_size) {
        let largest = block.iter().fold(0.0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
        let scale = largest / -(grid.middle() as f32);
        let code = |v: f32| (v / scale).round().clamp(-(grid.middle() as f32), grid.middle() as f32 - 1.0);
        sum += block.iter().map(|&v| f64::from(v - scale * code(v)).powi(2)).sum::<f64>();
    }
    sum
}

#[test]
fn the_search_beats_plain_rounding() {
    let values = sample(4096);
    assert!(error(&grid(4, true), &values, 256, None) < 0.95 * plain_error(&grid(4, true), &values));
}

#[test]
fn importance_moves_the_error_to_where_it_costs_less() {
    let values = sample(4096);
    let importance: Vec<f32> = (0..256).map(|i| if i % 8 == 0 { 100.0 } else { 0.1 }).collect();
    for grid in &ALL[..2] {
        let (mut weighted, mut plain) = (Blocks::default(), Blocks::default());
        quantize(grid, &values, 256, Some(&importance), &mut weighted).expect("quantizes");
        quantize(grid, &values, 256, None, &mut plain).expect("quantizes");
        let cost = |blocks: &Blocks| {
            let mut back = Vec::new();
            dequantize(grid, blocks, 256, &mut back);
            let terms = values.iter().zip(&back).enumerate();
            terms.map(|(i, (a, b))| f64::from(importance[i % 256] * (a - b).powi(2))).sum::<f64>()
        };
        assert!(cost(&weighted) < 0.9 * cost(&plain));
    }
}

#[test]
fn levels_agree_bit_for_bit() {
    let values = sample(40 * 200);
    for grid in ALL {
        let mut expected = Blocks::default();
        quantize_with(Level::Generic, &grid, &values, 200, None, &mut expected).expect("quantizes");
        for level in Level::available() {
            let mut found = Blocks::default();
            quantize_with(level, &grid, &values, 200, None, &mut found).expect("quantizes");
            assert_eq!(found, expected, "{level} {grid:?}");
        }
    }
}

#[test]
fn values_on_the_grid_come_back() {
    for grid in ALL {
        let top = grid.max_code() - grid.middle();
        let values: Vec<f32> = (0..64).map(|i| ((i * 37) % (top + 1)) as f32 * 0.25).collect();
        let mut with_extreme = values;
        with_extreme[3] = -0.25 * grid.middle() as f32;
        with_extreme[40] = -0.25 * grid.middle() as f32;
        with_extreme[5] = 0.25 * top as f32;
        with_extreme[41] = 0.25 * top as f32;
        assert!(error(&grid, &with_extreme, 64, None) < 1e-9, "{grid:?}");
    }
}

#[test]
fn zeros_stay_zeros_and_padding_is_the_zero_point() {
    for grid in ALL {
        let mut blocks = Blocks::default();
        quantize(&grid, &[0.0; 40], 20, None, &mut blocks).expect("quantizes");
        assert!(blocks.codes.iter().all(|&c| c == blocks.zero_points[0]));
        assert_eq!(blocks.scales, [0.0, 0.0]);
        quantize(&grid, &[1.0; 20], 20, None, &mut blocks).expect("quantizes");
        assert!(blocks.codes[20..].iter().all(|&c| c == blocks.zero_points[0]));
    }
}

#[test]
fn an_f16_scale_out_of_range_is_an_error() {
    let grid = Grid { scale_type: DType::F16, ..grid(4, true) };
    let found = quantize(&grid, &[1e9; 32], 32, None, &mut Blocks::default());
    assert!(matches!(found, Err(Error::NotRepresentable { row: 0, .. })));
}

#[test]
fn a_value_out_of_the_range_of_its_f16_scale_is_an_error() {
    // The scale of 1e5 fits, but code times scale does not.
    for (bits, symmetric) in [(4, true), (4, false), (8, true), (8, false)] {
        let grid = Grid { scale_type: DType::F16, ..grid(bits, symmetric) };
        let mut values = [1.0; 96];
        values[70] = 1e5;
        let found = quantize(&grid, &values, 32, None, &mut Blocks::default());
        assert!(matches!(found, Err(Error::NotRepresentable { row: 2, .. })), "{bits} {symmetric}");
        values[70] = 6e4;
        quantize(&grid, &values, 32, None, &mut Blocks::default()).expect("in range");
        let grid = Grid { scale_type: DType::F32, ..grid };
        values[70] = 1e5;
        quantize(&grid, &values, 32, None, &mut Blocks::default()).expect("in range of f32");
    }
}

#[test]
fn packing_puts_the_low_nibble_first() {
    let mut out = Vec::new();
    pack_rows(4, &[1, 2, 3, 4, 5, 6], 3, &mut out);
    assert_eq!(out, [0x21, 0x03, 0x54, 0x06]);
    // [[1, 2, 9], [3, 4, 9]] → columns (1, 3), (2, 4)
    pack_columns(4, &[1, 2, 9, 3, 4, 9], 3, 2, 0, &mut out);
    assert_eq!(out, [0x31, 0x42]);
    pack_columns(4, &[0, 8, 15, 8], 2, 2, 8, &mut out);
    assert_eq!(out, [0x78, 0x00]);
}

proptest! {
    #[test]
    fn any_row_is_quantized_within_its_range(
        values in prop::collection::vec(-1e3f32..1e3, 1..300),
        bits in prop::sample::select(vec![4u32, 8]),
        block_size in prop::sample::select(vec![16usize, 32, 256]),
        symmetric: bool,
    ) {
        let grid = Grid { bits, block_size, symmetric, scale_type: DType::F32 };
        let (mut blocks, mut back) = (Blocks::default(), Vec::new());
        quantize(&grid, &values, values.len(), None, &mut blocks).expect("quantizes");
        prop_assert!(blocks.codes.iter().all(|&c| i32::from(c) <= grid.max_code()));
        dequantize(&grid, &blocks, values.len(), &mut back);
        let zero: f64 = values.iter().map(|&v| f64::from(v).powi(2)).sum();
        let left: f64 = values.iter().zip(&back).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        prop_assert!(left <= zero * 1.0001, "worse than all zeros: {left} > {zero}");
    }
}
