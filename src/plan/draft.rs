//! What is decided before anything is measured.

use anyhow::Result;
use plmconv_calibrate::{Budget, Rounding, Sensitivity};
use plmconv_formats::describe::set_file_type;
use plmconv_formats::gguf::{Directory, Metadata, Value};
use plmconv_formats::model::{Tensor, latent_metadata};
use plmconv_formats::{
    DType, DescribeOptions, Description, Layout, Model, Role, TensorKey, Warning, describe,
};

use super::{Contents, Plan, PlannedTensor, files, types};
use crate::error::UsageError;
use crate::passes;
use crate::passes::gate::Factors;
use crate::recipe::{self, Recipe};
use crate::target::{Gguf, Target, Types};

/// A target for a model, checked as far as nothing has to be measured for it.
#[derive(Debug)]
pub struct Draft {
    model: Model,
    target: Target<Gguf>,
    /// Of the model as it comes: its name and its size are the checkpoint's in any layout.
    metadata: Metadata,
    warnings: Vec<Warning>,
    /// Whether some tensor is rounded to blocks.
    pub quantizes: bool,
}

impl Draft {
    /// Checks everything that does not depend on what is measured; `has_importance` says whether columns will differ
    /// in importance.
    ///
    /// # Errors
    /// A model that the layout's graph cannot express, a quantized source without leave to requantize, a pattern that
    /// matches nothing, a type that needs an importance matrix.
    pub fn new(model: Model, target: Target<Gguf>, has_importance: bool) -> Result<Draft> {
        refuse_latent_source(&model)?;
        model.config.check_layout(model.path(), target.format.layout)?;
        if !target.allow_requantize {
            refuse_quantized_source(&model)?;
        }
        let options = DescribeOptions { file_type: 0, tokenizer_pre: target.format.tokenizer_pre.clone() };
        let Description { mut metadata, warnings } = describe(&model, &options)?;
        // The source's own, which is of another file.
        metadata.remove(recipe::KEY);
        let quantizes = types::quantize(&model.config, &target.format, has_importance)?;
        Ok(Draft { model, target, metadata, warnings, quantizes })
    }

    /// The model as it comes.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// What is to be written.
    pub fn target(&self) -> &Target<Gguf> {
        &self.target
    }

    /// Decides the rest: a budget's types by `sensitivity`, which only a budget needs.
    ///
    /// # Errors
    /// A budget that nothing fits, weights that cannot be read, a name that cannot be an output's.
    pub fn finish(self, rounding: Rounding, sensitivity: Option<Sensitivity>) -> Result<Plan> {
        let Draft { model, target, mut metadata, warnings, .. } = self;
        let output = target.output_path(model.path())?;
        let is_split = target.is_split();
        let rounding = rounding.for_layout(target.format.layout);
        let (model, factors) = rewrite(model, &target, &rounding)?;
        if model.config.layout == Layout::Latent {
            let sharpness: Vec<f32> = factors.iter().map(|f| f.b()).collect();
            let norm_scale: Vec<f32> = factors.iter().map(|f| f.norm_factor()).collect();
            metadata = latent_metadata(&metadata, &model.config, &sharpness, &norm_scale);
        }
        rounding.describe(&mut metadata);
        if let Some(recipe) = Recipe::of_gguf(&target, &rounding, &model.adapters) {
            metadata.set(recipe::KEY, Value::String(recipe.to_string()));
        }
        let Gguf { types, arrangement, resume, .. } = target.format;
        let types = match types {
            Types::Stored(stored) => stored.recognize(&model, rounding.has_importance()),
            chosen => chosen,
        };
        let mut tensors = types::assign(&model, &types, &rounding)?;
        if let Types::Budget { policy, file_type, limit } = &types {
            let sensitivity = sensitivity.expect("a budget comes with what was measured for it");
            let budget = Budget { policy: policy.clone(), file_type: *file_type, limit: *limit, sensitivity };
            // No choice of types changes the head's length.
            let head = Directory::new(&metadata, files::entries(&tensors))?.head;
            types::fit(&mut tensors, &budget, head.len() as u64)?;
        }
        compensate_gates(&mut tensors, &factors);
        set_file_type(&mut metadata, types::file_type_id(&types, &tensors));
        let shards = files::lay_out(&output, metadata, &mut tensors, arrangement)?;
        Ok(Plan {
            file_type: types.name().to_string(),
            contents: Contents::Model,
            tensors,
            shards,
            output,
            is_split,
            overwrite: target.overwrite,
            pair_factors: factors,
            rounding,
            resume,
            warnings,
            inputs: model.inputs,
        })
    }
}

/// The model that is written: after the passes, in the target's layout; with the factors of the latent layout's pairs.
fn rewrite(model: Model, target: &Target<Gguf>, rounding: &Rounding) -> Result<(Model, Vec<Factors>)> {
    let mut model = passes::apply(model, &target.passes)?;
    if let Some(balance) = rounding.balance() {
        passes::balance::apply(&mut model.tensors, balance);
    }
    Ok(match target.format.layout {
        Layout::Plm => (model, Vec::new()),
        Layout::Latent => passes::to_latent(model)?,
    })
}

/// The two halves of a quantized pair cannot be told apart again.
pub fn refuse_latent_source(model: &Model) -> Result<()> {
    match model.config.layout {
        Layout::Plm => Ok(()),
        Layout::Latent => Err(UsageError::with_hint(
            format!("{}: already in the latent layout, which is only written", model.path().display()),
            "start from the checkpoint, or from a GGUF of the architecture plm",
        )
        .into()),
    }
}

/// Has every gate make up for what its layer's `up` loses in the type it was given.
fn compensate_gates(tensors: &mut [PlannedTensor], factors: &[Factors]) {
    let ups: Vec<(TensorKey, Tensor, DType)> = tensors
        .iter()
        .filter(|t| t.tensor.key.role == Role::FfnUp)
        .map(|t| (t.tensor.key, t.tensor.clone(), t.dtype))
        .collect();
    for planned in tensors.iter_mut().filter(|t| t.tensor.key.role == Role::FfnGate) {
        let layer = planned.tensor.key.layer.expect("a gate belongs to a layer");
        let up = ups.iter().find(|(key, ..)| key.layer == Some(layer)).expect("a gate has an up beside it");
        if up.2 != up.1.source.dtype() {
            passes::gate::compensate(&mut planned.tensor, &up.1, up.2, factors[layer]);
        }
    }
}

/// Quantizing again loses quality.
pub fn refuse_quantized_source(model: &Model) -> Result<()> {
    match model.tensors.iter().find(|t| t.source.dtype().is_quantized()) {
        Some(t) => Err(UsageError::with_hint(
            format!(
                "{}: already quantized (`{}` is {}); quantizing again loses quality",
                model.path().display(),
                t.key.gguf_name(),
                t.source.dtype()
            ),
            "start from the checkpoint or an f32, f16 or bf16 GGUF; `plmconv quantize` can be told --allow-requantize",
        )
        .into()),
        None => Ok(()),
    }
}
