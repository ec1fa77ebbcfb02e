//! What ends a run from outside: Ctrl-C, SIGTERM, SIGHUP.
//!
//! A run ends at once: its temporaries are removed, nothing more gets its name. Only work that has something to keep
//! is [`stoppable`]: it looks at [`is_pending`] between two steps and ends by itself; a second signal ends that as well.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Result, anyhow};
use plmconv_calibrate::Leftover;
use plmconv_formats::atomic;

use crate::error::{interrupted, report};

/// Ctrl-C.
const SIGINT: i32 = 2;

/// The signal that came, 0 before.
static SIGNAL: AtomicI32 = AtomicI32::new(0);
/// How many [`Stoppable`]s there are.
static STOPPABLE: AtomicUsize = AtomicUsize::new(0);
/// Finished work that stays when the run ends.
static KEPT: Mutex<Option<PathBuf>> = Mutex::new(None);

/// From now on signals end the run in an orderly way.
///
/// # Errors
/// The system does not let the signals be caught.
pub fn listen() -> Result<()> {
    static ONCE: OnceLock<Result<(), String>> = OnceLock::new();
    let installed = ONCE.get_or_init(|| install().map_err(|error| error.to_string()));
    installed.clone().map_err(|error| anyhow!("catching Ctrl-C: {error}"))
}

#[cfg(unix)]
fn install() -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGTERM};
    let ignored = ignored_signals();
    let wanted = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 0);
    let mut signals = signal_hook::iterator::Signals::new(wanted)?;
    let wait = move || signals.forever().for_each(receive);
    std::thread::Builder::new().name("signals".into()).spawn(wait).map(drop)
}

/// Signals that were ignored when the run started (`nohup`) stay ignored: bit n stands for signal n + 1. Where there is no
/// /proc, nothing is known to be.
#[cfg(unix)]
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(windows)]
fn install() -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(|| receive(SIGINT))
}

fn receive(signal: i32) {
    let is_first = SIGNAL.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst).is_ok();
    if is_first && STOPPABLE.load(Ordering::SeqCst) > 0 {
        return;
    }
    atomic::abandon_all();
    let kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner).clone();
    report(&interrupted(kept.map_or(Leftover::Nothing, Leftover::Kept)));
    std::process::exit(exit_code().into());
}

/// Whether a signal came.
pub fn is_pending() -> bool {
    SIGNAL.load(Ordering::SeqCst) != 0
}

/// Whether work goes on: not after a signal.
pub fn flow() -> ControlFlow<()> {
    if is_pending() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// Ends work as a first Ctrl-C does where it is [`stoppable`], for a caller that runs it in a process of another kind.
pub fn request() {
    SIGNAL.store(SIGINT, Ordering::SeqCst);
}

/// Forgets what came.
pub fn clear() {
    SIGNAL.store(0, Ordering::SeqCst);
}

/// Fails if a signal came.
///
/// # Errors
/// [`interrupted`]
pub fn check() -> Result<()> {
    if is_pending() { Err(interrupted(Leftover::Nothing)) } else { Ok(()) }
}

/// What a shell reports for a process that the signal ended.
pub fn exit_code() -> u8 {
    let signal = match SIGNAL.load(Ordering::SeqCst) {
        0 => SIGINT,
        signal => signal,
    };
    u8::try_from(128 + signal).unwrap_or(1)
}

/// While it lives, a first signal only sets [`is_pending`].
pub struct Stoppable(());

/// Work begins that looks at [`is_pending`] itself.
pub fn stoppable() -> Stoppable {
    STOPPABLE.fetch_add(1, Ordering::SeqCst);
    Stoppable(())
}

impl Drop for Stoppable {
    fn drop(&mut self) {
        STOPPABLE.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Says what stays, for a run that goes on, if this one ends from now on; `None` takes it back.
pub fn keeps(path: Option<&Path>) {
    *KEPT.lock().unwrap_or_else(PoisonError::into_inner) = path.map(Path::to_path_buf);
}
