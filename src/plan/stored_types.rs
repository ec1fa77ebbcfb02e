//! The types that a file has, and the preset that gives them.

use std::collections::BTreeMap;

use plmconv_formats::{DType, Model};
use plmconv_quant::policy::{Assigned, FileType, Mixtures, Policy, TensorDesc};

use super::types::{described, shape_of, source_types};
use crate::target::Types;

/// The types of a file's tensors.
#[derive(Clone, Debug)]
pub struct StoredTypes {
    /// By GGUF name.
    pub types: BTreeMap<String, DType>,
    /// What `general.file_type` says.
    pub file_type: Option<u32>,
}

impl StoredTypes {
    /// The choice that gives `model` these types: the preset that the file names, plain or pure; the source's own types;
    /// any other preset, whose name the file should then have. Where no choice does, the types as they are. Some mixtures
    /// depend on whether an importance matrix guided the rounding.
    pub fn recognize(self, model: &Model, has_importance: bool) -> Types {
        let named = self.file_type.and_then(FileType::from_id);
        let others = FileType::all().filter(|&other| Some(other) != named);
        let policies = |file_type| {
            let preset = Policy { has_importance, ..Policy::preset(file_type) };
            let pure = Policy { pure: true, ..preset.clone() };
            let earlier = Policy { mixtures: Mixtures::March2025, ..preset.clone() };
            [preset, pure, earlier]
        };
        let tensors = described(model);
        let fits = |policy: &Policy| self.is_given_by(policy, &tensors, model);
        if let Some(policy) = named.into_iter().flat_map(policies).find(fits) {
            return Types::Preset(policy);
        }
        if self.are(&tensors, source_types(model)) {
            return Types::Source;
        }
        match others.flat_map(policies).find(fits) {
            Some(policy) => Types::Preset(policy),
            None => Types::Stored(self),
        }
    }

    /// The type of one tensor of the model, where its blocks fit the rows; else the source's own.
    pub fn of(&self, tensor: &TensorDesc) -> Assigned {
        let cols = tensor.shape.last().copied().unwrap_or(1);
        let stored = self.types.get(&tensor.name).filter(|dtype| dtype.encoded_len(cols).is_some());
        Assigned::kept(stored.copied().unwrap_or(tensor.source))
    }

    fn is_given_by(&self, policy: &Policy, tensors: &[TensorDesc], model: &Model) -> bool {
        policy.assign(tensors, shape_of(&model.config)).is_ok_and(|assigned| self.are(tensors, assigned))
    }

    fn are(&self, tensors: &[TensorDesc], types: Vec<Assigned>) -> bool {
        let same = |(tensor, assigned): (&TensorDesc, Assigned)| {
            self.types.get(&tensor.name).is_none_or(|stored| *stored == assigned.dtype)
        };
        tensors.iter().zip(types).all(same)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn tiny_plm() -> Model {
        Model::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-plm")).expect("a fixture")
    }

    fn stored(policy: &Policy, file_type: u32) -> StoredTypes {
        let model = tiny_plm();
        let tensors = described(&model);
        let types = policy.assign(&tensors, shape_of(&model.config)).expect("types");
        let types = tensors.into_iter().zip(types).map(|(tensor, assigned)| (tensor.name, assigned.dtype));
        StoredTypes { types: types.collect(), file_type: Some(file_type) }
    }

    fn recognized(stored: StoredTypes) -> Option<(FileType, bool)> {
        match stored.recognize(&tiny_plm(), false) {
            Types::Preset(policy) => Some((policy.file_type, policy.pure)),
            Types::Stored(_) => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_preset_is_recognized_by_its_types_whatever_the_file_is_called() {
        let preset = Policy::preset(FileType::Q4KM);
        let pure = Policy { pure: true, ..preset.clone() };
        assert_eq!(recognized(stored(&preset, 15)), Some((FileType::Q4KM, false)));
        assert_eq!(recognized(stored(&preset, 14)), Some((FileType::Q4KM, false)), "q4_k_s it is not");
        assert_eq!(recognized(stored(&preset, 1 << 30)), Some((FileType::Q4KM, false)));
        assert_eq!(recognized(stored(&pure, 15)), Some((FileType::Q4KM, true)));
        let earlier = Policy { mixtures: Mixtures::March2025, ..preset.clone() };
        match stored(&earlier, 15).recognize(&tiny_plm(), false) {
            Types::Preset(policy) => assert_eq!(policy.mixtures, Mixtures::March2025),
            other => panic!("{other:?}"),
        }
        // Both names mean these types.
        assert_eq!(recognized(stored(&pure, 14)), Some((FileType::Q4KS, true)));
    }

    #[test]
    fn a_mixture_of_nobodys_stays_as_it_is() {
        let mut mixed = stored(&Policy::preset(FileType::Q4KM), 15);
        mixed.types.insert("blk.3.ffn_up.weight".into(), DType::Q5_0);
        assert_eq!(recognized(mixed), None);
    }
}
