//! How each matrix of a graph is stored under a budget.

use std::collections::BTreeMap;

use anyhow::Result;
use plmconv_calibrate::{Limit, Room, Sensitivity, Storage};
use plmconv_formats::model::{Tensor, TensorKey};
use plmconv_formats::onnx::{
    BlockFormat, Content, DataItem, ExportSpec, Place, WeightFormat, build, companions,
};
use plmconv_formats::{DType, Model};
use plmconv_quant::grid::Grid;
use plmconv_quant::knapsack::Choice;

/// A graph whose open matrices get the formats of the least predicted divergence within a limit.
pub struct Fitting<'a> {
    pub model: &'a Model,
    /// Complete but for the open matrices' formats.
    pub spec: &'a ExportSpec,
    /// The matrices that the user leaves to the budget.
    pub open: &'a [TensorKey],
    pub sensitivity: &'a Sensitivity,
    pub limit: Limit,
}

/// What a choice of formats takes.
struct Sizes {
    /// Of each open matrix, as the limit counts them.
    open: BTreeMap<TensorKey, u64>,
    /// Weights of the others, and of norms.
    other_weights: u64,
    /// The graph and its data.
    export: u64,
    data_files: usize,
}

impl Fitting<'_> {
    /// The open matrices' formats, in their order.
    ///
    /// # Errors
    /// A limit below the smallest possible size, which is then named; files of the model that cannot be read.
    pub fn formats(&self) -> Result<Vec<WeightFormat>> {
        let ways: Vec<&[(Storage, f64)]> =
            self.open.iter().map(|key| self.sensitivity.of(&key.gguf_name())).collect();
        let classes = self.classes(&ways)?;
        let formats = |chosen: &[usize]| -> Vec<WeightFormat> {
            ways.iter().zip(chosen).map(|(ways, &entry)| format_of(ways[entry].0)).collect()
        };
        let fewest = |class: &Vec<Choice>| (0..class.len()).min_by_key(|&entry| class[entry].bytes);
        let smallest: Vec<usize> = classes.iter().map(|class| fewest(class).unwrap_or_default()).collect();
        let sizes = self.sizes(&formats(&smallest))?;
        let weights = self.model.tensors.iter().map(Tensor::values).sum();
        let Limit::FileBytes(limit) = self.limit else {
            // What is not open takes its share of the bits, whatever is chosen.
            let others = vec![Choice { bytes: sizes.other_weights, loss: 0.0 }];
            let all: Vec<Vec<Choice>> = classes.into_iter().chain([others]).collect();
            let chosen = self.limit.choose(&all, Room { head_bytes: 0, weights })?;
            return Ok(formats(&chosen[..self.open.len()]));
        };
        let least = self.total(&sizes)?;
        let mut room = Room { head_bytes: least.saturating_sub(sizes.open.values().sum()), weights };
        if least > limit {
            return Err(self.limit.too_small(least, room).into());
        }
        // The graph's length and the gaps between weights follow from the choice itself, by a little.
        while let Ok(chosen) = self.limit.choose(&classes, room) {
            let excess = self.total(&self.sizes(&formats(&chosen))?)?.saturating_sub(limit);
            if excess == 0 {
                return Ok(formats(&chosen));
            }
            room.head_bytes += excess;
        }
        Ok(formats(&smallest))
    }

    /// For each open matrix the bytes and the predicted divergence of each way to store it.
    fn classes(&self, ways: &[&[(Storage, f64)]]) -> Result<Vec<Vec<Choice>>> {
        let mut tried: Vec<(Storage, Sizes)> = Vec::new();
        for (storage, _) in ways.iter().copied().flatten() {
            if !tried.iter().any(|(other, _)| other == storage) {
                tried.push((*storage, self.sizes(&vec![format_of(*storage); self.open.len()])?));
            }
        }
        let bytes = |key: &TensorKey, storage: Storage| {
            let sizes = tried.iter().find(|(other, _)| *other == storage).map(|(_, sizes)| sizes);
            sizes.expect("all were tried").open[key]
        };
        let classes = self.open.iter().zip(ways).map(|(key, ways)| {
            let choices = ways.iter().map(|&(storage, loss)| Choice { bytes: bytes(key, storage), loss });
            choices.collect()
        });
        Ok(classes.collect())
    }

    fn sizes(&self, formats: &[WeightFormat]) -> Result<Sizes> {
        let mut spec = self.spec.clone();
        spec.weights.extend(self.open.iter().copied().zip(formats.iter().copied()));
        let export = build(self.model, &spec)?;
        let mut sizes = Sizes {
            open: self.open.iter().map(|key| (*key, 0)).collect(),
            other_weights: 0,
            export: export.total_bytes(),
            data_files: export.data_bytes.len(),
        };
        for item in &export.items {
            let bytes: u64 = places(item).map(|place| self.counted(place)).sum();
            *sizes.open.get_mut(&item.key).unwrap_or(&mut sizes.other_weights) += bytes;
        }
        Ok(sizes)
    }

    /// Bytes of all files of the folder. For each call the tokenizer is read again.
    fn total(&self, sizes: &Sizes) -> Result<u64> {
        let beside = companions(self.model, self.spec, sizes.data_files)?;
        Ok(sizes.export + beside.files.iter().map(|file| file.bytes.len() as u64).sum::<u64>())
    }

    /// A file is as long as its weights and the gaps that align them.
    fn counted(&self, place: Place) -> u64 {
        match self.limit {
            Limit::FileBytes(_) => place.aligned_bytes(),
            Limit::BitsPerWeight(_) => place.bytes,
        }
    }
}

/// Where an item's parts are.
fn places(item: &DataItem) -> impl Iterator<Item = Place> {
    let parts = match item.content {
        Content::Float { place, .. } => [Some(place), None, None],
        Content::NBits { codes, scales, zero_points, .. }
        | Content::Qdq { codes, scales, zero_points, .. } => [Some(codes), Some(scales), zero_points],
    };
    parts.into_iter().flatten()
}

fn format_of(storage: Storage) -> WeightFormat {
    match storage {
        Storage::Type(_) => WeightFormat::Float,
        Storage::Blocks(Grid { bits, block_size, symmetric, .. }) => {
            WeightFormat::Block(BlockFormat { bits: bits as usize, block_size, symmetric })
        }
    }
}

/// How a weight of this format is stored in a graph of `float`.
pub fn storage_of(format: WeightFormat, float: DType) -> Storage {
    match format {
        WeightFormat::Float => Storage::Type(float),
        WeightFormat::Block(BlockFormat { bits, block_size, symmetric }) => {
            Storage::Blocks(Grid { bits: bits as u32, block_size, symmetric, scale_type: float })
        }
    }
}
