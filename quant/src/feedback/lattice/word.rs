//! Eight values at once: the points and signs that cost least under the factor's corner.
//!
//! A value's error depends on those before it, so this is a closest-point problem in triangular form. A sphere decoder
//! solves it: depth first, the nearest level first (Schnorr and Euchner, Math. Programming 66, 1994), giving up what
//! already costs as much as the best so far (Agrell et al., IEEE Trans. Inf. Theory 48(8), 2002). Which levels may come
//! next a trie of the grid's points says.

use crate::codec::{Node, Trie};

/// Values of a word.
pub(super) const WORD: usize = 8;

/// [`Levels::shares`] that find a word as good in half the time: what has no part of the loss left for the values to come
/// is hardly ever the best in the end.
pub(super) const SHARES: [f32; WORD] =
    [4.0 / 8.0, 4.5 / 8.0, 5.0 / 8.0, 5.5 / 8.0, 6.0 / 8.0, 6.5 / 8.0, 7.0 / 8.0, 1.0];

/// The part of the column factor that belongs to a word.
#[derive(Clone, Debug)]
pub(super) struct Corner {
    /// Upper triangular.
    rows: [[f32; WORD]; WORD],
    /// Of the diagonal.
    inverses: [f32; WORD],
}

impl Corner {
    /// The first square of `factor`, which has rows of `stride`.
    pub fn new(factor: &[f32], stride: usize) -> Corner {
        let row = |j: usize| std::array::from_fn(|k| if k < j { 0.0 } else { factor[j * stride + k] });
        let rows: [[f32; WORD]; WORD] = std::array::from_fn(row);
        Corner { inverses: std::array::from_fn(|j| 1.0 / rows[j][j]), rows }
    }
}

/// What was chosen for a word.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Word {
    /// Sum of squares of `errors`.
    pub loss: f32,
    /// Points' indices, of the first four and of the second where four values share one.
    pub points: [u16; 2],
    /// A bit set for a negative value, the first lowest.
    pub signs: u8,
    pub values: [f32; WORD],
    /// Each value's error over its pivot.
    pub errors: [f32; WORD],
}

/// What the values of a word may be under one scale (and shift). Levels are the `L` lanes of a vector: in the first half
/// those with a plus sign, by code, and in the second those with a minus sign.
#[derive(Clone, Copy, Debug)]
pub(super) struct Levels<'a, const L: usize> {
    pub trie: &'a Trie,
    /// Values that share a point.
    pub group: usize,
    pub values: [f32; L],
    /// Up to each value, the part of the best so far that a word may cost and still be followed; all of it finds the best
    /// of all words.
    pub shares: [f32; WORD],
    /// There are minus signs.
    pub signed: bool,
    /// Their number is even.
    pub even: bool,
}

/// A place of the word, and which levels were not tried there yet.
#[derive(Clone, Copy, Debug)]
struct Place<const L: usize> {
    /// By lane, what the word would cost up to here: a number's bits, the lowest of them the lane; all ones where there is
    /// no such level or it was tried.
    keys: [u32; L],
    node: Node,
    /// Of the values before.
    loss: f32,
    /// The targets as the errors before have moved them.
    rest: [f32; WORD],
}

impl<const L: usize> Levels<'_, L> {
    /// The best word for targets `x`, unless it costs `limit` or more. After `nodes` nodes the best so far has to do.
    #[inline(always)]
    pub fn nearest(&self, corner: &Corner, x: &[f32; WORD], limit: f32, nodes: u32) -> Option<Word> {
        let (mut limit, mut left) = (limit, nodes);
        let (mut path, mut best) = (Word::default(), None);
        let root = Place { keys: [u32::MAX; L], node: self.trie.root(), loss: 0.0, rest: *x };
        let mut places = [root; WORD];
        places[0].keys = self.keys(&root, 0, corner, 0);
        let mut at = 0;
        loop {
            let place = &mut places[at];
            let lane = place.take_nearest();
            let value = self.values[lane];
            let error = (place.rest[at] - value) * corner.inverses[at];
            let loss = place.loss + error * error;
            // The lane of a place where none is left costs more than any limit, and a NaN is never less.
            let is_followed = loss < limit * self.shares[at];
            if !is_followed {
                if at == 0 {
                    return best;
                }
                at -= 1;
                continue;
            }
            let mut child = place.node.child((lane % (L / 2)) as u8);
            if (at + 1).is_multiple_of(self.group) {
                path.points[at / self.group] = self.trie.point(child);
                child = 0;
            }
            path.signs = path.signs & !(1 << at) | u8::from(lane >= L / 2) << at;
            path.values[at] = value;
            path.errors[at] = error;
            if at + 1 == WORD {
                // Others at this place are not nearer.
                (limit, best) = (loss, Some(Word { loss, ..path }));
                at -= 1;
                continue;
            }
            if left == 0 {
                return best;
            }
            left -= 1;
            let mut next = Place { keys: [0; L], node: self.trie.node(child), loss, rest: place.rest };
            for k in 0..WORD {
                next.rest[k] -= error * corner.rows[at][k];
            }
            at += 1;
            next.keys = self.keys(&next, at, corner, path.signs);
            places[at] = next;
        }
    }

    /// What each level costs at a place; `signs` are those before it.
    #[inline(always)]
    fn keys(&self, place: &Place<L>, at: usize, corner: &Corner, signs: u8) -> [u32; L] {
        let codes = u32::from(place.node.codes);
        let (mut plus, mut minus) = (codes, if self.signed { codes } else { 0 });
        if self.even && at + 1 == WORD {
            // The last sign follows from the others.
            let is_odd = (signs & 0x7f).count_ones() % 2 == 1;
            (plus, minus) = if is_odd { (0, minus) } else { (plus, 0) };
        }
        let allowed = plus | minus << (L / 2);
        let (x, inverse) = (place.rest[at], corner.inverses[at]);
        let mut keys = [0; L];
        for (lane, key) in keys.iter_mut().enumerate() {
            let error = (x - self.values[lane]) * inverse;
            let bits = (place.loss + error * error).to_bits();
            let own = bits & !(L as u32 - 1) | lane as u32;
            *key = if allowed >> lane & 1 == 1 { own } else { u32::MAX };
        }
        keys
    }
}

impl<const L: usize> Place<L> {
    /// The lane of the nearest level that was not tried yet. Where none is left, the place costs infinitely much.
    #[inline(always)]
    fn take_nearest(&mut self) -> usize {
        let mut least = u32::MAX;
        for lane in 0..L {
            least = least.min(self.keys[lane]);
        }
        if least == u32::MAX {
            self.loss = f32::INFINITY;
        }
        let lane = least as usize % L;
        self.keys[lane] = u32::MAX;
        lane
    }
}

#[cfg(test)]
#[path = "word_tests.rs"]
mod tests;
