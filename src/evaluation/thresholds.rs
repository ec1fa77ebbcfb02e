//! How near a candidate has to be to its reference, by the bits that its weights have on average.

use serde::Serialize;

/// A candidate passes if it keeps all three.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Limits {
    /// Mean KL divergence, in nats per token.
    pub max_kld: f64,
    /// Perplexity over the reference's.
    pub max_ppl_ratio: f64,
    /// Share of tokens with the same most likely token.
    pub min_top1: f64,
}

/// What the user sets of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct AskedLimits {
    pub max_kld: Option<f64>,
    pub max_ppl_ratio: Option<f64>,
    pub min_top1: Option<f64>,
}

/// The defaults at some sizes: about four to five times the divergence that llama-quantize's files of that size have
/// on a small trained PLM in llama.cpp's arithmetic. Such a model's smallest margins are wider than a large one's.
/// docs/validation.md shows the table, and what was measured.
const TABLE: [(f64, Limits); 11] = [
    (2.0, limits(1.5, 4.0, 0.25)),
    (2.8, limits(0.5, 1.8, 0.5)),
    (3.6, limits(0.25, 1.35, 0.68)),
    (4.0, limits(0.1, 1.15, 0.8)),
    (4.5, limits(0.06, 1.1, 0.84)),
    (4.9, limits(0.03, 1.06, 0.87)),
    (5.1, limits(0.02, 1.05, 0.9)),
    (5.8, limits(0.008, 1.025, 0.93)),
    (6.6, limits(0.004, 1.01, 0.95)),
    (8.5, limits(0.001, 1.005, 0.975)),
    (16.0, limits(0.0003, 1.002, 0.985)),
];

const fn limits(max_kld: f64, max_ppl_ratio: f64, min_top1: f64) -> Limits {
    Limits { max_kld, max_ppl_ratio, min_top1 }
}

/// The limits for a candidate of so many bits per weight, embedding included, the user's own first.
pub fn limits_for(bits_per_weight: f64, asked: AskedLimits) -> Limits {
    let default = interpolated(bits_per_weight);
    Limits {
        max_kld: asked.max_kld.unwrap_or(default.max_kld),
        max_ppl_ratio: asked.max_ppl_ratio.unwrap_or(default.max_ppl_ratio),
        min_top1: asked.min_top1.unwrap_or(default.min_top1),
    }
}

/// Between two sizes, the logarithms of what may be lost are interpolated.
fn interpolated(bits: f64) -> Limits {
    let (smallest, largest) = (TABLE[0], TABLE[TABLE.len() - 1]);
    let Some(pair) = TABLE.windows(2).find(|pair| pair[0].0 <= bits && bits < pair[1].0) else {
        return if bits < smallest.0 { smallest.1 } else { largest.1 };
    };
    let [(fewer, coarse), (more, fine)] = [pair[0], pair[1]];
    let share = (bits - fewer) / (more - fewer);
    let between = |a: f64, b: f64| round_up((a.ln() * (1.0 - share) + b.ln() * share).exp());
    Limits {
        max_kld: between(coarse.max_kld, fine.max_kld),
        max_ppl_ratio: 1.0 + between(coarse.max_ppl_ratio - 1.0, fine.max_ppl_ratio - 1.0),
        min_top1: 1.0 - between(1.0 - coarse.min_top1, 1.0 - fine.min_top1),
    }
}

/// To two digits, so that a limit reads as one.
fn round_up(value: f64) -> f64 {
    // Digits are counted in whole numbers: 0.1 has no exact double, 10 has. A little less than the next one is it.
    let shift = 1 - value.log10().floor() as i32;
    let scaled = value * 10f64.powi(shift);
    (scaled - 1e-9).ceil() / 10f64.powi(shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_widen_with_fewer_bits() {
        let all: Vec<Limits> = (10..340).map(|tenths| interpolated(f64::from(tenths) / 10.0)).collect();
        for pair in all.windows(2) {
            let (coarser, finer) = (pair[0], pair[1]);
            assert!(finer.max_kld <= coarser.max_kld, "{pair:?}");
            assert!(finer.max_ppl_ratio <= coarser.max_ppl_ratio, "{pair:?}");
            assert!(finer.min_top1 >= coarser.min_top1, "{pair:?}");
        }
        assert!(all[0].max_kld > 1000.0 * all[all.len() - 1].max_kld);
    }

    #[test]
    fn a_size_of_the_table_has_its_limits() {
        for (bits, expected) in TABLE {
            let found = interpolated(bits);
            assert_eq!(found.max_kld, expected.max_kld, "{bits}");
            assert!((found.max_ppl_ratio - expected.max_ppl_ratio).abs() < 1e-12, "{bits}");
            assert!((found.min_top1 - expected.min_top1).abs() < 1e-12, "{bits}");
        }
        assert_eq!(interpolated(32.0), interpolated(16.0));
        assert_eq!(interpolated(1.0), interpolated(2.0));
    }

    #[test]
    fn the_user_comes_first() {
        let asked = AskedLimits { max_kld: Some(0.5), ..AskedLimits::default() };
        let found = limits_for(5.1, asked);
        assert_eq!(found.max_kld, 0.5);
        assert!((found.min_top1 - 0.90).abs() < 1e-12);
    }
}
