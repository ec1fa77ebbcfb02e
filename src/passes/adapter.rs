//! Weights with a LoRA adapter's product added to them.

use std::ops::Range;
use std::sync::Arc;

use plmconv_formats::adapter::LowRank;
use plmconv_formats::source::RowSource;
use plmconv_formats::{DType, Error, Result};
use plmconv_quant::codec;
use plmconv_quant::simd::{Level, Loop};

/// `base + factor · (left · right)`, computed in f32 row by row as rows are asked for. peft's `get_delta_weight` and
/// `merge` do the same, but round to the base model's type where this yields f32.
#[derive(Debug)]
pub struct Merged {
    /// What errors call it.
    name: String,
    base: Arc<dyn RowSource>,
    product: LowRank,
}

impl Merged {
    /// Adds `product` to the weight called `name`; their shapes agree.
    pub fn source(name: &str, base: Arc<dyn RowSource>, product: &LowRank) -> Arc<dyn RowSource> {
        Arc::new(Merged { name: name.into(), base, product: product.clone() })
    }

    fn values(&self, source: &dyn RowSource, rows: Range<usize>) -> Result<Vec<f32>> {
        let mut values = vec![0.0; rows.len() * source.cols()];
        let mut bytes = Vec::new();
        source.read_rows(rows, &mut bytes)?;
        codec::decode(source.dtype(), &bytes, &mut values)
            .map_err(|e| Error::Rewrite { tensor: self.name.clone(), detail: e.to_string() })?;
        Ok(values)
    }
}

impl RowSource for Merged {
    fn dtype(&self) -> DType {
        DType::F32
    }

    fn rows(&self) -> usize {
        self.base.rows()
    }

    fn cols(&self) -> usize {
        self.base.cols()
    }

    fn read_rows(&self, rows: Range<usize>, out: &mut Vec<u8>) -> Result<()> {
        let LowRank { left, right, factor } = &self.product;
        let mut sums = self.values(&*self.base, rows.clone())?;
        // The adapter's matrices are small beside the rows that are asked for at a time, so they are read again.
        let left = self.values(&**left, rows)?;
        let right = self.values(&**right, 0..right.rows())?;
        let cols = self.cols();
        Level::detect().run(AddProduct {
            sums: &mut sums,
            left: &left,
            right: &right,
            cols,
            factor: *factor as f32,
        });
        out.clear();
        out.extend(sums.iter().flat_map(|value| value.to_le_bytes()));
        Ok(())
    }
}

/// `sums[rows, cols] += factor · left[rows, rank] · right[rank, cols]`. Each element's sum goes over the rank in order.
struct AddProduct<'a> {
    sums: &'a mut [f32],
    left: &'a [f32],
    right: &'a [f32],
    cols: usize,
    factor: f32,
}

impl Loop for AddProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let AddProduct { sums, left, right, cols, factor } = self;
        let rank = right.len() / cols;
        let mut delta = vec![0.0f32; cols];
        for (sums, left) in sums.chunks_exact_mut(cols).zip(left.chunks_exact(rank)) {
            delta.fill(0.0);
            for (&l, right) in left.iter().zip(right.chunks_exact(cols)) {
                delta.iter_mut().zip(right).for_each(|(d, &r)| *d += l * r);
            }
            sums.iter_mut().zip(&delta).for_each(|(s, &d)| *s += factor * d);
        }
    }
}
