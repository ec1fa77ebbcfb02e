//! Writes an ONNX export: the graph, then every weight at the place the graph already names.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plmconv_formats::atomic_folder::AtomicFolder;
use plmconv_formats::model::TensorKey;
use plmconv_formats::onnx::{BlockFormat, Content, DataItem, Export, ExportSpec, Place, Profile, sidecars};
use plmconv_formats::source::RowSource;
use plmconv_formats::{DType, Error as FormatError, Model, Role};
use plmconv_quant::grid::{Blocks, Grid, pack_columns, pack_rows, quantize};
use plmconv_quant::{decode, encode_rows, first_non_finite};
use rayon::prelude::*;

/// Values a worker holds at a time.
const CHUNK_VALUES: usize = 1 << 20;

/// relu² of anything up to this stays finite in f16 (its largest number is 65504).
const LARGEST_ROOT: f64 = 255.0;

/// Writes the folder `output`; it appears when all of it is there. `written` hears how many bytes were read
/// and may stop the run with an error.
pub fn write(
    model: &Model,
    spec: &ExportSpec,
    export: &Export,
    output: &Path,
    overwrite: bool,
    read: &(dyn Fn(u64) -> Result<()> + Sync),
) -> Result<()> {
    let folder = AtomicFolder::create(output, overwrite)?;
    let under = if spec.profile == Profile::Hf { "onnx/" } else { "" };
    let files: Vec<File> = (0..export.data_bytes.len())
        .map(|i| folder.create_file(format!("{under}{}", spec.data_name(i))))
        .collect::<Result<_, _>>()?;
    for (file, &bytes) in files.iter().zip(&export.data_bytes) {
        file.set_len(bytes).map_err(FormatError::io(output))?;
    }
    write_small(&folder, &format!("{under}{}", spec.file_name), &export.model)?;
    for sidecar in sidecars(model, spec, files.len())? {
        write_small(&folder, &sidecar.path, &sidecar.bytes)?;
    }
    let out = Files { files: &files, output };
    for literal in &export.literals {
        out.write(literal.place, 0, &literal.bytes)?;
    }
    let steps = steps(&export.items);
    steps.par_iter().with_max_len(1).try_for_each_init(Buffers::default, |buffers, (item, rows)| {
        buffers.write_rows(item, rows.clone(), &out).with_context(|| format!("tensor `{}`", item.name))?;
        read((rows.len() * item.source.row_bytes()) as u64)
    })?;
    folder.commit()?;
    Ok(())
}

fn write_small(folder: &AtomicFolder, name: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    let name = name.as_ref();
    folder.create_file(name)?.write_all(bytes).map_err(FormatError::io(folder.target().join(name)))?;
    Ok(())
}

/// The work in file order.
fn steps(items: &[DataItem]) -> Vec<(&DataItem, Range<usize>)> {
    let mut steps = Vec::new();
    for item in items {
        let (rows, step) = (item.source.rows(), item.rows_per_step(CHUNK_VALUES));
        for start in (0..rows).step_by(step) {
            steps.push((item, start..(start + step).min(rows)));
        }
    }
    steps
}

/// The external data files.
struct Files<'a> {
    files: &'a [File],
    output: &'a Path,
}

impl Files<'_> {
    fn write(&self, place: Place, at: u64, bytes: &[u8]) -> Result<()> {
        debug_assert!(at + bytes.len() as u64 <= place.bytes);
        write_all_at(&self.files[place.file], bytes, place.offset + at)
            .map_err(FormatError::io(self.output))?;
        Ok(())
    }
}

/// What a worker keeps between steps.
#[derive(Default)]
struct Buffers {
    stored: Vec<u8>,
    values: Vec<f32>,
    blocks: Blocks,
    bytes: Vec<u8>,
}

impl Buffers {
    fn write_rows(&mut self, item: &DataItem, rows: Range<usize>, out: &Files<'_>) -> Result<()> {
        self.load(item, rows.clone())?;
        let cols = item.source.cols();
        match &item.content {
            Content::Float { dtype, place } => {
                let row_bytes = cols * dtype.block_bytes();
                self.bytes.resize(rows.len() * row_bytes, 0);
                encode_rows(*dtype, &self.values, cols, None, &mut self.bytes)?;
                out.write(*place, (rows.start * row_bytes) as u64, &self.bytes)
            }
            Content::NBits { format, scale_type, codes, scales, zero_points } => {
                let blocks = format.blocks(cols);
                let grid = grid(*format, *scale_type);
                quantize(&grid, &self.values, cols, None, &mut self.blocks)?;
                pack_rows(grid.bits, &self.blocks.codes, blocks * format.block_size, &mut self.bytes);
                out.write(*codes, (rows.start * blocks * format.block_bytes()) as u64, &self.bytes)?;
                let scale_bytes = scale_type.block_bytes();
                self.bytes.resize(self.blocks.scales.len() * scale_bytes, 0);
                encode_rows(*scale_type, &self.blocks.scales, blocks, None, &mut self.bytes)?;
                out.write(*scales, (rows.start * blocks * scale_bytes) as u64, &self.bytes)?;
                let Some(place) = zero_points else { return Ok(()) };
                pack_rows(grid.bits, &self.blocks.zero_points, blocks, &mut self.bytes);
                out.write(*place, (rows.start * format.zero_point_bytes(cols)) as u64, &self.bytes)
            }
            Content::Qdq { format, scale_type, codes, scales, zero_points } => {
                let grid = grid(*format, *scale_type);
                quantize(&grid, &self.values, cols, None, &mut self.blocks)?;
                self.write_columns(item, &grid, rows, out, [*codes, *scales], *zero_points)
            }
        }
    }

    /// Reads, decodes and checks rows, and multiplies them by the item's power of two.
    fn load(&mut self, item: &DataItem, rows: Range<usize>) -> Result<()> {
        let source = &item.source;
        source.read_rows(rows.clone(), &mut self.stored)?;
        self.values.resize(rows.len() * source.cols(), 0.0);
        decode(source.dtype(), &self.stored, &mut self.values)?;
        if let Some(at) = first_non_finite(&self.values) {
            let (row, col) = (rows.start + at / source.cols(), at % source.cols());
            return Err(anyhow!("holds {} at [{row}, {col}]", self.values[at]));
        }
        if item.exponent != 0 {
            let factor = f32::powi(2.0, item.exponent);
            self.values.iter_mut().for_each(|v| *v *= factor);
        }
        Ok(())
    }

    /// Columns of the step's rows become stretches of the transposed tensors' rows.
    fn write_columns(
        &mut self,
        item: &DataItem,
        grid: &Grid,
        rows: Range<usize>,
        out: &Files<'_>,
        [codes, scales]: [Place; 2],
        zero_points: Option<Place>,
    ) -> Result<()> {
        let (cols, all_rows) = (item.source.cols(), item.source.rows());
        let blocks = grid.blocks(cols);
        let flip = if grid.symmetric { grid.middle() as u8 } else { 0 };
        let packed = |values: usize| values * grid.bits as usize / 8;
        let stretches = |bytes: &[u8], place: Place, count: usize, stride: usize, first: usize| {
            let per_column = bytes.len() / count;
            (0..count).try_for_each(|column| {
                let stretch = &bytes[column * per_column..(column + 1) * per_column];
                out.write(place, (column * stride + first) as u64, stretch)
            })
        };
        let stride = blocks * grid.block_size;
        pack_columns(grid.bits, &self.blocks.codes, stride, cols, flip, &mut self.bytes);
        stretches(&self.bytes, codes, cols, packed(all_rows), packed(rows.start))?;
        let scale_bytes = grid.scale_type.block_bytes();
        let transposed: Vec<f32> =
            (0..blocks).flat_map(|b| self.blocks.scales.iter().skip(b).step_by(blocks).copied()).collect();
        self.bytes.resize(transposed.len() * scale_bytes, 0);
        encode_rows(grid.scale_type, &transposed, rows.len(), None, &mut self.bytes)?;
        stretches(&self.bytes, scales, blocks, all_rows * scale_bytes, rows.start * scale_bytes)?;
        let Some(place) = zero_points else { return Ok(()) };
        pack_columns(grid.bits, &self.blocks.zero_points, blocks, blocks, 0, &mut self.bytes);
        stretches(&self.bytes, place, blocks, packed(all_rows), packed(rows.start))
    }
}

fn grid(format: BlockFormat, scale_type: DType) -> Grid {
    Grid { bits: format.bits as u32, block_size: format.block_size, symmetric: format.symmetric, scale_type }
}

/// Per layer the k of [`ExportSpec::ffn_shift`]: whatever enters the FFN, `up_proj`'s output times 2^-k has
/// a square that f16 holds. An RMSNorm's output, before its weight, is at most sqrt(hidden) long, so by
/// Cauchy-Schwarz a neuron's input is at most sqrt(hidden) times the length of its row times that weight.
pub fn ffn_shifts(model: &Model) -> Result<Vec<u32>> {
    (0..model.config.num_hidden_layers)
        .into_par_iter()
        .map(|layer| {
            let norm = values(model, TensorKey::in_layer(layer, Role::FfnNorm))?;
            let up = model.tensor(TensorKey::in_layer(layer, Role::FfnUp)).context("no up_proj")?;
            let longest = longest_row(&*up.source, &norm)?;
            let bound = (model.config.hidden_size as f64).sqrt() * longest;
            Ok((bound / LARGEST_ROOT).log2().ceil().max(0.0) as u32)
        })
        .collect()
}

fn values(model: &Model, key: TensorKey) -> Result<Vec<f32>> {
    let source = &model.tensor(key).context("a norm is missing")?.source;
    let (mut stored, mut values) = (Vec::new(), vec![0.0; source.rows() * source.cols()]);
    source.read_rows(0..source.rows(), &mut stored)?;
    decode(source.dtype(), &stored, &mut values)?;
    Ok(values)
}

/// The largest length of a row, each column multiplied by its weight.
fn longest_row(source: &dyn RowSource, weights: &[f32]) -> Result<f64> {
    let (mut stored, mut values) = (Vec::new(), Vec::new());
    let step = (CHUNK_VALUES / source.cols()).max(1);
    let mut longest = 0.0f64;
    for start in (0..source.rows()).step_by(step) {
        let rows = start..(start + step).min(source.rows());
        source.read_rows(rows.clone(), &mut stored)?;
        values.resize(rows.len() * source.cols(), 0.0);
        decode(source.dtype(), &stored, &mut values)?;
        for row in values.chunks_exact(source.cols()) {
            let square: f64 = row.iter().zip(weights).map(|(v, w)| f64::from(v * w).powi(2)).sum();
            longest = longest.max(square.sqrt());
        }
    }
    Ok(longest)
}

#[cfg(unix)]
fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let n = std::os::windows::fs::FileExt::seek_write(file, bytes, offset)?;
        bytes = &bytes[n..];
        offset += n as u64;
    }
    Ok(())
}
