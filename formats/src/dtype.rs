//! The element types a tensor may be stored in, and the one table of their geometry.

use std::fmt;

/// How the values of a tensor are stored: a plain number type or a ggml block type.
///
/// The discriminant is ggml's type id, as it is in a GGUF file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
#[allow(missing_docs, reason = "their names are ggml's")]
pub enum DType {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q5_0 = 6,
    Q5_1 = 7,
    Q8_0 = 8,
    Q8_1 = 9,
    Q2K = 10,
    Q3K = 11,
    Q4K = 12,
    Q5K = 13,
    Q6K = 14,
    Q8K = 15,
    Iq2Xxs = 16,
    Iq2Xs = 17,
    Iq3Xxs = 18,
    Iq1S = 19,
    Iq4Nl = 20,
    Iq3S = 21,
    Iq2S = 22,
    Iq4Xs = 23,
    I8 = 24,
    I16 = 25,
    I32 = 26,
    I64 = 27,
    F64 = 28,
    Iq1M = 29,
    Bf16 = 30,
    Tq1_0 = 34,
    Tq2_0 = 35,
    Mxfp4 = 39,
    Nvfp4 = 40,
    Q1_0 = 41,
    Q2_0 = 42,
}

/// One row of the type table: ggml name, values per block, bytes per block.
struct Geometry {
    dtype: DType,
    name: &'static str,
    block_len: usize,
    block_bytes: usize,
}

const fn row(dtype: DType, name: &'static str, block_len: usize, block_bytes: usize) -> Geometry {
    Geometry { dtype, name, block_len, block_bytes }
}

/// Every type this build knows, with ggml's name (`ggml_type_name`, upper case) and block geometry
/// (ggml-common.h).
const TABLE: [Geometry; 35] = [
    row(DType::F32, "F32", 1, 4),
    row(DType::F16, "F16", 1, 2),
    row(DType::Q4_0, "Q4_0", 32, 18),
    row(DType::Q4_1, "Q4_1", 32, 20),
    row(DType::Q5_0, "Q5_0", 32, 22),
    row(DType::Q5_1, "Q5_1", 32, 24),
    row(DType::Q8_0, "Q8_0", 32, 34),
    row(DType::Q8_1, "Q8_1", 32, 36),
    row(DType::Q2K, "Q2_K", 256, 84),
    row(DType::Q3K, "Q3_K", 256, 110),
    row(DType::Q4K, "Q4_K", 256, 144),
    row(DType::Q5K, "Q5_K", 256, 176),
    row(DType::Q6K, "Q6_K", 256, 210),
    row(DType::Q8K, "Q8_K", 256, 292),
    row(DType::Iq2Xxs, "IQ2_XXS", 256, 66),
    row(DType::Iq2Xs, "IQ2_XS", 256, 74),
    row(DType::Iq3Xxs, "IQ3_XXS", 256, 98),
    row(DType::Iq1S, "IQ1_S", 256, 50),
    row(DType::Iq4Nl, "IQ4_NL", 32, 18),
    row(DType::Iq3S, "IQ3_S", 256, 110),
    row(DType::Iq2S, "IQ2_S", 256, 82),
    row(DType::Iq4Xs, "IQ4_XS", 256, 136),
    row(DType::I8, "I8", 1, 1),
    row(DType::I16, "I16", 1, 2),
    row(DType::I32, "I32", 1, 4),
    row(DType::I64, "I64", 1, 8),
    row(DType::F64, "F64", 1, 8),
    row(DType::Iq1M, "IQ1_M", 256, 56),
    row(DType::Bf16, "BF16", 1, 2),
    row(DType::Tq1_0, "TQ1_0", 256, 54),
    row(DType::Tq2_0, "TQ2_0", 256, 66),
    row(DType::Mxfp4, "MXFP4", 32, 17),
    row(DType::Nvfp4, "NVFP4", 64, 36),
    row(DType::Q1_0, "Q1_0", 128, 18),
    row(DType::Q2_0, "Q2_0", 64, 18),
];

impl DType {
    /// All types of the table, by ascending ggml id.
    pub fn all() -> impl Iterator<Item = DType> {
        TABLE.iter().map(|g| g.dtype)
    }

    fn geometry(self) -> &'static Geometry {
        TABLE.iter().find(|g| g.dtype == self).expect("every DType has a row in TABLE")
    }

    /// ggml's numeric id.
    pub fn ggml_id(self) -> u32 {
        self as u32
    }

    /// The type with this ggml id, if the table has it.
    pub fn from_ggml_id(id: u32) -> Option<DType> {
        DType::all().find(|t| t.ggml_id() == id)
    }

    /// ggml's name in upper case, e.g. `Q4_K`.
    pub fn name(self) -> &'static str {
        self.geometry().name
    }

    /// The type of this name, case-insensitive.
    pub fn from_name(name: &str) -> Option<DType> {
        TABLE.iter().find(|g| g.name.eq_ignore_ascii_case(name)).map(|g| g.dtype)
    }

    /// Values per block (1 for plain number types).
    pub fn block_len(self) -> usize {
        self.geometry().block_len
    }

    /// Bytes per block.
    pub fn block_bytes(self) -> usize {
        self.geometry().block_bytes
    }

    /// Bytes of `values` consecutive values, or `None` where blocks do not divide them or the product overflows.
    pub fn encoded_len(self, values: usize) -> Option<usize> {
        let g = self.geometry();
        if !values.is_multiple_of(g.block_len) {
            return None;
        }
        (values / g.block_len).checked_mul(g.block_bytes)
    }

    /// True for block types (several values share a scale).
    pub fn is_quantized(self) -> bool {
        self.block_len() > 1
    }

    /// True for F32, F16, BF16: the types a checkpoint's weights may have.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F16 | DType::Bf16)
    }

    /// Average bits per value, scales included.
    pub fn bits_per_weight(self) -> f64 {
        self.block_bytes() as f64 * 8.0 / self.block_len() as f64
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gguf_rs_lib::tensor::TensorType;

    #[test]
    fn table_agrees_with_gguf_rs_lib() {
        // It ends at NVFP4.
        for dtype in DType::all().filter(|dtype| !matches!(dtype, DType::Q1_0 | DType::Q2_0)) {
            let other = TensorType::from_u32(dtype.ggml_id()).expect("known id");
            assert_eq!(other.name().to_ascii_uppercase(), dtype.name());
            assert_eq!(other.block_size(), dtype.block_len(), "{dtype}");
            assert_eq!(other.block_size_bytes(), Some(dtype.block_bytes()), "{dtype}");
        }
    }
}
