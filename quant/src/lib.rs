//! Numbers to blocks and back: codecs and the policy that gives each tensor its type. Never does I/O.

pub mod codec;
pub mod error;
pub mod policy;

pub use codec::{can_decode, can_encode, decode, encode_rows, first_non_finite};
pub use error::Error;
pub use policy::{Assigned, FileType, ModelShape, Policy, Reason, TensorDesc};
