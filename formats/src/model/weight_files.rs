//! Which files of a folder hold its weights.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Result};
use crate::json;
use crate::warning::Warning;

/// The file of all weights, which hides any others beside it.
pub const SINGLE: &str = "model.safetensors";
/// The file that names the shard of each tensor.
pub const INDEX: &str = "model.safetensors.index.json";

/// What safetensors files that are not a model's weights begin with: files of macOS, Meta's own format, adapters, and
/// what a trainer leaves.
const NOT_WEIGHTS: [&str; 7] =
    [".", "adapter", "consolidated", "optimizer", "scheduler", "training", "random_states"];

/// The files in a fixed order: `model.safetensors`, else the shards of the index, else whatever safetensors files
/// there are; and a warning where the first hides the second, as it does for transformers.
///
/// # Errors
/// No weights, shards that are missing, an index that is malformed or leads out of the folder.
pub(super) fn weight_files(folder: &Path) -> Result<(Vec<PathBuf>, Option<Warning>)> {
    let (single, index) = (folder.join(SINGLE), folder.join(INDEX));
    if stands(&single) {
        let stale = stands(&index) && indexed_names(&index).is_ok_and(|names| names != [SINGLE]);
        return Ok((vec![single], stale.then_some(Warning::IndexIgnored { index })));
    }
    if stands(&index) {
        let names = indexed_names(&index)?;
        if let Some(shard) = names.iter().find(|name| !stands(&folder.join(name))) {
            return Err(Error::MissingShard { path: index, shard: shard.clone() });
        }
        return Ok((names.into_iter().map(|name| folder.join(name)).collect(), None));
    }
    let names = unindexed_names(folder)?;
    if names.is_empty() {
        return Err(Error::NoWeights { path: folder.to_path_buf() });
    }
    Ok((names.into_iter().map(|name| folder.join(name)).collect(), None))
}

/// Whether a folder has all files of a model's weights.
pub fn has_weights(folder: &Path) -> bool {
    weight_files(folder).is_ok_and(|(files, _)| files.iter().all(|file| file.is_file()))
}

/// Whether a file of this name may hold a model's weights.
pub fn may_be_weights(name: &str) -> bool {
    name.ends_with(".safetensors") && !NOT_WEIGHTS.iter().any(|start| name.starts_with(start))
}

/// Whether something has this name, be it a link that leads nowhere.
fn stands(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

fn indexed_names(index: &Path) -> Result<Vec<String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let parsed: Index = json::read(index)?;
    let mut names: Vec<_> = parsed.weight_map.into_values().collect();
    names.sort();
    names.dedup();
    let is_inside = |name: &&String| {
        !name.is_empty() && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)))
    };
    let outside = names.iter().find(|name| !is_inside(name));
    let (found, expected) = match outside {
        None if names.is_empty() => ("empty".into(), "a file for each tensor"),
        None => return Ok(names),
        // A name such as `../../x` in an index must not lead out of the model's folder.
        Some(name) => (name.clone(), "file names in the same folder"),
    };
    Err(Error::BadValue {
        path: index.to_path_buf(),
        key: "weight_map".into(),
        found,
        expected: expected.into(),
    })
}

/// A whole set of shards, else all files that may be weights.
fn unindexed_names(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let name = entry.map_err(Error::io(folder))?.file_name().to_string_lossy().into_owned();
        if may_be_weights(&name) {
            names.push(name);
        }
    }
    names.sort();
    let mut sets: BTreeMap<(&str, usize), Vec<usize>> = BTreeMap::new();
    for name in &names {
        if let Some((stem, number, count)) = shard(name) {
            sets.entry((stem, count)).or_default().push(number);
        }
    }
    let Some(((stem, count), numbers)) = sets.pop_first() else { return Ok(names) };
    if let Some(((other, other_count), _)) = sets.pop_first() {
        let detail = format!(
            "two sets of shards, {stem}-*-of-{count:05} and {other}-*-of-{other_count:05}, and no {INDEX} that tells \
             which is the model's"
        );
        return Err(Error::Weights { path: folder.to_path_buf(), detail });
    }
    let shard_name = |number: usize| format!("{stem}-{number:05}-of-{count:05}.safetensors");
    match (1..=count).find(|number| !numbers.contains(number)) {
        Some(missing) => Err(Error::MissingShard { path: folder.to_path_buf(), shard: shard_name(missing) }),
        None => Ok((1..=count).map(shard_name).collect()),
    }
}

/// `model-00002-of-00003.safetensors`: `model`, 2, 3.
fn shard(name: &str) -> Option<(&str, usize, usize)> {
    let (rest, count) = name.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let parse = |digits: &str| digits.parse().ok().filter(|_| digits.len() == 5);
    Some((stem, parse(number)?, parse(count)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("tempdir");
        for name in names {
            std::fs::write(dir.path().join(name), b"").expect("write");
        }
        dir
    }

    fn found(dir: &tempfile::TempDir) -> Result<Vec<String>> {
        let name = |path: PathBuf| path.file_name().expect("a name").to_string_lossy().into_owned();
        Ok(weight_files(dir.path())?.0.into_iter().map(name).collect())
    }

    #[test]
    fn what_lies_beside_weights_is_none() {
        let beside = [
            "._model-00001-of-00002.safetensors",
            "adapter_model.safetensors",
            "consolidated.safetensors",
            "consolidated-00001-of-00001.safetensors",
            "optimizer.safetensors",
            "training_args.bin",
        ];
        assert!(matches!(found(&folder(&beside)), Err(Error::NoWeights { .. })));
        let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
        let dir = folder(&[&beside[..], &shards, &["other.safetensors"]].concat());
        assert_eq!(found(&dir).expect("two shards"), shards);
        let dir = folder(&[&beside[..], &["weights.safetensors"]].concat());
        assert_eq!(found(&dir).expect("one file"), ["weights.safetensors"]);
    }

    #[test]
    fn a_set_of_shards_is_whole_and_the_only_one() {
        let dir = folder(&["model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors"]);
        let error = found(&dir).expect_err("one is missing").to_string();
        assert!(error.contains("model-00002-of-00003.safetensors"), "{error}");
        let dir = folder(&["model-00001-of-00001.safetensors", "model-00001-of-00002.safetensors"]);
        assert!(matches!(found(&dir), Err(Error::Weights { .. })));
    }

    #[test]
    fn the_one_file_comes_before_an_index() {
        let dir = folder(&[SINGLE]);
        let write = |json: &str| std::fs::write(dir.path().join(INDEX), json).expect("write");
        write(r#"{"weight_map": {"a": "model-00001-of-00002.safetensors"}}"#);
        let (files, warning) = weight_files(dir.path()).expect("found");
        assert_eq!(files, [dir.path().join(SINGLE)]);
        assert!(matches!(warning, Some(Warning::IndexIgnored { .. })));
        write(r#"{"weight_map": {"a": "model.safetensors"}}"#);
        assert_eq!(weight_files(dir.path()).expect("found").1, None);
    }

    #[test]
    fn an_index_stays_in_its_folder() {
        for name in ["../x", "/etc/passwd", "a/../../b", "", "."] {
            let dir = folder(&[]);
            let index = serde_json::json!({"weight_map": {"a": name}}).to_string();
            std::fs::write(dir.path().join(INDEX), index).expect("write");
            assert!(matches!(found(&dir), Err(Error::BadValue { .. })), "{name}");
        }
        let dir = folder(&[]);
        std::fs::create_dir(dir.path().join("weights")).expect("create");
        std::fs::write(dir.path().join("weights/a.safetensors"), b"").expect("write");
        std::fs::write(dir.path().join(INDEX), r#"{"weight_map": {"a": "weights/a.safetensors"}}"#)
            .expect("write");
        assert_eq!(found(&dir).expect("inside"), ["a.safetensors"]);
    }
}
