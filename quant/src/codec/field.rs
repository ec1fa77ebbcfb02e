//! Where codes are in a block: some bits of each of 32 consecutive bytes belong to 32 consecutive values.

/// Values whose codes are in the same bits of consecutive bytes.
pub(super) const RUN: usize = 32;

/// Some bits of the codes of a run: byte `i` holds those of value `i`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    /// The first byte.
    pub at: usize,
    /// The lowest bit in each byte.
    pub shift: u32,
    /// How many bits; none if the type needs no such field.
    pub bits: u32,
    /// Which bit of the code the lowest one is.
    pub place: u32,
}

impl Field {
    pub const NONE: Field = Field { at: 0, shift: 0, bits: 0, place: 0 };

    /// The bits, moved down.
    #[inline(always)]
    pub fn mask(self) -> u8 {
        ((1_u16 << self.bits) - 1) as u8
    }
}

/// The codes of a run.
#[inline(always)]
pub(super) fn take(fields: [Field; 2], block: &[u8]) -> [u8; RUN] {
    let mut codes = [0; RUN];
    for field in fields.into_iter().filter(|field| field.bits > 0) {
        for (code, byte) in codes.iter_mut().zip(&block[field.at..][..RUN]) {
            *code |= ((byte >> field.shift) & field.mask()) << field.place;
        }
    }
    codes
}

/// Writes the codes of a run over bits that are zero.
#[inline(always)]
pub(super) fn put(fields: [Field; 2], codes: &[u8; RUN], block: &mut [u8]) {
    for field in fields.into_iter().filter(|field| field.bits > 0) {
        for (byte, code) in block[field.at..][..RUN].iter_mut().zip(codes) {
            *byte |= ((code >> field.place) & field.mask()) << field.shift;
        }
    }
}
