//! What may be done to the FFN's neurons without changing its output: `down · relu(up x)²` does not see their order,
//! and is homogeneous of degree two in each row of `up`.

use std::ops::Range;
use std::sync::Arc;

use plmconv_formats::model::Model;
use plmconv_formats::source::GatheredRows;
use plmconv_formats::{Result, Role};

use super::values::{Decoded, Exact, PermutedColumns, Scaled, Values, replace};

/// Rows of the down projection read at a time.
const ROWS: usize = 256;
/// No neuron is scaled by more than this: a column of zeros or of noise stays what it is.
const MAX_EXPONENT: i32 = 8;

/// Per neuron, the length of its column of the down projection.
fn column_norms(down: &Decoded) -> Result<Vec<f64>> {
    let mut squares = vec![0.0f64; down.cols()];
    let mut values = Vec::new();
    for start in (0..down.rows()).step_by(ROWS) {
        let rows: Range<usize> = start..down.rows().min(start + ROWS);
        down.read(rows, &mut values)?;
        for row in values.chunks_exact(down.cols()) {
            squares.iter_mut().zip(row).for_each(|(s, v)| *s += f64::from(*v).powi(2));
        }
    }
    Ok(squares.into_iter().map(f64::sqrt).collect())
}

/// Scales every neuron's row of `up` by s and its column of `down` by 1/s², s a power of two such that the columns
/// of `down` come to about the same length: a block of `down` then holds columns of one size.
pub fn rescale(mut model: Model) -> Result<Model> {
    for layer in 0..model.config.num_hidden_layers {
        let norms = column_norms(&Decoded::of(super::tensor(&model, layer, Role::FfnDown)?))?;
        let mut sorted: Vec<f64> = norms.iter().copied().filter(|&n| n > 0.0).collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let Some(&median) = sorted.get(sorted.len() / 2) else { continue };
        let exponents = norms.iter().map(|&norm| {
            let wanted = if norm > 0.0 { libm::log2((norm / median).sqrt()).round() as i32 } else { 0 };
            wanted.clamp(-MAX_EXPONENT, MAX_EXPONENT)
        });
        let s: Vec<f32> = exponents.map(|e| libm::ldexpf(1.0, e)).collect();
        scale_neurons(&mut model, layer, &s)?;
    }
    Ok(model)
}

/// Multiplies row j of a layer's `up` by `s[j]`, divides column j of its `down` by `s[j]²`. `s` holds powers of two.
fn scale_neurons(model: &mut Model, layer: usize, s: &[f32]) -> Result<()> {
    let up = super::tensor_mut(model, layer, Role::FfnUp)?;
    let row_factors = Some(Arc::from(s));
    replace(up, Exact::PowerOfTwo, |source| Scaled {
        source,
        factor: 1.0,
        row_factors,
        column_factors: None,
    });
    let down = super::tensor_mut(model, layer, Role::FfnDown)?;
    let column_factors = Some(s.iter().map(|s| (s * s).recip()).collect());
    replace(down, Exact::PowerOfTwo, |source| Scaled {
        source,
        factor: 1.0,
        row_factors: None,
        column_factors,
    });
    Ok(())
}

/// Puts the neurons of every layer in the order of the length of their columns of `down`, longest first, so that a
/// block holds columns of about one size.
pub fn sort(mut model: Model) -> Result<Model> {
    for layer in 0..model.config.num_hidden_layers {
        let norms = column_norms(&Decoded::of(super::tensor(&model, layer, Role::FfnDown)?))?;
        let mut order: Vec<u32> = (0..norms.len() as u32).collect();
        order.sort_by(|&a, &b| norms[b as usize].total_cmp(&norms[a as usize]));
        reorder(&mut model, layer, order.into())?;
    }
    Ok(model)
}

/// Neuron j of the result is neuron `order[j]` of the model's layer.
pub fn reorder(model: &mut Model, layer: usize, order: Arc<[u32]>) -> Result<()> {
    let up = super::tensor_mut(model, layer, Role::FfnUp)?;
    up.source = Arc::new(GatheredRows::new(Arc::clone(&up.source), order.to_vec()));
    let down = super::tensor_mut(model, layer, Role::FfnDown)?;
    replace(down, Exact::Moved, |source| PermutedColumns { source, order });
    Ok(())
}
