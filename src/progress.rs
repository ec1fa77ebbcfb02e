//! Progress while a command works, on stderr only.

mod heartbeat;

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressStyle};
use plmconv_calibrate::{Monitor, Notice, Task};
use plmconv_formats::Warning;
use plmconv_validate::perplexity::Progress;

use crate::interrupt;
use crate::log::{self, LogFormat, Severity, log};

pub use heartbeat::{Snapshot, snapshots};

/// How much the user wants to be told.
#[derive(Clone, Copy, Debug)]
pub struct Console {
    pub quiet: bool,
    pub verbose: bool,
}

/// What a bar counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    /// Windows or tokens.
    Items,
    /// Steps of like size, which say nothing to the user.
    Steps,
}

impl Unit {
    /// What it is called outside.
    pub fn name(self) -> &'static str {
        match self {
            Unit::Bytes => "bytes",
            Unit::Items => "items",
            Unit::Steps => "steps",
        }
    }

    fn template(self) -> &'static str {
        match self {
            Unit::Bytes => {
                "{msg} {bar:32} {percent:>3} %  {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left"
            }
            Unit::Items => "{msg} {bar:32} {pos} of {len}  {eta} left",
            Unit::Steps => "{msg} {bar:32} {percent:>3} %  {eta} left",
        }
    }
}

impl Console {
    /// A bar with the time left, drawn where stderr is a terminal; elsewhere a line a minute.
    pub fn bar(self, total: u64, unit: Unit, what: &'static str) -> ProgressBar {
        if !self.quiet && is_drawn() {
            let style = ProgressStyle::with_template(unit.template()).expect("the templates are constant");
            return ProgressBar::new(total).with_style(style).with_message(what);
        }
        let bar = ProgressBar::hidden();
        bar.set_length(total);
        if !self.quiet {
            heartbeat::watch(&bar, what, unit);
        }
        bar
    }

    /// A line about what was done.
    pub fn note(self, line: &str) {
        if !self.quiet {
            log(Severity::Info, line);
        }
    }

    /// A line that only `-v` shows; drawn above the bar.
    pub fn detail(self, bar: &ProgressBar, line: impl FnOnce() -> String) {
        if self.verbose {
            bar.suspend(|| log(Severity::Debug, &line()));
        }
    }

    /// A warning.
    pub fn warn(self, line: &str) {
        if !self.quiet {
            log(Severity::Warning, line);
        }
    }

    /// What is odd about an input or left out of an output.
    pub fn warn_of(self, warnings: &[Warning]) {
        warnings.iter().for_each(|warning| self.warn(&warning.to_string()));
    }
}

/// Whether a person looks at stderr.
fn is_drawn() -> bool {
    std::io::stderr().is_terminal() && log::format() == LogFormat::Text && !log::is_kept()
}

/// Shows how far an evaluation is, and ends it after a signal.
pub fn follow(bar: &ProgressBar, progress: Progress) -> ControlFlow<()> {
    bar.set_position(progress.windows_done as u64);
    interrupt::flow()
}

/// Shows a calibration's progress and notices on the console, and stops it after a signal.
#[derive(Debug)]
pub struct Watch {
    console: Console,
    /// Of the task that is being done.
    bar: Mutex<Option<(Task, ProgressBar)>>,
}

impl Watch {
    /// On this console.
    pub fn new(console: Console) -> Watch {
        Watch { console, bar: Mutex::new(None) }
    }
}

impl Monitor for Watch {
    fn should_stop(&self) -> bool {
        interrupt::is_pending()
    }

    fn progress(&self, task: Task, done: usize, total: usize) {
        let mut bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        if bar.as_ref().is_none_or(|(current, _)| *current != task) {
            let (unit, what) = match task {
                Task::Writing => (Unit::Items, "writing a text"),
                Task::Calibrating => (Unit::Steps, "calibrating"),
                Task::Measuring => (Unit::Steps, "measuring"),
            };
            *bar = Some((task, self.console.bar(total as u64, unit, what)));
        }
        if let Some((_, bar)) = &*bar {
            bar.set_position(done as u64);
            if done == total {
                bar.finish_and_clear();
            }
        }
    }

    fn notice(&self, notice: &Notice) {
        match notice {
            Notice::EarlierWork { .. } => self.console.warn(&format!(
                "{notice}: --resume continues from it. This run starts over; the file is removed when this run is \
                 complete, and stays if it is interrupted"
            )),
            _ if notice.is_warning() => self.console.warn(&notice.to_string()),
            _ => self.console.note(&notice.to_string()),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let bar = self.bar.get_mut().unwrap_or_else(PoisonError::into_inner);
        bar.iter().for_each(|(_, bar)| bar.finish_and_clear());
    }
}
