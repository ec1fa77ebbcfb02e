//! What the project's files do in llama.cpp and ONNX Runtime themselves: a small safe wrapper over llama.cpp's C
//! interface, the measures that its own tools make, and the golden values that the tests compare with.
//!
//! # How llama.cpp is built here
//!
//! `llama-cpp-sys-2` compiles the sources it carries with CMake's `Release` flags (`-O3 -DNDEBUG`) whatever Cargo's
//! profile is, OpenMP on. Its instruction set follows `-C target-cpu`: without it `GGML_NATIVE=OFF`, that is, a build
//! for SSE4.2, AVX, AVX2, FMA, F16C and BMI2; with `RUSTFLAGS="-C target-cpu=native"` it is `GGML_NATIVE=ON`, that
//! is, `-march=native` (AVX-512 where the machine has it), as a user who compiles llama.cpp on his machine gets it.
//! Tests use the former, `benches/` the latter. The block quantizers are not in the part that these flags reach
//! (`ggml-base` is always baseline x86-64, without fused multiply-add), so both builds quantize to the same bytes.

pub mod cli;
pub mod converter;
#[cfg(feature = "llama")]
pub mod divergence;
pub mod error;
#[cfg(feature = "llama")]
pub mod gguf;
pub mod golden;
#[cfg(feature = "llama")]
pub mod llama;
#[cfg(feature = "llama")]
pub mod perplexity;
#[cfg(feature = "llama")]
pub mod quantize;
#[cfg(feature = "llama")]
pub mod speed;

pub use error::{Error, Result};
