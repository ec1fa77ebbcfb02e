//! How long each type takes to encode, one thread: `time_types VALUES.f32 IMPORTANCE.f32 COLS TYPE...`, raw
//! little-endian floats. Prints the digest of the bytes, too, so that another encoder's can be compared.

use std::time::Instant;

use plmconv_formats::DType;
use plmconv_quant::encode_rows;

fn floats(path: &str) -> Vec<f32> {
    let bytes = std::fs::read(path).expect("a file of floats");
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [values, importance, cols, types @ ..] = args.as_slice() else {
        panic!("VALUES.f32 IMPORTANCE.f32 COLS TYPE...");
    };
    let (values, importance) = (floats(values), floats(importance));
    let cols: usize = cols.parse().expect("a number of columns");
    for name in types {
        let dtype = DType::from_name(name).expect("a type's name");
        let mut out = vec![0; dtype.encoded_len(values.len()).expect("whole blocks")];
        // Tables are made on first use.
        encode_rows(
            dtype,
            &values[..cols],
            cols,
            Some(&importance),
            &mut out[..dtype.encoded_len(cols).expect("whole blocks")],
        )
        .expect("finite");
        let start = Instant::now();
        encode_rows(dtype, &values, cols, Some(&importance), &mut out).expect("finite");
        let seconds = start.elapsed().as_secs_f64();
        let fnv = out.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        });
        let speed = values.len() as f64 / seconds / 1e6;
        println!("{name}: {seconds:.3} s, {speed:.2} Mvalues/s, {} bytes, fnv {fnv:016x}", out.len());
    }
}
