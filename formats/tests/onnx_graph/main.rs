//! The graphs of the tiny PLM, without their weights.

mod schema;
mod snapshots;
mod variants;
