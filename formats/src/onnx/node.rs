//! A node of a graph, as far as a reader of weights looks at it. Nodes may hold constants and graphs of any size, so
//! they are walked, not loaded.

use super::wire::{Field, Payload, Wire};
use crate::error::Result;

/// The longest name that is read.
const MAX_NAME: u64 = 64 << 10;
/// Inputs that are looked at; no operator of interest has more.
const MOST_INPUTS: usize = 4;
/// Attributes that are looked at.
const ATTRIBUTES: [&str; 4] = ["N", "K", "bits", "block_size"];

/// A NodeProto.
#[derive(Debug, Default)]
pub(super) struct Node {
    pub domain: String,
    pub operator: String,
    inputs: Vec<String>,
    attributes: [Option<i64>; ATTRIBUTES.len()],
}

impl Node {
    /// Reads a node that ends at `end`.
    pub(super) fn read(wire: &mut Wire, end: u64) -> Result<Node> {
        let mut node = Node::default();
        while let Some(Field { number, payload }) = wire.field(end)? {
            match (number, payload) {
                (1, Payload::Bytes { end }) if node.inputs.len() < MOST_INPUTS => {
                    node.inputs.push(wire.string(end, MAX_NAME)?);
                }
                (4, Payload::Bytes { end }) => node.operator = wire.string(end, MAX_NAME)?,
                (5, Payload::Bytes { end }) => node.read_attribute(wire, end)?,
                (7, Payload::Bytes { end }) => node.domain = wire.string(end, MAX_NAME)?,
                (_, Payload::Bytes { end }) => wire.skip_to(end),
                (_, Payload::Number(_)) => {}
            }
        }
        Ok(node)
    }

    /// An AttributeProto: its name and, if it has one, its integer.
    fn read_attribute(&mut self, wire: &mut Wire, end: u64) -> Result<()> {
        let (mut name, mut value) = (String::new(), None);
        while let Some(Field { number, payload }) = wire.field(end)? {
            match (number, payload) {
                (1, Payload::Bytes { end }) => name = wire.string(end, MAX_NAME)?,
                (3, Payload::Number(n)) => value = Some(n as i64),
                (_, Payload::Bytes { end }) => wire.skip_to(end),
                (_, Payload::Number(_)) => {}
            }
        }
        if let Some(at) = ATTRIBUTES.iter().position(|known| *known == name) {
            self.attributes[at] = self.attributes[at].or(value);
        }
        Ok(())
    }

    /// The name of an input that is there.
    pub(super) fn input(&self, index: usize) -> Option<&str> {
        self.inputs.get(index).map(String::as_str).filter(|name| !name.is_empty())
    }

    /// A non-negative integer among [`ATTRIBUTES`].
    pub(super) fn attribute(&self, name: &str) -> Option<usize> {
        let at = ATTRIBUTES.iter().position(|known| *known == name)?;
        self.attributes[at].and_then(|n| usize::try_from(n).ok())
    }
}
