//! What a PLM model is and how it is stored. Never does quantization arithmetic.

pub mod dtype;

pub use dtype::DType;
