//! `--to onnx`: a target and a model become a plan, the plan becomes a folder.

mod assembly;
mod budget;
mod locate;
mod plan;
mod range;
mod writer;

pub use locate::find_graph;
pub use plan::{OnnxDraft, OnnxPlan, stored_as};
#[cfg(test)]
pub use writer::fill;
pub use writer::{produce, write};
