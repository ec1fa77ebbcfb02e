//! What an ONNX export shall be: the contract of its inputs and outputs, and how each weight is stored.

use std::collections::HashMap;

use crate::DType;
use crate::model::TensorKey;

/// Whose calling convention the graph follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// One latent cache per layer, `[batch_size, 1, past_sequence_length, kv_lora_rank + rope]`.
    Latent,
    /// onnxruntime-genai: the latent split into two halves named key and value.
    Genai,
    /// optimum and transformers.js: keys and values expanded for every head.
    Hf,
}

/// Which operators the graph may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opset {
    /// RMSNorm, RoPE and attention in elementary operators.
    V21,
    /// `RMSNormalization`, `RotaryEmbedding` and `Attention`.
    V23,
}

impl Profile {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Latent => "latent",
            Profile::Genai => "genai",
            Profile::Hf => "hf",
        }
    }
}

impl Opset {
    /// The version of the default domain.
    pub fn version(self) -> i64 {
        match self {
            Opset::V21 => 21,
            Opset::V23 => 23,
        }
    }

    /// The IR version that was current when the opset was published.
    pub fn ir_version(self) -> i64 {
        match self {
            Opset::V21 => 10,
            Opset::V23 => 11,
        }
    }
}

/// How block-quantized weights are stored in the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantFormat {
    /// `com.microsoft.MatMulNBits` and `GatherBlockQuantized`.
    NBits,
    /// `DequantizeLinear` with blocks of `[K, N]` along K, and `MatMul`.
    Qdq,
}

/// A grid of integer codes with one scale (and, if asymmetric, one zero point) per block of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockFormat {
    /// 4 or 8.
    pub bits: usize,
    /// A power of two from 16 to 256.
    pub block_size: usize,
    /// Symmetric grids have the implied zero point `2^(bits-1)`.
    pub symmetric: bool,
}

impl BlockFormat {
    /// Blocks of a row of `cols` values; the last one may be padded.
    pub fn blocks(self, cols: usize) -> usize {
        cols.div_ceil(self.block_size)
    }

    /// Bytes of one block's codes.
    pub fn block_bytes(self) -> usize {
        self.block_size * self.bits / 8
    }

    /// Bytes of a row's zero points in MatMulNBits: packed as the codes are, rows padded to whole bytes.
    pub fn zero_point_bytes(self, cols: usize) -> usize {
        (self.blocks(cols) * self.bits).div_ceil(8)
    }
}

/// How one weight is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightFormat {
    /// In the graph's float type.
    Float,
    /// In blocks of integer codes.
    Block(BlockFormat),
}

/// Everything that decides the graph, beside the model itself.
#[derive(Clone, Debug)]
pub struct ExportSpec {
    /// Whose inputs and outputs the graph has.
    pub profile: Profile,
    /// Which operators it uses.
    pub opset: Opset,
    /// Type of activations, float weights, scales and the cache: F32 or F16. Logits are always F32.
    pub float: DType,
    /// Which operators read blocks.
    pub quant_format: QuantFormat,
    /// `accuracy_level` of MatMulNBits: 0 leaves it to the runtime, 1 f32, 2 f16, 3 bf16, 4 int8.
    pub accuracy_level: i64,
    /// How the linear weights are stored; those not named are [`WeightFormat::Float`].
    pub weights: HashMap<TensorKey, WeightFormat>,
    /// Per layer the k for which up_proj is stored times 2^-k and down_proj times 4^k, so that relu² stays
    /// in f16's range. Powers of two: no mantissa bit changes. Empty means zeros.
    pub ffn_shift: Vec<u32>,
    /// Adds the input `num_logits_to_keep` (a scalar; 0 keeps all).
    pub num_logits_to_keep: bool,
    /// File name of the graph; external data files are named after it.
    pub file_name: String,
    /// External data starts another file beyond this many bytes.
    pub max_data_bytes: u64,
    /// The version of plmconv that the graph names as its producer.
    pub producer_version: String,
    /// `metadata_props`, which runtimes ignore.
    pub metadata: Vec<(String, String)>,
}

impl ExportSpec {
    /// A float32 export of this profile with the usual names.
    pub fn new(profile: Profile, opset: Opset) -> ExportSpec {
        ExportSpec {
            profile,
            opset,
            float: DType::F32,
            quant_format: QuantFormat::NBits,
            accuracy_level: 0,
            weights: HashMap::new(),
            ffn_shift: Vec::new(),
            num_logits_to_keep: false,
            file_name: "model.onnx".into(),
            max_data_bytes: match profile {
                // What a browser can hold in one ArrayBuffer.
                Profile::Hf => 2_000_000_000,
                Profile::Latent | Profile::Genai => u64::MAX,
            },
            producer_version: env!("CARGO_PKG_VERSION").into(),
            metadata: Vec::new(),
        }
    }

    /// How `key` is stored.
    pub fn weight(&self, key: TensorKey) -> WeightFormat {
        self.weights.get(&key).copied().unwrap_or(WeightFormat::Float)
    }

    /// The folder that the graph and its data are in, relative to the export's: empty, or with a slash at its end.
    pub fn folder(&self) -> &'static str {
        match self.profile {
            Profile::Hf => "onnx/",
            Profile::Latent | Profile::Genai => "",
        }
    }

    /// The name of the n-th external data file: what genai and transformers.js look for.
    pub fn data_name(&self, index: usize) -> String {
        let separator = if self.profile == Profile::Hf { "_" } else { "." };
        match index {
            0 => format!("{}{separator}data", self.file_name),
            n => format!("{}{separator}data_{n}", self.file_name),
        }
    }
}
