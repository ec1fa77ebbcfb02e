//! How near a candidate has to be to its reference, by the coarsest type that a good part of its weights have.

use plmconv_formats::DType;
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

/// The defaults: about four to five times the divergence that llama-quantize's file of that type has on a small
/// trained PLM, whose smallest margins are wider than a large model's. docs/validation.md shows the table.
const TABLE: [(&[DType], Limits); 9] = {
    use DType::*;
    [
        (&[F32, Bf16], limits(0.0002, 1.001, 0.99)),
        (&[F16], limits(0.0005, 1.002, 0.985)),
        (&[Q8_0], limits(0.001, 1.005, 0.975)),
        (&[Q6K], limits(0.003, 1.01, 0.95)),
        (&[Q5K, Q5_0, Q5_1], limits(0.008, 1.025, 0.93)),
        (&[Q4K], limits(0.02, 1.05, 0.90)),
        (&[Q4_0, Q4_1, Iq4Nl, Iq4Xs], limits(0.03, 1.06, 0.87)),
        (&[Q3K], limits(0.07, 1.12, 0.82)),
        (&[Q2K], limits(0.25, 1.35, 0.68)),
    ]
};

/// For types that hardly keep a model together, such as the ternary ones.
const COARSEST: Limits = limits(1.0, 3.0, 0.3);

const fn limits(max_kld: f64, max_ppl_ratio: f64, min_top1: f64) -> Limits {
    Limits { max_kld, max_ppl_ratio, min_top1 }
}

/// The limits for a candidate of this type, the user's own first.
pub fn limits_for(dtype: DType, asked: AskedLimits) -> Limits {
    let default = TABLE.iter().find(|(types, _)| types.contains(&dtype)).map_or(COARSEST, |(_, l)| *l);
    Limits {
        max_kld: asked.max_kld.unwrap_or(default.max_kld),
        max_ppl_ratio: asked.max_ppl_ratio.unwrap_or(default.max_ppl_ratio),
        min_top1: asked.min_top1.unwrap_or(default.min_top1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_widen_with_coarser_types() {
        for pair in TABLE.windows(2) {
            let (finer, coarser) = (pair[0].1, pair[1].1);
            assert!(finer.max_kld < coarser.max_kld);
            assert!(finer.max_ppl_ratio < coarser.max_ppl_ratio);
            assert!(finer.min_top1 > coarser.min_top1);
        }
    }

    #[test]
    fn the_user_comes_first() {
        let asked = AskedLimits { max_kld: Some(0.5), ..AskedLimits::default() };
        let found = limits_for(DType::Q4K, asked);
        assert_eq!((found.max_kld, found.min_top1), (0.5, 0.90));
        assert_eq!(limits_for(DType::Tq1_0, AskedLimits::default()), COARSEST);
    }
}
