//! The search against trying everything.

use plmconv_formats::DType;

use super::*;
use crate::codec::{Shape, Signs, code_bits};
use crate::random::SplitMix64;

/// No search of these tests takes as many.
const ENOUGH_NODES: u32 = 1 << 20;

/// What a choice costs, value by value as it is defined.
fn loss(corner: &Corner, x: &[f32; WORD], values: &[f32; WORD]) -> f32 {
    let mut rest = *x;
    let mut loss = 0.0;
    for j in 0..WORD {
        let error = (rest[j] - values[j]) / corner.rows[j][j];
        loss += error * error;
        (j + 1..WORD).for_each(|k| rest[k] -= error * corner.rows[j][k]);
    }
    loss
}

/// All magnitudes (or shifted levels) that eight values can have together.
fn all_points(shape: &Shape) -> Vec<[f32; WORD]> {
    let bits = code_bits(shape.group);
    let level = |point: u16, at: usize| shape.levels[usize::from(point >> (at * bits)) % (1 << bits)];
    let one = |point: u16| (0..shape.group).map(move |at| level(point, at)).collect::<Vec<f32>>();
    let points = shape.points.iter().map(|&point| one(point));
    if shape.group == WORD {
        return points.map(|point| point.try_into().expect("eight values")).collect();
    }
    let points: Vec<Vec<f32>> = points.collect();
    let pairs = points.iter().flat_map(|a| points.iter().map(move |b| [&a[..], b].concat()));
    pairs.map(|pair| pair.try_into().expect("eight values")).collect()
}

/// The least loss over all points and signs.
fn least(shape: &Shape, points: &[[f32; WORD]], corner: &Corner, x: &[f32; WORD]) -> f32 {
    let signs: Vec<u8> = match shape.signs {
        Signs::Shifted { .. } => vec![0],
        Signs::Each => (0..=255).collect(),
        Signs::Even => (0..=255u8).filter(|signs| signs.count_ones() % 2 == 0).collect(),
    };
    let signed = |point: &[f32; WORD], signs: u8| -> [f32; WORD] {
        std::array::from_fn(|j| if signs >> j & 1 == 1 { -point[j] } else { point[j] })
    };
    let all = points.iter().flat_map(|point| signs.iter().map(move |&signs| signed(point, signs)));
    all.map(|values| loss(corner, x, &values)).fold(f32::INFINITY, f32::min)
}

fn levels<'a, const L: usize>(shape: &Shape, trie: &'a Trie) -> Levels<'a, L> {
    let mut values = [0.0; L];
    for (code, level) in shape.levels.iter().enumerate() {
        (values[code], values[L / 2 + code]) = (*level, -level);
    }
    Levels {
        trie,
        group: shape.group,
        values,
        signed: !matches!(shape.signs, Signs::Shifted { .. }),
        even: shape.signs == Signs::Even,
        shares: [1.0; WORD],
    }
}

fn check<const L: usize>(dtype: DType, rounds: usize) {
    let shape = Shape::of(dtype).expect("a type with a grid");
    let trie = Trie::new(shape);
    let levels = levels::<L>(shape, &trie);
    let points = all_points(shape);
    let mut random = SplitMix64::new(5);
    let mut unit = || random.next_f64() as f32 - 0.5;
    let top = shape.levels.iter().fold(0f32, |top, level| top.max(*level));
    let (mut found, mut best) = (0.0, 0.0);
    for _ in 0..rounds {
        let factor: Vec<f32> =
            (0..64).map(|at| if at % 9 == 0 { 1.0 + unit() } else { 1.5 * unit() }).collect();
        let corner = Corner::new(&factor, WORD);
        let x: [f32; WORD] = std::array::from_fn(|_| 1.5 * top * unit());
        let word = levels.nearest(&corner, &x, f32::INFINITY, ENOUGH_NODES).expect("there is no limit");
        let expected = least(shape, &points, &corner, &x);
        assert!((word.loss - expected).abs() <= 1e-4 * expected, "{dtype}: {} {expected}", word.loss);
        assert!((loss(&corner, &x, &word.values) - word.loss).abs() <= 1e-4 * expected, "{dtype}");
        assert!(levels.nearest(&corner, &x, expected * 0.999, ENOUGH_NODES).is_none(), "{dtype}");
        let hurried = Levels { shares: SHARES, ..levels }.nearest(&corner, &x, f32::INFINITY, 96);
        found += hurried.expect("there is no limit").loss;
        best += expected;
    }
    assert!(found < 1.1 * best, "{dtype}: {found} {best}");
}

#[test]
fn the_word_found_is_the_best_and_a_hurried_one_nearly_as_good() {
    check::<8>(DType::Iq1S, 20);
    check::<8>(DType::Iq2Xxs, 10);
    check::<8>(DType::Iq2S, 5);
    check::<16>(DType::Iq3Xxs, 1);
}

#[test]
fn few_nodes_find_a_word_too() {
    let shape = Shape::of(DType::Iq2Xxs).expect("a type with a grid");
    let trie = Trie::new(shape);
    let factor: Vec<f32> = (0..64).map(|at| if at % 9 == 0 { 1.0 } else { 0.9 }).collect();
    let corner = Corner::new(&factor, WORD);
    let x = [-30.0, 20.0, 10.0, -5.0, 1.0, 40.0, -40.0, 3.0];
    let found = |nodes| levels::<8>(shape, &trie).nearest(&corner, &x, f32::INFINITY, nodes).expect("a word");
    let (first, best) = (found(WORD as u32), found(ENOUGH_NODES));
    assert!(first.loss > best.loss);
    assert_eq!(first.signs.count_ones() % 2, 0);
}
