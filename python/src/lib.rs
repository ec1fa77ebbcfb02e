//! The native half of the Python package `plmconv`: commands, tensors of files, and codecs. Arrays cross as bytes, so
//! that NumPy is needed in Python alone; python/plmconv/__init__.py makes arrays of them.

mod codec;
mod command;
mod tensors;

use pyo3::prelude::*;

#[pymodule]
mod _plmconv {
    #[pymodule_export]
    use super::codec::{block, decode, encode};
    #[pymodule_export]
    use super::command::{main, run};
    #[pymodule_export]
    use super::tensors::Tensors;

    use super::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
