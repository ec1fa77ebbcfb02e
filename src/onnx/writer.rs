//! Writes an ONNX export: the graph, then every weight at the place that the graph already names.

use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use plmconv_calibrate::{Guided, Storage};
use plmconv_formats::atomic::AtomicFolder;
use plmconv_formats::onnx::{BlockFormat, Content, DataItem, Place, may_replace};
use plmconv_formats::{DType, Error as FormatError};
use plmconv_quant::encode_rows;
use plmconv_quant::grid::{Blocks, Grid, pack_columns, pack_rows, quantize};

use super::assembly::Assembly;
use super::plan::{OnnxPlan, stored_as};
use crate::pipeline::folder::write as write_file;
use crate::pipeline::stream::{Rows, Sink, Writer, in_order, row_steps};
use crate::progress::Console;
use crate::readback;

/// Writes everything the plan says. The folder has its name once it is committed.
pub fn write(plan: &OnnxPlan, bar: &ProgressBar, console: Console) -> Result<AtomicFolder> {
    let folder = AtomicFolder::create(&plan.output, plan.overwrite, may_replace)?;
    fill(&folder, plan, bar, console)?;
    plan.check_unchanged()?;
    readback::onnx(&folder, plan)?;
    Ok(folder)
}

/// Writes all of the folder's files.
pub fn fill(folder: &AtomicFolder, plan: &OnnxPlan, bar: &ProgressBar, console: Console) -> Result<()> {
    let data = DataFiles::create(folder, plan)?;
    write_file(folder, plan.graph_path(), &plan.export.model)?;
    for companion in &plan.companions.files {
        write_file(folder, &companion.path, &companion.bytes)?;
    }
    produce(plan, &data, bar, console)
}

/// Makes everything that goes into the external data and hands it to `sink`.
pub fn produce(plan: &OnnxPlan, sink: &dyn Sink, bar: &ProgressBar, console: Console) -> Result<()> {
    for literal in &plan.export.literals {
        put(sink, literal.place, 0, &literal.bytes)?;
    }
    in_order(&steps(plan)?, |buffers: &mut Buffers, step| {
        let Step { item, rows, .. } = step;
        buffers.write(step, sink)?;
        if rows.end == item.source.rows() {
            console.detail(bar, || format!("{:<52} {}", item.name, stored_as(item)));
        }
        bar.inc((rows.len() * item.source.row_bytes()) as u64);
        Ok(())
    })
}

/// Hands on `bytes` that belong `at` bytes into `place`.
fn put(sink: &dyn Sink, place: Place, at: u64, bytes: &[u8]) -> Result<()> {
    assert!(at + bytes.len() as u64 <= place.bytes, "a weight stays in its place");
    sink.put(place.file, bytes, place.offset + at)
}

/// Some rows of one weight.
struct Step<'a> {
    item: &'a DataItem,
    rounding: WeightRounding<'a>,
    transposes: Option<Arc<Transposes>>,
    rows: Range<usize>,
}

/// What guides the rounding of a weight's values.
#[derive(Clone)]
enum WeightRounding<'a> {
    /// Squared errors, weighted by the importance of their column where it is known.
    Nearest(Option<&'a [f32]>),
    /// Errors are made up for.
    Guided(Arc<Guided<'a>>),
}

/// The plan's work in file order. Steps are whole pairs of rows: two 4-bit codes of neighbouring rows may share a byte.
///
/// # Errors
/// Importance of another model.
fn steps(plan: &OnnxPlan) -> Result<Vec<Step<'_>>> {
    let mut steps = Vec::new();
    for item in &plan.export.items {
        let rounding = rounding(plan, item)?;
        let rows: Vec<Range<usize>> = match &rounding {
            WeightRounding::Nearest(_) => row_steps(&*item.source, 2).collect(),
            WeightRounding::Guided(guided) => guided.groups().collect(),
        };
        let transposes = Transposes::of(item).map(Arc::new);
        steps.extend(rows.into_iter().map(|rows| Step {
            item,
            rounding: rounding.clone(),
            transposes: transposes.clone(),
            rows,
        }));
    }
    Ok(steps)
}

fn rounding<'a>(plan: &'a OnnxPlan, item: &DataItem) -> Result<WeightRounding<'a>> {
    let (format, scale_type) = match &item.content {
        Content::NBits { format, scale_type, .. } | Content::Qdq { format, scale_type, .. } => {
            (*format, *scale_type)
        }
        Content::Float { .. } => return Ok(WeightRounding::Nearest(None)),
    };
    // The statistics are those of the tensor's columns. What a whole row is multiplied by does not change which code
    // is nearest, so a transpose is rounded as if nothing were known.
    if item.transposed {
        return Ok(WeightRounding::Nearest(None));
    }
    let source = &item.source;
    let whole = plan.model.tensor(item.key).is_some_and(|tensor| tensor.source.rows() == source.rows());
    let storage = Storage::Blocks(grid(format, scale_type));
    if let Some(guided) = plan.rounding.guided(item.key, storage, [source.rows(), source.cols()], whole) {
        return Ok(WeightRounding::Guided(Arc::new(guided)));
    }
    Ok(WeightRounding::Nearest(plan.rounding.importance(item.key, source.cols())?))
}

/// The tensors of a weight that is stored transposed.
struct Transposes {
    codes: Assembly,
    scales: Assembly,
    zero_points: Option<Assembly>,
}

impl Transposes {
    fn of(item: &DataItem) -> Option<Transposes> {
        let Content::Qdq { format, scale_type, codes, scales, zero_points } = &item.content else {
            return None;
        };
        let packed = item.source.rows() * format.bits / 8;
        Some(Transposes {
            codes: Assembly::new(codes.bytes, packed),
            scales: Assembly::new(scales.bytes, item.source.rows() * scale_type.block_bytes()),
            zero_points: zero_points.map(|place| Assembly::new(place.bytes, packed)),
        })
    }
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
}

impl Sink for DataFiles {
    fn put(&self, file: usize, bytes: &[u8], offset: u64) -> Result<()> {
        let (file, path) = &self.files[file];
        self.writer.write(file, path, bytes, offset)
    }
}

/// What a worker keeps between steps.
#[derive(Default)]
struct Buffers {
    rows: Rows,
    blocks: Blocks,
    bytes: Vec<u8>,
}

/// Where the parts of a weight in blocks go.
struct Places {
    codes: Place,
    scales: Place,
    zero_points: Option<Place>,
}

impl Buffers {
    fn write(&mut self, step: &Step<'_>, sink: &dyn Sink) -> Result<()> {
        let Step { item, rows, .. } = step;
        self.rows.load(&item.name, &*item.source, rows.clone())?;
        if item.exponent != 0 {
            let factor = f32::powi(2.0, item.exponent);
            self.rows.values.iter_mut().for_each(|v| *v *= factor);
        }
        self.encode(step, sink).with_context(|| format!("tensor `{}`", item.name))
    }

    fn encode(&mut self, step: &Step<'_>, sink: &dyn Sink) -> Result<()> {
        let Step { item, rounding, transposes, rows } = step;
        let cols = item.source.cols();
        match &item.content {
            Content::Float { dtype, place } => {
                let row_bytes = cols * dtype.block_bytes();
                self.bytes.resize(rows.len() * row_bytes, 0);
                encode_rows(*dtype, &self.rows.values, cols, None, &mut self.bytes)?;
                put(sink, *place, (rows.start * row_bytes) as u64, &self.bytes)
            }
            Content::NBits { format, scale_type, codes, scales, zero_points } => {
                let grid = grid(*format, *scale_type);
                self.quantize(&grid, cols, rounding, rows.start)?;
                let places = Places { codes: *codes, scales: *scales, zero_points: *zero_points };
                self.write_rows(&grid, cols, rows.start, &places, sink)
            }
            Content::Qdq { format, scale_type, codes, scales, zero_points } => {
                let grid = grid(*format, *scale_type);
                self.quantize(&grid, cols, rounding, rows.start)?;
                let transposes = transposes.as_deref().expect("a weight that is stored transposed has them");
                let places = Places { codes: *codes, scales: *scales, zero_points: *zero_points };
                self.write_columns(&grid, cols, rows, &places, transposes, sink)
            }
        }
    }

    /// The loaded rows as blocks.
    fn quantize(
        &mut self,
        grid: &Grid,
        cols: usize,
        rounding: &WeightRounding<'_>,
        first_row: usize,
    ) -> Result<()> {
        let values = &mut self.rows.values;
        match rounding {
            WeightRounding::Nearest(importance) => {
                Ok(quantize(grid, values, cols, *importance, &mut self.blocks)?)
            }
            WeightRounding::Guided(guided) => {
                Ok(guided.encode_blocks(grid, first_row, values, &mut self.blocks)?)
            }
        }
    }

    /// Rows as MatMulNBits reads them: codes, scales and zero points each row by row.
    fn write_rows(
        &mut self,
        grid: &Grid,
        cols: usize,
        first_row: usize,
        places: &Places,
        sink: &dyn Sink,
    ) -> Result<()> {
        let Places { codes, scales, zero_points } = *places;
        let blocks = grid.blocks(cols);
        let at = |row_bytes: usize| (first_row * row_bytes) as u64;
        pack_rows(grid.bits, &self.blocks.codes, blocks * grid.block_size, &mut self.bytes);
        put(sink, codes, at(blocks * grid.block_size * grid.bits as usize / 8), &self.bytes)?;
        let scale_bytes = grid.scale_type.block_bytes();
        self.bytes.resize(self.blocks.scales.len() * scale_bytes, 0);
        encode_rows(grid.scale_type, &self.blocks.scales, blocks, None, &mut self.bytes)?;
        put(sink, scales, at(blocks * scale_bytes), &self.bytes)?;
        let Some(place) = zero_points else { return Ok(()) };
        pack_rows(grid.bits, &self.blocks.zero_points, blocks, &mut self.bytes);
        put(sink, place, at((blocks * grid.bits as usize).div_ceil(8)), &self.bytes)
    }

    /// Columns of the step's rows become stretches of the transposed tensors' rows.
    fn write_columns(
        &mut self,
        grid: &Grid,
        cols: usize,
        rows: &Range<usize>,
        places: &Places,
        transposes: &Transposes,
        sink: &dyn Sink,
    ) -> Result<()> {
        let Places { codes, scales, zero_points } = *places;
        let blocks = grid.blocks(cols);
        let flip = if grid.symmetric { grid.middle() as u8 } else { 0 };
        let packed = rows.start * grid.bits as usize / 8;
        let assemble =
            |assembly: &Assembly, place: Place, bytes: &[u8], at: usize| match assembly.put(bytes, at) {
                Some(tensor) => put(sink, place, 0, &tensor),
                None => Ok(()),
            };
        pack_columns(grid.bits, &self.blocks.codes, blocks * grid.block_size, cols, flip, &mut self.bytes);
        assemble(&transposes.codes, codes, &self.bytes, packed)?;
        let scale_bytes = grid.scale_type.block_bytes();
        let transposed: Vec<f32> =
            (0..blocks).flat_map(|b| self.blocks.scales.iter().skip(b).step_by(blocks).copied()).collect();
        self.bytes.resize(transposed.len() * scale_bytes, 0);
        encode_rows(grid.scale_type, &transposed, rows.len(), None, &mut self.bytes)?;
        assemble(&transposes.scales, scales, &self.bytes, rows.start * scale_bytes)?;
        let (Some(place), Some(assembly)) = (zero_points, &transposes.zero_points) else { return Ok(()) };
        pack_columns(grid.bits, &self.blocks.zero_points, blocks, blocks, 0, &mut self.bytes);
        assemble(assembly, place, &self.bytes, packed)
    }
}

fn grid(format: BlockFormat, scale_type: DType) -> Grid {
    Grid { bits: format.bits as u32, block_size: format.block_size, symmetric: format.symmetric, scale_type }
}
