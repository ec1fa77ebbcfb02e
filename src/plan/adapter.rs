//! The plan of a LoRA adapter's own GGUF, which llama.cpp loads beside its model.

use std::path::Path;

use anyhow::Result;
use plmconv_calibrate::Rounding;
use plmconv_formats::adapter::{AdapterTensor, gguf_tensors};
use plmconv_formats::model::Tensor;
use plmconv_formats::{Adapter, Config, DType, Description, describe_adapter, small_file};

use super::{Contents, Plan, PlannedTensor, files};
use crate::error::{At, Place};
use crate::target::{Arrangement, GgufLora, Target};

impl Plan {
    /// What convert_lora_to_gguf.py writes for the adapter in `folder` and the model in `base`.
    ///
    /// # Errors
    /// An adapter that cannot be read, does not fit the model or that llama.cpp has no place for.
    pub fn of_adapter(folder: &Path, base: &Path, target: &Target<GgufLora>) -> Result<Plan> {
        let adapter = Adapter::open(folder, 1.0).at(Place::Adapter)?;
        let config = base_config(base).at(Place::Model)?;
        let (tensors, alpha) = gguf_tensors(&adapter, &config).at(Place::Adapter)?;
        let Description { metadata, warnings } = describe_adapter(folder, &tensors, alpha)?;
        let dtype = target.format.dtype;
        let output = target.output_path(folder)?;
        let mut tensors: Vec<PlannedTensor> =
            tensors.into_iter().map(|tensor| planned(tensor, dtype)).collect();
        let shards = files::lay_out(&output, metadata, &mut tensors, Arrangement::OneFile)?;
        Ok(Plan {
            file_type: dtype.name().to_ascii_lowercase(),
            contents: Contents::Adapter,
            tensors,
            shards,
            output,
            is_split: false,
            overwrite: target.overwrite,
            pair_factors: Vec::new(),
            rounding: Rounding::default(),
            resume: false,
            warnings,
            inputs: adapter.inputs,
        })
    }
}

/// The hyperparameters of a model's folder, which needs no weights.
fn base_config(folder: &Path) -> Result<Config> {
    let folder = plmconv_formats::hub::snapshot(folder)?.unwrap_or_else(|| folder.into());
    let path = folder.join("config.json");
    Ok(Config::from_json(&path, small_file::read(&path)?)?)
}

fn planned(tensor: AdapterTensor, dtype: DType) -> PlannedTensor {
    let AdapterTensor { key, name, shape, source } = tensor;
    let tensor = Tensor { key, shape, source };
    PlannedTensor { tensor, name, dtype, fallback_from: None, open: false, predicted: None }
}
