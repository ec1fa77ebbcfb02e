//! The types that a model can be quantized to, for people who choose one.

use anyhow::Result;
use plmconv_quant::policy::FileType;
use serde::Serialize;
use serde_json::json;

use super::{Table, print_document};

/// What a type is for, and the mean KL divergence of llama-quantize's file of it, in nats, where it was measured:
/// `benches/types.sh` prints it (the tiny PLM in fixtures/, first 60 windows of 256 tokens of wikitext-2, llama.cpp's
/// arithmetic; with the importance matrix in fixtures/ where a type needs one). Not a number: a model that was not trained
/// for the type falls apart.
const ABOUT: &[(&str, f64, &str)] = &[
    ("f32", 0.0, "tests and reference files"),
    ("f16", 0.0000002, "no quantization, for runtimes without bf16"),
    ("bf16", 0.000007, "no quantization: the checkpoint's own numbers"),
    ("q8_0", 0.00016, "hardly a difference from the checkpoint"),
    ("q4_0", 0.0066, "simple blocks, fast where others have no kernels"),
    ("q4_1", 0.0055, "as q4_0 with a minimum"),
    ("q5_0", 0.0022, "as q4_0 with five bits"),
    ("q5_1", 0.0017, "as q4_1 with five bits"),
    ("q2_k", 0.056, "little memory, some quality"),
    ("q2_k_s", 0.061, "as q2_k and smaller, with an importance matrix only"),
    ("q3_k_s", 0.021, "little memory"),
    ("q3_k_m", 0.015, "little memory, a good share of the quality"),
    ("q3_k_l", 0.013, "as q3_k_m with more bits for the FFN"),
    ("q4_k_s", 0.0047, "a little smaller than q4_k_m"),
    ("q4_k_m", 0.0044, "the usual choice"),
    ("q5_k_s", 0.0019, "a little smaller than q5_k_m"),
    ("q5_k_m", 0.0018, "quality before memory"),
    ("q6_k", 0.0010, "near q8_0 at three quarters of its size"),
    ("iq4_nl", 0.0049, "four bits on a curved scale, in small blocks"),
    ("iq4_xs", 0.0052, "the smallest four bits"),
    ("iq3_m", 0.024, "the best three bits, slow to write and to run on a CPU"),
    ("iq3_s", 0.022, "as iq3_m, the same type for all matrices"),
    ("iq3_xs", 0.022, "between iq3_s and iq3_xxs, with an importance matrix only"),
    ("iq3_xxs", 0.03, "the smallest three bits, with an importance matrix only"),
    ("iq2_m", 0.051, "the best two bits, with an importance matrix only"),
    ("iq2_s", 0.067, "a little smaller than iq2_m, with an importance matrix only"),
    ("iq2_xs", 0.065, "two bits for large models, with an importance matrix only"),
    ("iq2_xxs", 0.089, "the smallest two bits, with an importance matrix only"),
    ("iq1_m", 0.17, "where nothing larger fits, with an importance matrix only"),
    ("iq1_s", 0.22, "as iq1_m and smaller, with an importance matrix only"),
    ("q2_0", 0.87, "only for models that were trained for it"),
    ("q1_0", 0.9, "only for models that were trained for it"),
    ("tq1_0", f64::NAN, "only for models that were trained ternary"),
    ("tq2_0", f64::NAN, "only for models that were trained ternary"),
];

#[derive(Serialize)]
struct Line {
    name: &'static str,
    /// Of the type that most matrices get.
    bits_per_weight: f64,
    block: usize,
    mean_kl_divergence: Option<f64>,
    purpose: &'static str,
}

fn lines() -> Vec<Line> {
    let line = |file_type: FileType| {
        let about = ABOUT.iter().find(|(name, ..)| *name == file_type.name());
        let (_, divergence, purpose) = about.copied().unwrap_or((file_type.name(), f64::NAN, ""));
        Line {
            name: file_type.name(),
            bits_per_weight: file_type.base().bits_per_weight(),
            block: file_type.base().block_len(),
            mean_kl_divergence: divergence.is_finite().then_some(divergence),
            purpose,
        }
    };
    FileType::all().map(line).collect()
}

/// Prints them.
///
/// # Errors
/// None that is the user's.
pub fn print(json: bool) -> Result<()> {
    let mut lines = lines();
    lines.sort_by(|a, b| a.bits_per_weight.total_cmp(&b.bits_per_weight));
    if json {
        return print_document("types", &json!({ "types": lines }));
    }
    say!("GGUF, for llama.cpp and what builds on it\n");
    let mut table = Table::new(&["type", "bits", "block", "divergence", "for"], &[1, 2, 3]);
    for line in &lines {
        table.add_row([
            line.name.to_string(),
            format!("{:.2}", line.bits_per_weight),
            line.block.to_string(),
            line.mean_kl_divergence.map_or("-".into(), |divergence| divergence.to_string()),
            line.purpose.to_string(),
        ]);
    }
    table.print();
    say!(
        "\nbits: of most matrices; presets of mixed types keep some in better ones. divergence: mean KL divergence of \
         a\nsmall trained PLM without statistics, in nats; `plmconv validate` measures a model's own.\n\n\
         ONNX, for ONNX Runtime: q4 and q8 in blocks of --block-size; f32 and f16 by `plmconv convert --to onnx`"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_has_a_purpose() {
        assert!(lines().iter().all(|line| !line.purpose.is_empty()));
        assert!(ABOUT.iter().all(|(name, ..)| FileType::from_name(name).is_ok_and(|t| t.name() == *name)));
    }
}
