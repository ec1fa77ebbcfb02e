//! The residual stream before every layer, in a temporary file.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use crate::error::{Error, Result};

pub(super) struct Spill {
    file: File,
    /// Values kept for each layer.
    values: usize,
}

impl Spill {
    /// In `folder`, without a name there.
    pub fn new(folder: &Path, values: usize) -> Result<Spill> {
        Ok(Spill { file: tempfile::tempfile_in(folder).map_err(Error::Spill)?, values })
    }

    fn seek(&mut self, layer: usize, first: usize) -> Result<()> {
        let at = (layer as u64 * self.values as u64 + first as u64) * 4;
        self.file.seek(SeekFrom::Start(at)).map(drop).map_err(Error::Spill)
    }

    /// Keeps values from number `first` on of the input of `layer`.
    pub fn write(&mut self, layer: usize, first: usize, values: &[f32]) -> Result<()> {
        self.seek(layer, first)?;
        self.file.write_all(bytemuck::cast_slice(values)).map_err(Error::Spill)
    }

    /// Reads what [`write`](Self::write) kept.
    pub fn read(&mut self, layer: usize, first: usize, out: &mut [f32]) -> Result<()> {
        self.seek(layer, first)?;
        self.file.read_exact(bytemuck::cast_slice_mut(out)).map_err(Error::Spill)
    }
}
