//! How fast each type is encoded by one thread: `time_types VALUES.f32 IMPORTANCE.f32 COLS TYPE...`, raw little-endian
//! floats. `PLMCONV_SIMD` names an instruction set. Prints a digest of the bytes, too, so that another encoder's can be
//! compared with it.

#![allow(clippy::print_stdout, reason = "its result goes to stdout")]

use std::time::Instant;

use plmconv_formats::DType;
use plmconv_quant::encode_rows_with;
use plmconv_quant::simd::Level;

/// The fastest of so many runs counts.
const RUNS: usize = 7;

fn floats(path: &str) -> Vec<f32> {
    let bytes = std::fs::read(path).expect("a file of floats");
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// Nanoseconds that this process has had a processor, where Linux says; else since the start.
fn processor_time(start: Instant) -> f64 {
    let stat = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let told = stat.split_whitespace().next().and_then(|nanoseconds| nanoseconds.parse().ok());
    told.unwrap_or_else(|| start.elapsed().as_nanos() as f64)
}

/// FNV-1a.
fn digest(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [values, importance, cols, types @ ..] = args.as_slice() else {
        panic!("VALUES.f32 IMPORTANCE.f32 COLS TYPE...");
    };
    let (values, importance) = (floats(values), floats(importance));
    let cols: usize = cols.parse().expect("a number of columns");
    let level = std::env::var("PLMCONV_SIMD").map(|name| name.parse().expect("an instruction set"));
    let level = level.unwrap_or_else(|_| Level::detect());
    let start = Instant::now();
    for name in types {
        let dtype = DType::from_name(name).expect("a type's name");
        let mut out = vec![0; dtype.encoded_len(values.len()).expect("whole blocks")];
        let mut encode = || {
            let before = processor_time(start);
            encode_rows_with(level, dtype, &values, cols, Some(&importance), &mut out).expect("finite");
            (processor_time(start) - before) / 1e9
        };
        let seconds = (0..RUNS).map(|_| encode()).fold(f64::INFINITY, f64::min);
        let speed = values.len() as f64 / seconds / 1e6;
        println!("{name} {level}: {seconds:.4} s, {speed:.2} M values/s, digest {:016x}", digest(&out));
    }
}
