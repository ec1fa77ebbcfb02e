//! Outputs that appear under their name only when complete.
//!
//! An output is made in a temporary beside its final name, synced, and renamed. What a reader finds under the name is
//! nothing, the old output whole, or the new one whole, whenever the run ends.
//!
//! - [`AtomicFile`] is one file. [`path`](AtomicFile::path) shows it to a reader before [`commit`](AtomicFile::commit)
//!   gives it its name.
//! - [`AtomicSet`] is one file or several that only mean something together: the shards of a split GGUF. Several names
//!   cannot change at once, so a run that is killed in between leaves a set whose first file is missing, and the next
//!   run that writes there finishes the change.
//! - [`AtomicFolder`] is a folder. Where the system can exchange two names, its name is never absent.
//!
//! Temporaries are called `.plmconv-<name>.<random>.tmp` and are locked while in use. What a killed run left is removed
//! by the next one that writes the same name.

mod destination;
mod file;
mod folder;
mod set;
mod temporary;

pub use destination::{check_file, check_folder, follow_links, parent, same_file};
pub use file::{AtomicFile, write_all_at};
pub use folder::{AtomicFolder, MayReplace};
pub(crate) use set::unfinished;
pub use set::{AtomicSet, check_set};
pub use temporary::abandon_all;

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// Names in a folder, sorted.
    pub(super) fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).expect("folder");
        let mut names: Vec<_> =
            entries.map(|e| e.expect("entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}
