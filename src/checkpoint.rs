//! A model as a Hugging Face folder: back from a GGUF, or in another float type.

use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;

use anyhow::Result;
use indicatif::ProgressBar;
use plmconv_formats::atomic::AtomicFolder;
use plmconv_formats::checkpoint::{Checkpoint, CheckpointTensor, SHARD_BYTES, may_replace};
use plmconv_formats::model::Tensor;
use plmconv_formats::{DType, Layout, Model};
use plmconv_quant::encode_rows;

use crate::passes;
use crate::pipeline::folder::write as write_file;
use crate::pipeline::stream::{Rows, Writer, in_order, row_steps};
use crate::progress::Console;
use crate::readback;
use crate::report::outline::{FileLine, Outline, TensorLine};
use crate::target::{Safetensors, Target};

/// Every decision about a folder, made before a byte is written.
pub struct CheckpointPlan {
    pub model: Model,
    pub checkpoint: Checkpoint,
    pub dtype: DType,
    pub output: PathBuf,
    pub overwrite: bool,
}

impl CheckpointPlan {
    /// # Errors
    /// A model in the latent layout that does not say how it was made, files of the model that cannot be read.
    pub fn new(model: Model, target: &Target<Safetensors>) -> Result<CheckpointPlan> {
        let output = target.output_path(model.path());
        let dtype = target.format.dtype.unwrap_or_else(|| own_type(&model));
        let model = match model.config.layout {
            Layout::Plm => model,
            Layout::Latent => passes::from_latent(model)?,
        };
        let model = passes::apply(model, &target.passes)?;
        let shard_bytes = target.format.shard_bytes.unwrap_or(SHARD_BYTES);
        let checkpoint = Checkpoint::new(&model, dtype, shard_bytes)?;
        Ok(CheckpointPlan { model, checkpoint, dtype, output, overwrite: target.overwrite })
    }

    /// What `--dry-run` prints.
    pub fn outline(&self) -> Outline {
        let tensors =
            self.checkpoint.tensors.iter().zip(&self.model.tensors).map(|(place, tensor)| TensorLine {
                name: place.name.clone(),
                shape: place.shape.clone(),
                from: tensor.source.dtype().name(),
                to: self.dtype.name().into(),
                instead_of: None,
                bytes: place.bytes,
                predicted_divergence: None,
            });
        let small = self.checkpoint.files.iter().map(|file| (&file.path, file.bytes.len() as u64));
        let files = self.checkpoint.shards.iter().map(|shard| (&shard.name, shard.bytes)).chain(small);
        let files: Vec<FileLine> =
            files.map(|(name, bytes)| FileLine { path: self.output.join(name), bytes }).collect();
        let weights: usize = self.model.tensors.iter().map(Tensor::values).sum();
        let data: u64 = self.checkpoint.tensors.iter().map(|place| place.bytes).sum();
        Outline {
            file_type: self.dtype.name().to_ascii_lowercase(),
            bytes: files.iter().map(|file| file.bytes).sum(),
            source_bytes: self.model.tensors.iter().map(|tensor| tensor.source.stored_bytes()).sum(),
            bits_per_weight: data as f64 * 8.0 / weights.max(1) as f64,
            predicted_divergence: None,
            files,
            tensors: tensors.collect(),
            outputs: vec![self.output.clone()],
        }
    }
}

/// The float type of the matrices if they have one, so that a converted checkpoint comes back as it was; F32, which loses
/// nothing, for quantized ones.
fn own_type(model: &Model) -> DType {
    let matrices = model.tensors.iter().filter(|tensor| !tensor.key.role.is_norm());
    let types: Vec<DType> = matrices.map(|tensor| tensor.source.dtype()).collect();
    match types[..] {
        [first, ref others @ ..]
            if matches!(first, DType::F16 | DType::Bf16) && others.iter().all(|other| *other == first) =>
        {
            first
        }
        _ => DType::F32,
    }
}

/// Writes everything the plan says. The folder has its name once it is committed.
pub fn write(plan: &CheckpointPlan, bar: &ProgressBar, console: Console) -> Result<AtomicFolder> {
    let folder = AtomicFolder::create(&plan.output, plan.overwrite, may_replace)?;
    let shards = &plan.checkpoint.shards;
    let files = shards.iter().map(|shard| write_file(&folder, &shard.name, &shard.head));
    let files = files.collect::<Result<Vec<File>>>()?;
    for file in &plan.checkpoint.files {
        write_file(&folder, &file.path, &file.bytes)?;
    }
    let writer = Writer::default();
    in_order(&steps(plan), |buffers: &mut Buffers, step| {
        let Step { place, tensor, rows } = step;
        buffers.rows.load(&place.name, &*tensor.source, rows.clone())?;
        let values = &buffers.rows.values;
        buffers.encoded.resize(plan.dtype.encoded_len(values.len()).unwrap_or_default(), 0);
        encode_rows(plan.dtype, values, tensor.source.cols(), None, &mut buffers.encoded)
            .map_err(|error| anyhow::anyhow!("tensor `{}`: {error}", place.name))?;
        let at = rows.start * (buffers.encoded.len() / rows.len());
        let path = &shards[place.shard].name;
        writer.write(&files[place.shard], path, &buffers.encoded, place.offset + at as u64)?;
        if rows.end == tensor.source.rows() {
            console.detail(bar, || format!("{:<52} {}", place.name, plan.dtype));
        }
        bar.inc((rows.len() * tensor.source.row_bytes()) as u64);
        Ok(())
    })?;
    plan.model.check_unchanged()?;
    readback::checkpoint(&folder, plan)?;
    Ok(folder)
}

#[derive(Default)]
struct Buffers {
    rows: Rows,
    encoded: Vec<u8>,
}

/// Some rows of a tensor.
struct Step<'a> {
    place: &'a CheckpointTensor,
    tensor: &'a Tensor,
    rows: Range<usize>,
}

fn steps(plan: &CheckpointPlan) -> Vec<Step<'_>> {
    let places = plan.checkpoint.tensors.iter().zip(&plan.model.tensors);
    places
        .flat_map(|(place, tensor)| {
            row_steps(&*tensor.source, 1).map(move |rows| Step { place, tensor, rows })
        })
        .collect()
}
