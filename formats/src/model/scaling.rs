//! Scaled RoPE: frequencies that let a model read texts longer than those it was trained on.

use std::path::Path;

use serde_json::Value;

use super::architecture::{Architecture, ScalingKind};
use crate::error::{Error, Result};
use crate::fields::{Fields, bad_value, missing};
use crate::gguf::Metadata;

/// YaRN (arXiv 2309.00071): slow pairs are slowed down further, fast ones stay, and rotated values grow a little.
#[derive(Clone, Debug, PartialEq)]
pub struct Yarn {
    /// How much longer texts may be.
    pub factor: f32,
    /// Tokens of context without scaling.
    pub original_context: usize,
    /// Turns within the original context from which on a pair stays as it is; where it is not said, 32.
    pub beta_fast: Option<f32>,
    /// Turns up to which a pair is slowed down by the whole factor; where it is not said, 1.
    pub beta_slow: Option<f32>,
}

/// What the two places of `beta` stand for where they are not said.
const BETA_FAST: f32 = 32.0;
const BETA_SLOW: f32 = 1.0;

/// Keys by which config.json gives other magnitudes and ramps than llama.cpp computes from the factor.
const INEXPRESSIBLE: [&str; 4] = ["attention_factor", "attn_factor", "extrapolation_factor", "truncate"];

impl Yarn {
    /// What the scaling object of a config.json says, if its network has this form.
    pub(super) fn from_json(
        fields: &Fields<'_>,
        architecture: &Architecture,
        object: &Value,
    ) -> Result<Option<Yarn>> {
        let kind = object.get("rope_type").or_else(|| object.get("type")).and_then(Value::as_str);
        if kind != Some("yarn") || !architecture.scaling.contains(&ScalingKind::Yarn) {
            return Ok(None);
        }
        let refuse = |key: &str| {
            let what = format!("YaRN with `{key}`, which llama.cpp computes otherwise");
            Err(Error::Inexpressible { path: fields.path.into(), target: architecture.gguf, what })
        };
        let says = |key: &str| object.get(key).is_some_and(|value| !value.is_null());
        if let Some(key) = INEXPRESSIBLE.into_iter().find(|key| says(key)) {
            return refuse(key);
        }
        if says("mscale") && says("mscale_all_dim") {
            return refuse("mscale_all_dim");
        }
        let number = |key: &str| -> Result<Option<f32>> {
            let read = |value: &Value| value.as_f64().ok_or_else(|| fields.bad(key, value, "a number"));
            let value = object.get(key).filter(|value| !value.is_null());
            Ok(value.map(read).transpose()?.map(|number| number as f32))
        };
        let original = "original_max_position_embeddings";
        let context = object.get(original).or_else(|| fields.get(original));
        let context = context.ok_or_else(|| missing(fields.path, original))?;
        let yarn = Yarn {
            factor: number("factor")?.ok_or_else(|| missing(fields.path, "factor"))?,
            original_context: context
                .as_u64()
                .and_then(|tokens| usize::try_from(tokens).ok())
                .ok_or_else(|| fields.bad(original, context, "a whole number"))?,
            beta_fast: number("beta_fast")?,
            beta_slow: number("beta_slow")?,
        };
        yarn.check(fields.path).map(Some)
    }

    /// What a GGUF's metadata say, if they say that RoPE is scaled.
    pub(super) fn from_gguf(
        path: &Path,
        metadata: &Metadata,
        architecture: &Architecture,
    ) -> Result<Option<Yarn>> {
        let key_of = |key: &str| format!("{}.rope.scaling.{key}", architecture.gguf);
        let number = |key: &str| metadata.float(&key_of(key));
        match metadata.string(&key_of("type")) {
            None | Some("none") => return Ok(None),
            Some("yarn") if architecture.scaling.contains(&ScalingKind::Yarn) => {}
            Some(other) => return Err(bad_value(path, &key_of("type"), other, "none or yarn")),
        }
        for key in ["yarn_ext_factor", "yarn_attn_factor", "attn_factor", "yarn_log_multiplier"] {
            if let Some(value) = number(key) {
                return Err(bad_value(path, &key_of(key), value, "absent"));
            }
        }
        let yarn = Yarn {
            factor: number("factor").ok_or_else(|| missing(path, &key_of("factor")))?,
            original_context: metadata
                .unsigned(&key_of("original_context_length"))
                .ok_or_else(|| missing(path, &key_of("original_context_length")))?,
            beta_fast: number("yarn_beta_fast"),
            beta_slow: number("yarn_beta_slow"),
        };
        yarn.check(path).map(Some)
    }

    fn check(self, path: &Path) -> Result<Yarn> {
        if !(self.factor.is_finite() && self.factor >= 1.0) {
            return Err(bad_value(path, "factor", self.factor, "a number from 1"));
        }
        let limit = 1 << 31;
        if self.original_context == 0 || self.original_context > limit {
            let expected = format!("a number from 1 to {limit}");
            return Err(bad_value(path, "original_max_position_embeddings", self.original_context, expected));
        }
        for (key, value) in [("beta_fast", self.beta_fast), ("beta_slow", self.beta_slow)] {
            if let Some(value) = value.filter(|value| !(value.is_finite() && *value > 0.0)) {
                return Err(bad_value(path, key, value, "a positive number"));
            }
        }
        Ok(self)
    }

    /// The frequency of pair `pair` of `dim / 2`, given that without scaling.
    pub(super) fn frequency(&self, pair: usize, dim: usize, theta: f64, unscaled: f64) -> f64 {
        let turns = |beta: Option<f32>, default: f32| f64::from(beta.unwrap_or(default));
        // The pair that turns so often within the original context.
        let pair_of = |turns: f64| {
            let waves = self.original_context as f64 / (turns * 2.0 * std::f64::consts::PI);
            dim as f64 * libm::log(waves) / (2.0 * libm::log(theta))
        };
        let first = libm::floor(pair_of(turns(self.beta_fast, BETA_FAST))).max(0.0);
        let last = libm::ceil(pair_of(turns(self.beta_slow, BETA_SLOW))).min(dim as f64 - 1.0);
        let slowed = ((pair as f64 - first) / (last - first).max(0.001)).clamp(0.0, 1.0);
        unscaled * (slowed / f64::from(self.factor) + (1.0 - slowed))
    }

    /// What rotated values are multiplied by.
    pub(super) fn magnitude(&self) -> f64 {
        0.1 * libm::log(f64::from(self.factor)) + 1.0
    }
}
