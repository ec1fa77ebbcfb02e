//! PLM as an ONNX graph with external data, for ONNX Runtime and the clients built on it.
//!
//! [`build`] makes the graph with every byte's place known; who writes the data follows
//! [`Export::items`] and [`Export::literals`]. [`OnnxFile`] reads what any ONNX model holds.

mod attention;
mod companions;
mod data;
mod earlier;
mod export;
mod graph;
mod layers;
mod node;
#[allow(missing_docs, reason = "onnx.proto documents its messages and fields")]
pub mod proto;
mod read;
mod spec;
mod weights;
mod wire;

pub(crate) use companions::is_companion;
pub use companions::{Companion, Companions, checkpoint_companions, companions};
pub use data::{Content, DataItem, HeadBlocks, Literal, Place};
pub use earlier::may_replace;
pub use export::{Export, build};
pub use read::{External, Initializer, OnnxFile, Port};
pub use spec::{BlockFormat, ExportSpec, Opset, Profile, QuantFormat, WeightFormat};
pub use weights::{Weight, blocks_name};
