//! Products of calibration at the sizes of a layer of PLM-1.8B, one sixth of the neurons active.
//!
//! `cargo bench -p plmconv-quant --bench products`; `PLMCONV_BENCH_LEVEL=avx2` leaves out the other instruction sets.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use plmconv_quant::product::{
    Matrix, SparseMatrix, add_product_with, add_sparse_product_with, sampled_product_with,
};
use plmconv_quant::random::SplitMix64;
use plmconv_quant::simd::Level;

const TOKENS: usize = 512;
const HIDDEN: usize = 2048;
const NEURONS: usize = 8192;

fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut random = SplitMix64::new(seed);
    (0..count).map(|_| random.next_f64() as f32 - 0.5).collect()
}

fn fired() -> SparseMatrix {
    let mut random = SplitMix64::new(3);
    let mut fires = || if random.next_f64() < 0.16 { random.next_f64() as f32 + 0.1 } else { 0.0 };
    let dense: Vec<f32> = (0..TOKENS * NEURONS).map(|_| fires()).collect();
    SparseMatrix::new(&dense, NEURONS)
}

fn levels() -> impl Iterator<Item = Level> {
    let wanted = std::env::var("PLMCONV_BENCH_LEVEL").ok();
    let fast = Level::available().filter(|level| !matches!(level, Level::Generic));
    fast.filter(move |level| wanted.as_ref().is_none_or(|wanted| level.name() == wanted))
}

fn products(criterion: &mut Criterion) {
    let (hidden, weights, fired) = (values(TOKENS * HIDDEN, 1), values(NEURONS * HIDDEN, 2), fired());
    let by_neuron = Matrix::new(&weights, NEURONS, HIDDEN);
    let mut group = criterion.benchmark_group("products");
    group.sample_size(10).throughput(Throughput::Elements((TOKENS * HIDDEN * NEURONS) as u64));
    for level in levels() {
        let mut out = vec![0.0; TOKENS * NEURONS];
        group.bench_function(BenchmarkId::new("dense", level), |bencher| {
            let hidden = Matrix::new(&hidden, TOKENS, HIDDEN);
            bencher.iter(|| {
                add_product_with(level, hidden, by_neuron.transposed(), black_box(&mut out), NEURONS)
            });
        });
    }
    group.throughput(Throughput::Elements((fired.count() * HIDDEN) as u64));
    for level in levels() {
        let mut out = vec![0.0; TOKENS * HIDDEN];
        group.bench_function(BenchmarkId::new("sparse", level), |bencher| {
            bencher.iter(|| {
                add_sparse_product_with(level, &fired, 0..TOKENS, by_neuron, black_box(&mut out), HIDDEN);
            });
        });
        group.bench_function(BenchmarkId::new("sampled", level), |bencher| {
            bencher.iter(|| black_box(sampled_product_with(level, &hidden, &weights, HIDDEN, &fired)));
        });
    }
}

criterion_group!(benches, products);
criterion_main!(benches);
