//! `--to onnx`: arguments and a model become a checked plan, the plan becomes a folder.

mod assembly;
mod locate;
mod plan;
mod range;
mod target;
mod writer;

pub use locate::find_graph;
pub use plan::{OnnxPlan, stored_as};
pub use target::{Target, WeightType};
#[cfg(test)]
pub use writer::fill;
pub use writer::{produce, write};
