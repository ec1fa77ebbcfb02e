//! Rotations of spaces that only meet other weights: the latent, each head's values, each head's
//! position-free queries and keys.
//!
//! A rotation is a Hadamard matrix with seeded signs: it spreads a large weight over its whole row, costs n log n, and
//! is its own inverse up to the signs.

use std::ops::Range;

use plmconv_formats::model::Model;
use plmconv_formats::{Error, Result, Role};
use plmconv_quant::random::SplitMix64;

use super::values::{Decoded, Exact, Values, replace};

/// An orthogonal matrix `[size, size]`, block diagonal where `size` is not a power of two.
#[derive(Clone, Debug)]
pub struct Rotation {
    signs: Vec<f32>,
    /// The largest power of two that divides the size.
    block: usize,
}

impl Rotation {
    /// The rotation of this size and seed.
    pub fn new(size: usize, seed: u64) -> Rotation {
        let mut random = SplitMix64::new(seed);
        let signs = (0..size).map(|_| if random.next_u64() >> 63 == 0 { 1.0 } else { -1.0 }).collect();
        Rotation { signs, block: 1 << size.trailing_zeros() }
    }

    /// Values of a vector it rotates.
    pub fn size(&self) -> usize {
        self.signs.len()
    }

    /// Rotates `lanes` vectors at once: `data` is `[size, lanes]`, each column a vector.
    fn apply(&self, data: &mut [f32], lanes: usize) {
        for (row, sign) in data.chunks_exact_mut(lanes).zip(&self.signs) {
            row.iter_mut().for_each(|v| *v *= sign);
        }
        let norm = (self.block as f32).sqrt().recip();
        for block in data.chunks_exact_mut(self.block * lanes) {
            hadamard(block, lanes);
            block.iter_mut().for_each(|v| *v *= norm);
        }
    }
}

/// The Hadamard transform of the columns of `data`, `[a power of two, lanes]`, without its norm.
fn hadamard(data: &mut [f32], lanes: usize) {
    let mut half = lanes;
    while half < data.len() {
        for pair in data.chunks_exact_mut(2 * half) {
            let (a, b) = pair.split_at_mut(half);
            for (a, b) in a.iter_mut().zip(b) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
}

/// Rows rotated among themselves, in segments of the rotation's size.
#[derive(Debug)]
struct RotatedRows {
    source: Decoded,
    /// First rows of the segments, ascending.
    segments: Vec<usize>,
    rotation: Rotation,
}

impl RotatedRows {
    /// The segment `row` lies in.
    fn segment_of(&self, row: usize) -> Option<usize> {
        let start = *self.segments[..self.segments.partition_point(|&s| s <= row)].last()?;
        (row < start + self.rotation.size()).then_some(start)
    }

    /// First row after `row` at which a segment begins, or the end.
    fn next_boundary(&self, row: usize) -> usize {
        self.segments.iter().copied().find(|&s| s > row).unwrap_or(self.source.rows())
    }
}

impl Values for RotatedRows {
    fn rows(&self) -> usize {
        self.source.rows()
    }

    fn cols(&self) -> usize {
        self.source.cols()
    }

    fn read(&self, rows: Range<usize>, out: &mut Vec<f32>) -> Result<()> {
        let cols = self.cols();
        let mut part = Vec::new();
        out.clear();
        let mut row = rows.start;
        while row < rows.end {
            let (read, skip, end) = match self.segment_of(row) {
                Some(start) => {
                    let whole = start..start + self.rotation.size();
                    (whole.clone(), row - start, rows.end.min(whole.end))
                }
                None => {
                    let end = rows.end.min(self.next_boundary(row));
                    (row..end, 0, end)
                }
            };
            self.source.read(read, &mut part)?;
            if self.segment_of(row).is_some() {
                self.rotation.apply(&mut part, cols);
            }
            out.extend_from_slice(&part[skip * cols..(skip + end - row) * cols]);
            row = end;
        }
        Ok(())
    }
}

/// Columns rotated among themselves: whole rows are segments of the rotation's size.
#[derive(Debug)]
struct RotatedColumns {
    source: Decoded,
    rotation: Rotation,
}

impl Values for RotatedColumns {
    fn rows(&self) -> usize {
        self.source.rows()
    }

    fn cols(&self) -> usize {
        self.source.cols()
    }

    fn read(&self, rows: Range<usize>, out: &mut Vec<f32>) -> Result<()> {
        self.source.read(rows, out)?;
        out.chunks_exact_mut(self.rotation.size()).for_each(|segment| self.rotation.apply(segment, 1));
        Ok(())
    }
}

fn rotate_rows(
    model: &mut Model,
    layer: usize,
    role: Role,
    segments: Vec<usize>,
    rotation: &Rotation,
) -> Result<()> {
    let tensor = super::tensor_mut(model, layer, role)?;
    replace(tensor, Exact::No, |source| RotatedRows { source, segments, rotation: rotation.clone() });
    Ok(())
}

fn rotate_columns(model: &mut Model, layer: usize, role: Role, rotation: &Rotation) -> Result<()> {
    let tensor = super::tensor_mut(model, layer, role)?;
    replace(tensor, Exact::No, |source| RotatedColumns { source, rotation: rotation.clone() });
    Ok(())
}

/// Rotates the latent: rows of kv_a's latent part against columns of kv_b. RMSNorm sees only the latent's length,
/// which a rotation keeps.
///
/// # Errors
/// A latent norm whose weight is not one: fold it first ([`super::mla::fold_latent_norm`]).
pub fn latent(mut model: Model) -> Result<Model> {
    for layer in 0..model.config.num_hidden_layers {
        let norm = super::tensor_mut(&mut model, layer, Role::KvANorm)?;
        if Decoded::of(norm).read_all()?.iter().any(|&w| w != 1.0) {
            let detail = "the latent can only be rotated once its norm's weight is folded into kv_b";
            return Err(Error::Rewrite { tensor: norm.key.gguf_name(), detail: detail.into() });
        }
        let rotation = Rotation::new(model.config.kv_lora_rank, layer as u64);
        rotate_rows(&mut model, layer, Role::KvA, vec![0], &rotation)?;
        rotate_columns(&mut model, layer, Role::KvB, &rotation)?;
    }
    Ok(model)
}

/// Rotates each head's values: rows of kv_b against columns of the output projection.
pub fn values(mut model: Model) -> Result<Model> {
    let config = model.config.clone();
    for layer in 0..config.num_hidden_layers {
        let rotation = Rotation::new(config.v_head_dim, layer as u64);
        let rows = (0..config.num_attention_heads)
            .map(|head| head * config.kv_b_head_dim() + config.qk_nope_head_dim)
            .collect();
        rotate_rows(&mut model, layer, Role::KvB, rows, &rotation)?;
        rotate_columns(&mut model, layer, Role::AttentionOutput, &rotation)?;
    }
    Ok(model)
}

/// Rotates the position-free part of each head's queries and keys: rows of the query matrix and of kv_b alike, which
/// keeps their products. The part that RoPE rotates is left alone.
pub fn keys(mut model: Model) -> Result<Model> {
    let config = model.config.clone();
    let query = if config.q_lora_rank.is_some() { Role::QueryB } else { Role::Query };
    for layer in 0..config.num_hidden_layers {
        let rotation = Rotation::new(config.qk_nope_head_dim, layer as u64);
        let starts =
            |head_rows: usize| (0..config.num_attention_heads).map(|head| head * head_rows).collect();
        rotate_rows(&mut model, layer, query, starts(config.qk_head_dim()), &rotation)?;
        rotate_rows(&mut model, layer, Role::KvB, starts(config.kv_b_head_dim()), &rotation)?;
    }
    Ok(model)
}
