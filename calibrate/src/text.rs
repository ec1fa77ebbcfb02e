//! The text that runs through a model: texts of the user, and what the model writes itself.

use std::ops::ControlFlow;

use plmconv_formats::{Model, TextTokenizer, hex};
use plmconv_validate::sample::{SampleOptions, sample_text};
use plmconv_validate::{Attention, Evaluator, Options};
use sha2::{Digest, Sha256};

use crate::curvature::Position;
use crate::digest::model_digest;
use crate::error::{Error, Result};
use crate::monitor::{Monitor, Task};

/// Which part of the text is used, and how it is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Tokens of a window.
    pub window: usize,
    /// Windows of the user's texts, at most; they are spread evenly.
    pub windows: usize,
    /// Chooses what the model writes, and the tokens drawn from its prediction.
    pub seed: u64,
}

/// What runs through the model.
#[derive(Debug)]
pub struct CalibrationText {
    texts: Vec<Text>,
    /// Tokens that the model writes itself.
    written: Option<usize>,
    sample: Sample,
}

#[derive(Debug)]
struct Text {
    content: String,
    sha256: String,
}

impl CalibrationText {
    /// Windows of `texts`; `written` more tokens are written by the model itself.
    pub fn new(
        texts: impl IntoIterator<Item = String>,
        written: Option<usize>,
        sample: Sample,
    ) -> CalibrationText {
        let text = |content: String| Text { sha256: hex(Sha256::digest(&content)), content };
        CalibrationText { texts: texts.into_iter().map(text).collect(), written, sample }
    }

    /// How it is cut.
    pub fn sample(&self) -> Sample {
        self.sample
    }

    /// A digest of all that decides the statistics of `model` on it.
    ///
    /// # Errors
    /// Unreadable rows of the model.
    pub fn request(&self, model: &Model) -> Result<String> {
        let Sample { window, windows, seed } = self.sample;
        let mut hash = Sha256::new();
        hash.update(env!("CARGO_PKG_VERSION"));
        hash.update(model_digest(model)?);
        hash.update(format!("{window} {windows} {seed} {:?}", self.written));
        self.texts.iter().for_each(|text| hash.update(&text.sha256));
        Ok(hex(hash.finalize()))
    }

    /// As the statistics name it: by what it is, not by where it lay.
    pub(crate) fn names(&self) -> Vec<String> {
        let texts = self.texts.iter().map(|text| format!("sha256:{}", text.sha256));
        let written =
            self.written.map(|count| format!("{count} tokens of the model, seed {}", self.sample.seed));
        texts.chain(written).collect()
    }

    /// Windows of the user's texts, spread evenly over them.
    ///
    /// # Errors
    /// Texts of less than one window.
    pub(crate) fn windows_of_texts(&self, tokenizer: &TextTokenizer) -> Result<Vec<Vec<u32>>> {
        let mut all = Vec::new();
        for text in &self.texts {
            all.extend(self.cut(&tokenizer.encode(&text.content)?, tokenizer));
        }
        if all.is_empty() && !self.texts.is_empty() {
            return Err(Error::TextTooShort { window: self.sample.window });
        }
        let count = all.len();
        let wanted = self.sample.windows.min(count);
        Ok((0..wanted).map(|i| std::mem::take(&mut all[i * count / wanted])).collect())
    }

    /// How many windows the model writes itself.
    ///
    /// # Errors
    /// Less than one.
    pub(crate) fn written_windows(&self) -> Result<usize> {
        let Some(tokens) = self.written else { return Ok(0) };
        let window = self.sample.window;
        if tokens < window {
            return Err(Error::OwnTextTooShort { tokens, window });
        }
        Ok(tokens / window)
    }

    /// Windows that the model at the same path as `model` writes: before any pass, so that these change no word.
    ///
    /// # Errors
    /// What loading and running a model may end with, and a monitor that says stop.
    pub(crate) fn write_windows(&self, model: &Model, monitor: &dyn Monitor) -> Result<Vec<Vec<u32>>> {
        let Some(count) = self.written else { return Ok(Vec::new()) };
        let model = Model::open(model.path())?;
        let tokenizer = TextTokenizer::from_model(&model)?;
        // The latent cache is small, so more texts can be written at once.
        let threads = rayon::current_num_threads();
        let options = Options { threads, attention: Attention::Absorbed, ..Options::default() };
        let evaluator = Evaluator::load(&model, options)?;
        let Sample { window, seed, .. } = self.sample;
        let options = SampleOptions { tokens: count, length: window, seed };
        let tokens = sample_text(&evaluator, &tokenizer, options, |done| {
            monitor.progress(Task::Writing, done, count);
            if monitor.should_stop() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        monitor.check()?;
        Ok(self.cut(&tokens, &tokenizer))
    }

    /// Whole windows, with the token before every text where the model wants it.
    fn cut(&self, tokens: &[u32], tokenizer: &TextTokenizer) -> Vec<Vec<u32>> {
        let mut windows: Vec<Vec<u32>> =
            tokens.chunks_exact(self.sample.window).map(<[u32]>::to_vec).collect();
        if let Some(bos) = tokenizer.bos().filter(|_| tokenizer.add_bos()) {
            windows.iter_mut().for_each(|window| window[0] = bos);
        }
        windows
    }

    /// What a run needs to go on: where it was, what the model wrote (the last of `windows`), and the gradient. Words of
    /// 32 bits, little endian.
    pub(crate) fn pack(&self, windows: &[Vec<u32>], position: &Position) -> Vec<u8> {
        let written = &windows[windows.len() - self.written_windows().unwrap_or(0)..];
        let layers_left = (position.layers_left as u32).to_le_bytes();
        let tokens = written.iter().flatten().map(|token| token.to_le_bytes());
        let gradient = position.gradient.iter().map(|x| x.to_le_bytes());
        std::iter::once(layers_left).chain(tokens).chain(gradient).flatten().collect()
    }

    /// The reverse of [`pack`](Self::pack).
    ///
    /// # Errors
    /// Fewer words than the written windows have.
    pub(crate) fn unpack(&self, packed: &[u8]) -> Result<(Vec<Vec<u32>>, Position)> {
        let window = self.sample.window;
        let (layers_left, words) = packed.as_chunks::<4>().0.split_first().ok_or(Error::ForeignPosition)?;
        let written = self.written_windows()? * window;
        let (tokens, gradient) = words.split_at_checked(written).ok_or(Error::ForeignPosition)?;
        let tokens: Vec<u32> = tokens.iter().map(|&b| u32::from_le_bytes(b)).collect();
        let position = Position {
            layers_left: u32::from_le_bytes(*layers_left) as usize,
            gradient: gradient.iter().map(|&b| f32::from_le_bytes(b)).collect(),
        };
        Ok((tokens.chunks_exact(window).map(<[u32]>::to_vec).collect(), position))
    }
}
