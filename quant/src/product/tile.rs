//! A tile of a product: a few rows by some columns, whose sums stay in registers.

use super::generic;
#[cfg(target_arch = "aarch64")]
use super::neon;
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use crate::simd::Level;

/// Rows of a tile. With [`TILE_COLS`] it fills 24 of AVX-512's 32 registers.
pub const TILE_ROWS: usize = 12;
/// Columns of a tile of f32.
pub const TILE_COLS: usize = 32;
/// Columns of a tile of f64.
const TILE_COLS_F64: usize = 16;

/// A tile of f32, row by row.
pub type Tile = [[f32; TILE_COLS]; TILE_ROWS];

/// `out[i][j] = sum over k of left[k][i] * right[k][j]`, in the order of k, each term by a fused multiply-add.
///
/// `left`: `[k][TILE_ROWS]`, `right`: `[k][TILE_COLS]`.
///
/// # Panics
/// If the operands differ in their number of terms.
#[inline]
pub fn tile(level: Level, left: &[f32], right: &[f32], out: &mut Tile) {
    f32::tile(level, left, right, out.as_flattened_mut().try_into().expect("a tile's length"));
}

/// A function that computes a tile in parts of so many rows by so many vectors of so many lanes.
macro_rules! tile_function {
    (
        $name:ident: $value:ty, $features:literal, rows [$($row:literal)*], vectors [$($vector:literal)*], $lanes:literal lanes,
        $zero:expr, $load:expr, $store:expr, $splat:expr, $add_product:expr
    ) => {
        #[target_feature(enable = $features)]
        pub(super) fn $name(left: &[$value], right: &[$value], out: &mut <$value as Real>::Tile) {
            const ROWS: usize = [$($row),*].len();
            const VECTORS: usize = [$($vector),*].len();
            const COLS: usize = <$value as Real>::TILE_COLS;
            const { assert!(TILE_ROWS.is_multiple_of(ROWS) && COLS.is_multiple_of(VECTORS * $lanes)) };
            let depth = right.len() / COLS;
            assert_eq!(left.len(), depth * TILE_ROWS);
            for row in (0..TILE_ROWS).step_by(ROWS) {
                for col in (0..COLS).step_by(VECTORS * $lanes) {
                    let mut sums = [[$zero; VECTORS]; ROWS];
                    for k in 0..depth {
                        // SAFETY: k < depth; the part lies within the tile.
                        unsafe {
                            let left = left.as_ptr().add(k * TILE_ROWS + row);
                            let right = right.as_ptr().add(k * COLS + col);
                            let mut line = [$zero; VECTORS];
                            unroll!(v in [$($vector)*] { line[v] = $load(right.add(v * $lanes)); });
                            unroll!(r in [$($row)*] {
                                let value = $splat(*left.add(r));
                                unroll!(v in [$($vector)*] { sums[r][v] = $add_product(sums[r][v], value, line[v]); });
                            });
                        }
                    }
                    unroll!(r in [$($row)*] {
                        unroll!(v in [$($vector)*] {
                            let out = &mut out[(row + r) * COLS + col + v * $lanes..][..$lanes];
                            // SAFETY: `out` holds a vector.
                            unsafe { $store(out.as_mut_ptr(), sums[r][v]) };
                        });
                    });
                }
            }
        }
    };
}
pub(super) use tile_function;

/// The numbers that products are made of: f32 and f64.
pub trait Real: Copy + Default + Send + Sync + std::ops::AddAssign {
    /// Columns of a tile.
    const TILE_COLS: usize;
    /// `[TILE_ROWS * TILE_COLS]`, row by row.
    type Tile: AsRef<[Self]>;

    /// A tile to be overwritten.
    fn zero_tile() -> Self::Tile;

    /// `out[i][j] = sum over k of left[k][i] * right[k][j]`, in the order of k. `left`: `[k][TILE_ROWS]`, `right`:
    /// `[k][TILE_COLS]`.
    fn tile(level: Level, left: &[Self], right: &[Self], out: &mut Self::Tile);
}

macro_rules! real {
    ($value:ty, $cols:expr, $function:ident) => {
        impl Real for $value {
            const TILE_COLS: usize = $cols;
            type Tile = [$value; TILE_ROWS * $cols];

            fn zero_tile() -> Self::Tile {
                [0.0; TILE_ROWS * $cols]
            }

            #[inline]
            fn tile(level: Level, left: &[$value], right: &[$value], out: &mut Self::Tile) {
                match level {
                    // SAFETY: the token is the proof that the CPU has the instructions.
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx2(_) => unsafe { avx2::$function(left, right, out) },
                    // SAFETY: as above.
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx512(_) => unsafe { avx512::$function(left, right, out) },
                    // SAFETY: as above.
                    #[cfg(target_arch = "aarch64")]
                    Level::Neon(_) => unsafe { neon::$function(left, right, out) },
                    _ => generic::$function(left, right, out),
                }
            }
        }
    };
}

real!(f32, TILE_COLS, tile_f32);
real!(f64, TILE_COLS_F64, tile_f64);
