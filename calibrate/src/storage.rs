//! The ways a matrix can be stored, and which of them a budget chooses from.

use plmconv_formats::DType;
use plmconv_quant::feedback;
use plmconv_quant::grid::Grid;
use plmconv_validate::Arithmetic;

/// A way to store a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// A type of ggml, a float type included.
    Type(DType),
    /// Blocks of integer codes, as ONNX has them.
    Blocks(Grid),
}

impl Storage {
    /// Whether several values share a code, which takes longest to round.
    pub fn shares_points(self) -> bool {
        matches!(self, Storage::Type(dtype) if feedback::shares_points(dtype))
    }

    /// Whether rows of `cols` values can make up for their rounding errors.
    pub fn takes_feedback(self, cols: usize) -> bool {
        match self {
            Storage::Type(dtype) => feedback::supports(dtype) && dtype.encoded_len(cols).is_some(),
            Storage::Blocks(grid) => cols.is_multiple_of(grid.block_size),
        }
    }
}

/// Types that a budget chooses from: those of stock llama.cpp that this build encodes, besides the matrix's own. Not those
/// that feedback does not know, as each has a rounded one beside it that is no larger: Q1_0 IQ1_M, Q2_0 IQ2_XS, MXFP4 and
/// NVFP4 IQ4_XS.
const GGUF_TYPES: [DType; 20] = [
    DType::Iq1S,
    DType::Iq1M,
    DType::Iq2Xxs,
    DType::Iq2Xs,
    DType::Iq2S,
    DType::Q2K,
    DType::Iq3Xxs,
    DType::Iq3S,
    DType::Q3K,
    DType::Iq4Xs,
    DType::Iq4Nl,
    DType::Q4_0,
    DType::Q4K,
    DType::Q4_1,
    DType::Q5K,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q6K,
    DType::Q8_0,
    DType::F16,
];
/// Values of a block in an ONNX graph.
const BLOCK_SIZES: [usize; 4] = [16, 32, 64, 128];

/// What a budget chooses from. What is stored decides what the runtime rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Menu {
    /// The types of a GGUF, for llama.cpp.
    Gguf,
    /// The blocks of an ONNX graph, for ONNX Runtime.
    Onnx(OnnxMenu),
}

/// What an ONNX graph leaves to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnnxMenu {
    /// Of scales, and of weights that are not in blocks: F32 or F16.
    pub float: DType,
    /// Only blocks of this size.
    pub block_size: Option<usize>,
    /// Every block has a zero point.
    pub asymmetric: bool,
    /// MatMulNBits rounds activations to 8 bits, in blocks as large as the weight's.
    pub rounds_activations: bool,
}

impl Menu {
    /// The ways to store a matrix whose rows have `cols` values, which are of `source`.
    pub fn storages(&self, source: DType, cols: usize) -> Vec<Storage> {
        match self {
            Menu::Gguf => {
                let own = source.is_float().then_some(source);
                let types = GGUF_TYPES.into_iter().filter(|d| Some(*d) != own).chain(own);
                types.filter(|dtype| cols.is_multiple_of(dtype.block_len())).map(Storage::Type).collect()
            }
            Menu::Onnx(menu) => {
                let blocks = menu.grids().map(Storage::Blocks);
                blocks.chain(std::iter::once(Storage::Type(menu.float))).collect()
            }
        }
    }

    /// Activations that share a scale of 8 bits before they meet a matrix stored so; `None` where none are rounded.
    pub fn activation_block(&self, storage: Storage) -> Option<usize> {
        match (self, storage) {
            (Menu::Gguf, Storage::Type(dtype)) => Arithmetic::Llama.rounding(dtype).block_len(),
            (Menu::Onnx(menu), Storage::Blocks(grid)) => menu.rounds_activations.then_some(grid.block_size),
            _ => None,
        }
    }
}

impl OnnxMenu {
    fn grids(self) -> impl Iterator<Item = Grid> {
        let sizes =
            BLOCK_SIZES.into_iter().filter(move |size| self.block_size.is_none_or(|only| only == *size));
        // One that is not tried by itself, if it is asked for.
        let other = self.block_size.filter(|size| !BLOCK_SIZES.contains(size));
        sizes.chain(other).flat_map(move |block_size| {
            let kinds = [(4, true), (4, false), (8, true), (8, false)].into_iter();
            kinds
                .filter(move |(_, symmetric)| !(self.asymmetric && *symmetric))
                .map(move |(bits, symmetric)| Grid { bits, block_size, symmetric, scale_type: self.float })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_chooses_from_every_type_that_is_rounded_with_feedback() {
        let mut expected: Vec<DType> = DType::all().filter(|dtype| feedback::supports(*dtype)).collect();
        expected.push(DType::F16);
        expected.sort();
        let mut found = GGUF_TYPES.to_vec();
        found.sort();
        assert_eq!(found, expected);
    }
}
