#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

mod balance;
mod budget;
mod calibration;
pub mod curvature;
pub mod digest;
mod error;
mod monitor;
mod noise;
pub mod resume;
mod rounding;
mod sensitivity;
pub mod statistics;
mod storage;
mod text;

pub use balance::{Balance, Exponents, Site};
pub use budget::{Budget, Choice, Limit, Matrix, Room};
pub use calibration::{Calibration, Destination};
pub use error::{Error, Leftover, Result};
pub use monitor::{Monitor, Notice, Silent, Task};
pub use rounding::{Direction, Guided, Rounding};
pub use sensitivity::Sensitivity;
pub use storage::{Menu, OnnxMenu, Storage};
pub use text::{CalibrationText, Sample};
