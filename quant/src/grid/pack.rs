//! Codes one to a byte into the forms that files hold.

/// Packs rows of `cols` codes, low nibble first; each row starts on a byte. 8-bit codes are copied.
pub fn pack_rows(bits: u32, codes: &[u8], cols: usize, out: &mut Vec<u8>) {
    out.clear();
    if bits == 8 {
        out.extend_from_slice(codes);
        return;
    }
    for row in codes.chunks_exact(cols) {
        let (pairs, rest) = row.as_chunks::<2>();
        out.extend(pairs.iter().map(|[low, high]| low | high << 4));
        out.extend(rest);
    }
}

/// Packs the transpose of `codes` (`[rows, stride]`, the first `cols` columns): column by column,
/// low nibble first. `flip` is subtracted from every code, modulo the code's range: signed codes are stored
/// in two's complement. With 4 bits `rows` must be even, so that columns start on a byte.
pub fn pack_columns(bits: u32, codes: &[u8], stride: usize, cols: usize, flip: u8, out: &mut Vec<u8>) {
    let rows = codes.len() / stride;
    let code = |row: usize, col: usize| codes[row * stride + col].wrapping_sub(flip);
    out.clear();
    for col in 0..cols {
        if bits == 8 {
            out.extend((0..rows).map(|row| code(row, col)));
        } else {
            out.extend((0..rows / 2).map(|pair| (code(2 * pair, col) & 0x0f) | code(2 * pair + 1, col) << 4));
        }
    }
}
