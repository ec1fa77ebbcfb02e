//! A GGUF or a set of shards beside the plan that should have made it.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use anyhow::Result;
use indicatif::ProgressBar;
use plmconv_formats::gguf::{
    DEFAULT_ALIGNMENT, GgufFile, Metadata, SET_ID, TensorInfo, Value, expected_set_id,
};
use plmconv_formats::model::Origin;
use plmconv_formats::source::{InputFile, RowSource};
use plmconv_formats::{DType, Layout, Model};

use super::comparison::{Comparison, Region, compare_whole};
use super::{Difference, metadata};
use crate::error::UsageError;
use crate::pipeline;
use crate::plan::{Plan, Shard, StoredTypes};
use crate::progress::Console;
use crate::recipe::{self, Recipe};
use crate::target::{Arranged, Gguf, Target, Types};

/// What the keys of an importance matrix begin with.
const IMATRIX: &str = "quantize.imatrix.";

/// A GGUF that is to be verified.
#[derive(Debug)]
pub struct GgufCandidate {
    path: PathBuf,
    /// The file, or all shards. Their metadata is dropped before the plan makes its own.
    shards: Vec<GgufFile>,
    pub recipe: Option<Recipe>,
}

impl GgufCandidate {
    /// Opens a file, or a set by its first shard.
    ///
    /// # Errors
    /// What is no whole GGUF; a damaged recipe.
    pub fn open(path: &Path) -> Result<GgufCandidate> {
        let shards = GgufFile::open_shards(path)?;
        let recipe = recipe::read(path, shards[0].metadata.string(recipe::KEY))?;
        Ok(GgufCandidate { path: path.to_path_buf(), shards, recipe })
    }

    fn metadata(&self) -> &Metadata {
        &self.shards[0].metadata
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.file_bytes).sum()
    }

    /// The target of a file that carries no recipe: it tells its layout and its types itself.
    ///
    /// # Errors
    /// No PLM.
    pub fn plain_target(&self) -> Result<Target<Gguf>> {
        let metadata = self.metadata();
        let layout = Layout::from_gguf(&self.path, metadata)?;
        let tensors = self.shards.iter().flat_map(|shard| &shard.tensors);
        let types: BTreeMap<String, DType> = tensors.map(|t| (t.name.clone(), t.data.dtype())).collect();
        let file_type = metadata.get("general.file_type").and_then(Value::as_u64);
        let file_type = file_type.and_then(|id| u32::try_from(id).ok());
        let types = Types::Stored(StoredTypes { types, file_type });
        Ok(Target::new(Gguf { layout, ..Gguf::new(types) }))
    }

    /// # Errors
    /// An importance matrix guided the rounding, and it is not that of `model`, which is another GGUF.
    pub fn refuse_without_imatrix(&self, model: &Model) -> Result<()> {
        let named = |metadata: &Metadata| metadata.iter().any(|(key, _)| key.starts_with(IMATRIX));
        let of_the_source = matches!(&model.origin, Origin::Gguf(source) if named(&source.metadata));
        if !named(self.metadata()) || of_the_source {
            return Ok(());
        }
        let name = self.metadata().string("quantize.imatrix.file").unwrap_or("without a name");
        let message = format!("{}: rounded by an importance matrix ({name:?})", self.path.display());
        Err(UsageError::with_hint(message, "give it with --imatrix").into())
    }

    /// The order of the files, for a plan; what `excepted` keys hold is taken as it is. The metadata is dropped.
    pub fn arrangement(&mut self, excepted: &[String]) -> Vec<Arranged> {
        let arranged = |shard: &mut GgufFile| {
            let metadata = std::mem::take(&mut shard.metadata);
            // A set's id is a digest of it and is in no plan; gguf-split's have none.
            let taken = excepted.iter().map(String::as_str).chain([SET_ID]);
            Arranged {
                path: shard.path().to_path_buf(),
                given: taken.map(|key| (key.to_string(), metadata.get(key).cloned())).collect(),
                keys: metadata.iter().map(|(key, _)| key.to_string()).collect(),
                tensors: shard.tensors.iter().map(|t| t.name.clone()).collect(),
            }
        };
        self.shards.iter_mut().map(arranged).collect()
    }

    /// All in which the files are not what the plan, made for their [`arrangement`](Self::arrangement), would write.
    ///
    /// # Errors
    /// A source or a file that cannot be read, Ctrl-C.
    pub fn compare(&self, mut plan: Plan, bar: &ProgressBar, console: Console) -> Result<Vec<Difference>> {
        let mut differences = Vec::new();
        let mut comparison = Comparison::new();
        for (index, (shard, file)) in plan.shards.iter().zip(&self.shards).enumerate() {
            let head = self.compare_head(index, shard, file)?;
            comparison.add(
                file.path(),
                file.path().to_path_buf(),
                file.tensors.iter().map(region).collect(),
            )?;
            // Where the head differs, the data may begin somewhere else.
            let first = file.tensors.iter().map(|t| t.data.offset()).min();
            let start = first.filter(|_| !head.is_empty()).unwrap_or(shard.directory.head.len() as u64);
            let end = comparison.data_end(index).max(start).next_multiple_of(DEFAULT_ALIGNMENT);
            differences.extend(head);
            differences.extend(comparison.padding(index, start, end)?);
        }
        keep_comparable(&mut plan, &self.shards);
        pipeline::produce(&plan, &comparison, bar, console)?;
        differences.extend(comparison.finish());
        if differences.is_empty() {
            differences.extend(self.compare_set_id(&plan)?);
        }
        Ok(differences)
    }

    /// The id of a set that is otherwise what the plan would write.
    fn compare_set_id(&self, plan: &Plan) -> Result<Option<Difference>> {
        let Some(found) = plan.shards[0].metadata.string(SET_ID) else { return Ok(None) };
        let opened = self.shards.iter().map(|shard| InputFile::open(shard.path()));
        let files: Vec<_> = opened.collect::<Result<_, _>>()?;
        let heads = plan.shards.iter().map(|shard| shard.directory.head.as_slice());
        let derived = expected_set_id(files.iter().map(|file| &**file).zip(heads), found)?;
        Ok((derived != found).then(|| Difference::Metadata {
            file: self.path.clone(),
            key: SET_ID.into(),
            found: Some(format!("{found:?}")),
            derived: Some(format!("{derived:?}")),
        }))
    }

    /// Header, metadata and directory: byte by byte, and where they differ by what they say.
    fn compare_head(&self, index: usize, shard: &Shard, file: &GgufFile) -> Result<Vec<Difference>> {
        let Some((differing, first)) = compare_whole(&*InputFile::open(file.path())?, &shard.directory.head)?
        else {
            return Ok(Vec::new());
        };
        let found = GgufFile::open_shards(&self.path)?.swap_remove(index).metadata;
        let mut differences = metadata::differences(file.path(), &found, &shard.metadata);
        differences.extend(compare_directory(shard, file));
        if differences.is_empty() {
            let (file, part) = (file.path().to_path_buf(), "header".into());
            differences.push(Difference::Bytes { file, part, differing, first });
        }
        Ok(differences)
    }
}

fn region(tensor: &TensorInfo) -> Region {
    let data = &tensor.data;
    Region {
        name: tensor.name.clone(),
        stored_as: data.dtype().name().into(),
        offset: data.offset(),
        bytes: data.byte_len(),
        row_bytes: data.row_bytes().max(1) as u64,
        block_bytes: data.dtype().block_bytes() as u64,
    }
}

/// Tensors that are missing, too many, or of another type or shape.
fn compare_directory(shard: &Shard, file: &GgufFile) -> Vec<Difference> {
    let described = |dtype: DType, shape: &[usize]| format!("{dtype} {shape:?}");
    let found = file.tensors.iter().map(|t| (t.name.as_str(), described(t.data.dtype(), &t.shape)));
    let derived = shard.directory.entries.iter().map(|e| (e.name.as_str(), described(e.dtype, &e.shape)));
    let (in_file, in_plan): (HashMap<_, _>, HashMap<_, _>) =
        (found.clone().collect(), derived.clone().collect());
    let missing = derived.filter(|(name, _)| !in_file.contains_key(name));
    let names =
        found.chain(missing).map(|(name, _)| name).filter(|name| in_file.get(name) != in_plan.get(name));
    let difference = |name: &str| Difference::Tensor {
        file: file.path().to_path_buf(),
        tensor: name.to_string(),
        found: in_file.get(name).cloned(),
        derived: in_plan.get(name).cloned(),
    };
    names.map(difference).collect()
}

/// Leaves in the plan what the files have in the same type and shape, at the places where they have it.
fn keep_comparable(plan: &mut Plan, files: &[GgufFile]) {
    let mut tensors = std::mem::take(&mut plan.tensors).into_iter();
    for (shard, file) in plan.shards.iter_mut().zip(files) {
        let by_name: BTreeMap<&str, &TensorInfo> =
            file.tensors.iter().map(|t| (t.name.as_str(), t)).collect();
        let start = plan.tensors.len();
        let mut kept = Vec::new();
        for mut entry in std::mem::take(&mut shard.directory.entries) {
            let planned = tensors.next().expect("one for each entry");
            let same =
                |t: &&&TensorInfo| (t.data.dtype(), t.shape.as_slice()) == (entry.dtype, &entry.shape[..]);
            if let Some(tensor) = by_name.get(entry.name.as_str()).filter(same) {
                entry.offset = tensor.data.offset();
                kept.push(entry);
                plan.tensors.push(planned);
            }
        }
        shard.directory.entries = kept;
        shard.tensors = start..plan.tensors.len();
    }
}
