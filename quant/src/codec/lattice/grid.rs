//! A grid: the combinations of codes that a type can store for a group of `N` values, and which of them come into
//! question for a group whose own codes are none of them.
//!
//! A combination is packed into 16 bits, the first value's code lowest: two bits a code for groups of eight, three for
//! groups of four. What ggml's `iq2xs_init_impl` and `iq3xs_init_impl` compute is computed here, in the same order,
//! when a type is first encoded.

use std::sync::LazyLock;

use super::points;

/// Values that share a point, bits and number of a value's codes.
pub(crate) const fn code_bits(group: usize) -> usize {
    if group == 8 { 2 } else { 3 }
}

pub(super) const fn codes(group: usize) -> usize {
    if group == 8 { 3 } else { 8 }
}

/// Lists of candidates are filled up to a multiple of this length, so that vectors are whole.
pub(super) const CANDIDATES_STEP: usize = 16;

/// A list of at least one point, packed.
#[derive(Clone, Copy)]
pub(super) struct Candidates<'a> {
    /// What follows `count` counts for nothing.
    pub padded: &'a [[u16; CANDIDATES_STEP]],
    pub count: usize,
}

pub(super) struct Grid<const N: usize> {
    /// Packed, by index.
    pub points: &'static [u16],
    /// By packed combination.
    cells: Vec<Cell>,
    /// Of all cells, packed.
    candidates: Vec<u16>,
}

/// What there is for a combination of codes: if it is a point, its index, and no candidates.
#[derive(Clone, Copy, Default)]
struct Cell {
    start: u32,
    count: u16,
    index: u16,
}

pub(super) static IQ2_XXS: LazyLock<Grid<8>> = LazyLock::new(|| Grid::new(&points::IQ2_XXS, 2));
pub(super) static IQ2_XS: LazyLock<Grid<8>> = LazyLock::new(|| Grid::new(&points::IQ2_XS, 2));
pub(super) static IQ2_S: LazyLock<Grid<8>> = LazyLock::new(|| Grid::new(&points::IQ2_S, 1));
pub(super) static IQ1: LazyLock<Grid<8>> = LazyLock::new(|| Grid::new(&points::IQ1, 3));
pub(super) static IQ3_XXS: LazyLock<Grid<4>> = LazyLock::new(|| Grid::new(&points::IQ3_XXS, 2));
pub(super) static IQ3_S: LazyLock<Grid<4>> = LazyLock::new(|| Grid::new(&points::IQ3_S, 3));

impl<const N: usize> Grid<N> {
    /// `rings`: how many different distances candidates may have.
    fn new(points: &'static [u16], rings: usize) -> Grid<N> {
        let distances = HalfDistances::new(N);
        let mut cells = vec![Cell::default(); 1 << (N * code_bits(N))];
        let mut candidates = Vec::new();
        let mut by_distance = vec![Vec::new(); distances.largest + 1];
        for combination in combinations(N) {
            by_distance.iter_mut().for_each(Vec::clear);
            for &point in points {
                by_distance[distances.between(combination, point)].push(point);
            }
            let cell = &mut cells[usize::from(combination)];
            cell.start = candidates.len() as u32;
            if by_distance[0].is_empty() {
                let nearest = by_distance.iter().filter(|points| !points.is_empty()).take(rings);
                candidates.extend(nearest.flatten());
                let start = cell.start as usize;
                cell.count = (candidates.len() - start) as u16;
                candidates.resize(candidates.len().next_multiple_of(CANDIDATES_STEP), 0);
            }
        }
        for (index, &point) in points.iter().enumerate() {
            cells[usize::from(point)].index = index as u16;
        }
        Grid { points, cells, candidates }
    }

    /// The points to choose from for this combination, nearest first; none if it is a point itself.
    #[inline(always)]
    pub(super) fn candidates(&self, combination: u16) -> Option<Candidates<'_>> {
        let cell = self.cells[usize::from(combination)];
        let (start, count) = (cell.start as usize, usize::from(cell.count));
        let padded = count.next_multiple_of(CANDIDATES_STEP);
        (count > 0)
            .then(|| Candidates { padded: self.candidates[start..start + padded].as_chunks().0, count })
    }

    /// The index of a point.
    #[inline(always)]
    pub(super) fn index(&self, point: u16) -> u16 {
        self.cells[usize::from(point)].index
    }

    /// The codes of the point at `index`.
    #[inline(always)]
    pub(super) fn codes(&self, index: usize) -> [u8; N] {
        unpack(self.points[index])
    }
}

/// The codes of a packed combination.
#[inline(always)]
pub(super) fn unpack<const N: usize>(combination: u16) -> [u8; N] {
    let mask = (1 << code_bits(N)) - 1;
    std::array::from_fn(|i| (combination >> (i * code_bits(N))) as u8 & mask)
}

/// All combinations of a group's codes, packed, ascending.
fn combinations(group: usize) -> impl Iterator<Item = u16> {
    let (bits, codes) = (code_bits(group), codes(group));
    let is_valid =
        move |packed: u16| (0..group).all(|i| usize::from(packed >> (i * bits)) % (1 << bits) < codes);
    (0..=u16::MAX >> (16 - group * bits)).filter(move |packed| is_valid(*packed))
}

/// Squared distances between combinations, in units of a code, from a table for half a group.
struct HalfDistances {
    half_bits: usize,
    table: Vec<u8>,
    largest: usize,
}

impl HalfDistances {
    fn new(group: usize) -> HalfDistances {
        let (bits, half_bits) = (code_bits(group), group / 2 * code_bits(group));
        let code = |packed: usize, i: usize| (packed >> (i * bits)) % (1 << bits);
        let distance = |a: usize, b: usize| {
            let squares = (0..group / 2).map(|i| code(a, i).abs_diff(code(b, i)).pow(2));
            squares.sum::<usize>() as u8
        };
        let halves = 1 << half_bits;
        let table = (0..halves * halves).map(|pair| distance(pair >> half_bits, pair % halves)).collect();
        HalfDistances { half_bits, table, largest: group * (codes(group) - 1).pow(2) }
    }

    fn between(&self, a: u16, b: u16) -> usize {
        let half = |shift: usize| {
            let part = |packed: u16| (usize::from(packed) >> shift) % (1 << self.half_bits);
            usize::from(self.table[part(a) << self.half_bits | part(b)])
        };
        half(0) + half(self.half_bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<const N: usize>(grid: &Grid<N>, rings: usize) {
        let mut off_grid = 0;
        for combination in combinations(N) {
            let codes = unpack::<N>(combination);
            let distance = |point: u16| -> u32 {
                unpack::<N>(point).iter().zip(codes).map(|(a, b)| u32::from(a.abs_diff(b)).pow(2)).sum()
            };
            let Some(candidates) = grid.candidates(combination) else {
                assert_eq!(grid.points[usize::from(grid.index(combination))], combination);
                continue;
            };
            off_grid += 1;
            // By definition: all points by distance and index, as many different distances as wanted.
            let mut all: Vec<(u32, usize)> =
                grid.points.iter().enumerate().map(|(index, &point)| (distance(point), index)).collect();
            all.sort_unstable();
            let mut kinds: Vec<u32> = all.iter().map(|(distance, _)| *distance).collect();
            kinds.dedup();
            let wanted: Vec<u16> = all
                .iter()
                .filter(|(distance, _)| *distance <= kinds[rings - 1])
                .map(|(_, index)| grid.points[*index])
                .collect();
            assert_eq!(candidates.padded.as_flattened()[..candidates.count], wanted);
        }
        assert_eq!(off_grid, combinations(N).count() - grid.points.len());
    }

    #[test]
    fn candidates_are_the_nearest_points_in_order() {
        check(&IQ2_XXS, 2);
        check(&IQ2_S, 1);
        check(&IQ3_XXS, 2);
        check(&IQ3_S, 3);
    }
}
