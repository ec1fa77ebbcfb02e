//! Writing reference outputs while the model runs.

use std::io::{Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::Path;

use plmconv_formats::atomic::AtomicFile;
use plmconv_formats::source::InputFile;

use super::{Reference, VOCAB_SIZE};
use crate::error::{Error, Result};
use crate::estimate::{Estimate, Mean};
use crate::evaluator::Evaluator;
use crate::perplexity::{Progress, hidden_of};
use crate::windows::Windows;

/// Rows whose logits are held at a time.
const ROWS: usize = 64;

/// What to store.
#[derive(Clone, Debug, Default)]
pub struct ReferenceOptions {
    /// Only the most likely tokens; all logits without it.
    pub top_k: Option<usize>,
    /// Further metadata, such as [`super::MODEL_DIGEST`].
    pub metadata: Vec<(String, String)>,
    /// Replace a file of that name.
    pub overwrite: bool,
}

/// A tensor of the file to be written, and where its next bytes go.
struct Part {
    name: &'static str,
    dtype: &'static str,
    shape: Vec<usize>,
    value_bytes: usize,
    next: u64,
}

impl Part {
    fn new(name: &'static str, dtype: &'static str, value_bytes: usize, shape: &[usize]) -> Part {
        Part { name, dtype, shape: shape.to_vec(), value_bytes, next: 0 }
    }

    fn bytes(&self) -> u64 {
        self.shape.iter().product::<usize>() as u64 * self.value_bytes as u64
    }
}

/// Runs all windows and stores what the model says of the scored positions; returns its perplexity.
///
/// # Errors
/// Whatever running the model or writing the file may end with, and a file that does not read back; then no file has
/// the name.
pub fn write_reference(
    evaluator: &Evaluator,
    windows: &Windows<'_>,
    path: &Path,
    options: &ReferenceOptions,
    mut progress: impl FnMut(Progress) -> ControlFlow<()>,
) -> Result<Estimate> {
    let vocab_size = evaluator.config().vocab_size;
    let (count, scored) = (windows.count(), windows.scored().len());
    let mut parts = vec![Part::new("input_ids", "I64", 8, &[count, windows.ctx()])];
    let top_k = options.top_k.map(|k| k.clamp(1, vocab_size));
    match top_k {
        None => parts.push(Part::new("logits", "F32", 4, &[count, scored, vocab_size])),
        Some(k) => parts.extend([
            Part::new("top_ids", "I32", 4, &[count, scored, k]),
            Part::new("top_log_probs", "F32", 4, &[count, scored, k]),
            Part::new("target_log_probs", "F32", 4, &[count, scored]),
        ]),
    }
    let file = AtomicFile::create(path, options.overwrite)?;
    let mut metadata = options.metadata.clone();
    metadata.push((VOCAB_SIZE.into(), vocab_size.to_string()));
    let mut output = Output { file: &file, parts };
    output.write_header(&metadata)?;

    let mut nll = Mean::default();
    for batch in windows.batches() {
        let hidden = hidden_of(evaluator, windows, batch.clone(), None)?;
        let targets: Vec<u32> = batch.clone().flat_map(|w| windows.targets(w)).copied().collect();
        for window in batch.clone() {
            let ids = windows.inputs(window);
            output.append("input_ids", &bytes_of(ids.iter().map(|id| (*id as i64).to_le_bytes())))?;
        }
        for (i, targets) in targets.chunks(ROWS).enumerate() {
            let logits = evaluator.logits(&hidden.part(i * ROWS..i * ROWS + targets.len()))?;
            for (row, &target) in logits.chunks_exact(vocab_size).zip(targets) {
                let log_sum = log_sum_exp(row);
                let target_log_prob = row[target as usize] as f64 - log_sum;
                nll.add(-target_log_prob);
                if let Some(k) = top_k {
                    let top = most_likely(row, k);
                    let log_probs = top.iter().map(|&i| (row[i as usize] as f64 - log_sum) as f32);
                    output.append("top_ids", &bytes_of(top.iter().map(|id| id.to_le_bytes())))?;
                    output.append("top_log_probs", &bytes_of(log_probs.map(f32::to_le_bytes)))?;
                    output.append("target_log_probs", &(target_log_prob as f32).to_le_bytes())?;
                }
            }
            if top_k.is_none() {
                output.append("logits", &bytes_of(logits.iter().map(|x| x.to_le_bytes())))?;
            }
        }
        let perplexity = Estimate::of(&nll).exp();
        Progress { windows_done: batch.end, windows: count, perplexity }.tell(&mut progress)?;
    }
    read_back(&file)?;
    file.commit()?;
    Ok(Estimate::of(&nll).exp())
}

/// Opens the file as a comparison will.
fn read_back(file: &AtomicFile) -> Result<()> {
    let path = file.target();
    let copy = file.file().try_clone().map_err(plmconv_formats::Error::io(path))?;
    Reference::from_input(InputFile::from_file(path, copy)?)?.check_sample()
}

struct Output<'a> {
    file: &'a AtomicFile,
    parts: Vec<Part>,
}

impl Output<'_> {
    fn write_header(&mut self, metadata: &[(String, String)]) -> Result<()> {
        let mut header = serde_json::Map::new();
        let pairs = metadata.iter().map(|(k, v)| (k.clone(), v.clone().into()));
        header.insert("__metadata__".into(), serde_json::Value::Object(pairs.collect()));
        let mut offset = 0;
        for part in &self.parts {
            let end = offset + part.bytes();
            let entry = serde_json::json!({
                "dtype": part.dtype, "shape": part.shape, "data_offsets": [offset, end],
            });
            header.insert(part.name.into(), entry);
            offset = end;
        }
        let mut text = serde_json::Value::Object(header).to_string();
        // Data is aligned to eight bytes, as the reference implementation does.
        while !text.len().is_multiple_of(8) {
            text.push(' ');
        }
        let mut offset = 8 + text.len() as u64;
        for part in &mut self.parts {
            part.next = offset;
            offset += part.bytes();
        }
        let mut start = (text.len() as u64).to_le_bytes().to_vec();
        start.extend_from_slice(text.as_bytes());
        self.write_at(0, &start)
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let part = self.parts.iter_mut().find(|p| p.name == name).expect("appended parts are declared above");
        let at = part.next;
        part.next += bytes.len() as u64;
        self.write_at(at, bytes)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut file = self.file.file();
        let done = file.seek(SeekFrom::Start(offset)).and_then(|_| file.write_all(bytes));
        done.map_err(|e| Error::from(plmconv_formats::Error::io(self.file.target())(e)))
    }
}

fn bytes_of<const N: usize>(values: impl Iterator<Item = [u8; N]>) -> Vec<u8> {
    values.flatten().collect()
}

fn log_sum_exp(row: &[f32]) -> f64 {
    let max = row.iter().fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m });
    max as f64 + row.iter().map(|&x| ((x - max) as f64).exp()).sum::<f64>().ln()
}

/// The `k` largest, the largest first; of equals the one with the lower id.
fn most_likely(row: &[f32], k: usize) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..row.len() as u32).collect();
    let order = |a: &u32, b: &u32| row[*b as usize].total_cmp(&row[*a as usize]).then(a.cmp(b));
    if k < ids.len() {
        ids.select_nth_unstable_by(k, order);
        ids.truncate(k);
    }
    ids.sort_unstable_by(order);
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One window of four tokens, of which the last is scored, over a vocabulary of three.
    fn written(path: &Path, logits: [f32; 3], ids: [i64; 4]) -> AtomicFile {
        let file = AtomicFile::create(path, false).expect("create");
        let parts =
            vec![Part::new("input_ids", "I64", 8, &[1, 4]), Part::new("logits", "F32", 4, &[1, 4, 3])];
        let mut output = Output { file: &file, parts };
        output.write_header(&[]).expect("write");
        output.append("input_ids", &bytes_of(ids.iter().map(|id| id.to_le_bytes()))).expect("write");
        for _ in 0..4 {
            output.append("logits", &bytes_of(logits.iter().map(|x| x.to_le_bytes()))).expect("write");
        }
        file
    }

    #[test]
    fn what_does_not_read_back_is_told() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("reference.safetensors");
        let good = [0.5, -1.0, 2.0];
        read_back(&written(&path, good, [0, 1, 2, 0])).expect("whole");
        let found = read_back(&written(&path, [0.5, f32::NAN, 2.0], [0, 1, 2, 0])).expect_err("NaN");
        assert!(matches!(found, Error::ReadBack { .. }), "{found}");
        assert!(read_back(&written(&path, good, [0, 1, 3, 0])).is_err(), "a token that is none");
        let file = written(&path, good, [0, 1, 2, 0]);
        file.file().set_len(file.file().metadata().expect("a file").len() - 1).expect("cut");
        assert!(read_back(&file).is_err(), "cut");
    }
}
