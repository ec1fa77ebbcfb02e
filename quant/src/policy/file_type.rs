//! The presets a user names, such as `q4_k_m`: the type most tensors get, and the id that general.file_type holds.

use std::fmt;

use plmconv_formats::DType;

use super::nearest_names;
use crate::Error;

/// A preset of llama-quantize.
///
/// The discriminant is llama.cpp's `llama_ftype`, the value of `general.file_type` in a GGUF.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
#[allow(missing_docs, reason = "their names are llama-quantize's")]
pub enum FileType {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q8_0 = 7,
    Q5_0 = 8,
    Q5_1 = 9,
    Q2K = 10,
    Q3KS = 11,
    Q3KM = 12,
    Q3KL = 13,
    Q4KS = 14,
    Q4KM = 15,
    Q5KS = 16,
    Q5KM = 17,
    Q6K = 18,
    Iq2Xxs = 19,
    Iq2Xs = 20,
    Q2KS = 21,
    Iq3Xs = 22,
    Iq3Xxs = 23,
    Iq1S = 24,
    Iq4Nl = 25,
    Iq3S = 26,
    Iq3M = 27,
    Iq2S = 28,
    Iq2M = 29,
    Iq4Xs = 30,
    Iq1M = 31,
    Bf16 = 32,
    Tq1_0 = 36,
    Tq2_0 = 37,
    Q1_0 = 40,
    Q2_0 = 41,
}

/// Name and base type of each preset, in the order they are listed to the user.
const TABLE: [(FileType, &str, DType); 34] = [
    (FileType::F32, "f32", DType::F32),
    (FileType::F16, "f16", DType::F16),
    (FileType::Bf16, "bf16", DType::Bf16),
    (FileType::Q8_0, "q8_0", DType::Q8_0),
    (FileType::Q4_0, "q4_0", DType::Q4_0),
    (FileType::Q4_1, "q4_1", DType::Q4_1),
    (FileType::Q5_0, "q5_0", DType::Q5_0),
    (FileType::Q5_1, "q5_1", DType::Q5_1),
    (FileType::Q2K, "q2_k", DType::Q2K),
    (FileType::Q2KS, "q2_k_s", DType::Q2K),
    (FileType::Q3KS, "q3_k_s", DType::Q3K),
    (FileType::Q3KM, "q3_k_m", DType::Q3K),
    (FileType::Q3KL, "q3_k_l", DType::Q3K),
    (FileType::Q4KS, "q4_k_s", DType::Q4K),
    (FileType::Q4KM, "q4_k_m", DType::Q4K),
    (FileType::Q5KS, "q5_k_s", DType::Q5K),
    (FileType::Q5KM, "q5_k_m", DType::Q5K),
    (FileType::Q6K, "q6_k", DType::Q6K),
    (FileType::Iq4Nl, "iq4_nl", DType::Iq4Nl),
    (FileType::Iq4Xs, "iq4_xs", DType::Iq4Xs),
    (FileType::Iq3M, "iq3_m", DType::Iq3S),
    (FileType::Iq3S, "iq3_s", DType::Iq3S),
    (FileType::Iq3Xs, "iq3_xs", DType::Iq3S),
    (FileType::Iq3Xxs, "iq3_xxs", DType::Iq3Xxs),
    (FileType::Iq2M, "iq2_m", DType::Iq2S),
    // Not a slip: llama-quantize's preset of this name is a mixture of IQ2_XS.
    (FileType::Iq2S, "iq2_s", DType::Iq2Xs),
    (FileType::Iq2Xs, "iq2_xs", DType::Iq2Xs),
    (FileType::Iq2Xxs, "iq2_xxs", DType::Iq2Xxs),
    (FileType::Iq1M, "iq1_m", DType::Iq1M),
    (FileType::Iq1S, "iq1_s", DType::Iq1S),
    (FileType::Q2_0, "q2_0", DType::Q2_0),
    (FileType::Q1_0, "q1_0", DType::Q1_0),
    (FileType::Tq1_0, "tq1_0", DType::Tq1_0),
    (FileType::Tq2_0, "tq2_0", DType::Tq2_0),
];

/// Short names; a k-quant without its size letter is llama-quantize's medium one.
const ALIASES: [(&str, FileType); 9] = [
    ("q2", FileType::Q2K),
    ("q3", FileType::Q3KM),
    ("q4", FileType::Q4KM),
    ("q5", FileType::Q5KM),
    ("q6", FileType::Q6K),
    ("q8", FileType::Q8_0),
    ("q3_k", FileType::Q3KM),
    ("q4_k", FileType::Q4KM),
    ("q5_k", FileType::Q5KM),
];

impl FileType {
    /// All presets, floats first.
    pub fn all() -> impl Iterator<Item = FileType> {
        TABLE.iter().map(|(file_type, ..)| *file_type)
    }

    fn row(self) -> &'static (FileType, &'static str, DType) {
        TABLE.iter().find(|(file_type, ..)| *file_type == self).expect("every FileType has a row in TABLE")
    }

    /// The name as the user types it, in lower case.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// The type of a tensor that no rule of the preset singles out.
    pub fn base(self) -> DType {
        self.row().2
    }

    /// The value of `general.file_type`.
    pub fn id(self) -> u32 {
        self as u32
    }

    /// The preset that `general.file_type` names.
    pub fn from_id(id: u32) -> Option<FileType> {
        FileType::all().find(|file_type| file_type.id() == id)
    }

    /// The preset of this name or alias, case-insensitive.
    ///
    /// # Errors
    /// [`Error::UnknownFileType`] with the nearest names.
    pub fn from_name(name: &str) -> Result<FileType, Error> {
        let lower = name.to_ascii_lowercase();
        let named = TABLE.iter().find(|(_, known, _)| *known == lower).map(|(file_type, ..)| *file_type);
        let alias = || ALIASES.iter().find(|(alias, _)| *alias == lower).map(|(_, file_type)| *file_type);
        named.or_else(alias).ok_or_else(|| Error::UnknownFileType {
            name: name.to_owned(),
            nearest: nearest_names(&lower, TABLE.iter().map(|(_, known, _)| *known)),
        })
    }

    /// The preset whose tensors are mostly of the plain number type `dtype`.
    pub fn from_float(dtype: DType) -> Option<FileType> {
        FileType::all().find(|file_type| file_type.base() == dtype && dtype.is_float())
    }
}

impl fmt::Display for FileType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for FileType {
    type Err = Error;

    fn from_str(name: &str) -> Result<FileType, Error> {
        FileType::from_name(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_aliases_in_any_case() {
        for file_type in FileType::all() {
            assert_eq!(FileType::from_name(file_type.name()).unwrap(), file_type);
            assert_eq!(file_type.name().to_ascii_uppercase().parse::<FileType>().unwrap(), file_type);
            assert_eq!(FileType::from_id(file_type.id()), Some(file_type));
        }
        assert_eq!(FileType::from_name("Q4").unwrap(), FileType::Q4KM);
        assert_eq!(FileType::from_name("q8").unwrap(), FileType::Q8_0);
        assert_eq!(FileType::from_id(4), None);
    }

    #[test]
    fn an_unknown_name_lists_the_nearest() {
        let message = FileType::from_name("q4_km").unwrap_err().to_string();
        assert!(message.contains("`q4_km`") && message.contains("q4_k_m"), "{message}");
        let message = FileType::from_name("fp16").unwrap_err().to_string();
        assert!(message.contains("f16"), "{message}");
    }

    #[test]
    fn floats_have_presets() {
        assert_eq!(FileType::from_float(DType::Bf16), Some(FileType::Bf16));
        assert_eq!(FileType::from_float(DType::Q8_0), None);
    }
}
