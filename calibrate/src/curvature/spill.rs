//! What the backward run needs of the forward run, in temporary files: the residual stream before every layer, and the
//! neurons that fire, which are most of the work of computing a layer again.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use plmconv_quant::product::SparseMatrix;

use crate::error::{Error, Result};

pub(super) struct Spill {
    file: File,
    /// Values kept for each layer.
    values: usize,
    neurons: File,
    /// Where the neurons of a layer and a batch, named by its first token, are: first byte and number of bytes.
    batches: HashMap<(usize, usize), (u64, usize)>,
    neurons_end: u64,
}

impl Spill {
    /// In `folder`, without a name there.
    pub fn new(folder: &Path, values: usize) -> Result<Spill> {
        let file = || tempfile::tempfile_in(folder).map_err(Error::Spill);
        Ok(Spill { file: file()?, values, neurons: file()?, batches: HashMap::new(), neurons_end: 0 })
    }

    /// Keeps the neurons (`[tokens, neurons]`) that fire in a layer for the batch that begins with token `first`.
    pub fn write_neurons(&mut self, layer: usize, first: usize, neurons: &SparseMatrix) -> Result<()> {
        let bytes = neurons.to_bytes();
        self.neurons.seek(SeekFrom::Start(self.neurons_end)).map_err(Error::Spill)?;
        self.neurons.write_all(&bytes).map_err(Error::Spill)?;
        self.batches.insert((layer, first), (self.neurons_end, bytes.len()));
        self.neurons_end += bytes.len() as u64;
        Ok(())
    }

    /// Reads what [`write_neurons`](Self::write_neurons) kept of so many tokens and neurons.
    pub fn read_neurons(&mut self, layer: usize, first: usize, shape: [usize; 2]) -> Result<SparseMatrix> {
        let (start, len) = self.batches[&(layer, first)];
        let mut bytes = vec![0; len];
        self.neurons.seek(SeekFrom::Start(start)).map_err(Error::Spill)?;
        self.neurons.read_exact(&mut bytes).map_err(Error::Spill)?;
        let [tokens, neurons] = shape;
        let damaged = || Error::Spill(std::io::ErrorKind::InvalidData.into());
        SparseMatrix::from_bytes(tokens, neurons, &bytes).ok_or_else(damaged)
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
