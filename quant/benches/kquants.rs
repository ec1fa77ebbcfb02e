//! Throughput of the k-quants, in bytes of f32 input per second, at every instruction set of this CPU.
//!
//! `cargo bench -p plmconv-quant --bench kquants [-- FILTER]`, e.g. `-- encode/Q4_K`.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use plmconv_formats::DType;
use plmconv_quant::simd::Level;
use plmconv_quant::{decode_with, encode_rows_with};

const K_QUANTS: [DType; 5] = [DType::Q2K, DType::Q3K, DType::Q4K, DType::Q5K, DType::Q6K];
const COLS: usize = 2048;
const ROWS: usize = 64;

/// Bell-shaped values of a trained weight's size, the same in every run.
fn weights(len: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..len).map(|_| (0..6).map(|_| uniform()).sum::<f32>() * 0.03).collect()
}

fn encode(criterion: &mut Criterion) {
    let values = weights(ROWS * COLS);
    let importance: Vec<f32> = weights(COLS).iter().map(|x| x * x).collect();
    for (name, importance) in [("encode", None), ("encode with importance", Some(importance.as_slice()))] {
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Bytes(4 * values.len() as u64)).sample_size(10);
        for dtype in K_QUANTS {
            let len = dtype.encoded_len(values.len()).expect("whole super-blocks");
            let mut out = vec![0; len];
            for level in Level::available() {
                group.bench_function(BenchmarkId::new(dtype.name(), level), |bencher| {
                    bencher.iter(|| {
                        encode_rows_with(level, dtype, black_box(&values), COLS, importance, &mut out)
                            .expect("finite")
                    });
                });
            }
        }
        group.finish();
    }
}

fn decode(criterion: &mut Criterion) {
    let values = weights(ROWS * COLS);
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Bytes(4 * values.len() as u64)).sample_size(20);
    for dtype in K_QUANTS {
        let len = dtype.encoded_len(values.len()).expect("whole super-blocks");
        let mut bytes = vec![0; len];
        encode_rows_with(Level::detect(), dtype, &values, COLS, None, &mut bytes).expect("finite");
        let mut out = vec![0.0; values.len()];
        for level in Level::available() {
            group.bench_function(BenchmarkId::new(dtype.name(), level), |bencher| {
                bencher.iter(|| decode_with(level, dtype, black_box(&bytes), &mut out).expect("own bytes"));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, encode, decode);
criterion_main!(benches);
