pub mod codec;
pub mod error;

pub use codec::{can_encode, decode, encode_rows, first_non_finite};
pub use error::Error;
