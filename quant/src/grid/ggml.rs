//! Grids that a block type of ggml has too: what its encoders make can be stored as this grid's codes and scales.

use half::f16;
use plmconv_formats::DType;

use super::{Blocks, Grid};

/// Values in a block of Q4_0 and of Q8_0.
const BLOCK: usize = 32;

impl Grid {
    /// The type of ggml whose blocks lie on this grid: symmetric blocks of 32, 4 bits as Q4_0 and 8 bits as Q8_0. Its
    /// scales are F16, which either scale type holds.
    pub fn ggml_type(&self) -> Option<DType> {
        match (self.bits, self.block_size, self.symmetric) {
            (4, BLOCK, true) => Some(DType::Q4_0),
            (8, BLOCK, true) => Some(DType::Q8_0),
            _ => None,
        }
    }

    /// Takes rows of `cols` values, encoded as [`ggml_type`](Self::ggml_type), apart into codes and scales.
    ///
    /// # Panics
    /// If the grid has no such type, or `bytes` are not whole rows of whole blocks.
    pub fn take_apart(&self, bytes: &[u8], cols: usize, out: &mut Blocks) {
        let dtype = self.ggml_type().expect("the caller asked for it");
        assert!(cols.is_multiple_of(BLOCK) && bytes.len().is_multiple_of(cols / BLOCK * dtype.block_bytes()));
        let blocks = bytes.len() / dtype.block_bytes();
        out.codes.clear();
        out.codes.reserve(blocks * BLOCK);
        out.scales.clear();
        out.zero_points.clear();
        out.zero_points.resize(blocks, self.middle() as u8);
        for block in bytes.chunks_exact(dtype.block_bytes()) {
            let (scale, codes) = block.split_at(2);
            out.scales.push(f16::from_le_bytes([scale[0], scale[1]]).to_f32());
            if self.bits == 4 {
                out.codes.extend(codes.iter().map(|byte| byte & 15));
                out.codes.extend(codes.iter().map(|byte| byte >> 4));
            } else {
                out.codes.extend(codes.iter().map(|byte| byte.wrapping_add(128)));
            }
        }
    }
}
