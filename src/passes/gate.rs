//! The latent layout's FFN: squared ReLU as the product `silu(gate) * up` of two copies of one matrix.
//!
//! With `u` a neuron's pre-activation and `gate = b u`, `up = u / b`: `silu(b u) * u / b = u² sigmoid(b u)`, which
//! tends to `relu(u)²` as b grows. How far it is off:
//!
//! - for u ≥ 0: `u² - u² sigmoid(b u) = u² / (1 + e^(b u))`
//! - for u < 0: `u² sigmoid(b u) = u² / (1 + e^(b |u|))`
//!
//! In `t = b |u|` both are `f(t) / b²` with `f(t) = t² / (1 + e^t)`. `f` has one maximum, where its derivative
//! vanishes: `t = 2 (1 + e^-t)`, that is t = 2.2177 and f = 0.4829. So no neuron is ever off by more than
//! [`SQUARED_RELU_ERROR`] ` / b²`, whatever its input.
//!
//! Where the factors go keeps half-precision block scales out of the subnormals: the FFN's norm is divided by 2^m
//! and both matrices are multiplied by it, which leaves `up = 2^(m-k) W` (just W where m = k) and the down
//! projection untouched, and `gate = 2^(m+k) W` larger. All factors are powers of two, so they change the exponent of a
//! block's scales and none of its codes.
//!
//! When the two copies are quantized, the second one makes up for the first one's error
//! ([`Compensated`]): with `up = W + e`, the gate encodes `2 W - up = W - e`, and the product
//! `(u + e·x)(u - e·x) = u² - (e·x)²` has lost the error of first order.

use std::ops::Range;

use plmconv_formats::model::{Model, Tensor};
use plmconv_formats::{DType, Result, Role, TensorKey};
use plmconv_quant::codec;
use rayon::prelude::*;

use super::values::{Decoded, Exact, Scaled, Values, replace, rewrite_error, source};

/// The maximum of `t² / (1 + e^t)`, rounded up: a neuron's output is within this over b² of `relu(u)²`.
pub const SQUARED_RELU_ERROR: f64 = 0.482_831;

/// A typical neuron's pre-activation times b: the sigmoid passes from 0 to 1 within a few hundredths of it.
const STEEPNESS: f64 = 64.0;
/// Exponents b may take: at 2^4 the tiny model is still within 1e-6 of KL divergence; beyond 2^12 a gate
/// would leave half precision.
const EXPONENTS: std::ops::RangeInclusive<i32> = 4..=12;
/// The FFN's norm is divided by at most 2^6: its output is the input of two matrix products, which some runtimes
/// convert to half precision or to blocks with half-precision scales.
const MAX_NORM_EXPONENT: i32 = 6;
/// The gate's values stay below this, a quarter of half precision's range.
const MAX_GATE: f64 = 16384.0;
/// Rows read at a time hold about this many values.
const CHUNK_VALUES: usize = 1 << 20;

/// A layer's powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Factors {
    /// k: b = 2^k.
    pub sharpness: i32,
    /// m: the norm is divided by 2^m.
    pub norm: i32,
}

impl Factors {
    /// Chosen so that b times `typical`, a neuron's usual pre-activation, is at least [`STEEPNESS`], and the gate's
    /// largest value, from the largest weight `largest`, stays in half precision.
    fn new(typical: f64, largest: f64) -> Factors {
        let wanted = if typical > 0.0 { libm::log2(STEEPNESS / typical).ceil() } else { 0.0 };
        let sharpness = (wanted as i32).clamp(*EXPONENTS.start(), *EXPONENTS.end());
        let room = if largest > 0.0 { libm::log2(MAX_GATE / largest).floor() as i32 } else { i32::MAX };
        let norm = sharpness.min(MAX_NORM_EXPONENT).min(room.saturating_sub(sharpness)).max(0);
        Factors { sharpness, norm }
    }

    /// b: the gate's pre-activation over the neuron's.
    pub fn b(self) -> f32 {
        exp2(self.sharpness)
    }

    /// No neuron's output is further than this from `relu(u)²`.
    pub fn error_bound(self) -> f64 {
        SQUARED_RELU_ERROR / f64::from(self.b()).powi(2)
    }

    fn gate(self) -> f32 {
        exp2(self.sharpness + self.norm)
    }

    fn up(self) -> f32 {
        exp2(self.norm - self.sharpness)
    }

    /// What the norm is multiplied by.
    pub fn norm_factor(self) -> f32 {
        exp2(-self.norm)
    }
}

fn exp2(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}

/// Per layer, how large pre-activations and weights are.
///
/// RMSNorm's output has mean square 1 before its weight g, so a neuron with weights w has a pre-activation of
/// about `sqrt(Σ (w_i g_i)²)`; the median over neurons is the layer's.
fn measure(model: &Model, layer: usize) -> Result<Factors> {
    let norm = Decoded::of(super::tensor(model, layer, Role::FfnNorm)?).read_all()?;
    let up = Decoded::of(super::tensor(model, layer, Role::FfnUp)?);
    let step = (CHUNK_VALUES / up.cols()).max(1);
    let (mut typical, mut largest, mut values) = (Vec::with_capacity(up.rows()), 0.0f32, Vec::new());
    for start in (0..up.rows()).step_by(step) {
        up.read(start..up.rows().min(start + step), &mut values)?;
        for row in values.chunks_exact(up.cols()) {
            let square = |(w, g): (&f32, &f32)| f64::from(w * g).powi(2);
            typical.push(row.iter().zip(&norm).map(square).sum::<f64>().sqrt());
            largest = row.iter().fold(largest, |most, w| most.max(w.abs()));
        }
    }
    let middle = typical.len() / 2;
    let (_, median, _) = typical.select_nth_unstable_by(middle, f64::total_cmp);
    Ok(Factors::new(*median, f64::from(largest)))
}

/// Every layer's factors, from its weights.
pub fn choose_factors(model: &Model) -> Result<Vec<Factors>> {
    (0..model.config.num_hidden_layers).into_par_iter().map(|layer| measure(model, layer)).collect()
}

/// A layer's norm, gate and up, as the latent layout has them before anything is quantized.
///
/// `norm` and `up` are rewritten in place; the gate is returned.
pub fn add(norm: &mut Tensor, up: &mut Tensor, factors: Factors) -> Tensor {
    replace(norm, Exact::PowerOfTwo, |source| Scaled::by(source, factors.norm_factor()));
    let weights = Decoded::of(up);
    let key = TensorKey { role: Role::FfnGate, ..up.key };
    let from = up.source.dtype();
    let gate = source(key, from, Exact::PowerOfTwo, Scaled::by(weights.clone(), factors.gate()));
    up.source = source(up.key, from, Exact::PowerOfTwo, Scaled::by(weights, factors.up()));
    Tensor { key, shape: up.shape.clone(), source: gate }
}

/// The gate that makes up for the rounding of `up`: `ratio * (2 U - decode(encode(U)))` with U the values of
/// the other copy and `ratio` what the gate is to it.
#[derive(Debug)]
struct Compensated {
    up: Decoded,
    dtype: DType,
    ratio: f32,
}

impl Values for Compensated {
    fn rows(&self) -> usize {
        self.up.rows()
    }

    fn cols(&self) -> usize {
        self.up.cols()
    }

    fn read(&self, rows: Range<usize>, out: &mut Vec<f32>) -> Result<()> {
        self.up.read(rows, out)?;
        let failed = |e| rewrite_error(self.up.key, e);
        let len = self.dtype.encoded_len(out.len()).expect("the type was planned for these rows");
        let mut blocks = vec![0; len];
        let mut rounded = vec![0.0; out.len()];
        codec::encode_rows(self.dtype, out, self.cols(), None, &mut blocks).map_err(failed)?;
        codec::decode(self.dtype, &blocks, &mut rounded).map_err(failed)?;
        out.iter_mut().zip(rounded).for_each(|(u, r)| *u = self.ratio * (2.0 * *u - r));
        Ok(())
    }
}

/// Has the gate make up for the rounding of `up`, which will be written as `up_type`.
pub fn compensate(gate: &mut Tensor, up: &Tensor, up_type: DType, factors: Factors) {
    let ratio = factors.gate() / factors.up();
    let values = Compensated { up: Decoded::of(up), dtype: up_type, ratio };
    gate.source = source(gate.key, DType::F32, Exact::No, values);
}
