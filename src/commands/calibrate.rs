//! `plmconv calibrate MODEL --text FILE -o STATS.gguf`

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use plmconv_formats::{Config, Model, Role, TextTokenizer};
use plmconv_validate::curvature::{Event, SiteMoments, measure};

use super::write::thread_pool;
use crate::args::{CalibrateArgs, SampleArgs};
use crate::error::{Interrupted, UsageError};
use crate::pipeline;
use crate::progress::Console;
use crate::statistics::{Provenance, StatisticsWriter, merge, model_digest};

pub fn run(args: &CalibrateArgs) -> Result<()> {
    if !args.merge.is_empty() {
        return merge(&args.merge, &args.output, args.force);
    }
    let console = Console { quiet: args.quiet, verbose: false };
    let path = args.model.as_ref().context("MODEL is missing")?;
    let model = Model::open(path)?;
    pipeline::on_interrupt()?;
    thread_pool(args.threads)?
        .install(|| collect(&model, &args.text, &args.sample, &args.output, args.force, console))
}

/// Runs the texts through `model` and writes the statistics to `output`.
pub fn collect(
    model: &Model,
    texts: &[PathBuf],
    sample: &SampleArgs,
    output: &Path,
    overwrite: bool,
    console: Console,
) -> Result<()> {
    let windows = windows(model, texts, sample)?;
    let tokens = windows.len() * sample.calibration_ctx;
    let Config { intermediate_size, hidden_size, .. } = model.config;
    let widest = intermediate_size.max(hidden_size);
    let role = if intermediate_size >= hidden_size { "ffn_down" } else { "ffn_up" };
    if tokens < widest {
        console.warn(&format!(
            "{tokens} tokens of text are fewer than the {widest} inputs of the widest matrices ({role}): \
             the directions they leave open are damped, and more text gives better results"
        ));
    }
    let from = Provenance {
        model_digest: model_digest(model)?,
        datasets: texts.iter().map(|t| t.display().to_string()).collect(),
        chunks: windows.len(),
        chunk_size: sample.calibration_ctx,
    };
    let started = Instant::now();
    let writer = StatisticsWriter::create(output, overwrite, &model.config, from)?;
    let bar = console.steps("calibrating");
    let mut unused = Unused::default();
    measure(model, &windows, sample.seed, |event| {
        if pipeline::interrupted() {
            return Err(Interrupted.into());
        }
        match event {
            Event::Site(site) => {
                unused.add(&site);
                writer.write(&site)?;
            }
            Event::Progress { done, total } => {
                bar.set_length(total as u64);
                bar.set_position(done as u64);
            }
        }
        anyhow::Ok(())
    })?;
    bar.finish_and_clear();
    writer.finish()?;
    unused.report(console);
    console.note(&format!("calibrated on {tokens} tokens in {:.1} s", started.elapsed().as_secs_f64()));
    Ok(())
}

/// What the text never used.
#[derive(Default)]
struct Unused {
    /// Matrices whose inputs were all zero.
    matrices: Vec<String>,
    /// Layers, from last to first, and how many of their neurons never fired.
    neurons: Vec<(usize, usize)>,
}

impl Unused {
    fn add(&mut self, site: &SiteMoments) {
        let silent = site.active.iter().filter(|&&tokens| tokens == 0.0).count();
        if silent == site.active.len() {
            self.matrices.push(site.key.gguf_name());
        } else if site.key.role == Role::FfnDown && silent > 0 {
            self.neurons.extend(site.key.layer.map(|layer| (layer, silent)));
        }
    }

    fn report(&self, console: Console) {
        for name in &self.matrices {
            console.warn(&format!(
                "every input of `{name}` is zero on this text: it is rounded without regard to it"
            ));
        }
        let layers: Vec<String> =
            self.neurons.iter().rev().map(|(layer, count)| format!("{count} in layer {layer}")).collect();
        if !layers.is_empty() {
            console.warn(&format!(
                "neurons that never fire on this text, so count little: {}",
                layers.join(", ")
            ));
        }
    }
}

/// Windows spread evenly over the texts.
fn windows(model: &Model, texts: &[PathBuf], sample: &SampleArgs) -> Result<Vec<Vec<u32>>> {
    let tokenizer = TextTokenizer::from_model(model)?;
    let ctx = sample.calibration_ctx;
    let mut all = Vec::new();
    for path in texts {
        let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
        let text = String::from_utf8(bytes)
            .map_err(|e| UsageError::new(format!("{}: not UTF-8: {e}", path.display())))?;
        let tokens = tokenizer.encode(&text)?;
        all.extend(tokens.chunks_exact(ctx.max(1)).map(<[u32]>::to_vec));
    }
    if all.is_empty() {
        let message = format!("the calibration text has less than one window of {ctx} tokens");
        return Err(UsageError::with_hint(message, "give more text, or --calibration-ctx").into());
    }
    let count = all.len();
    let wanted = sample.calibration_chunks.clamp(1, count);
    if tokenizer.add_bos()
        && let Some(bos) = tokenizer.bos()
    {
        all.iter_mut().for_each(|window| window[0] = bos);
    }
    Ok((0..wanted).map(|i| std::mem::take(&mut all[i * count / wanted])).collect())
}
