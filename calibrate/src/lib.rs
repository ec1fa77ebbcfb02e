//! Calibration: text runs through a model, and what is learnt of its matrices decides how they are rounded and which
//! types they get. Prints nothing and reads no arguments: a [`Monitor`] hears of progress and may stop the work.
//!
//! Reading order: [`CalibrationText`] and [`Calibration`] make statistics, with [`curvature`] as their mathematics;
//! [`statistics`] is the file; [`Rounding`] says how an output's weights are rounded by it; [`Sensitivity`] and
//! [`Budget`] choose types.

#![warn(missing_docs)]

mod budget;
mod calibration;
pub mod curvature;
pub mod digest;
mod error;
mod monitor;
pub mod resume;
mod rounding;
mod sensitivity;
pub mod statistics;
mod text;

pub use budget::{Budget, Choice, Limit, Matrix};
pub use calibration::{Calibration, Destination};
pub use error::{Error, Leftover, Result};
pub use monitor::{Monitor, Notice, Silent, Task};
pub use rounding::{Direction, Guided, Rounding};
pub use sensitivity::Sensitivity;
pub use text::{CalibrationText, Sample};
