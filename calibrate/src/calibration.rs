//! Calibration: a text's way through a model, from windows to a statistics file.

use std::path::Path;

use plmconv_formats::atomic::parent;
use plmconv_formats::{Model, Role, TextTokenizer, hex};
use sha2::{Digest, Sha256};

use crate::curvature::{Event, Position, SiteMoments, Source, measure};
use crate::digest::model_digest;
use crate::error::{Error, Leftover, Result};
use crate::monitor::{Monitor, Notice, Task};
use crate::resume::{Finished, partial_path};
use crate::statistics::{Provenance, StatisticsWriter};
use crate::text::CalibrationText;

/// Where statistics go.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'a> {
    /// The file.
    pub path: &'a Path,
    /// It may replace what is there.
    pub overwrite: bool,
    /// Go on with what an interrupted run of the same request had finished.
    pub resume: bool,
}

/// A model and the windows of a text, ready to run.
#[derive(Debug)]
pub struct Calibration<'a> {
    model: &'a Model,
    text: &'a CalibrationText,
    /// Of the user's texts; the model's own follow when they are written.
    windows: Vec<Vec<u32>>,
    from: Provenance,
}

impl<'a> Calibration<'a> {
    /// Cuts the text and identifies the model.
    ///
    /// # Errors
    /// A model without a usable tokenizer, a text of less than one window, unreadable rows.
    pub fn new(model: &'a Model, text: &'a CalibrationText) -> Result<Calibration<'a>> {
        let windows = text.windows_of_texts(&TextTokenizer::from_model(model)?)?;
        let request = text.request(model)?;
        let from = Provenance {
            model_digest: model_digest(model)?,
            resume_key: resume_key(&request, model),
            request,
            datasets: text.names(),
            chunks: windows.len() + text.written_windows()?,
            chunk_size: text.sample().window,
        };
        Ok(Calibration { model, text, windows, from })
    }

    /// Tokens that run through the model.
    fn tokens(&self) -> usize {
        self.from.chunks * self.from.chunk_size
    }

    /// Runs the text through the model and writes the statistics.
    ///
    /// # Errors
    /// Whatever running the model and writing the file may end with. A monitor that says stop: finished layers are then
    /// kept beside the output.
    pub fn run(mut self, to: Destination<'_>, monitor: &dyn Monitor) -> Result<()> {
        self.notice_few_tokens(monitor);
        let from = std::mem::take(&mut self.from);
        let (mut writer, finished) = StatisticsWriter::create(to, &self.model.config, from, monitor)?;
        let start = self.complete_windows(&finished, monitor)?;
        let mut run = Run { writer: &mut writer, monitor, unused: Unused::default(), reached: None };
        // Beside the output, where room is expected to be; the system's temporary folder may be memory.
        let source = Source {
            model: self.model,
            windows: &self.windows,
            seed: self.text.sample().seed,
            scratch: parent(to.path),
        };
        let measured = measure(source, start.as_ref(), |event| run.take(event));
        let Run { unused, reached, .. } = run;
        match (measured, reached) {
            (Ok(()), _) => {}
            (Err(_), Some(position)) => {
                let leftover = writer.keep(self.text.pack(&self.windows, &position))?;
                return Err(Error::Interrupted(leftover));
            }
            // What an earlier run kept is still there.
            (Err(Error::Interrupted(_)), None) if start.is_some() => {
                return Err(Error::Interrupted(Leftover::Kept(partial_path(to.path))));
            }
            (Err(error), None) => return Err(error),
        }
        self.model.check_unchanged()?;
        writer.finish()?;
        unused.report(monitor);
        Ok(())
    }

    fn notice_few_tokens(&self, monitor: &dyn Monitor) {
        let (ffn, hidden) = (self.model.config.intermediate_size, self.model.config.hidden_size);
        let (inputs, role) = if ffn >= hidden { (ffn, "ffn_down") } else { (hidden, "ffn_up") };
        let tokens = self.tokens();
        if tokens < inputs {
            monitor.notice(&Notice::FewTokens { tokens, inputs, role });
        }
    }

    /// Adds the windows that the model writes, or wrote for the interrupted run; returns where that one stopped.
    fn complete_windows(&mut self, finished: &Finished, monitor: &dyn Monitor) -> Result<Option<Position>> {
        if finished.extra.is_empty() {
            self.windows.extend(self.text.write_windows(self.model, monitor)?);
            return Ok(None);
        }
        let (written, position) = self.text.unpack(&finished.extra)?;
        monitor.notice(&Notice::GoingOn { layers_left: position.layers_left });
        self.windows.extend(written);
        Ok(Some(position))
    }
}

/// What an interrupted run's work has to have in common with this run's: the request, and the model's files.
fn resume_key(request: &str, model: &Model) -> String {
    let mut hash = Sha256::new_with_prefix(request);
    model.inputs.iter().for_each(|input| hash.update(input.stable()));
    hex(hash.finalize())
}

/// What becomes of the events of a measurement.
struct Run<'a> {
    writer: &'a mut StatisticsWriter,
    monitor: &'a dyn Monitor,
    unused: Unused,
    /// Where the run was when it was told to stop.
    reached: Option<Position>,
}

impl Run<'_> {
    fn take(&mut self, event: Event<'_>) -> Result<()> {
        match event {
            Event::Site(site) => {
                self.unused.add(&site);
                self.writer.write(&site)
            }
            Event::Boundary { layers_left, gradient } => {
                if layers_left == 0 {
                    self.writer.write_lookups(gradient)?;
                }
                self.monitor.check().inspect_err(|_| {
                    self.reached = Some(Position { layers_left, gradient: gradient.to_vec() });
                })
            }
            Event::Progress { done, total } => {
                self.monitor.progress(Task::Calibrating, done, total);
                self.monitor.check()
            }
        }
    }
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

    fn report(self, monitor: &dyn Monitor) {
        for matrix in self.matrices {
            monitor.notice(&Notice::UnusedMatrix { matrix });
        }
        if !self.neurons.is_empty() {
            let layers = self.neurons.into_iter().rev().collect();
            monitor.notice(&Notice::SilentNeurons { layers });
        }
    }
}
