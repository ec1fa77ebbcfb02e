//! Writes an ONNX export: the graph, then every weight at the place that the graph already names.

use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use plmconv_formats::atomic_folder::AtomicFolder;
use plmconv_formats::onnx::{BlockFormat, Content, DataItem, Place};
use plmconv_formats::{DType, Error as FormatError};
use plmconv_quant::encode_rows;
use plmconv_quant::grid::{Blocks, Grid, pack_columns, pack_rows, quantize};

use super::plan::{OnnxPlan, stored_as};
use crate::pipeline::stream::{Rows, Writer, in_order, row_steps};
use crate::progress::Console;

/// Writes everything the plan says. The folder appears when all of it is there.
pub fn write(plan: &OnnxPlan, bar: &ProgressBar, console: Console) -> Result<()> {
    let folder = AtomicFolder::create(&plan.output, plan.overwrite)?;
    let data = DataFiles::create(&folder, plan)?;
    write_small(&folder, plan.graph_path(), &plan.export.model)?;
    for sidecar in &plan.sidecars {
        write_small(&folder, &sidecar.path, &sidecar.bytes)?;
    }
    for literal in &plan.export.literals {
        data.write(literal.place, 0, &literal.bytes)?;
    }
    in_order(&steps(plan)?, |buffers: &mut Buffers, step| {
        let Step { item, rows, .. } = step;
        buffers.write(step, &data)?;
        if rows.end == item.source.rows() {
            console.detail(bar, || format!("{:<52} {}", item.name, stored_as(item)));
        }
        bar.inc((rows.len() * item.source.row_bytes()) as u64);
        Ok(())
    })?;
    Ok(folder.commit()?)
}

fn write_small(folder: &AtomicFolder, name: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let name = name.as_ref();
    folder.create_file(name)?.write_all(bytes).map_err(FormatError::io(folder.target().join(name)))?;
    Ok(())
}

/// Some rows of one weight.
struct Step<'a> {
    item: &'a DataItem,
    importance: Option<&'a [f32]>,
    rows: Range<usize>,
}

/// The plan's work in file order. Steps are whole pairs of rows: two 4-bit codes of neighbouring rows may share a byte.
///
/// # Errors
/// Importance of another model.
fn steps(plan: &OnnxPlan) -> Result<Vec<Step<'_>>> {
    let mut steps = Vec::new();
    for item in &plan.export.items {
        // What a whole row is multiplied by does not change which code is nearest.
        let importance = match item.transposed {
            true => None,
            false => plan.guidance.importance(&item.key.gguf_name(), item.source.cols())?,
        };
        steps.extend(row_steps(&*item.source, 2).map(|rows| Step { item, importance, rows }));
    }
    Ok(steps)
}

/// The external data files.
struct DataFiles {
    /// With the names they will have.
    files: Vec<(File, PathBuf)>,
    writer: Writer,
}

impl DataFiles {
    fn create(folder: &AtomicFolder, plan: &OnnxPlan) -> Result<DataFiles> {
        let mut files = Vec::new();
        for (name, bytes) in plan.data_paths() {
            let (file, path) = (folder.create_file(&name)?, folder.target().join(&name));
            // Reserving the whole size first finds a full disk where the file system can tell.
            file.set_len(bytes).map_err(FormatError::io(&path))?;
            files.push((file, path));
        }
        Ok(DataFiles { files, writer: Writer::default() })
    }

    fn write(&self, place: Place, at: u64, bytes: &[u8]) -> Result<()> {
        assert!(at + bytes.len() as u64 <= place.bytes, "a weight stays in its place");
        let (file, path) = &self.files[place.file];
        self.writer.write(file, path, bytes, place.offset + at)
    }
}

/// What a worker keeps between steps.
#[derive(Default)]
struct Buffers {
    rows: Rows,
    blocks: Blocks,
    bytes: Vec<u8>,
}

impl Buffers {
    fn write(&mut self, step: &Step<'_>, data: &DataFiles) -> Result<()> {
        let Step { item, rows, .. } = step;
        self.rows.load(&item.name, &*item.source, rows.clone())?;
        if item.exponent != 0 {
            let factor = f32::powi(2.0, item.exponent);
            self.rows.values.iter_mut().for_each(|v| *v *= factor);
        }
        self.encode(step, data).with_context(|| format!("tensor `{}`", item.name))
    }

    fn encode(&mut self, step: &Step<'_>, data: &DataFiles) -> Result<()> {
        let Step { item, importance, rows } = step;
        let cols = item.source.cols();
        match &item.content {
            Content::Float { dtype, place } => {
                let row_bytes = cols * dtype.block_bytes();
                self.bytes.resize(rows.len() * row_bytes, 0);
                encode_rows(*dtype, &self.rows.values, cols, None, &mut self.bytes)?;
                data.write(*place, (rows.start * row_bytes) as u64, &self.bytes)
            }
            Content::NBits { format, scale_type, codes, scales, zero_points } => {
                let grid = grid(*format, *scale_type);
                quantize(&grid, &self.rows.values, cols, *importance, &mut self.blocks)?;
                self.write_rows(&grid, cols, rows.start, data, [*codes, *scales], *zero_points)
            }
            Content::Qdq { format, scale_type, codes, scales, zero_points } => {
                let grid = grid(*format, *scale_type);
                quantize(&grid, &self.rows.values, cols, *importance, &mut self.blocks)?;
                self.write_columns(item, &grid, rows.clone(), data, [*codes, *scales], *zero_points)
            }
        }
    }

    /// Rows as MatMulNBits reads them: codes, scales and zero points each row by row.
    fn write_rows(
        &mut self,
        grid: &Grid,
        cols: usize,
        first_row: usize,
        data: &DataFiles,
        [codes, scales]: [Place; 2],
        zero_points: Option<Place>,
    ) -> Result<()> {
        let blocks = grid.blocks(cols);
        let at = |row_bytes: usize| (first_row * row_bytes) as u64;
        pack_rows(grid.bits, &self.blocks.codes, blocks * grid.block_size, &mut self.bytes);
        data.write(codes, at(blocks * grid.block_size * grid.bits as usize / 8), &self.bytes)?;
        let scale_bytes = grid.scale_type.block_bytes();
        self.bytes.resize(self.blocks.scales.len() * scale_bytes, 0);
        encode_rows(grid.scale_type, &self.blocks.scales, blocks, None, &mut self.bytes)?;
        data.write(scales, at(blocks * scale_bytes), &self.bytes)?;
        let Some(place) = zero_points else { return Ok(()) };
        pack_rows(grid.bits, &self.blocks.zero_points, blocks, &mut self.bytes);
        data.write(place, at((blocks * grid.bits as usize).div_ceil(8)), &self.bytes)
    }

    /// Columns of the step's rows become stretches of the transposed tensors' rows.
    fn write_columns(
        &mut self,
        item: &DataItem,
        grid: &Grid,
        rows: Range<usize>,
        data: &DataFiles,
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
                data.write(place, (column * stride + first) as u64, stretch)
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
