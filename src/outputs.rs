//! What a command reads and where it writes, compared before the work.

use std::path::{Path, PathBuf};

use anyhow::Result;
use plmconv_formats::Error as FormatError;
use plmconv_formats::atomic::{MayReplace, check_file, check_folder, check_set, parent, same_file};
use plmconv_formats::gguf::{ShardName, earlier_shards};
use plmconv_formats::onnx::OnnxFile;

use crate::error::{At, Place, UsageError};

/// Files and folders that a command reads. None of them is ever replaced by an output, whatever --force says.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    paths: Vec<PathBuf>,
}

impl<P: Into<PathBuf>> FromIterator<P> for Inputs {
    fn from_iter<I: IntoIterator<Item = P>>(paths: I) -> Inputs {
        Inputs { paths: paths.into_iter().map(Into::into).collect() }
    }
}

impl Inputs {
    /// Checks that `output` can be written as a file.
    ///
    /// # Errors
    /// It is an input, or what [`check_file`] says.
    pub fn check_file(&self, output: &Path, overwrite: bool) -> Result<()> {
        self.refuse(output)?;
        check_file(output, overwrite).map(drop).at(Place::Output)
    }

    /// Checks that `shards` can be written as a set that the user calls `output`.
    ///
    /// # Errors
    /// One is an input, or what [`check_set`] says; without `overwrite`, an earlier set of another number of shards.
    pub fn check_shards(&self, output: &Path, shards: &[PathBuf], overwrite: bool) -> Result<()> {
        shards.iter().try_for_each(|shard| self.refuse(shard))?;
        let stem = output.file_stem().unwrap_or_default().to_string_lossy();
        check_set(shards, overwrite, |name| ShardName::parse(name).is_some_and(|name| name.stem == stem))
            .at(Place::Output)?;
        let earlier = earlier_shards(output, shards.len());
        earlier.iter().try_for_each(|shard| self.refuse(shard))?;
        match earlier.first() {
            Some(first) if !overwrite => Err(FormatError::Exists { path: first.clone() }.into()),
            _ => Ok(()),
        }
    }

    /// Checks that `output` can be written as a folder; with `overwrite`, one that `may_replace` lets go is replaced.
    ///
    /// # Errors
    /// It holds an input, is one or a part of one, or what [`check_folder`] says.
    pub fn check_folder(&self, output: &Path, overwrite: bool, may_replace: MayReplace) -> Result<()> {
        refuse_stdout(output)?;
        if let Ok(folder) = output.canonicalize() {
            for input in &self.paths {
                let Ok(path) = input.canonicalize() else { continue };
                let relation = match (path.starts_with(&folder), folder.starts_with(&path)) {
                    (true, true) => "is",
                    (true, false) => "holds",
                    (false, true) => "is a part of",
                    (false, false) => continue,
                };
                let reason = format!("it {relation} the input {}", input.display());
                return Err(FormatError::NotReplaced { path: output.into(), reason }.into());
            }
        }
        check_folder(output, overwrite, may_replace).map(drop).at(Place::Output)
    }

    /// # Errors
    /// `output` is an input, by whatever spelling or link.
    pub fn refuse(&self, output: &Path) -> Result<()> {
        refuse_stdout(output)?;
        if !output.exists() {
            return Ok(());
        }
        match self.paths.iter().find(|input| files_of(input).iter().any(|file| same_file(file, output))) {
            Some(input) => Err(UsageError::with_hint(
                format!(
                    "{}: exists and belongs to the input {}, which is never replaced",
                    output.display(),
                    input.display()
                ),
                "name another file for the output",
            )
            .into()),
            None => Ok(()),
        }
    }
}

/// The files that are read when `input` is named.
fn files_of(input: &Path) -> Vec<PathBuf> {
    if input.is_dir() {
        return [input.to_path_buf(), input.join("onnx")]
            .iter()
            .flat_map(|folder| model_files(folder))
            .collect();
    }
    let mut files = vec![input.to_path_buf()];
    if let Some(name) = input.file_name().and_then(|name| ShardName::parse(name.to_str()?)) {
        let shards = (1..=name.count).map(|number| ShardName { number, ..name.clone() });
        files.extend(shards.map(|shard| input.with_file_name(shard.file_name())));
    } else if input.extension().is_some_and(|extension| extension == "onnx") {
        let graph = OnnxFile::open(input).unwrap_or_default();
        let external = graph.initializers.into_iter().filter_map(|initializer| initializer.external);
        files.extend(external.map(|external| parent(input).join(external.file)));
    }
    files
}

/// The files of a model's folder. GGUF files and reports often lie there as well, but are no part of it.
fn model_files(folder: &Path) -> Vec<PathBuf> {
    let is_part = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        match extension.to_ascii_lowercase().as_str() {
            "gguf" | "html" | "xml" => false,
            "md" => path.file_stem().is_some_and(|stem| stem == "README"),
            _ => path.is_file(),
        }
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(is_part).collect()
}

/// What means stdout elsewhere.
fn refuse_stdout(output: &Path) -> Result<()> {
    if output.as_os_str() != "-" {
        return Ok(());
    }
    Err(UsageError::with_hint(
        "-: an output is read back before it gets its name, which stdout cannot be",
        "name a file or folder; one that is called `-` is `./-`",
    )
    .into())
}

#[cfg(test)]
mod tests {
    use plmconv_formats::onnx::may_replace;

    use super::*;

    #[test]
    fn inputs_are_seen_by_any_name() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(path("model/sub")).expect("folder");
        for name in [
            "model/config.json",
            "model/q4.gguf",
            "model/report.md",
            "text",
            "other",
            "s-00002-of-00002.gguf",
        ] {
            std::fs::write(path(name), name).expect("write");
        }
        std::fs::hard_link(path("text"), path("hard")).expect("link");
        let inputs: Inputs =
            [path("model"), path("text"), path("s-00001-of-00002.gguf")].into_iter().collect();
        let is_input = |name: &str| inputs.refuse(&path(name)).is_err();
        for name in ["model/config.json", "model/sub/../config.json", "text", "hard", "s-00002-of-00002.gguf"]
        {
            assert!(is_input(name), "{name}");
        }
        for name in ["other", "new", "model/q4.gguf", "model/report.md", "s-00001-of-00002.gguf"] {
            assert!(!is_input(name), "{name}");
        }
        let why = |name: &str| {
            format!("{:#}", inputs.check_folder(&path(name), true, may_replace).expect_err(name))
        };
        assert!(why("model").contains("it is the input"));
        assert!(why("model/sub").contains("it is a part of the input"));
        assert!(why("").contains("it holds the input"));
        inputs.check_folder(&path("model/new"), false, may_replace).expect("nothing is there");
    }
}
