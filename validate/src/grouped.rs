//! Grouped-query attention (arXiv 2305.13245): several query heads share a head of keys and values.

use crate::attention::{KeyValues, Widths};
use crate::buffers::Buffer;
use crate::forward::Forward;
use crate::linear::Rows;
use crate::weights::GroupedWeights;

impl Forward<'_, '_, '_, '_> {
    /// The heads' outputs, `[tokens, heads * v]`, for the block's normalized input.
    pub(crate) fn grouped_heads(
        &mut self,
        index: usize,
        weights: &GroupedWeights,
        normalized: &[f32],
    ) -> Buffer<f32> {
        let config = &self.model.config;
        let GroupedWeights { query, key, value } = weights;
        let rows = Rows::all(normalized, config.hidden_size);
        let input = self.model.linear.prepare(rows, &[query, key, value]);
        let mut queries = self.product(query, &input);
        let mut new = KeyValues { keys: self.product(key, &input), values: self.product(value, &input) };
        drop(input);
        self.rotate_heads(&mut queries, query.rows);
        self.rotate_heads(&mut new.keys, key.rows);
        self.round_to_cache(&mut queries);
        self.round_to_cache(&mut new.keys);
        self.round_to_cache(&mut new.values);
        let sharing = config.query_heads_per_kv_head();
        let widths = Widths { key: config.qk_head_dim(), value: config.v_head_dim, sharing };
        self.attend(index, &queries, new, widths)
    }
}
