//! What attention keeps of past tokens.

use plmconv_formats::Config;

/// Which form of multi-head latent attention is computed. Both are the same function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Attention {
    /// Keys and values of every head are made from the latent, as the published code does.
    #[default]
    Expanded,
    /// Queries are taken into the latent space and attend to the latent itself; the cache holds
    /// `kv_lora_rank + qk_rope_head_dim` values a token and layer.
    Absorbed,
}

/// One layer's past: either expanded keys and values of every head, or the latent they are made from.
#[derive(Clone, Debug, Default)]
pub(crate) struct LayerCache {
    /// Expanded: `[tokens, heads * (nope + rope)]`. Absorbed: `[tokens, kv_lora_rank + rope]`.
    pub keys: Vec<f32>,
    /// Expanded: `[tokens, heads * v]`. Absorbed: empty, values are the keys' first `kv_lora_rank` columns.
    pub values: Vec<f32>,
}

/// A sequence's past, for decoding token by token.
#[derive(Clone, Debug)]
pub struct KvCache {
    form: Attention,
    values_per_token: usize,
    pub(crate) layers: Vec<LayerCache>,
    len: usize,
}

impl KvCache {
    pub(crate) fn new(config: &Config, form: Attention) -> KvCache {
        KvCache {
            form,
            values_per_token: values_per_token(config, form),
            layers: vec![LayerCache::default(); config.num_hidden_layers],
            len: 0,
        }
    }

    /// Tokens it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True before the first token.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Values kept per token and layer: `heads * (qk + v)` expanded, `kv_lora_rank + rope` as latent.
    pub fn values_per_token(&self) -> usize {
        self.values_per_token
    }

    /// Bytes that so many tokens take.
    pub(crate) fn bytes_of(&self, tokens: usize) -> usize {
        tokens * self.layers.len() * self.values_per_token * size_of::<f32>()
    }

    /// Bytes held by its values.
    pub fn byte_len(&self) -> usize {
        self.layers.iter().map(|l| (l.keys.len() + l.values.len()) * size_of::<f32>()).sum()
    }

    /// Forgets all but the first `len` tokens.
    pub fn truncate(&mut self, len: usize) {
        if len >= self.len {
            return;
        }
        for layer in &mut self.layers {
            layer.keys.truncate(layer.keys.len() / self.len * len);
            layer.values.truncate(layer.values.len() / self.len * len);
        }
        self.len = len;
    }

    pub(crate) fn matches(&self, config: &Config, form: Attention) -> bool {
        self.form == form
            && self.layers.len() == config.num_hidden_layers
            && self.values_per_token == values_per_token(config, form)
    }

    pub(crate) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }
}

fn values_per_token(config: &Config, form: Attention) -> usize {
    match form {
        Attention::Expanded => config.expanded_dim(),
        Attention::Absorbed => config.latent_dim(),
    }
}
