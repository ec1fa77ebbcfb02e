//! Lanes as plain arrays: the twin that the others are compared with.

use super::{LANES, Lanes};
use crate::codec::field::{self, Field, RUN};

#[derive(Clone, Copy)]
pub(super) struct PortableLanes;

#[inline(always)]
fn each(f: impl Fn(usize) -> f32) -> [f32; LANES] {
    let mut out = [0.0; LANES];
    for (lane, out) in out.iter_mut().enumerate() {
        *out = f(lane);
    }
    out
}

#[inline(always)]
fn products(codes: &[i8; RUN], values: &[i16; RUN]) -> [f32; LANES] {
    let (even, odd) = values.split_at(RUN / 2);
    each(|lane| {
        let product = |pair: usize| {
            i32::from(codes[2 * pair]) * i32::from(even[pair])
                + i32::from(codes[2 * pair + 1]) * i32::from(odd[pair])
        };
        (product(2 * lane) + product(2 * lane + 1)) as f32
    })
}

impl Lanes for PortableLanes {
    type F = [f32; LANES];

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F {
        [value; LANES]
    }
    #[inline(always)]
    fn halves(self, low: f32, high: f32) -> Self::F {
        [low, low, low, low, high, high, high, high]
    }
    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> Self::F {
        *values
    }
    #[inline(always)]
    fn to_array(self, a: Self::F) -> [f32; LANES] {
        a
    }
    #[inline(always)]
    fn floats(self, scales: &[i8; 2 * LANES]) -> [f32; 2 * LANES] {
        scales.map(f32::from)
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        each(|lane| a[lane] + b[lane])
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        each(|lane| a[lane] - b[lane])
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        each(|lane| a[lane] * b[lane])
    }
    #[inline(always)]
    fn products(self, fields: [Field; 2], zero: u8, block: &[u8], values: &[i16; RUN]) -> Self::F {
        let mut signed = [0; RUN];
        for (signed, code) in signed.iter_mut().zip(field::take(fields, block)) {
            *signed = code as i8 - zero as i8;
        }
        products(&signed, values)
    }
    #[inline(always)]
    fn signed_products(self, codes: &[u8; RUN], values: &[i16; RUN]) -> Self::F {
        products(&codes.map(|code| code as i8), values)
    }
}
