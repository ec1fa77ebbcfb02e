//! A comparison from its arguments to its numbers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use plmconv_validate::divergence::{Detail, Divergence, Side, compare_all};
use plmconv_validate::reference::{Reference, TEXT_DIGEST};
use plmconv_validate::sample::SampleOptions;
use plmconv_validate::{Arithmetic, Options, Runner, Windows};

use super::digest::text_digest;
use super::runnable::{OpenRunnable, Runnable};
use super::side::{Loaded, OpenReference, ReferenceSide};
use super::text::{DEFAULT_CTX, Text, WindowChoice, tokens_of, windows_of};
use super::thresholds::{AskedLimits, Limits, limits_for};
use super::written::write_text;
use crate::error::{TokenizerMismatch, UsageError};
use crate::input::ModelInput;
use crate::interrupt;
use crate::progress::{Console, Unit, follow};

/// Metadata key of a stored reference: the tokenizer's digest.
pub const TOKENIZER_DIGEST: &str = "plmconv.tokenizer_sha256";
/// Tokens kept that diverge most.
const WORST_TOKENS: usize = 20;

/// Which text the two sides are compared on.
#[derive(Clone, Copy)]
pub enum TextChoice<'a> {
    Given(&'a Text),
    /// The reference writes it: tokens and seed.
    Written {
        tokens: usize,
        seed: u64,
    },
    /// A stored reference's own; a model writes it.
    Default {
        seed: u64,
    },
}

/// What is to be compared, and how.
pub struct Comparable<'a> {
    pub candidate: &'a Path,
    pub reference: &'a ModelInput,
    pub text: TextChoice<'a>,
    pub windows: WindowChoice,
    pub per_layer: bool,
    pub limits: AskedLimits,
    pub options: Options,
    /// The candidate's; none: that of the runtime its file is for. The reference's is exact.
    pub arithmetic: Option<Arithmetic>,
    pub console: Console,
}

/// The text that was used.
#[derive(Clone, Debug)]
pub struct UsedText {
    /// `file`, `written by the reference` or `stored with the reference`
    pub origin: &'static str,
    pub path: Option<PathBuf>,
    pub sha256: Option<String>,
    pub seed: Option<u64>,
    pub tokens: usize,
}

/// All that a report is made of.
pub struct Comparison {
    pub candidate: Runnable,
    pub reference: ReferenceSide,
    pub text: UsedText,
    pub ctx: usize,
    pub windows: usize,
    pub limits: Limits,
    pub divergence: Divergence,
    /// The candidate's in exact arithmetic, where `divergence` is that of a runtime.
    pub weights_alone: Option<Divergence>,
    pub elapsed: Duration,
    pub tokens: usize,
}

/// Runs both sides over the text.
///
/// # Errors
/// Sides that cannot be compared, a text that cannot be used, and anything that can go wrong while a model runs.
pub fn compare(request: &Comparable<'_>) -> Result<Comparison> {
    interrupt::check()?;
    let exact = Options { arithmetic: Arithmetic::Exact, ..request.options };
    // Both are opened before either is read, which takes a while.
    let candidate = OpenRunnable::open(&ModelInput::plain(request.candidate), request.console)?;
    let reference = OpenReference::open(request.reference, request.console)?;
    if let OpenReference::Stored(stored) = &reference {
        check_windows(request.windows, stored)?;
    }
    let candidate = candidate.load(exact, request.arithmetic)?;
    let reference = reference.load(exact)?;
    check_sides(&candidate, &reference)?;
    let (tokens, text, ctx) = tokens_for(request, &candidate, &reference)?;
    let windows = match (&reference, &tokens) {
        (ReferenceSide::Stored(stored), None) => match request.windows.chunks {
            Some(n) => stored.windows().at_most(n),
            None => stored.windows(),
        },
        (_, tokens) => {
            let stored = match &reference {
                ReferenceSide::Stored(stored) => Some(stored.windows().count()),
                ReferenceSide::Model(_) => None,
            };
            let chunks = [request.windows.chunks, stored].into_iter().flatten().min();
            windows_of(tokens.as_deref().unwrap_or_default(), candidate.tokenizer(), ctx, chunks)?
        }
    };
    let (ctx, count) = (windows.ctx(), windows.count());
    let (mut divergences, elapsed) = run(request, &candidate, &reference, &windows)?;
    let divergence = divergences.remove(0);
    let limits = limits_for(candidate.bits_per_weight(), request.limits);
    Ok(Comparison {
        candidate,
        reference,
        text,
        ctx,
        windows: count,
        limits,
        divergence,
        weights_alone: divergences.pop(),
        elapsed: elapsed.0,
        tokens: elapsed.1,
    })
}

fn run(
    request: &Comparable<'_>,
    candidate: &Runnable,
    reference: &ReferenceSide,
    windows: &Windows<'_>,
) -> Result<(Vec<Divergence>, (Duration, usize))> {
    let side = match reference {
        ReferenceSide::Model(model) => Side::Model(&model.evaluator),
        ReferenceSide::Stored(stored) => Side::Stored(stored),
    };
    let detail = Detail { worst_tokens: WORST_TOKENS, per_layer: request.per_layer };
    let bar = request.console.bar(windows.count() as u64, Unit::Items, "comparing");
    let alone = candidate.weights_alone();
    let candidates: Vec<Runner<'_>> =
        std::iter::once(candidate.runner()).chain(alone.as_ref().map(Runner::from)).collect();
    let (divergences, elapsed) = compare_all(&candidates, side, windows, detail, |p| follow(&bar, p))?;
    bar.finish_and_clear();
    Ok((divergences, (elapsed.total, elapsed.tokens)))
}

fn check_sides(candidate: &Runnable, reference: &ReferenceSide) -> Result<()> {
    let vocab_size = candidate.runner().vocab_size();
    let (other_size, other_digest) = match reference {
        ReferenceSide::Model(model) => (model.evaluator.config().vocab_size, Some(model.tokenizer.digest())),
        ReferenceSide::Stored(stored) => {
            (stored.vocab_size(), stored.metadata(TOKENIZER_DIGEST).map(str::to_string))
        }
    };
    if vocab_size != other_size {
        let error = plmconv_validate::Error::Vocabulary { candidate: vocab_size, reference: other_size };
        return Err(error.into());
    }
    match other_digest {
        Some(digest) if digest != candidate.tokenizer().digest() => Err(TokenizerMismatch.into()),
        _ => Ok(()),
    }
}

/// Stored outputs are of windows of one length.
fn check_windows(asked: WindowChoice, stored: &Reference) -> Result<()> {
    let ctx = stored.windows().ctx();
    match asked.ctx.filter(|asked| *asked != ctx) {
        Some(asked) => Err(UsageError::with_hint(
            format!("the reference was stored with windows of {ctx} tokens, not {asked}"),
            "leave out --ctx: stored outputs bring their windows",
        )
        .into()),
        None => Ok(()),
    }
}

/// The tokens to compare on (none: those that were stored), what they are, and the window's length.
fn tokens_for(
    request: &Comparable<'_>,
    candidate: &Runnable,
    reference: &ReferenceSide,
) -> Result<(Option<Vec<u32>>, UsedText, usize)> {
    let asked = request.windows.ctx;
    match (reference, request.text) {
        (ReferenceSide::Stored(stored), _) => stored_text(request, candidate, stored),
        (_, TextChoice::Given(text)) => {
            let (tokens, text) = given_text(text, candidate, request.console)?;
            Ok((Some(tokens), text, asked.unwrap_or(DEFAULT_CTX)))
        }
        (ReferenceSide::Model(model), TextChoice::Written { tokens, seed }) => {
            written_text(model, tokens, seed, asked, request.console)
        }
        (ReferenceSide::Model(model), TextChoice::Default { seed }) => {
            written_text(model, DEFAULT_WRITTEN, seed, asked, request.console)
        }
    }
}

/// Tokens that the reference writes where no text is given.
const DEFAULT_WRITTEN: usize = 1024;

fn given_text(text: &Text, side: &Runnable, console: Console) -> Result<(Vec<u32>, UsedText)> {
    let tokens = tokens_of(side.tokenizer(), &text.content, console)?;
    let used = UsedText {
        origin: "file",
        path: Some(text.path.clone()),
        sha256: Some(text_digest(&text.content)),
        seed: None,
        tokens: tokens.len(),
    };
    Ok((tokens, used))
}

fn stored_text(
    request: &Comparable<'_>,
    candidate: &Runnable,
    stored: &Reference,
) -> Result<(Option<Vec<u32>>, UsedText, usize)> {
    let ctx = stored.windows().ctx();
    match request.text {
        // A text given along is checked to be the one that was stored.
        TextChoice::Given(text) => {
            let (tokens, text) = given_text(text, candidate, request.console)?;
            Ok((Some(tokens), text, ctx))
        }
        TextChoice::Written { .. } | TextChoice::Default { .. } => {
            let tokens = stored.windows().count() * ctx;
            let sha256 = stored.metadata(TEXT_DIGEST).map(str::to_string);
            let origin = "stored with the reference";
            Ok((None, UsedText { origin, path: None, sha256, seed: None, tokens }, ctx))
        }
    }
}

fn written_text(
    model: &Loaded,
    count: usize,
    seed: u64,
    asked: Option<usize>,
    console: Console,
) -> Result<(Option<Vec<u32>>, UsedText, usize)> {
    // Short texts are cut into several windows all the same.
    let ctx = asked.unwrap_or_else(|| DEFAULT_CTX.min(count / 4).max(4));
    if count < 2 * ctx {
        let error = plmconv_validate::Error::TextTooShort { tokens: count, needed: 2 * ctx, ctx };
        return Err(error.into());
    }
    let options = SampleOptions { tokens: count, length: ctx, seed };
    let tokens = write_text(model, options, console).context("the reference writes a text")?;
    let text = UsedText {
        origin: "written by the reference",
        path: None,
        sha256: Some(text_digest(&model.tokenizer.decode(&tokens))),
        seed: Some(seed),
        tokens: tokens.len(),
    };
    Ok((Some(tokens), text, ctx))
}
