//! What each type costs: bits per weight and the relative squared error on normally distributed values.

#![allow(clippy::print_stdout, reason = "its result goes to stdout")]

use plmconv_formats::DType;
use plmconv_quant::{Error, can_encode, decode, encode_rows};

const ROWS: usize = 64;
const COLS: usize = 1024;

fn main() -> Result<(), Error> {
    let values = normal(ROWS * COLS);
    println!("type     bits/weight  relative error");
    for dtype in DType::all().filter(|dtype| can_encode(*dtype)) {
        println!("{dtype:8} {:11.4}  {:.3e}", dtype.bits_per_weight(), error(dtype, &values)?);
    }
    Ok(())
}

/// Sum of squared errors over sum of squares.
fn error(dtype: DType, values: &[f32]) -> Result<f64, Error> {
    let row_bytes = dtype.encoded_len(COLS).expect("rows are whole blocks of every type");
    let mut blocks = vec![0; ROWS * row_bytes];
    encode_rows(dtype, values, COLS, None, &mut blocks)?;
    let mut decoded = vec![0.0; values.len()];
    decode(dtype, &blocks, &mut decoded)?;
    let squares = |of: &mut dyn Iterator<Item = f32>| of.map(|x| f64::from(x) * f64::from(x)).sum::<f64>();
    let errors = squares(&mut values.iter().zip(&decoded).map(|(x, y)| x - y));
    Ok(errors / squares(&mut values.iter().copied()))
}

/// Sums of twelve uniform numbers, nearly normal.
fn normal(count: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut uniform = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32
    };
    (0..count).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect()
}
