//! Every decision of an export, made before a byte is written.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use plmconv_calibrate::{Rounding, Sensitivity};
use plmconv_formats::model::{Tensor, TensorKey};
use plmconv_formats::onnx::{
    Companions, Content, DataItem, Export, ExportSpec, Profile, WeightFormat, blocks_name, build, companions,
};
use plmconv_formats::{DType, Model, Role};
use plmconv_quant::Error as QuantError;

use super::budget::{Fitting, storage_of};
use super::range::ffn_shifts;
use crate::passes;
use crate::plan::{refuse_latent_source, refuse_quantized_source};
use crate::recipe::{self, Recipe};
use crate::report::outline::{FileLine, Outline, TensorLine};
use crate::target::{Onnx, Target, WeightType};

/// What to write.
#[derive(Debug)]
pub struct OnnxPlan {
    pub model: Model,
    pub spec: ExportSpec,
    pub export: Export,
    /// The files beside the graph and its data.
    pub companions: Companions,
    pub rounding: Rounding,
    /// The folder.
    pub output: PathBuf,
    pub overwrite: bool,
    pub type_name: String,
    /// With a budget: the divergence in nats per token that each matrix's format alone is predicted to cause.
    pub predicted: BTreeMap<TensorKey, f64>,
}

/// A target for a model, checked as far as nothing has to be measured for it.
#[derive(Debug)]
pub struct OnnxDraft {
    model: Model,
    target: Target<Onnx>,
    /// Without what depends on the weights or on what is measured.
    spec: ExportSpec,
    companions: Companions,
    /// Matrices whose formats a budget chooses.
    open: Vec<TensorKey>,
}

impl OnnxDraft {
    /// Checks everything that does not depend on what is measured.
    ///
    /// # Errors
    /// A quantized source without leave to requantize, a pattern that matches nothing, a profile that cannot hold the
    /// model.
    pub fn new(model: Model, target: Target<Onnx>) -> Result<OnnxDraft> {
        refuse_latent_source(&model)?;
        if !target.allow_requantize {
            refuse_quantized_source(&model)?;
        }
        let onnx = &target.format;
        let mut spec = ExportSpec::new(onnx.profile, onnx.opset);
        spec.float = onnx.float;
        spec.quant_format = onnx.quant_format;
        spec.accuracy_level = onnx.accuracy_level;
        spec.num_logits_to_keep = onnx.num_logits_to_keep;
        // Only transformers.js chooses among several graphs in a folder; the others want the plain name.
        spec.file_name = match (onnx.profile, onnx.type_suffix()) {
            (Profile::Latent | Profile::Genai, _) | (Profile::Hf, "") => "model.onnx".into(),
            (Profile::Hf, suffix) => format!("model_{suffix}.onnx"),
        };
        spec.producer_version.clone_from(&target.made_by);
        let open = assign_weights(&model, onnx, &mut spec)?;
        let data_files = build(&model, &spec)?.data_bytes.len();
        let companions = companions(&model, &spec, data_files)?;
        Ok(OnnxDraft { model, target, spec, companions, open })
    }

    /// The model as it comes.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// What is to be written.
    pub fn target(&self) -> &Target<Onnx> {
        &self.target
    }

    /// Whether some weight is stored in blocks.
    pub fn quantizes(&self) -> bool {
        !self.spec.weights.is_empty()
    }

    /// Decides the rest: a budget's formats by `sensitivity`, which only a budget needs.
    ///
    /// # Errors
    /// Weights that cannot be read, a budget that nothing fits.
    pub fn finish(self, rounding: Rounding, sensitivity: Option<Sensitivity>) -> Result<OnnxPlan> {
        let OnnxDraft { model, target, mut spec, mut companions, open } = self;
        let output = target.output_path(model.path());
        let mut model = passes::apply(model, &target.passes)?;
        if let Some(balance) = rounding.balance() {
            passes::balance::apply(&mut model.tensors, balance);
        }
        spec.metadata =
            vec![(recipe::KEY.into(), Recipe::of_onnx(&target, &rounding, &model.adapters).to_string())];
        if spec.float == DType::F16 {
            spec.ffn_shift = ffn_shifts(&model)?;
        }
        let mut predicted = BTreeMap::new();
        if let Some(limit) = target.format.limit() {
            let sensitivity = &sensitivity.expect("a budget comes with what was measured for it");
            let fitting = Fitting { model: &model, spec: &spec, open: &open, sensitivity, limit };
            let formats = fitting.formats()?;
            spec.weights.extend(open.into_iter().zip(formats));
            predicted = predictions(&model, &spec, sensitivity);
        }
        let export = build(&model, &spec)?;
        if target.format.limit().is_some() {
            // It may be cut into another number of files.
            companions.files =
                plmconv_formats::onnx::companions(&model, &spec, export.data_bytes.len())?.files;
        }
        Ok(OnnxPlan {
            predicted,
            model,
            spec,
            export,
            companions,
            rounding,
            output,
            overwrite: target.overwrite,
            type_name: target.format.type_name(),
        })
    }
}

impl OnnxPlan {
    /// # Errors
    /// What was read has changed since it was opened.
    pub fn check_unchanged(&self) -> Result<()> {
        self.model.check_unchanged()?;
        Ok(self.rounding.check_unchanged()?)
    }

    /// The graph's path inside the folder.
    pub fn graph_path(&self) -> String {
        format!("{}{}", self.spec.folder(), self.spec.file_name)
    }

    /// The external data's paths inside the folder, and their sizes.
    pub fn data_paths(&self) -> impl Iterator<Item = (String, u64)> {
        let data = self.export.data_bytes.iter().enumerate();
        data.map(|(i, &bytes)| (format!("{}{}", self.spec.folder(), self.spec.data_name(i)), bytes))
    }

    /// Bytes that will be read.
    pub fn source_bytes(&self) -> u64 {
        self.export.items.iter().map(|item| item.source.stored_bytes()).sum()
    }

    /// What a report says about it.
    pub fn outline(&self) -> Outline {
        let files = self.files();
        let tensors: Vec<TensorLine> = self.model.tensors.iter().map(|tensor| self.line(tensor)).collect();
        let weights: usize = self.model.tensors.iter().map(Tensor::values).sum();
        let tensor_bytes: u64 = tensors.iter().map(|t| t.bytes).sum();
        Outline {
            file_type: self.type_name.clone(),
            outputs: vec![self.output.clone()],
            bytes: files.iter().map(|f| f.bytes).sum(),
            source_bytes: self.source_bytes(),
            bits_per_weight: tensor_bytes as f64 * 8.0 / weights as f64,
            predicted_divergence: (!self.predicted.is_empty()).then(|| self.predicted.values().sum()),
            files,
            tensors,
        }
    }

    fn files(&self) -> Vec<FileLine> {
        let graph = (self.graph_path(), self.export.model.len() as u64);
        let companions =
            self.companions.files.iter().map(|s| (s.path.display().to_string(), s.bytes.len() as u64));
        let all = std::iter::once(graph).chain(self.data_paths()).chain(companions);
        all.map(|(path, bytes)| FileLine { path: self.output.join(path), bytes }).collect()
    }

    /// A tensor of the model, which may have become several weights.
    fn line(&self, tensor: &Tensor) -> TensorLine {
        let mut items = self.export.items.iter().filter(|item| item.key == tensor.key).peekable();
        TensorLine {
            name: tensor.key.gguf_name(),
            shape: tensor.shape.clone(),
            from: tensor.source.dtype().name(),
            to: items.peek().map(|item| stored_as(item)).unwrap_or_default(),
            instead_of: None,
            predicted_divergence: self.predicted.get(&tensor.key).copied(),
            bytes: items.map(DataItem::bytes).sum(),
        }
    }
}

/// How an item is stored: `F32`, or `Q4 x32` for 4-bit codes in blocks of 32.
pub fn stored_as(item: &DataItem) -> String {
    match &item.content {
        Content::Float { dtype, .. } => dtype.name().into(),
        Content::NBits { format, .. } | Content::Qdq { format, .. } => {
            blocks_name(format.bits, format.block_size, format.symmetric)
        }
    }
}

/// Gives every matrix the format that the user or the preset says; those that are left to a budget.
fn assign_weights(model: &Model, target: &Onnx, spec: &mut ExportSpec) -> Result<Vec<TensorKey>> {
    let matrices = || model.tensors.iter().filter(|t| !t.key.role.is_norm());
    for (pattern, _) in &target.overrides {
        if !matrices().any(|t| pattern.is_match(&t.key.gguf_name())) {
            return Err(QuantError::UnmatchedPattern { pattern: pattern.to_string() }.into());
        }
    }
    let mut open = Vec::new();
    for tensor in matrices() {
        let name = tensor.key.gguf_name();
        let overridden = target.overrides.iter().find(|(pattern, _)| pattern.is_match(&name));
        let embedding = target.token_embedding.filter(|_| tensor.key.role == Role::TokenEmbedding);
        let said = embedding.or(overridden.map(|(_, weight)| *weight));
        if said.is_none() && target.limit().is_some() {
            open.push(tensor.key);
        }
        if let WeightType::Bits(bits) = said.unwrap_or_else(|| target.by_default(tensor.key.role)) {
            spec.weights.insert(tensor.key, WeightFormat::Block(target.block_format(bits)));
        }
    }
    Ok(open)
}

/// What each matrix's format alone is predicted to cost, where it was measured.
fn predictions(model: &Model, spec: &ExportSpec, sensitivity: &Sensitivity) -> BTreeMap<TensorKey, f64> {
    let keys = model.tensors.iter().map(|tensor| tensor.key);
    let of = |key: TensorKey| sensitivity.stored(&key.gguf_name(), storage_of(spec.weight(key), spec.float));
    keys.filter_map(|key| Some((key, of(key)?))).collect()
}
