//! llama.cpp's own quantizer, as its program `llama-quantize` calls it.

use std::ffi::CString;
use std::path::Path;

use llama_cpp_sys_2 as sys;

use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::llama::{c_path, capture, log_text};

/// The file types that plmconv writes, by llama.cpp's name and number (`llama_ftype`).
pub const FILE_TYPES: [(&str, u32); 34] = [
    ("f32", sys::LLAMA_FTYPE_ALL_F32),
    ("f16", sys::LLAMA_FTYPE_MOSTLY_F16),
    ("bf16", sys::LLAMA_FTYPE_MOSTLY_BF16),
    ("q8_0", sys::LLAMA_FTYPE_MOSTLY_Q8_0),
    ("q4_0", sys::LLAMA_FTYPE_MOSTLY_Q4_0),
    ("q4_1", sys::LLAMA_FTYPE_MOSTLY_Q4_1),
    ("q5_0", sys::LLAMA_FTYPE_MOSTLY_Q5_0),
    ("q5_1", sys::LLAMA_FTYPE_MOSTLY_Q5_1),
    ("q2_k", sys::LLAMA_FTYPE_MOSTLY_Q2_K),
    ("q2_k_s", sys::LLAMA_FTYPE_MOSTLY_Q2_K_S),
    ("q3_k_s", sys::LLAMA_FTYPE_MOSTLY_Q3_K_S),
    ("q3_k_m", sys::LLAMA_FTYPE_MOSTLY_Q3_K_M),
    ("q3_k_l", sys::LLAMA_FTYPE_MOSTLY_Q3_K_L),
    ("q4_k_s", sys::LLAMA_FTYPE_MOSTLY_Q4_K_S),
    ("q4_k_m", sys::LLAMA_FTYPE_MOSTLY_Q4_K_M),
    ("q5_k_s", sys::LLAMA_FTYPE_MOSTLY_Q5_K_S),
    ("q5_k_m", sys::LLAMA_FTYPE_MOSTLY_Q5_K_M),
    ("q6_k", sys::LLAMA_FTYPE_MOSTLY_Q6_K),
    ("iq4_nl", sys::LLAMA_FTYPE_MOSTLY_IQ4_NL),
    ("iq4_xs", sys::LLAMA_FTYPE_MOSTLY_IQ4_XS),
    ("iq3_m", sys::LLAMA_FTYPE_MOSTLY_IQ3_M),
    ("iq3_s", sys::LLAMA_FTYPE_MOSTLY_IQ3_S),
    ("iq3_xs", sys::LLAMA_FTYPE_MOSTLY_IQ3_XS),
    ("iq3_xxs", sys::LLAMA_FTYPE_MOSTLY_IQ3_XXS),
    ("iq2_m", sys::LLAMA_FTYPE_MOSTLY_IQ2_M),
    ("iq2_s", sys::LLAMA_FTYPE_MOSTLY_IQ2_S),
    ("iq2_xs", sys::LLAMA_FTYPE_MOSTLY_IQ2_XS),
    ("iq2_xxs", sys::LLAMA_FTYPE_MOSTLY_IQ2_XXS),
    ("iq1_m", sys::LLAMA_FTYPE_MOSTLY_IQ1_M),
    ("iq1_s", sys::LLAMA_FTYPE_MOSTLY_IQ1_S),
    ("q2_0", sys::LLAMA_FTYPE_MOSTLY_Q2_0),
    ("q1_0", sys::LLAMA_FTYPE_MOSTLY_Q1_0),
    ("tq1_0", sys::LLAMA_FTYPE_MOSTLY_TQ1_0),
    ("tq2_0", sys::LLAMA_FTYPE_MOSTLY_TQ2_0),
];

/// llama.cpp's number for the file type called `name`, in any case.
pub fn file_type(name: &str) -> Option<u32> {
    FILE_TYPES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|&(_, number)| number)
}

/// How to quantize.
#[derive(Debug, Clone, Default)]
pub struct QuantizeOptions {
    /// 0: as many as the machine has.
    pub threads: usize,
    /// Every tensor in the one type, no mixture.
    pub pure: bool,
    /// Also from a quantized file.
    pub allow_requantize: bool,
    pub importance: Option<Importance>,
}

/// Importance of each column of each tensor's input, as `llama-imatrix` measured it.
#[derive(Debug, Clone)]
pub struct Importance {
    entries: Vec<(CString, Vec<f32>)>,
}

impl Importance {
    /// Reads the GGUF form of an importance matrix: per tensor `NAME.in_sum2` (sums of squares) and `NAME.counts`.
    ///
    /// # Errors
    /// Those of [`Gguf::open`] and [`Gguf::read`].
    pub fn open(path: &Path) -> Result<Self> {
        let file = Gguf::open(path)?;
        let mut entries = Vec::new();
        for tensor in file.tensors() {
            let Some(name) = tensor.name.strip_suffix(".in_sum2") else { continue };
            let sums = file.read_f32(&tensor.name)?;
            let counts = file.read_f32(&format!("{name}.counts"))?;
            let columns = sums.len() / counts.len().max(1);
            let means = sums.iter().enumerate().map(|(index, sum)| {
                // A tensor that nothing went through gets the same weight everywhere, as llama-quantize gives it.
                match counts.get(index / columns.max(1)) {
                    Some(&count) if count > 0.0 => sum / count,
                    _ => 1.0,
                }
            });
            let name = CString::new(name).map_err(|_| Error::Path { path: path.to_owned() })?;
            entries.push((name, means.collect()));
        }
        Ok(Self { entries })
    }
}

/// Writes `output`, of the file type `file_type` (`llama_ftype`), from the GGUF `input`.
///
/// # Errors
/// [`Error::Quantize`] with what llama.cpp logged.
pub fn quantize(input: &Path, output: &Path, file_type: u32, options: &QuantizeOptions) -> Result<()> {
    let source = c_path(input)?;
    let target = c_path(output)?;
    // SAFETY: returns a plain struct.
    let mut params = unsafe { sys::llama_model_quantize_default_params() };
    params.nthread = i32::try_from(options.threads).unwrap_or(0);
    params.ftype = file_type;
    params.pure_ = options.pure;
    params.allow_requantize = options.allow_requantize;
    let no_entries: &[(CString, Vec<f32>)] = &[];
    let entries = options.importance.as_ref().map_or(no_entries, |importance| &importance.entries);
    let mut importance: Vec<sys::llama_model_imatrix_data> = entries
        .iter()
        .map(|(name, values)| sys::llama_model_imatrix_data {
            name: name.as_ptr(),
            data: values.as_ptr(),
            size: values.len(),
        })
        .collect();
    if !importance.is_empty() {
        // The list ends with an entry without a name.
        importance.push(sys::llama_model_imatrix_data {
            name: std::ptr::null(),
            data: std::ptr::null(),
            size: 0,
        });
        params.imatrix = importance.as_ptr();
    }
    // SAFETY: both paths are zero-terminated strings; `params` comes from llama.cpp itself but for plain values and
    // the importance list, which ends as it must and whose names and values outlive the call.
    let (status, lines) =
        capture(|| unsafe { sys::llama_model_quantize(source.as_ptr(), target.as_ptr(), &raw const params) });
    match status {
        0 => Ok(()),
        status => Err(Error::Quantize { path: input.to_owned(), status, log: log_text(&lines) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_llama_cpp() {
        for (name, number) in FILE_TYPES {
            // SAFETY: takes any number and returns a static string.
            let said = unsafe { std::ffi::CStr::from_ptr(sys::llama_ftype_name(number)) }.to_string_lossy();
            let said = said.to_lowercase();
            let kind = name.trim_end_matches("_s").trim_end_matches("_m").trim_end_matches("_l");
            assert!(said.contains(kind), "{name} is number {number}, which llama.cpp calls {said}");
        }
    }

    #[test]
    fn file_types_are_found_in_any_case() {
        assert_eq!(file_type("Q4_K_M"), Some(sys::LLAMA_FTYPE_MOSTLY_Q4_K_M));
        assert_eq!(file_type("q9_9"), None);
    }
}
