//! Lanes as plain arrays, which the compiler turns into the vectors of the target's baseline: NEON on aarch64.

use super::{LANES, Lanes};
use crate::codec::arithmetic::{ROUNDING_MAGIC, nearest_int};

#[derive(Clone, Copy)]
pub(in super::super) struct PortableLanes;

/// All bits set or none, as vector instructions have it.
type Mask = [u32; LANES];

#[inline(always)]
fn each<T: Copy + Default>(f: impl Fn(usize) -> T) -> [T; LANES] {
    let mut out = [T::default(); LANES];
    for (lane, out) in out.iter_mut().enumerate() {
        *out = f(lane);
    }
    out
}

#[inline(always)]
fn mask(f: impl Fn(usize) -> bool) -> Mask {
    each(|lane| if f(lane) { u32::MAX } else { 0 })
}

impl Lanes for PortableLanes {
    type F = [f32; LANES];
    type I = [i32; LANES];
    type M = Mask;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F {
        [value; LANES]
    }
    #[inline(always)]
    fn columns(self, x: &[f32], stride: usize) -> [Self::F; 8] {
        let mut out = [[0.0; LANES]; 8];
        for lane in 0..LANES {
            let row = &x[lane * stride..][..8];
            out.iter_mut().zip(row).for_each(|(column, &x)| column[lane] = x);
        }
        out
    }
    #[inline(always)]
    fn to_array(self, a: Self::F) -> [f32; LANES] {
        a
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        each(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        each(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        each(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        each(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn sqrt(self, a: Self::F) -> Self::F {
        each(|i| a[i].sqrt())
    }
    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        each(|i| a[i].abs())
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        each(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        each(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn round(self, a: Self::F) -> Self::F {
        // Not `round_ties_even`, which is a library call where the baseline has no instruction for it.
        each(|i| (a[i] + ROUNDING_MAGIC) - ROUNDING_MAGIC)
    }
    #[inline(always)]
    fn less(self, a: Self::F, b: Self::F) -> Mask {
        mask(|i| a[i] < b[i])
    }
    #[inline(always)]
    fn equal(self, a: Self::F, b: Self::F) -> Mask {
        mask(|i| a[i] == b[i])
    }
    #[inline(always)]
    fn select(self, m: Mask, a: Self::F, b: Self::F) -> Self::F {
        each(|i| f32::from_bits((a[i].to_bits() & m[i]) | (b[i].to_bits() & !m[i])))
    }
    #[inline(always)]
    fn and(self, a: Mask, b: Mask) -> Mask {
        each(|i| a[i] & b[i])
    }
    #[inline(always)]
    fn and_not(self, a: Mask, b: Mask) -> Mask {
        each(|i| a[i] & !b[i])
    }
    #[inline(always)]
    fn bits(self, m: Mask) -> u32 {
        m.iter().enumerate().fold(0, |bits, (lane, m)| bits | ((m & 1) << lane))
    }
    #[inline(always)]
    fn splat_int(self, value: i32) -> Self::I {
        [value; LANES]
    }
    #[inline(always)]
    fn nearest_int(self, a: Self::F) -> Self::I {
        each(|i| nearest_int(a[i]))
    }
    #[inline(always)]
    fn to_float(self, a: Self::I) -> Self::F {
        each(|i| a[i] as f32)
    }
    #[inline(always)]
    fn min_int(self, a: Self::I, b: Self::I) -> Self::I {
        each(|i| a[i].min(b[i]))
    }
    #[inline(always)]
    fn max_int(self, a: Self::I, b: Self::I) -> Self::I {
        each(|i| a[i].max(b[i]))
    }
    #[inline(always)]
    fn and_int(self, a: Self::I, b: Self::I) -> Self::I {
        each(|i| a[i] & b[i])
    }
    #[inline(always)]
    fn equal_int(self, a: Self::I, b: Self::I) -> Mask {
        mask(|i| a[i] == b[i])
    }
    #[inline(always)]
    fn select_int(self, m: Mask, a: Self::I, b: Self::I) -> Self::I {
        each(|i| (a[i] & m[i] as i32) | (b[i] & !m[i] as i32))
    }
    #[inline(always)]
    fn int_to_array(self, a: Self::I) -> [i32; LANES] {
        a
    }
}
