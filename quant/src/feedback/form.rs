//! How a block is written: as its type lays it out, or loose.

use half::f16;
use plmconv_formats::DType;

use super::grid::Block;
use crate::grid::{self, Blocks};

/// How a block is written.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    /// As this type of ggml.
    Ggml { dtype: DType, pack: fn(&Block, &mut [u8]) },
    /// On its way to [`Blocks`]: half-precision scale, zero point, and one byte a code, to which `middle` is added.
    Loose { block_size: usize, middle: i32 },
}

/// Bytes of a loose block before its codes.
const HEAD: usize = 3;

impl Form {
    /// Loose blocks of a grid.
    pub fn loose(grid: &grid::Grid) -> Form {
        Form::Loose { block_size: grid.block_size, middle: if grid.symmetric { grid.middle() } else { 0 } }
    }

    /// What an error calls it: the type of ggml, or that of the scales.
    pub fn dtype(self) -> DType {
        match self {
            Form::Ggml { dtype, .. } => dtype,
            Form::Loose { .. } => DType::F16,
        }
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        match self {
            Form::Ggml { dtype, .. } => dtype.block_bytes(),
            Form::Loose { block_size, .. } => HEAD + block_size,
        }
    }

    /// Writes `block` into `out`, which has one block's bytes.
    pub fn pack(self, block: &Block, out: &mut [u8]) {
        match self {
            Form::Ggml { pack, .. } => pack(block, out),
            Form::Loose { middle, .. } => {
                out[..2].copy_from_slice(&f16::from_f32(block.d).to_le_bytes());
                // A grid without offsets has its middle for zero.
                out[2] = if middle > 0 { middle as u8 } else { block.dmin as u8 };
                let codes = out[HEAD..].iter_mut().zip(&block.codes);
                codes.for_each(|(out, &code)| *out = (code + middle) as u8);
            }
        }
    }
}

/// Takes loose blocks of `block_size` codes apart.
pub(super) fn take_apart(bytes: &[u8], block_size: usize, out: &mut Blocks) {
    out.codes.clear();
    out.scales.clear();
    out.zero_points.clear();
    for block in bytes.chunks_exact(HEAD + block_size) {
        let (head, codes) = block.split_at(HEAD);
        out.scales.push(f16::from_le_bytes([head[0], head[1]]).to_f32());
        out.zero_points.push(head[2]);
        out.codes.extend_from_slice(codes);
    }
}
