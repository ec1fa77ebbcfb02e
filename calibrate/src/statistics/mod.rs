//! Calibration statistics as a file: a GGUF that is also an importance matrix for llama.cpp.
//!
//! For a matrix NAME it holds `NAME.in_sum2` and `NAME.counts` (llama-imatrix's tensors), `NAME.active` (tokens on
//! which each input column is not zero), `NAME.inputs` and, but for the embedding, `NAME.outputs` (upper triangles of
//! the two Fisher factors, see [`curvature`](crate::curvature)). The embedding has `NAME.lookups` instead: the gradient's
//! squares where text enters the model.

mod merge;
mod read;
mod write;

pub use merge::merge;
pub use read::Statistics;
pub(crate) use write::{Provenance, StatisticsWriter};

/// The value of `plmconv.calibration.version`. The digest of version 1 left the hyperparameters out.
pub const VERSION: u32 = 2;

const KEY_VERSION: &str = "plmconv.calibration.version";
const KEY_DIGEST: &str = "plmconv.calibration.model_digest";
/// A digest of all that decides the statistics; merged ones have none.
const KEY_REQUEST: &str = "plmconv.calibration.request";
const KEY_LAYOUT: &str = "plmconv.calibration.layout";
/// llama.cpp's key of the texts; here digests of them, so that the same text by another path gives the same file.
const KEY_DATASETS: &str = "imatrix.datasets";
const KEY_CHUNKS: &str = "imatrix.chunk_count";
const KEY_CHUNK_SIZE: &str = "imatrix.chunk_size";
