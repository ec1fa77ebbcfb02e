//! `plmconv calibrate MODEL --text FILE -o STATS.gguf`, or with `--self N`

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use plmconv_formats::atomic::{follow_links, parent};
use plmconv_formats::{Config, Model, Role, TextTokenizer};
use plmconv_validate::Options;
use plmconv_validate::curvature::{Calibration, Event, Position, SiteMoments, measure};
use sha2::{Digest, Sha256};

use super::write::thread_pool;
use crate::args::{CalibrateArgs, SampleArgs};
use crate::error::{At, Interrupted, Place, UsageError};
use crate::evaluation::{load_model, read_text, text_digest, write_text};
use crate::input::open_model;
use crate::interrupt;
use crate::outputs::Inputs;
use crate::progress::Console;
use crate::resume::partial_path;
use crate::statistics::{Destination, Provenance, StatisticsWriter, hex, merge, model_digest};

pub fn run(args: &CalibrateArgs) -> Result<()> {
    let inputs: Inputs = args.model.iter().chain(&args.text).chain(&args.merge).collect();
    let output = follow_links(&args.output)?;
    inputs.check_file(&output, args.force)?;
    if !args.merge.is_empty() {
        return merge(&args.merge, &output, args.force).at(Place::StatisticsOutput);
    }
    let console = Console { quiet: args.quiet, verbose: false };
    let path = args.model.as_ref().context("MODEL is missing")?;
    let model = open_model(path, console)?;
    let text = CalibrationText::read(&args.text, args.self_tokens, &args.sample)?;
    let destination = Destination { path: &output, overwrite: args.force, resume: args.resume };
    thread_pool(args.threads)?
        .install(|| collect(&model, &text, destination, console).at(Place::StatisticsOutput))
}

/// What runs through the model.
pub struct CalibrationText<'a> {
    texts: Vec<Text>,
    /// Tokens that the model writes itself.
    written: Option<usize>,
    sample: &'a SampleArgs,
}

/// A text, read once: a pipe has nothing more to give, and what is read again may be another text.
struct Text {
    content: String,
    sha256: String,
}

/// Runs the text through `model` and writes the statistics.
///
/// # Errors
/// A text that cannot be used, whatever running the model may end with, and Ctrl-C: finished layers are then kept
/// beside the output.
pub fn collect(
    model: &Model,
    text: &CalibrationText<'_>,
    to: Destination<'_>,
    console: Console,
) -> Result<()> {
    let sample = text.sample;
    let mut windows = text.windows_of_texts(&TextTokenizer::from_model(model)?)?;
    let chunks = windows.len() + text.written_windows()?;
    let tokens = chunks * sample.calibration_ctx;
    let Config { intermediate_size, hidden_size, .. } = model.config;
    let widest = intermediate_size.max(hidden_size);
    let role = if intermediate_size >= hidden_size { "ffn_down" } else { "ffn_up" };
    if tokens < widest {
        console.warn(&format!(
            "{tokens} tokens of text are fewer than the {widest} inputs of the widest matrices ({role}): \
             the directions they leave open are damped, and more text gives better results"
        ));
    }
    let request = text.request(model)?;
    let from = Provenance {
        model_digest: model_digest(model)?,
        resume_key: resume_key(&request, model),
        request,
        datasets: text.names(),
        chunks,
        chunk_size: sample.calibration_ctx,
    };
    let started = Instant::now();
    // From here on there may be finished layers to keep.
    let _stoppable = interrupt::stoppable();
    let (mut writer, finished) = StatisticsWriter::create(to, &model.config, from, console)?;
    let start = if finished.extra.is_empty() {
        windows.extend(text.write_windows(model, console)?);
        None
    } else {
        let (written, position) = text.unpack(&finished.extra)?;
        console.note(&format!("going on with {} layers left", position.layers_left));
        windows.extend(written);
        Some(position)
    };
    let bar = console.steps("calibrating");
    let mut reached = None;
    let mut unused = Unused::default();
    // Beside the output, where room is expected to be; the system's temporary folder may be memory.
    let scratch = parent(to.path);
    let calibration = Calibration { model, windows: &windows, seed: sample.seed, scratch };
    let measured = measure(calibration, start.as_ref(), |event| {
        match event {
            Event::Site(site) => {
                unused.add(&site);
                writer.write(&site)?;
            }
            Event::Boundary { layers_left, gradient } => {
                if layers_left == 0 {
                    writer.write_lookups(gradient, model.config.hidden_size)?;
                }
                if interrupt::is_pending() {
                    reached = Some(Position { layers_left, gradient: gradient.to_vec() });
                    return Err(Interrupted::default().into());
                }
            }
            Event::Progress { .. } if interrupt::is_pending() => return Err(Interrupted::default().into()),
            Event::Progress { done, total } => {
                bar.set_length(total as u64);
                bar.set_position(done as u64);
            }
        }
        anyhow::Ok(())
    });
    bar.finish_and_clear();
    if let Err(error) = measured {
        return Err(match reached {
            Some(position) => writer.keep(text.pack(&windows, &position))?.into(),
            // What an earlier run kept is still there.
            None if start.is_some() && error.is::<Interrupted>() => {
                Interrupted::Kept(partial_path(to.path)).into()
            }
            None => error,
        });
    }
    model.check_unchanged()?;
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

/// What an interrupted run's work has to have in common with this run's: the request, and the model's files.
fn resume_key(request: &str, model: &Model) -> String {
    let mut hash = Sha256::new_with_prefix(request);
    model.inputs.iter().for_each(|input| hash.update(input.stable()));
    hex(hash)
}

impl CalibrationText<'_> {
    /// Reads `files`; `written` more tokens are written by the model itself.
    ///
    /// # Errors
    /// Files that cannot be read, or are not UTF-8.
    pub fn read<'a>(
        files: &[PathBuf],
        written: Option<NonZeroUsize>,
        sample: &'a SampleArgs,
    ) -> Result<CalibrationText<'a>> {
        let read = |path: &PathBuf| -> Result<Text> {
            let content = read_text(path)?;
            Ok(Text { sha256: text_digest(&content), content })
        };
        let texts = files.iter().map(read).collect::<Result<_>>()?;
        Ok(CalibrationText { texts, written: written.map(NonZeroUsize::get), sample })
    }

    /// As the statistics name it: by what it is, not by where it lay.
    fn names(&self) -> Vec<String> {
        let texts = self.texts.iter().map(|text| format!("sha256:{}", text.sha256));
        let written =
            self.written.map(|count| format!("{count} tokens of the model, seed {}", self.sample.seed));
        texts.chain(written).collect()
    }

    /// A digest of all that decides the statistics.
    pub fn request(&self, model: &Model) -> Result<String> {
        let SampleArgs { calibration_ctx, calibration_chunks, seed } = self.sample;
        let mut hash = Sha256::new();
        hash.update(env!("CARGO_PKG_VERSION"));
        hash.update(model_digest(model)?);
        hash.update(format!("{calibration_ctx} {calibration_chunks} {seed} {:?}", self.written));
        self.texts.iter().for_each(|text| hash.update(&text.sha256));
        Ok(hex(hash))
    }

    fn written_windows(&self) -> Result<usize> {
        let (ctx, Some(count)) = (self.sample.calibration_ctx, self.written) else { return Ok(0) };
        if count < ctx {
            let message = format!("--self {count}: less than one window of {ctx} tokens");
            return Err(UsageError::with_hint(message, "ask for more, or shorter windows").into());
        }
        Ok(count / ctx)
    }

    /// What the model writes itself.
    fn write_windows(&self, model: &Model, console: Console) -> Result<Vec<Vec<u32>>> {
        let Some(count) = self.written else { return Ok(Vec::new()) };
        let options = Options { threads: rayon::current_num_threads(), ..Options::default() };
        let tokens =
            write_text(&load_model(model.path(), options, console)?, count, self.sample.seed, console)?;
        Ok(self.cut(&tokens, &TextTokenizer::from_model(model)?))
    }

    /// Whole windows, with the token before every text where the model wants it.
    fn cut(&self, tokens: &[u32], tokenizer: &TextTokenizer) -> Vec<Vec<u32>> {
        let mut windows: Vec<Vec<u32>> =
            tokens.chunks_exact(self.sample.calibration_ctx).map(<[u32]>::to_vec).collect();
        if let Some(bos) = tokenizer.bos().filter(|_| tokenizer.add_bos()) {
            windows.iter_mut().for_each(|window| window[0] = bos);
        }
        windows
    }

    /// What a run needs to go on: where it was, what the model wrote (the last of `windows`), and the gradient.
    fn pack(&self, windows: &[Vec<u32>], position: &Position) -> Vec<u8> {
        let written = &windows[windows.len() - self.written_windows().unwrap_or(0)..];
        let layers_left = (position.layers_left as u32).to_le_bytes();
        let tokens = written.iter().flatten().map(|token| token.to_le_bytes());
        let gradient = position.gradient.iter().map(|x| x.to_le_bytes());
        std::iter::once(layers_left).chain(tokens).chain(gradient).flatten().collect()
    }

    /// The reverse of [`pack`](Self::pack).
    fn unpack(&self, packed: &[u8]) -> Result<(Vec<Vec<u32>>, Position)> {
        let ctx = self.sample.calibration_ctx;
        let too_short = "kept work is too short";
        let (layers_left, words) = packed.as_chunks::<4>().0.split_first().context(too_short)?;
        let (tokens, gradient) = words.split_at_checked(self.written_windows()? * ctx).context(too_short)?;
        let tokens: Vec<u32> = tokens.iter().map(|&b| u32::from_le_bytes(b)).collect();
        let position = Position {
            layers_left: u32::from_le_bytes(*layers_left) as usize,
            gradient: gradient.iter().map(|&b| f32::from_le_bytes(b)).collect(),
        };
        Ok((tokens.chunks_exact(ctx).map(<[u32]>::to_vec).collect(), position))
    }

    /// Windows spread evenly over the texts.
    fn windows_of_texts(&self, tokenizer: &TextTokenizer) -> Result<Vec<Vec<u32>>> {
        let ctx = self.sample.calibration_ctx;
        let mut all = Vec::new();
        for text in &self.texts {
            let tokens = tokenizer.encode(&text.content)?;
            all.extend(self.cut(&tokens, tokenizer));
        }
        if all.is_empty() && !self.texts.is_empty() {
            let message = format!("the calibration text has less than one window of {ctx} tokens");
            return Err(UsageError::with_hint(message, "give more text, or --calibration-ctx").into());
        }
        let count = all.len();
        let wanted = self.sample.calibration_chunks.min(count);
        Ok((0..wanted).map(|i| std::mem::take(&mut all[i * count / wanted])).collect())
    }
}
