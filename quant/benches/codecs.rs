//! Throughput of codecs, and of products with encoded rows, at every instruction set of this CPU, in bytes of f32 per
//! second.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use plmconv_formats::DType;
use plmconv_quant::codec::dot::{EncodedDot, IntRow};
use plmconv_quant::simd::Level;
use plmconv_quant::{decode_with, encode_rows_with, first_non_finite};

const COLS: usize = 2048;
/// 256 kB of f32: fits the second-level cache, so that the codec is measured and not the memory.
const ROWS: usize = 32;

const TYPES: [DType; 12] = [
    DType::F32,
    DType::F16,
    DType::Bf16,
    DType::Q8_0,
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::Iq4Nl,
    DType::Iq4Xs,
    DType::Tq1_0,
    DType::Tq2_0,
];

/// Values like a trained weight matrix: the sum of four uniform numbers, about normal, standard deviation 0.02.
fn weights(count: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count).map(|_| (uniform() + uniform() + uniform() + uniform()) * 0.035).collect()
}

fn codecs(criterion: &mut Criterion) {
    let values = weights(ROWS * COLS);
    let importance: Vec<f32> = weights(COLS).iter().map(|v| v * v).collect();
    let input_bytes = Throughput::Bytes(4 * values.len() as u64);

    let mut group = criterion.benchmark_group("encode");
    group.throughput(input_bytes.clone());
    for dtype in TYPES {
        for level in Level::available() {
            let mut out = vec![0; dtype.encoded_len(values.len()).expect("whole blocks")];
            group.bench_function(format!("{dtype}/{level}"), |bencher| {
                bencher.iter(|| {
                    encode_rows_with(level, dtype, black_box(&values), COLS, None, &mut out).expect("finite")
                });
            });
        }
    }
    group.finish();

    let mut group = criterion.benchmark_group("encode with importance");
    group.throughput(input_bytes.clone());
    for dtype in [DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1, DType::Iq4Nl, DType::Iq4Xs] {
        for level in Level::available() {
            let mut out = vec![0; dtype.encoded_len(values.len()).expect("whole blocks")];
            group.bench_function(format!("{dtype}/{level}"), |bencher| {
                bencher.iter(|| {
                    encode_rows_with(level, dtype, black_box(&values), COLS, Some(&importance), &mut out)
                        .expect("finite")
                });
            });
        }
    }
    group.finish();

    let mut group = criterion.benchmark_group("decode");
    group.throughput(input_bytes.clone());
    for dtype in TYPES {
        let mut bytes = vec![0; dtype.encoded_len(values.len()).expect("whole blocks")];
        encode_rows_with(Level::Generic, dtype, &values, COLS, None, &mut bytes).expect("finite");
        let mut back = vec![0.0; values.len()];
        for level in Level::available() {
            group.bench_function(format!("{dtype}/{level}"), |bencher| {
                bencher.iter(|| decode_with(level, dtype, black_box(&bytes), &mut back).expect("own bytes"));
            });
        }
    }
    group.finish();

    let row = IntRow::new(&values[..COLS]);
    let mut group = criterion.benchmark_group("dot");
    group.throughput(Throughput::Bytes(4 * COLS as u64));
    for dtype in DType::all() {
        let Some(dot) = EncodedDot::of(dtype) else { continue };
        let mut bytes = vec![0; dtype.encoded_len(COLS).expect("whole blocks")];
        encode_rows_with(Level::Generic, dtype, &values[COLS..2 * COLS], COLS, None, &mut bytes)
            .expect("finite");
        for level in Level::available() {
            group.bench_function(format!("{dtype}/{level}"), |bencher| {
                bencher.iter(|| dot.product(level, black_box(&bytes), black_box(&row)));
            });
        }
    }
    group.finish();

    let mut group = criterion.benchmark_group("check");
    group.throughput(input_bytes);
    group.bench_function("first_non_finite", |bencher| bencher.iter(|| first_non_finite(black_box(&values))));
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500));
    targets = codecs
}
criterion_main!(benches);
