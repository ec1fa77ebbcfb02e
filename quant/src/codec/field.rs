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

    #[inline(always)]
    fn take(self, block: &[u8], codes: &mut [u8; RUN]) {
        for (code, byte) in codes.iter_mut().zip(&block[self.at..][..RUN]) {
            *code |= ((byte >> self.shift) & self.mask()) << self.place;
        }
    }

    #[inline(always)]
    fn put(self, codes: &[u8; RUN], block: &mut [u8]) {
        for (byte, code) in block[self.at..][..RUN].iter_mut().zip(codes) {
            let bits = ((code >> self.place) & self.mask()) << self.shift;
            *byte = if self.shift == 0 { bits } else { *byte | bits };
        }
    }
}

/// The codes of a run.
#[inline(always)]
pub(super) fn take([first, second]: [Field; 2], block: &[u8]) -> [u8; RUN] {
    let mut codes = [0; RUN];
    first.take(block, &mut codes);
    if second.bits > 0 {
        second.take(block, &mut codes);
    }
    codes
}

/// Writes the codes of a run. Fields of the same bytes are written from the lowest bit on: that one clears what was there.
#[inline(always)]
pub(super) fn put([first, second]: [Field; 2], codes: &[u8; RUN], block: &mut [u8]) {
    first.put(codes, block);
    if second.bits > 0 {
        second.put(codes, block);
    }
}
