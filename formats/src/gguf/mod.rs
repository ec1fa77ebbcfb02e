//! GGUF: metadata, the tensor directory, reading and writing.
//!
//! Metadata values are gguf-rs-lib's; the directory and the data are read and written here, positional and
//! streaming (ARCHITECTURE.md says why).

mod head;
mod metadata;
mod read;
mod split;
mod write;

pub use gguf_rs_lib::format::metadata::{MetadataArray, MetadataValue as Value};
pub use gguf_rs_lib::format::types::GGUFValueType as ValueType;
pub use metadata::{Metadata, i32_array, integer, is_layout, string_array};
pub use read::{GgufFile, TensorInfo};
pub(crate) use split::is_unfinished_shard;
pub use split::{SET_ID, ShardName, UNKNOWN_SET_ID, earlier_shards, expected_set_id, stamp_set};
pub use write::{Directory, DirectoryEntry};

/// `GGUF`, the first four bytes.
pub const MAGIC: [u8; 4] = *b"GGUF";
/// The version written.
pub const VERSION: u32 = 3;
/// Metadata key of the bytes to which a file's data and every tensor in it are aligned.
pub const ALIGNMENT_KEY: &str = "general.alignment";
/// Bytes to which the data and every tensor in it are aligned, where metadata says nothing else.
pub const DEFAULT_ALIGNMENT: u64 = 32;
