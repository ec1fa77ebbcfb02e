//! Statistics are written matrix by matrix, as they become known.

use std::path::Path;

use anyhow::{Context, Result};
use plmconv_formats::atomic::AtomicFile;
use plmconv_formats::gguf::{Directory, DirectoryEntry, Metadata, Value, string_array};
use plmconv_formats::{Config, DType, Role, TensorKey};
use plmconv_quant::calibration::BlockSymmetric;
use plmconv_validate::curvature::{self, INPUT_BLOCK, OUTPUT_BLOCK, SiteMoments};

use super::{KEY_CHUNK_SIZE, KEY_CHUNKS, KEY_DATASETS, KEY_DIGEST, KEY_LAYOUT, KEY_VERSION, VERSION};
use crate::pipeline::write_all_at;

/// A statistics file being written; it gets its name when [`finish`](Self::finish)ed.
pub struct StatisticsWriter {
    file: AtomicFile,
    entries: Vec<DirectoryEntry>,
}

/// Where the statistics come from.
pub struct Provenance {
    pub model_digest: String,
    pub datasets: Vec<String>,
    pub chunks: usize,
    pub chunk_size: usize,
}

impl StatisticsWriter {
    /// Lays the file out.
    pub fn create(
        path: &Path,
        overwrite: bool,
        config: &Config,
        from: Provenance,
    ) -> Result<StatisticsWriter> {
        let count = |n: usize| Value::U32(n.try_into().unwrap_or(u32::MAX));
        let mut metadata = Metadata::new();
        metadata.set("general.type", Value::String("imatrix".into()));
        metadata.set(KEY_DATASETS, string_array(from.datasets));
        metadata.set(KEY_CHUNKS, count(from.chunks));
        metadata.set(KEY_CHUNK_SIZE, count(from.chunk_size));
        metadata.set(KEY_VERSION, Value::U32(VERSION));
        metadata.set(KEY_DIGEST, Value::String(from.model_digest));
        metadata.set(KEY_LAYOUT, Value::String("plm".into()));
        let tensors = curvature::sites(config.num_hidden_layers).flat_map(|key| {
            let [rows, cols] = matrix_shape(config, key);
            let mut parts = vec![
                ("in_sum2", cols),
                ("counts", 1),
                ("active", cols),
                ("inputs", BlockSymmetric::stored_len(cols, INPUT_BLOCK)),
            ];
            if key.role != Role::TokenEmbedding {
                parts.push(("outputs", BlockSymmetric::stored_len(rows, OUTPUT_BLOCK)));
            }
            parts.into_iter().map(move |(part, len)| (format!("{key}.{part}"), DType::F32, vec![len]))
        });
        let directory = Directory::new(&metadata, tensors)?;
        let file = AtomicFile::create(path, overwrite)?;
        file.file()
            .set_len(directory.file_bytes)
            .and_then(|()| write_all_at(file.file(), &directory.head, 0))
            .map_err(plmconv_formats::Error::io(path))?;
        Ok(StatisticsWriter { file, entries: directory.entries })
    }

    /// Writes one matrix's statistics.
    pub fn write(&self, site: &SiteMoments) -> Result<()> {
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

    /// Writes one tensor.
    fn put(&self, name: &str, values: &[f32]) -> Result<()> {
        let entry =
            self.entries.iter().find(|e| e.name == name).with_context(|| format!("no place for {name}"))?;
        anyhow::ensure!(entry.bytes == 4 * values.len() as u64, "{name}: {} values", values.len());
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        write_all_at(self.file.file(), &bytes, entry.offset)
            .map_err(plmconv_formats::Error::io(self.file.target()))?;
        Ok(())
    }

    /// Gives the file its name.
    pub fn finish(self) -> Result<()> {
        Ok(self.file.commit()?)
    }
}

/// Rows and columns of a matrix.
fn matrix_shape(config: &Config, key: TensorKey) -> [usize; 2] {
    let Config { hidden_size, intermediate_size, kv_lora_rank, .. } = *config;
    let heads = config.num_attention_heads;
    match key.role {
        Role::Query => [heads * (config.qk_nope_head_dim + config.qk_rope_head_dim), hidden_size],
        Role::KvA => [kv_lora_rank + config.qk_rope_head_dim, hidden_size],
        Role::KvB => [heads * (config.qk_nope_head_dim + config.v_head_dim), kv_lora_rank],
        Role::AttentionOutput => [hidden_size, heads * config.v_head_dim],
        Role::FfnUp => [intermediate_size, hidden_size],
        Role::FfnDown => [hidden_size, intermediate_size],
        _ => [config.vocab_size, hidden_size],
    }
}
