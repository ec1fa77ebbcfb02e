//! A checkpoint's weights with adapters merged into them, before anything else is done to the checkpoint.

use std::path::Path;
use std::sync::Arc;

use super::import::{Weight, Weights, check_head, check_shape};
use super::{Config, Role, TensorKey};
use crate::adapter::{Adapter, Change, ChangeKind, LowRank, Saved, Target};
use crate::error::{Error, Result};
use crate::source::RowSource;
use crate::warning::Warning;

/// Adds a product to a weight: `merge(name, base, product)`. This crate does no arithmetic, so its caller does.
pub type Merge<'a> = dyn Fn(&str, Arc<dyn RowSource>, &LowRank) -> Arc<dyn RowSource> + 'a;

/// Adapters, in the order in which they are merged, and how.
#[derive(Clone, Copy)]
pub struct Merging<'a> {
    /// The adapters.
    pub adapters: &'a [Adapter],
    /// What adds their products.
    pub merge: &'a Merge<'a>,
}

impl Merging<'_> {
    /// Changes the weights of the checkpoint in `folder`.
    ///
    /// # Errors
    /// Changes of what the model does not have or in another shape; of its head alone.
    pub(super) fn apply(
        &self,
        folder: &Path,
        config: &Config,
        weights: &mut Weights,
    ) -> Result<Vec<Warning>> {
        let mut warnings = Vec::new();
        for adapter in self.adapters {
            if config.tie_word_embeddings {
                tie(folder, weights)?;
            }
            if weights.head.is_none() && !adapter.ties_head() {
                if saves(adapter, EMBEDDING) != saves(adapter, Target::Head) {
                    let what = "one of the embedding and the head alone in `modules_to_save`, which are the same in \
                                this model,";
                    return Err(Error::Unmergeable { path: adapter.path().into(), what: what.into() });
                }
                if has_product(adapter, EMBEDDING) {
                    warnings.push(Warning::HeadFollows { adapter: adapter.path().into() });
                }
            }
            for change in &adapter.changes {
                self.change(adapter, weights, change)?;
            }
        }
        Ok(warnings)
    }

    fn change(&self, adapter: &Adapter, weights: &mut Weights, change: &Change) -> Result<()> {
        let is_tied = weights.head.is_none();
        if is_tied {
            let embedding = weights.by_key.get(&EMBEDDING_KEY).cloned();
            match (&change.target, &change.kind) {
                // A copy of its own for one of the two; the end compares them.
                (Target::Tensor(EMBEDDING_KEY), ChangeKind::Saved(_)) if !adapter.ties_head() => {
                    weights.head = embedding;
                }
                (Target::Head, ChangeKind::Saved(_) | ChangeKind::Base(_)) => weights.head = embedding,
                (Target::Head, ChangeKind::LowRank(_)) => {
                    let what = format!(
                        "a change of the head alone (`{}`), which is the embedding in this model,",
                        change.module
                    );
                    return Err(Error::Unmergeable { path: adapter.path().into(), what });
                }
                _ => {}
            }
        }
        let slot = match change.target {
            Target::Tensor(key) => weights.by_key.get_mut(&key),
            Target::Head => weights.head.as_mut(),
        };
        let Some(weight) = slot else {
            let (path, module) = (adapter.path().into(), change.module.clone());
            return Err(Error::UnknownModule { path, module });
        };
        match &change.kind {
            ChangeKind::Base(saved) | ChangeKind::Saved(saved) => replace(adapter, weight, change, saved),
            ChangeKind::LowRank(product) => self.add(adapter, weight, change, product),
        }
    }

    fn add(&self, adapter: &Adapter, weight: &mut Weight, change: &Change, product: &LowRank) -> Result<()> {
        let shape = [product.left.rows(), product.right.cols()];
        let name = format!("{} (the product of its LoRA matrices)", change.module);
        check_shape(adapter.path(), &name, &shape, &weight.shape, "the base model")?;
        weight.source = (self.merge)(&weight.name, Arc::clone(&weight.source), product);
        Ok(())
    }
}

/// A tied checkpoint's head is its embedding, also where it is stored: what changes one changes the other.
fn tie(folder: &Path, weights: &mut Weights) -> Result<()> {
    if let Some(embedding) = weights.by_key.get(&EMBEDDING_KEY) {
        check_head(folder, true, embedding, weights.head.take())?;
    }
    Ok(())
}

const EMBEDDING_KEY: TensorKey = TensorKey { layer: None, role: Role::TokenEmbedding };
const EMBEDDING: Target = Target::Tensor(EMBEDDING_KEY);

fn has_product(adapter: &Adapter, target: Target) -> bool {
    let is_product = |change: &&Change| matches!(change.kind, ChangeKind::LowRank(_));
    adapter.changes.iter().filter(is_product).any(|change| change.target == target)
}

fn saves(adapter: &Adapter, target: Target) -> bool {
    let is_saved = |change: &&Change| matches!(change.kind, ChangeKind::Saved(_));
    adapter.changes.iter().filter(is_saved).any(|change| change.target == target)
}

fn replace(adapter: &Adapter, weight: &mut Weight, change: &Change, saved: &Saved) -> Result<()> {
    let name = format!("{} (saved in the adapter)", change.module);
    check_shape(adapter.path(), &name, &saved.shape, &weight.shape, "the base model")?;
    *weight = Weight {
        path: adapter.path().into(),
        name: saved.name.clone(),
        shape: saved.shape.clone(),
        source: Arc::clone(&saved.source),
    };
    Ok(())
}
