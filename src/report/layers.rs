//! Tensors of the same kind in several layers, on one line.

use std::collections::HashMap;

use super::human_shape;
use super::inspect::TensorLine;

/// Tensors that differ in their layer alone, in the order of the first of each kind. A file may have millions that are
/// of no layer: what is kept of those is little.
pub(super) fn grouped(tensors: &[TensorLine]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    let mut known = HashMap::new();
    for tensor in tensors {
        let layer = tensor.role.and_then(|key| Some((key.layer?, key.role)));
        let next = groups.len();
        let at = match layer {
            Some((_, role)) => *known.entry((role, &tensor.shape, &tensor.dtype)).or_insert(next),
            None => next,
        };
        if at == next {
            groups.push(Group { first: tensor, bytes: 0, layers: Vec::new() });
        }
        groups[at].bytes = groups[at].bytes.saturating_add(tensor.bytes);
        groups[at].layers.extend(layer.map(|(layer, _)| layer));
    }
    groups
}

/// Tensors of one kind.
pub(super) struct Group<'a> {
    first: &'a TensorLine,
    bytes: u64,
    /// Empty for a tensor of no layer.
    layers: Vec<usize>,
}

impl Group<'_> {
    /// Name, role, shape, type, number of tensors, bytes of all.
    pub fn row(&self) -> [String; 6] {
        [
            self.name(),
            self.role(),
            human_shape(&self.first.shape),
            self.first.dtype.to_string(),
            self.layers.len().max(1).to_string(),
            self.bytes.to_string(),
        ]
    }

    /// The first one's, with all layers in place of its own.
    fn name(&self) -> String {
        match self.layers[..] {
            [layer, _, ..] => {
                self.first.name.replacen(&format!(".{layer}."), &format!(".{}.", self.runs()), 1)
            }
            _ => self.first.name.clone(),
        }
    }

    fn role(&self) -> String {
        match (self.first.role, self.layers.len()) {
            (None, _) => String::new(),
            (Some(key), 0) => key.role.to_string(),
            (Some(key), 1) => format!("layer {} {}", self.runs(), key.role),
            (Some(key), _) => format!("layers {} {}", self.runs(), key.role),
        }
    }

    /// `0-3,5,7`
    fn runs(&self) -> String {
        let mut layers = self.layers.clone();
        layers.sort_unstable();
        let runs = layers.chunk_by(|a, b| a + 1 == *b).map(|run| match run {
            [first, .., last] => format!("{first}-{last}"),
            run => run.iter().map(usize::to_string).collect(),
        });
        runs.collect::<Vec<_>>().join(",")
    }
}

#[cfg(test)]
mod tests {
    use plmconv_formats::{Role, TensorKey};

    use super::*;

    fn tensor(layer: Option<usize>, dtype: &'static str) -> TensorLine {
        let role = if layer.is_some() { Role::FfnUp } else { Role::TokenEmbedding };
        let key = TensorKey { layer, role };
        TensorLine {
            name: key.gguf_name(),
            role: Some(key),
            shape: vec![8, 4],
            dtype: dtype.into(),
            bytes: 10,
        }
    }

    #[test]
    fn layers_are_named_by_their_runs() {
        let mut tensors: Vec<_> =
            [0, 1, 2, 3, 5, 8, 9].map(|layer| tensor(Some(layer), "Q4_K")).into_iter().collect();
        tensors.push(tensor(Some(4), "Q6_K"));
        tensors.push(tensor(None, "Q6_K"));
        let rows: Vec<_> = grouped(&tensors).iter().map(Group::row).collect();
        let first: Vec<&str> = rows[0].iter().map(String::as_str).collect();
        assert_eq!(
            first,
            ["blk.0-3,5,8-9.ffn_up.weight", "layers 0-3,5,8-9 ffn_up", "8 x 4", "Q4_K", "7", "70"]
        );
        assert_eq!((rows.len(), rows[1][0].as_str()), (3, "blk.4.ffn_up.weight"));
        assert_eq!(rows[2][1], "token_embd");
    }

    #[test]
    fn tensors_without_a_role_stand_alone() {
        let unknown = TensorLine { role: None, ..tensor(Some(1), "F32") };
        assert_eq!(grouped(&[unknown.clone(), unknown]).len(), 2);
    }
}
