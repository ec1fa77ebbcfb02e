//! Statistics are written matrix by matrix, as they become known.

use std::collections::BTreeMap;

use plmconv_formats::atomic::AtomicFile;
use plmconv_formats::gguf::{Directory, Metadata, Value, string_array};
use plmconv_formats::{Config, DType, Role, TensorKey};
use plmconv_quant::block_symmetric::BlockSymmetric;
use plmconv_validate::readback;

use super::read::Statistics;
use super::{
    KEY_CHUNK_SIZE, KEY_CHUNKS, KEY_DATASETS, KEY_DIGEST, KEY_LAYOUT, KEY_REQUEST, KEY_VERSION, VERSION,
};
use crate::calibration::Destination;
use crate::curvature::{self, INPUT_BLOCK, OUTPUT_BLOCK, SiteMoments};
use crate::error::{Error, Leftover, Result};
use crate::monitor::Monitor;
use crate::resume::{self, Finished, Part};

/// A statistics file being written; it gets its name when [`finish`](Self::finish)ed.
pub struct StatisticsWriter {
    file: AtomicFile,
    directory: Directory,
    key: String,
    hidden_size: usize,
    /// The tensors that were written.
    parts: BTreeMap<usize, Part>,
}

/// Where the statistics come from.
#[derive(Debug, Default)]
pub struct Provenance {
    pub model_digest: String,
    /// A digest of all that decides the statistics.
    pub request: String,
    /// What an interrupted run's work has to have in common with this one's.
    pub resume_key: String,
    pub datasets: Vec<String>,
    pub chunks: usize,
    pub chunk_size: usize,
}

impl StatisticsWriter {
    /// Lays the file out; with `resume` it goes on with what an interrupted run of the same request had finished.
    pub fn create(
        to: Destination<'_>,
        config: &Config,
        from: Provenance,
        monitor: &dyn Monitor,
    ) -> Result<(StatisticsWriter, Finished)> {
        let count = |n: usize| Value::U32(n.try_into().unwrap_or(u32::MAX));
        let mut metadata = Metadata::new();
        metadata.set("general.type", Value::String("imatrix".into()));
        metadata.set(KEY_DATASETS, string_array(from.datasets));
        metadata.set(KEY_CHUNKS, count(from.chunks));
        metadata.set(KEY_CHUNK_SIZE, count(from.chunk_size));
        metadata.set(KEY_VERSION, Value::U32(VERSION));
        metadata.set(KEY_DIGEST, Value::String(from.model_digest));
        metadata.set(KEY_REQUEST, Value::String(from.request));
        metadata.set(KEY_LAYOUT, Value::String("plm".into()));
        // A model that lacks one of these matrices is refused by the measurement.
        let sites = curvature::sites(config.num_hidden_layers)
            .filter_map(|key| Some((key, config.matrix_shape(key.role)?)));
        let tensors = sites.flat_map(|(key, [rows, cols])| {
            let mut parts = vec![
                ("in_sum2", cols),
                ("counts", 1),
                ("active", cols),
                ("inputs", BlockSymmetric::stored_len(cols, INPUT_BLOCK)),
            ];
            if key.role != Role::TokenEmbedding {
                parts.push(("outputs", BlockSymmetric::stored_len(rows, OUTPUT_BLOCK)));
            } else {
                parts.push(("lookups", cols));
            }
            parts.into_iter().map(move |(part, len)| (format!("{key}.{part}"), DType::F32, vec![len]))
        });
        let directory = Directory::new(&metadata, tensors)?;
        let key = from.resume_key;
        let resume_key = to.resume.then_some(key.as_str());
        let (file, finished) =
            resume::start(to.path, to.overwrite, directory.file_bytes, resume_key, monitor)?;
        file.write_at(&directory.head, 0)?;
        let parts = finished.parts.iter().map(|part| (part.number, part.clone())).collect();
        let hidden_size = config.hidden_size;
        Ok((StatisticsWriter { file, directory, key, hidden_size, parts }, finished))
    }

    /// Writes one matrix's statistics.
    pub fn write(&mut self, site: &SiteMoments) -> Result<()> {
        let name = site.key;
        self.put(&format!("{name}.in_sum2"), &site.square_sums)?;
        self.put(&format!("{name}.counts"), &[site.tokens as f32])?;
        self.put(&format!("{name}.active"), &site.active)?;
        self.put(&format!("{name}.inputs"), site.inputs.values())?;
        match &site.outputs {
            Some(outputs) => self.put(&format!("{name}.outputs"), outputs.values()),
            None => Ok(()),
        }
    }

    /// Writes what errors of the embeddings do where text enters the model: per column `sum g²` of the gradients
    /// (`[tokens, hidden]`) by the first layer's input.
    pub fn write_lookups(&mut self, gradient: &[f32]) -> Result<()> {
        let hidden = self.hidden_size;
        let mut sums = vec![0f64; hidden];
        for row in gradient.chunks_exact(hidden) {
            sums.iter_mut().zip(row).for_each(|(sum, &g)| *sum += f64::from(g) * f64::from(g));
        }
        let sums: Vec<f32> = sums.into_iter().map(|sum| sum as f32).collect();
        self.put(&format!("{}.lookups", TensorKey::global(Role::TokenEmbedding)), &sums)
    }

    /// Writes one tensor.
    fn put(&mut self, name: &str, values: &[f32]) -> Result<()> {
        let mut entries = self.directory.entries.iter().enumerate();
        let (number, entry) = entries.find(|(_, e)| e.name == name).expect("every site has its place");
        assert_eq!(entry.bytes, 4 * values.len() as u64, "{name}");
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.file.write_at(&bytes, entry.offset)?;
        self.parts.insert(number, Part::new(number, entry.offset, &bytes));
        Ok(())
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// A file that does not read back, or cannot have its name.
    pub fn finish(self) -> Result<()> {
        let output = self.file.target().to_path_buf();
        read_back(&self.file, &self.directory)?;
        self.file.commit()?;
        resume::discard(&output);
        Ok(())
    }

    /// Keeps what was written for a run that goes on, with what `extra` it needs.
    pub fn keep(self, extra: Vec<u8>) -> Result<Leftover> {
        let finished = Finished { parts: self.parts.into_values().collect(), extra };
        resume::keep(self.file, &self.key, self.directory.file_bytes, finished)
    }
}

/// Opens a written file as its readers will.
///
/// # Errors
/// [`Error::ReadBack`]
pub(super) fn read_back(file: &AtomicFile, directory: &Directory) -> Result<()> {
    let opened = readback::gguf(&[(file, directory)]).map_err(Error::from);
    opened.and_then(Statistics::from_gguf).map(drop).map_err(|e| Error::ReadBack(Box::new(e)))
}
