//! What no real model reaches. A file that does is refused before it takes memory: opening any file takes at most
//! twice its bytes and 64 MB.

use std::path::Path;

use crate::error::{Error, Result};

/// Tensors of a file, or of a set of shards. The deepest [`Config`](crate::Config) that is accepted has some 45,000.
pub const MAX_TENSORS: usize = 1 << 16;
/// Axes of a tensor.
pub const MAX_AXES: usize = 16;
/// Tokens of a vocabulary; the largest in use have some 262,000.
pub const MAX_TOKENS: usize = 1 << 19;
/// Merges of a vocabulary; the largest in use have some 515,000.
pub const MAX_MERGES: usize = 1 << 20;

/// What `len` bytes on the heap take, as allocators round.
pub(crate) fn allocated(len: usize) -> u64 {
    if len == 0 { 0 } else { (len as u64 + 8).next_multiple_of(16).max(32) }
}

/// Refuses `count` of something where `limit` are possible.
pub(crate) fn check(path: &Path, what: &'static str, count: usize, limit: usize) -> Result<()> {
    if count > limit {
        return Err(Error::TooMany { path: path.to_path_buf(), what, limit });
    }
    Ok(())
}
