//! Model → Model: rewrites that keep the function. A pass replaces the sources of some tensors by computed ones;
//! nothing is read before it is asked for, except what a pass needs to decide.

pub mod adapter;
pub mod balance;
mod from_latent;
pub mod gate;
pub mod mla;
pub mod neurons;
pub mod rotate;
pub mod values;

#[cfg(test)]
mod tests;

pub use from_latent::from_latent;
use plmconv_formats::model::{Model, Tensor};
use plmconv_formats::{Error, Layout, Result, Role, TensorKey};

/// A rewrite that keeps the function and the layout, in the order in which they are applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pass {
    /// [`mla::fold_latent_norm`]
    FoldLatentNorm,
    /// [`rotate::latent`]; includes the folding it needs.
    TurnLatent,
    /// [`rotate::values`]
    TurnValues,
    /// [`rotate::keys`]
    TurnKeys,
    /// [`neurons::rescale`]
    RescaleNeurons,
    /// [`neurons::sort`]
    SortNeurons,
}

/// The only table of names. Files' recipes contain them, so they never change.
const NAMES: [(Pass, &str); 6] = [
    (Pass::FoldLatentNorm, "fold-latent-norm"),
    (Pass::TurnLatent, "turn-latent"),
    (Pass::TurnValues, "turn-values"),
    (Pass::TurnKeys, "turn-keys"),
    (Pass::RescaleNeurons, "rescale-neurons"),
    (Pass::SortNeurons, "sort-neurons"),
];

impl Pass {
    /// All passes.
    pub fn all() -> impl Iterator<Item = Pass> {
        NAMES.iter().map(|&(pass, _)| pass)
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(pass, _)| *pass == self).expect("every pass has a row in NAMES").1
    }

    /// The pass of this name.
    pub fn from_name(name: &str) -> Option<Pass> {
        NAMES.iter().find(|(_, n)| *n == name).map(|&(pass, _)| pass)
    }

    fn run(self, model: Model) -> Result<Model> {
        match self {
            Pass::FoldLatentNorm => mla::fold_latent_norm(model),
            Pass::TurnLatent => rotate::latent(model),
            Pass::TurnValues => rotate::values(model),
            Pass::TurnKeys => rotate::keys(model),
            Pass::RescaleNeurons => neurons::rescale(model),
            Pass::SortNeurons => neurons::sort(model),
        }
    }
}

/// Applies passes in their own order, each once, to a model in the `plm` layout.
///
/// # Errors
/// A model in the latent layout, or weights that cannot be read.
pub fn apply(mut model: Model, passes: &[Pass]) -> Result<Model> {
    let mut order = passes.to_vec();
    if order.contains(&Pass::TurnLatent) {
        order.push(Pass::FoldLatentNorm);
    }
    order.sort_unstable();
    order.dedup();
    for pass in order {
        model = pass.run(model)?;
    }
    Ok(model)
}

/// Rewrites a model of the `plm` layout into the latent layout; also says each layer's factors of the FFN pair.
///
/// # Errors
/// What llama.cpp's `deepseek2` would read as another model, or weights that cannot be read.
pub fn to_latent(model: Model) -> Result<(Model, Vec<gate::Factors>)> {
    model.config.check_layout(model.path(), Layout::Latent)?;
    let factors = gate::choose_factors(&model)?;
    let mut parts: Vec<Tensor> = Vec::with_capacity(model.tensors.len());
    for (layer, &factors) in factors.iter().enumerate() {
        let kv_b = tensor(&model, layer, Role::KvB)?;
        parts.extend(mla::split_kv_b(&model.config, kv_b));
        let mut norm = tensor(&model, layer, Role::FfnNorm)?.clone();
        let mut up = tensor(&model, layer, Role::FfnUp)?.clone();
        let gate = gate::add(&mut norm, &mut up, factors);
        parts.extend([norm, up, gate]);
    }
    Ok((in_layout(model, Layout::Latent, parts)?, factors))
}

/// The model in another layout: its tensors are those in `parts`, and its own where there is none.
fn in_layout(mut model: Model, layout: Layout, mut parts: Vec<Tensor>) -> Result<Model> {
    model.config.layout = layout;
    let mut tensors = Vec::new();
    for (key, _) in model.config.expected_tensors() {
        let rewritten = parts.iter().position(|t| t.key == key).map(|at| parts.swap_remove(at));
        let tensor = rewritten.or_else(|| model.tensor(key).cloned());
        tensors.push(tensor.ok_or_else(|| missing(&model, key))?);
    }
    model.tensors = tensors;
    Ok(model)
}

fn missing(model: &Model, key: TensorKey) -> Error {
    Error::MissingTensor { path: model.path().to_path_buf(), tensor: key.gguf_name() }
}

fn tensor(model: &Model, layer: usize, role: Role) -> Result<&Tensor> {
    let key = TensorKey::in_layer(layer, role);
    model.tensor(key).ok_or_else(|| missing(model, key))
}

fn tensor_mut(model: &mut Model, layer: usize, role: Role) -> Result<&mut Tensor> {
    let key = TensorKey::in_layer(layer, role);
    match model.tensors.iter().position(|t| t.key == key) {
        Some(at) => Ok(&mut model.tensors[at]),
        None => Err(missing(model, key)),
    }
}
