//! Arguments and a model become a checked plan: every decision is made here, before a byte is written.

mod stored_types;

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::Result;
use plmconv_calibrate::digest::add_rows;
use plmconv_calibrate::{Budget, Matrix, Rounding};
use plmconv_formats::atomic::follow_links;
use plmconv_formats::describe::set_file_type;
use plmconv_formats::gguf::{Directory, Metadata, SET_ID, ShardName, UNKNOWN_SET_ID, Value};
use plmconv_formats::hub;
use plmconv_formats::model::{Tensor, latent_metadata};
use plmconv_formats::{
    DType, DescribeOptions, Description, Fingerprint, Layout, Model, Role, TensorKey, Warning, describe, hex,
};
use plmconv_quant::policy::{Assigned, FileType, ModelShape, Policy, Reason, TensorDesc};
use sha2::{Digest, Sha256};

use crate::error::UsageError;
use crate::outputs::Inputs;
use crate::passes::gate::Factors;
use crate::passes::{self, Pass};
use crate::recipe::{self, Recipe};
use crate::report::outline::{FileLine, Outline, TensorLine};

pub use stored_types::StoredTypes;

/// What to write: for each tensor its type, for each output file its layout.
#[derive(Debug)]
pub struct Plan {
    pub file_type: String,
    pub tensors: Vec<PlannedTensor>,
    pub shards: Vec<Shard>,
    /// The output as the user calls it, also where it is split.
    pub output: PathBuf,
    pub is_split: bool,
    pub overwrite: bool,
    /// Latent layout: per layer, the factors of the FFN's pair; else empty.
    pub pair_factors: Vec<Factors>,
    pub rounding: Rounding,
    /// Go on with what an interrupted run had finished.
    pub resume: bool,
    /// What the user should know of.
    pub warnings: Vec<Warning>,
    /// What the model's files were when it was opened.
    inputs: Vec<Fingerprint>,
}

/// A tensor and what becomes of it.
#[derive(Debug)]
pub struct PlannedTensor {
    pub tensor: Tensor,
    pub name: String,
    pub dtype: DType,
    /// The type the mixture asked for, where its blocks do not divide the rows.
    pub fallback_from: Option<DType>,
    /// Whether a budget may give it another type: neither a norm nor named by the user.
    pub open: bool,
    /// With a budget: the divergence in nats per token that this type alone is predicted to cause.
    pub predicted: Option<f64>,
}

/// One output file: where it goes, its layout, and which of the plan's tensors it holds.
#[derive(Debug)]
pub struct Shard {
    pub path: PathBuf,
    /// What the directory's head holds.
    pub metadata: Metadata,
    pub directory: Directory,
    pub tensors: Range<usize>,
}

/// What decides the types.
#[derive(Debug)]
pub enum Types {
    /// A preset of llama-quantize, with the user's exceptions.
    Preset(Policy),
    /// The least predicted divergence within a size.
    Budget(Budget),
    /// Every matrix keeps its own float type.
    Source,
    /// Those that a file has.
    Stored(StoredTypes),
}

/// Which files the tensors go into.
#[derive(Debug)]
pub enum Arrangement {
    OneFile,
    /// Shards of at most so many bytes of tensor data.
    Shards(u64),
    /// As in these files.
    Like(Vec<Arranged>),
}

/// The order of an existing file, or of one shard of a set.
#[derive(Debug)]
pub struct Arranged {
    pub path: PathBuf,
    /// Keys of its metadata.
    pub keys: Vec<String>,
    pub tensors: Vec<String>,
    /// What it shall have at these keys, or not have at all, whatever is derived.
    pub given: Vec<(String, Option<Value>)>,
}

/// The choices that shape an output, resolved from the arguments.
#[derive(Debug)]
pub struct Target {
    pub types: Types,
    pub output: Option<PathBuf>,
    pub overwrite: bool,
    /// llama.cpp's name of the pre-tokenizer, where the user says it.
    pub tokenizer_pre: Option<String>,
    pub arrangement: Arrangement,
    pub allow_requantize: bool,
    pub layout: Layout,
    /// Rewrites before anything else.
    pub passes: Vec<Pass>,
    pub rounding: Rounding,
    /// Go on with what an interrupted run had finished.
    pub resume: bool,
    /// The version of plmconv that a recipe names.
    pub made_by: String,
}

impl Target {
    /// One new file under its default name, in these types and nothing else.
    pub fn new(types: Types) -> Target {
        Target {
            types,
            output: None,
            overwrite: false,
            tokenizer_pre: None,
            arrangement: Arrangement::OneFile,
            allow_requantize: false,
            layout: Layout::Plm,
            passes: Vec::new(),
            rounding: Rounding::default(),
            resume: false,
            made_by: env!("CARGO_PKG_VERSION").into(),
        }
    }

    /// The name the user gave, with its links followed (a split's shards have names of their own), else
    /// `<name>-<TYPE>.gguf` or `<name>-latent-<TYPE>.gguf` in the current folder.
    ///
    /// # Errors
    /// A name that cannot be an output's.
    pub fn output_path(&self, model: &Model, layout: Layout, file_type: &str) -> Result<PathBuf> {
        let layout = match layout {
            Layout::Plm => "",
            Layout::Latent => "latent-",
        };
        let default = || PathBuf::from(format!("{}-{layout}{file_type}.gguf", model_name(model.path())));
        let path = self.output.clone().unwrap_or_else(default);
        Ok(if self.is_split() { path } else { follow_links(&path)? })
    }

    /// Whether a set of shards is asked for.
    pub fn is_split(&self) -> bool {
        matches!(self.arrangement, Arrangement::Shards(_))
    }
}

impl Plan {
    /// Decides everything.
    ///
    /// # Errors
    /// A model that the layout's graph cannot express, a quantized source without leave to requantize, a
    /// pattern that matches nothing.
    pub fn new(model: Model, mut target: Target) -> Result<Plan> {
        refuse_latent_source(&model)?;
        model.config.check_layout(model.path(), target.layout)?;
        if !target.allow_requantize {
            refuse_quantized_source(&model)?;
        }
        // Described as it comes: its name and its size are the checkpoint's in any layout.
        let options = DescribeOptions { file_type: 0, tokenizer_pre: target.tokenizer_pre.clone() };
        let Description { mut metadata, warnings } = describe(&model, &options)?;
        // The source's own, which is of another file.
        metadata.remove(recipe::KEY);
        let (model, factors) = rewrite(model, &target)?;
        if model.config.layout == Layout::Latent {
            let sharpness: Vec<f32> = factors.iter().map(|f| f.b()).collect();
            metadata = latent_metadata(&metadata, &model.config, &sharpness);
        }
        target.rounding.describe(&mut metadata);
        if let Some(recipe) = Recipe::of_gguf(&target) {
            metadata.set(recipe::KEY, Value::String(recipe.to_string()));
        }
        let types = match std::mem::replace(&mut target.types, Types::Source) {
            Types::Stored(stored) => stored.recognize(&model),
            chosen => chosen,
        };
        let mut tensors = assign_types(&model, &types)?;
        if let Types::Budget(budget) = &types {
            // No choice of types changes the head's length.
            let head = Directory::new(&metadata, entries(&tensors))?.head;
            fit(&mut tensors, budget, head.len() as u64)?;
        }
        compensate_gates(&mut tensors, &factors);
        let (name, file_type) = name_types(&types, &tensors);
        set_file_type(&mut metadata, file_type);
        let output = target.output_path(&model, model.config.layout, name)?;
        let is_split = target.is_split();
        let shards = lay_out(&output, metadata, &mut tensors, target.arrangement)?;
        Ok(Plan {
            file_type: name.to_string(),
            tensors,
            shards,
            output,
            is_split,
            overwrite: target.overwrite,
            pair_factors: factors,
            rounding: target.rounding,
            resume: target.resume,
            warnings,
            inputs: model.inputs,
        })
    }

    /// # Errors
    /// What was read is not any longer what it was when it was opened.
    pub fn check_unchanged(&self) -> Result<()> {
        self.inputs.iter().try_for_each(Fingerprint::check)?;
        Ok(self.rounding.check_unchanged()?)
    }

    /// A digest of all that decides the bytes of the outputs; of the source some rows of every tensor are taken, and
    /// its files' sizes and times.
    pub fn key(&self) -> Result<String> {
        let mut hash = Sha256::new();
        hash.update(env!("CARGO_PKG_VERSION"));
        self.inputs.iter().for_each(|input| hash.update(input.stable()));
        self.shards.iter().for_each(|shard| hash.update(&shard.directory.head));
        for tensor in &self.tensors {
            add_rows(&mut hash, &tensor.name, &*tensor.tensor.source)?;
        }
        self.rounding.add_to(&mut hash);
        Ok(hex(hash.finalize()))
    }

    /// Checks that the outputs can be written.
    ///
    /// # Errors
    /// They are `inputs`, exist (without leave to overwrite), or cannot stand where they should.
    pub fn check_outputs(&self, inputs: &Inputs) -> Result<()> {
        if !self.is_split {
            return inputs.check_file(&self.output, self.overwrite);
        }
        let shards: Vec<PathBuf> = self.shards.iter().map(|shard| shard.path.clone()).collect();
        inputs.check_shards(&self.output, &shards, self.overwrite)
    }

    /// Bytes that will be read.
    pub fn source_bytes(&self) -> u64 {
        self.tensors.iter().map(|t| t.tensor.source.stored_bytes()).sum()
    }

    /// With a budget: the sum of what the tensors' types are predicted to cost, in nats per token.
    fn predicted_divergence(&self) -> Option<f64> {
        let predicted: Vec<f64> = self.tensors.iter().filter_map(|t| t.predicted).collect();
        (!predicted.is_empty()).then(|| predicted.iter().sum())
    }

    /// What a report says of it.
    pub fn outline(&self) -> Outline {
        let entries = || self.shards.iter().flat_map(|s| &s.directory.entries);
        let weights: usize = self.tensors.iter().map(|t| t.tensor.values()).sum();
        let tensor_bytes: u64 = entries().map(|e| e.bytes).sum();
        let files = self.shards.iter();
        let tensors = self.tensors.iter().zip(entries()).map(|(t, entry)| TensorLine {
            name: t.name.clone(),
            shape: t.tensor.shape.clone(),
            from: t.tensor.source.dtype().name(),
            to: t.dtype.name().into(),
            instead_of: t.fallback_from.map(DType::name),
            bytes: entry.bytes,
            predicted_divergence: t.predicted,
        });
        Outline {
            file_type: self.file_type.clone(),
            outputs: self.shards.iter().map(|s| s.path.clone()).collect(),
            bytes: self.shards.iter().map(|s| s.directory.file_bytes).sum(),
            source_bytes: self.source_bytes(),
            bits_per_weight: tensor_bytes as f64 * 8.0 / weights as f64,
            predicted_divergence: self.predicted_divergence(),
            files: files.map(|s| FileLine { path: s.path.clone(), bytes: s.directory.file_bytes }).collect(),
            tensors: tensors.collect(),
        }
    }
}

/// The name a model goes by in a default output name: its own in the hub's cache, else its folder's or its file's.
pub fn model_name(path: &Path) -> String {
    let name = if !path.is_dir() {
        // Not the name of what it may be a link to: in the cache that is a digest.
        path.file_stem().map(|stem| without_shard_number(&stem.to_string_lossy()).to_string())
    } else if let Some(id) = hub::model_id(path) {
        id.rsplit('/').next().map(str::to_string)
    } else {
        let resolved = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        resolved.file_name().map(|name| name.to_string_lossy().into_owned())
    };
    name.unwrap_or_else(|| "model".into())
}

/// `model-00001-of-00003` → `model`
fn without_shard_number(stem: &str) -> &str {
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    let parts = stem.rsplit_once("-of-").and_then(|(rest, count)| Some((rest.rsplit_once('-')?, count)));
    match parts {
        Some(((name, number), count)) if is_number(number) && is_number(count) => name,
        _ => stem,
    }
}

/// The model that is written: after the passes, in the target's layout; with the factors of the latent layout's pairs.
fn rewrite(model: Model, target: &Target) -> Result<(Model, Vec<Factors>)> {
    let mut model = passes::apply(model, &target.passes)?;
    if let Some(balance) = target.rounding.balance() {
        passes::balance::apply(&mut model.tensors, balance);
    }
    Ok(match target.layout {
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
        let layer = planned.tensor.key.layer.expect("a gate stands in a layer");
        let up = ups.iter().find(|(key, ..)| key.layer == Some(layer)).expect("a gate stands beside its up");
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

/// The model's tensors as a policy sees them.
fn described(model: &Model) -> Vec<TensorDesc> {
    let tensors = model.tensors.iter();
    tensors
        .map(|t| TensorDesc { name: t.key.gguf_name(), shape: t.shape.clone(), source: t.source.dtype() })
        .collect()
}

/// Every matrix's own type; norms are always f32.
fn source_types(model: &Model) -> Vec<Assigned> {
    let tensors = model.tensors.iter();
    tensors
        .map(|t| if t.key.role.is_norm() { DType::F32 } else { t.source.dtype() })
        .map(Assigned::kept)
        .collect()
}

fn assign_types(model: &Model, types: &Types) -> Result<Vec<PlannedTensor>> {
    let described = described(model);
    let chosen: Vec<Assigned> = match types {
        Types::Preset(policy) | Types::Budget(Budget { policy, .. }) => {
            let shape = ModelShape { layers: model.config.num_hidden_layers, query_heads_per_kv_head: 1 };
            policy.assign(&described, shape)?
        }
        Types::Source => source_types(model),
        Types::Stored(stored) => described.iter().map(|tensor| stored.of(tensor)).collect(),
    };
    let planned =
        model.tensors.iter().zip(described).zip(chosen).map(|((tensor, desc), assigned)| PlannedTensor {
            tensor: tensor.clone(),
            name: desc.name,
            dtype: assigned.dtype,
            fallback_from: assigned.fallback_from,
            open: matches!(assigned.reason, Reason::Preset | Reason::Mixture),
            predicted: None,
        });
    Ok(planned.collect())
}

/// Gives every open tensor the type that the budget chooses.
fn fit(tensors: &mut [PlannedTensor], budget: &Budget, head_bytes: u64) -> Result<()> {
    let matrices: Vec<Matrix<'_>> = tensors
        .iter()
        .map(|t| Matrix { name: &t.name, values: t.tensor.values(), dtype: t.dtype, open: t.open })
        .collect();
    let choices = budget.choose(&matrices, head_bytes)?;
    for (tensor, choice) in tensors.iter_mut().zip(choices) {
        // What the mixture would have fallen back to has no meaning for a type it did not choose.
        tensor.fallback_from = tensor.fallback_from.filter(|_| !tensor.open);
        tensor.dtype = choice.dtype;
        tensor.predicted = choice.predicted;
    }
    Ok(())
}

/// What types are called that are those of a file and of no choice that plmconv knows.
pub const STORED: &str = "stored";

/// What the user calls these types, and the value of `general.file_type`.
fn name_types(types: &Types, tensors: &[PlannedTensor]) -> (&'static str, u32) {
    let named = match types {
        Types::Preset(policy) => Some(policy.file_type),
        Types::Budget(budget) => budget.file_type,
        Types::Source => None,
        Types::Stored(StoredTypes { file_type: Some(id), .. }) => return (STORED, *id),
        Types::Stored(_) => return (STORED, prevailing_file_type(tensors).id()),
    };
    (named.map_or("auto", FileType::name), named.unwrap_or_else(|| prevailing_file_type(tensors)).id())
}

/// The file type named after the type that most of the weights have (a k-quant's medium one, as llama.cpp guesses for
/// a file that does not say).
fn prevailing_file_type(tensors: &[PlannedTensor]) -> FileType {
    let values_of = |dtype: &DType| -> usize {
        tensors.iter().filter(|t| t.dtype == *dtype).map(|t| t.tensor.values()).sum()
    };
    let named = DType::all().filter_map(|dtype| Some((dtype, FileType::from_name(dtype.name()).ok()?)));
    named.max_by_key(|(dtype, _)| values_of(dtype)).expect("there are file types").1
}

/// Distributes the tensors over files; each shard of a set says which it is, as gguf-split has it.
fn lay_out(
    output: &Path,
    mut whole: Metadata,
    tensors: &mut [PlannedTensor],
    arrangement: Arrangement,
) -> Result<Vec<Shard>> {
    let is_set = matches!(arrangement, Arrangement::Shards(_));
    let (ranges, like) = match arrangement {
        Arrangement::OneFile => (std::iter::once(0..tensors.len()).collect(), Vec::new()),
        Arrangement::Shards(max_size) => (split(tensors, max_size), Vec::new()),
        Arrangement::Like(files) => (sort_like(tensors, &files), files),
    };
    let is_split = is_set || like.iter().any(Arranged::is_shard);
    let count = ranges.len();
    let mut shards = Vec::new();
    for (index, range) in ranges.into_iter().enumerate() {
        // The first shard has it all.
        let mut metadata = std::mem::take(&mut whole);
        if is_split {
            metadata.set("split.no", Value::U16(index as u16));
            metadata.set("split.count", Value::U16(count as u16));
            metadata.set("split.tensors.count", Value::I32(tensors.len() as i32));
            metadata.set(SET_ID, Value::String(UNKNOWN_SET_ID.into()));
        }
        let path = match like.get(index) {
            Some(file) => file.arrange(&mut metadata),
            None if is_split => shard_path(output, index, count),
            None => output.to_path_buf(),
        };
        let directory = Directory::new(&metadata, entries(&tensors[range.clone()]))?;
        shards.push(Shard { path, metadata, directory, tensors: range });
    }
    Ok(shards)
}

/// Brings the tensors into the order of these files, one range a file; those that are in none go last.
fn sort_like(tensors: &mut [PlannedTensor], files: &[Arranged]) -> Vec<Range<usize>> {
    let names = files.iter().enumerate().flat_map(|(file, f)| f.tensors.iter().map(move |name| (name, file)));
    let places: HashMap<&String, (usize, usize)> =
        names.enumerate().map(|(at, (name, file))| (name, (file, at))).collect();
    let last = (files.len() - 1, usize::MAX);
    let place = |tensor: &PlannedTensor| places.get(&tensor.name).copied().unwrap_or(last);
    tensors.sort_by_key(place);
    let end = |file| tensors.partition_point(|tensor| place(tensor).0 <= file);
    (0..files.len()).map(|file| if file == 0 { 0 } else { end(file - 1) }..end(file)).collect()
}

impl Arranged {
    fn is_shard(&self) -> bool {
        self.keys.iter().any(|key| key == "split.count")
    }

    /// Gives `metadata` this file's order and what is given; returns the path.
    fn arrange(&self, metadata: &mut Metadata) -> PathBuf {
        for (key, value) in &self.given {
            match value {
                Some(value) => metadata.set(key, value.clone()),
                None => drop(metadata.remove(key)),
            }
        }
        metadata.sort_like(self.keys.iter().map(String::as_str));
        self.path.clone()
    }
}

fn entries(tensors: &[PlannedTensor]) -> impl Iterator<Item = (String, DType, Vec<usize>)> + '_ {
    tensors.iter().map(|t| (t.name.clone(), t.dtype, t.tensor.shape.clone()))
}

/// A shard is closed before the tensor that would take it over `max_size`.
fn split(tensors: &[PlannedTensor], max_size: u64) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let (mut start, mut size) = (0, 0u64);
    for (i, t) in tensors.iter().enumerate() {
        let bytes = t.dtype.encoded_len(t.tensor.values()).expect("rows are whole blocks") as u64;
        let padded = bytes.next_multiple_of(plmconv_formats::gguf::DEFAULT_ALIGNMENT);
        if i > start && size + padded > max_size {
            ranges.push(start..i);
            (start, size) = (i, 0);
        }
        size += padded;
    }
    ranges.push(start..tensors.len());
    ranges
}

/// `model.gguf` → `model-00001-of-00003.gguf`, llama.cpp's pattern.
pub fn shard_path(output: &Path, index: usize, count: usize) -> PathBuf {
    let stem = output.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    output.with_file_name(ShardName { stem, number: index + 1, count }.file_name())
}

/// `512M` → 512 000 000, `1.1G` → 1 100 000 000; gguf-split counts in powers of ten.
pub fn parse_size(text: &str) -> Result<u64> {
    let bad = || UsageError::with_hint(format!("`{text}` is not a size"), "write e.g. 512M or 2G");
    let (digits, unit) = match text.char_indices().next_back() {
        Some((at, 'M' | 'm')) => (&text[..at], 1_000_000u64),
        Some((at, 'G' | 'g')) => (&text[..at], 1_000_000_000),
        _ => return Err(bad().into()),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let number = |digits: &str| digits.parse::<u64>().ok().filter(|_| !digits.starts_with('+'));
    let parts = number(whole).zip(number(fraction)).filter(|_| fraction.len() <= 6);
    let bytes = parts.and_then(|(whole, part)| {
        whole.checked_mul(unit)?.checked_add(part * unit / 10u64.pow(fraction.len() as u32))
    });
    Ok(bytes.filter(|&n| n > 0).ok_or_else(bad)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_models_name_is_the_one_that_people_know_it_by() {
        let dir = tempfile::tempdir().expect("tempdir");
        let snapshot = dir.path().join("models--PLM-Team--PLM-1.8B/snapshots/3f2a9c0d");
        std::fs::create_dir_all(&snapshot).expect("create");
        assert_eq!(model_name(&snapshot), "PLM-1.8B");
        assert_eq!(model_name(&snapshot.join("")), "PLM-1.8B");
        assert_eq!(model_name(&snapshot.join("x-f16.gguf")), "x-f16");
        assert_eq!(model_name(&dir.path().join("x-f16-00001-of-00003.gguf")), "x-f16");
        assert_eq!(model_name(&dir.path().join("1-of-3.gguf")), "1-of-3");
        assert_eq!(model_name(&snapshot.join("..")), "snapshots");
    }

    #[test]
    fn sizes_are_exact_and_nonsense_is_refused() {
        for (text, bytes) in
            [("512M", 512_000_000), ("1.1G", 1_100_000_000), ("4.228512m", 4_228_512), ("0.5M", 500_000)]
        {
            assert_eq!(parse_size(text).expect("a size"), bytes, "{text}");
        }
        for text in
            ["", "M", "512", "0M", "-1M", "+1M", "1.M", ".5M", "1.2.3M", "1e3M", "1.0000001M", "99999999999G"]
        {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
