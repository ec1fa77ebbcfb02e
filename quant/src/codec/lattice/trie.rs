//! A grid's points by their codes, from the first value on: which codes may follow those already chosen.

use super::code_bits;
use super::shape::Shape;

/// The points of one grid. The root is node 0.
#[derive(Debug)]
pub(crate) struct Trie {
    nodes: Vec<Node>,
    /// The indices of points, in the order of their codes.
    leaves: Vec<u16>,
    size: f32,
}

/// The codes that may come next, a bit for each, and the child of the lowest; the others' follow. Children of the last
/// value's nodes are leaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node {
    pub codes: u8,
    first: u32,
}

impl Node {
    /// The node (or leaf) behind `code`, which is one of `codes`.
    #[inline(always)]
    pub fn child(self, code: u8) -> u32 {
        self.first + (self.codes & ((1 << code) - 1)).count_ones()
    }
}

impl Trie {
    pub fn new(shape: &Shape) -> Trie {
        let bits = code_bits(shape.group);
        let code = |point: u16, at: usize| (point >> (at * bits)) & ((1 << bits) - 1);
        let codes = |index: u16| {
            let point = shape.points[usize::from(index)];
            std::array::from_fn::<u16, 8, _>(|at| if at < shape.group { code(point, at) } else { 0 })
        };
        let mut leaves: Vec<u16> = (0..shape.points.len() as u16).collect();
        leaves.sort_by_key(|&index| codes(index));
        // Level by level: `level` are the nodes of one, as the leaves below each.
        let all = 0..leaves.len();
        let (mut nodes, mut level) = (Vec::new(), vec![all]);
        for at in 0..shape.group {
            let is_last = at + 1 == shape.group;
            let first_child = if is_last { 0 } else { nodes.len() + level.len() };
            let mut next = Vec::new();
            for below in level {
                let mut node = Node { codes: 0, first: (first_child + next.len()) as u32 };
                let mut start = below.start;
                for same in leaves[below].chunk_by(|&a, &b| codes(a)[at] == codes(b)[at]) {
                    node.codes |= 1 << codes(same[0])[at];
                    next.push(start..start + same.len());
                    start += same.len();
                }
                nodes.push(node);
            }
            level = next;
        }
        Trie { nodes, leaves, size: size(shape) }
    }

    /// Root mean square of the points' levels.
    #[inline(always)]
    pub fn size(&self) -> f32 {
        self.size
    }

    #[inline(always)]
    pub fn root(&self) -> Node {
        self.nodes[0]
    }

    #[inline(always)]
    pub fn node(&self, at: u32) -> Node {
        self.nodes[at as usize]
    }

    /// The index of the point at a leaf.
    #[inline(always)]
    pub fn point(&self, leaf: u32) -> u16 {
        self.leaves[leaf as usize]
    }
}

fn size(shape: &Shape) -> f32 {
    let bits = code_bits(shape.group);
    let square =
        |point: u16, at: usize| shape.levels[usize::from(point >> (at * bits)) % (1 << bits)].powi(2);
    let sum: f32 = shape.points.iter().map(|&p| (0..shape.group).map(|at| square(p, at)).sum::<f32>()).sum();
    (sum / (shape.points.len() * shape.group) as f32).sqrt()
}

#[cfg(test)]
mod tests {
    use plmconv_formats::DType;

    use super::*;

    /// All paths from a node, as packed points with what the leaf says.
    fn collect(trie: &Trie, group: usize, at: usize, node: u32, packed: u16, out: &mut Vec<(u16, u16)>) {
        if at == group {
            out.push((trie.point(node), packed));
            return;
        }
        let here = trie.node(node);
        for code in (0..8).filter(|code| here.codes >> code & 1 == 1) {
            let packed = packed | u16::from(code) << (at * code_bits(group));
            collect(trie, group, at + 1, here.child(code), packed, out);
        }
    }

    #[test]
    fn paths_are_the_points() {
        for dtype in [DType::Iq1S, DType::Iq2Xxs, DType::Iq2S, DType::Iq3Xxs, DType::Iq3S] {
            let shape = Shape::of(dtype).expect("a type with a grid");
            let mut found = Vec::new();
            collect(&Trie::new(shape), shape.group, 0, 0, 0, &mut found);
            found.sort_unstable();
            let points: Vec<(u16, u16)> = (0..).zip(shape.points.iter().copied()).collect();
            assert_eq!(found, points, "{dtype}");
        }
    }
}
