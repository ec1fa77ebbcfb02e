//! An adapter's tensors as llama.cpp wants them in a GGUF of its own.

use std::sync::Arc;

use super::{Adapter, ChangeKind, LowRank, Target};
use crate::error::{Error, Result};
use crate::model::{Config, Role, TensorKey};
use crate::source::{GatheredRows, RowSource};
use crate::warning::Warning;

/// One of the two matrices of a product.
#[derive(Clone, Debug)]
pub struct AdapterTensor {
    /// The tensor of the base model that it changes.
    pub key: TensorKey,
    /// That tensor's name in a GGUF, with `.lora_a` or `.lora_b`.
    pub name: String,
    /// Row-major.
    pub shape: Vec<usize>,
    /// Its values.
    pub source: Arc<dyn RowSource>,
}

/// The matrices that llama.cpp's `plm` graph multiplies with as they are, whatever adapter is loaded (src/models/plm.cpp).
const WITHOUT_ADAPTER: [Role; 3] = [Role::Query, Role::KvA, Role::KvB];

/// Says which of the tensors have no effect in llama.cpp, if any.
pub(crate) fn without_effect(tensors: &[AdapterTensor]) -> Option<Warning> {
    let is_left_out = |role: &Role| tensors.iter().any(|tensor| tensor.key.role == *role);
    let roles: Vec<String> =
        WITHOUT_ADAPTER.iter().filter(|role| is_left_out(role)).map(Role::to_string).collect();
    (!roles.is_empty()).then_some(Warning::AdapterLeftOut { roles })
}

/// The tensors of an adapter in a GGUF, in the order in which convert_lora_to_gguf.py writes them, and the value of
/// `adapter.lora.alpha`: llama.cpp multiplies each product by that value and divides by the product's rank.
///
/// # Errors
/// What llama.cpp has no place for: weights that are replaced, changes of the embedding and the head, factors that no single alpha gives;
/// modules or shapes that the base model does not have.
pub fn gguf_tensors(adapter: &Adapter, base: &Config) -> Result<(Vec<AdapterTensor>, f32)> {
    let inexpressible =
        |what: String| Error::Inexpressible { path: adapter.path().into(), target: "GGUF adapter", what };
    let mut tensors = Vec::new();
    let mut alpha = None;
    for change in &adapter.changes {
        let module = &change.module;
        let key = match change.target {
            Target::Tensor(key) => key,
            Target::Head => return Err(inexpressible(format!("a change of the head (`{module}`)"))),
        };
        // Its graph multiplies with the embedding as the head, and an adapter of one does not fit the other.
        if key.role == Role::TokenEmbedding {
            return Err(inexpressible(format!(
                "a change of the embedding (`{module}`), on which llama.cpp aborts"
            )));
        }
        let ChangeKind::LowRank(product) = &change.kind else {
            return Err(inexpressible(format!("a whole weight (`{module}`)")));
        };
        check_shape(adapter, base, key, module, product)?;
        let needed = product.factor * product.right.rows() as f64;
        let shared = *alpha.get_or_insert(needed);
        if (needed - shared).abs() > 1e-6 * shared.abs() {
            return Err(inexpressible(format!(
                "factors that differ in more than their ranks (`{module}` needs an alpha of {needed}, others of {shared})"
            )));
        }
        tensors.extend(pair(base, key, product));
    }
    if tensors.is_empty() {
        return Err(inexpressible("an adapter without any product".into()));
    }
    let own = adapter.alpha();
    let alpha = alpha.unwrap_or(own);
    // As it was written, where it is that.
    let alpha = if (alpha - own).abs() <= 1e-6 * own { own } else { alpha };
    Ok((tensors, alpha as f32))
}

fn check_shape(
    adapter: &Adapter,
    base: &Config,
    key: TensorKey,
    module: &str,
    product: &LowRank,
) -> Result<()> {
    let has_layer = key.layer.is_none_or(|layer| layer < base.num_hidden_layers);
    let Some(expected) = base.shape_of(key.role).filter(|_| has_layer) else {
        return Err(Error::UnknownModule { path: adapter.path().into(), module: module.into() });
    };
    let found = vec![product.left.rows(), product.right.cols()];
    if found == expected {
        return Ok(());
    }
    Err(Error::Shape {
        path: adapter.path().into(),
        tensor: format!("{module} (the product of its LoRA matrices)"),
        found,
        expected,
        from: "the base model",
    })
}

/// `lora_a` `[rank, cols]` and `lora_b` `[rows, rank]`.
fn pair(base: &Config, key: TensorKey, product: &LowRank) -> [AdapterTensor; 2] {
    let (a, rows) = (Arc::clone(&product.right), Arc::clone(&product.left));
    let b: Arc<dyn RowSource> = match base.moved_rows(key.role) {
        Some(order) => Arc::new(GatheredRows::new(rows, order)),
        None => rows,
    };
    let tensor = |part: &str, source: Arc<dyn RowSource>| AdapterTensor {
        key,
        name: format!("{}.{part}", key.gguf_name()),
        shape: vec![source.rows(), source.cols()],
        source,
    };
    [tensor("lora_a", a), tensor("lora_b", b)]
}
