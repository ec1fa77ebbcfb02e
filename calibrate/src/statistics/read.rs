//! Statistics are read matrix by matrix, when a matrix is quantized.

use std::path::Path;

use plmconv_formats::gguf::GgufFile;
use plmconv_formats::imatrix::read_floats;
use plmconv_formats::{Fingerprint, TensorKey};
use plmconv_quant::block_symmetric::BlockSymmetric;
use plmconv_quant::importance::mean_squares;

use super::{
    KEY_CHUNK_SIZE, KEY_CHUNKS, KEY_DATASETS, KEY_DIGEST, KEY_LAYOUT, KEY_REQUEST, KEY_VERSION, VERSION,
};
use crate::balance::{Balance, Exponents};
use crate::curvature::{INPUT_BLOCK, OUTPUT_BLOCK};
use crate::error::{Error, Result};

/// An opened statistics file.
#[derive(Debug)]
pub struct Statistics {
    pub(super) file: GgufFile,
    /// How the model was rescaled since.
    balance: Balance,
}

impl Statistics {
    /// Opens a file that `plmconv calibrate` wrote.
    ///
    /// # Errors
    /// No GGUF, an importance matrix without the rest, another version or layout.
    pub fn open(path: &Path) -> Result<Statistics> {
        Statistics::from_gguf(GgufFile::open(path)?)
    }

    /// The statistics in an opened file.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_gguf(file: GgufFile) -> Result<Statistics> {
        let path = || file.path().to_path_buf();
        let metadata = &file.metadata;
        match metadata.unsigned(KEY_VERSION) {
            Some(version) if version == VERSION as usize => {}
            Some(version) => return Err(Error::StatisticsVersion { path: path(), version }),
            None => return Err(Error::NotStatistics { path: path() }),
        }
        match metadata.string(KEY_LAYOUT) {
            Some("plm") => {}
            other => {
                let layout = other.unwrap_or("unknown").to_string();
                return Err(Error::StatisticsLayout { path: path(), layout });
            }
        }
        Ok(Statistics { file, balance: Balance::default() })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The names of the texts that were run.
    pub fn texts(&self) -> Vec<&str> {
        self.file.metadata.strings(KEY_DATASETS).unwrap_or_default()
    }

    /// Windows that were run.
    pub fn windows(&self) -> usize {
        self.file.metadata.unsigned(KEY_CHUNKS).unwrap_or(0)
    }

    /// Tokens of a window.
    pub fn window(&self) -> usize {
        self.file.metadata.unsigned(KEY_CHUNK_SIZE).unwrap_or(0)
    }

    /// Checks that what was read is still there.
    ///
    /// # Errors
    /// The file is not any longer what it was when it was opened.
    pub fn check_unchanged(&self) -> Result<()> {
        Ok(self.file.fingerprints().try_for_each(Fingerprint::check)?)
    }

    /// Checks that they are of the model with this [digest](crate::digest::model_digest).
    ///
    /// # Errors
    /// They are of another.
    pub fn check_model(&self, digest: &str) -> Result<()> {
        if self.file.metadata.string(KEY_DIGEST) == Some(digest) {
            return Ok(());
        }
        Err(Error::ForeignStatistics { path: self.path().to_path_buf() })
    }

    /// The same statistics, of the measured model after `balance`.
    #[must_use]
    pub fn balanced(self, balance: Balance) -> Statistics {
        Statistics { balance, ..self }
    }

    /// How the model was rescaled since it was measured.
    pub fn balance(&self) -> &Balance {
        &self.balance
    }

    /// By which powers of two a matrix was multiplied since.
    fn exponents(&self, name: &str) -> Option<&Exponents> {
        TensorKey::from_gguf(name).and_then(|key| self.balance.of(key))
    }

    /// Whether they are what a run of this request would measure.
    pub fn answers(&self, request: &str) -> bool {
        self.file.metadata.string(KEY_REQUEST) == Some(request)
    }

    fn values(&self, name: &str) -> Result<Option<Vec<f32>>> {
        let Some(tensor) = self.file.tensor(name) else { return Ok(None) };
        Ok(Some(read_floats(self.path(), &tensor.data)?))
    }

    /// Whether there are Fisher factors of a matrix.
    pub fn has_curvature(&self, name: &str) -> bool {
        self.file.tensor(&format!("{name}.inputs")).is_some()
    }

    /// Whether its rows influence each other.
    pub fn has_outputs(&self, name: &str) -> bool {
        self.file.tensor(&format!("{name}.outputs")).is_some()
    }

    /// Mean squares of a matrix's input columns.
    ///
    /// # Errors
    /// Counts that do not cover equal parts of the columns.
    pub fn importance(&self, name: &str) -> Result<Option<Vec<f32>>> {
        let sums = self.values(&format!("{name}.in_sum2"))?;
        let counts = self.values(&format!("{name}.counts"))?;
        let Some((sums, counts)) = sums.zip(counts) else { return Ok(None) };
        if counts.is_empty() || !sums.len().is_multiple_of(counts.len()) {
            return Err(self.other_shape(name));
        }
        let mut squares = mean_squares(&sums, &counts);
        if let Some(Exponents { columns, .. }) = self.exponents(name) {
            // What columns are multiplied by, their inputs are divided by.
            squares.iter_mut().zip(columns).for_each(|(x, &e)| *x *= power_of_two(-2 * i32::from(e)));
        }
        Ok(Some(squares))
    }

    /// Tokens on which each of a matrix's input columns is not zero.
    ///
    /// # Errors
    /// An unreadable file.
    pub fn active(&self, name: &str) -> Result<Option<Vec<f32>>> {
        self.values(&format!("{name}.active"))
    }

    fn other_shape(&self, matrix: &str) -> Error {
        Error::StatisticsShape { path: self.path().to_path_buf(), matrix: matrix.into() }
    }

    /// Tokens that a matrix's statistics are sums over.
    ///
    /// # Errors
    /// An unreadable file.
    pub fn tokens(&self, name: &str) -> Result<f64> {
        let counts = self.values(&format!("{name}.counts"))?;
        Ok(f64::from(counts.and_then(|c| c.first().copied()).unwrap_or(0.0)).max(1.0))
    }

    /// Per column, the squares of the gradient where rows of a matrix are looked up; for the embedding only.
    ///
    /// # Errors
    /// An unreadable file.
    pub fn lookups(&self, name: &str) -> Result<Option<Vec<f32>>> {
        self.values(&format!("{name}.lookups"))
    }

    /// The Fisher factor of a matrix's `cols` inputs, if the file has it.
    ///
    /// # Errors
    /// A factor of another size.
    pub fn inputs(&self, name: &str, cols: usize) -> Result<Option<BlockSymmetric>> {
        let Some(mut factor) = self.factor(name, "inputs", cols, INPUT_BLOCK)? else { return Ok(None) };
        if let Some(Exponents { columns, rows }) = self.exponents(name) {
            if !columns.is_empty() {
                factor.scale(|col| power_of_two(-i32::from(columns[col])));
            }
            if !rows.is_empty() {
                // Only the product of the two factors, over the trace of the outputs', is an error's cost.
                let outputs = self.factor(name, "outputs", rows.len(), OUTPUT_BLOCK)?;
                let share = outputs.map_or(1.0, |outputs| trace_growth(&outputs, rows).sqrt());
                factor.scale(|_| share as f32);
            }
        }
        Ok(Some(factor))
    }

    /// The Fisher factor of its `rows` outputs, if the file has it.
    ///
    /// # Errors
    /// A factor of another size.
    pub fn outputs(&self, name: &str, rows: usize) -> Result<Option<BlockSymmetric>> {
        let Some(mut factor) = self.factor(name, "outputs", rows, OUTPUT_BLOCK)? else { return Ok(None) };
        if let Some(Exponents { rows, .. }) = self.exponents(name).filter(|found| !found.rows.is_empty()) {
            factor.scale(|row| power_of_two(-i32::from(rows[row])));
        }
        Ok(Some(factor))
    }

    fn factor(&self, name: &str, side: &str, size: usize, block: usize) -> Result<Option<BlockSymmetric>> {
        let Some(values) = self.values(&format!("{name}.{side}"))? else { return Ok(None) };
        match BlockSymmetric::from_values(size, block, values) {
            Some(factor) => Ok(Some(factor)),
            None => Err(self.other_shape(name)),
        }
    }
}

fn power_of_two(exponent: i32) -> f32 {
    libm::ldexpf(1.0, exponent)
}

/// By how much the trace of the outputs' factor grows when rows are multiplied by powers of two.
fn trace_growth(outputs: &BlockSymmetric, rows: &[i8]) -> f64 {
    let diagonal = outputs.diagonal();
    let after = diagonal.iter().zip(rows).map(|(&g, &e)| f64::from(g * power_of_two(-2 * i32::from(e))));
    let before: f64 = diagonal.iter().map(|&g| f64::from(g)).sum();
    after.sum::<f64>() / before.max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use plmconv_formats::DType;
    use plmconv_formats::gguf::{Directory, Metadata, Value};

    use super::*;

    #[test]
    fn counts_that_do_not_divide_the_columns_are_refused() {
        let dir = tempfile::tempdir().expect("tempdir");
        let importance = |counts: usize| {
            let mut metadata = Metadata::new();
            metadata.set(KEY_VERSION, Value::U32(VERSION));
            metadata.set(KEY_LAYOUT, Value::String("plm".into()));
            let parts = [("a.in_sum2", 5), ("a.counts", counts)];
            let tensors = parts.map(|(name, len)| (name.to_string(), DType::F32, vec![len]));
            let directory = Directory::new(&metadata, tensors).expect("can be laid out");
            let mut bytes = directory.head;
            bytes.resize(directory.file_bytes as usize, 0);
            let path = dir.path().join("statistics");
            std::fs::write(&path, bytes).expect("write");
            Statistics::open(&path).expect("opens").importance("a")
        };
        assert_eq!(importance(1).expect("fits"), Some(vec![1.0; 5]));
        for counts in [0, 2, 6] {
            assert!(importance(counts).expect_err("does not fit").to_string().contains("another shape"));
        }
    }
}
