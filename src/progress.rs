//! Progress and log lines, on stderr only.

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use plmconv_calibrate::{Monitor, Notice, Task};
use plmconv_formats::Warning;

use crate::interrupt;

/// How much the user wants to be told.
#[derive(Clone, Copy, Debug)]
pub struct Console {
    pub quiet: bool,
    pub verbose: bool,
}

impl Console {
    /// A bar over `bytes` with throughput and time left; drawn only where stderr is a terminal.
    pub fn bar(self, bytes: u64, what: &'static str) -> ProgressBar {
        if self.quiet || !std::io::stderr().is_terminal() {
            return ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::hidden());
        }
        let style = ProgressStyle::with_template(
            "{msg} {bar:32} {percent:>3} %  {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left",
        )
        .expect("the template is constant");
        ProgressBar::new(bytes).with_style(style).with_message(what)
    }

    /// A bar over steps of like size.
    pub fn steps(self, what: &'static str) -> ProgressBar {
        if self.quiet || !std::io::stderr().is_terminal() {
            return ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        }
        let style = ProgressStyle::with_template("{msg} {bar:32} {percent:>3} %  {eta} left")
            .expect("the template is constant");
        ProgressBar::new(0).with_style(style).with_message(what)
    }

    /// A line about what was done.
    pub fn note(self, line: &str) {
        if !self.quiet {
            tell!("{line}");
        }
    }

    /// A bar over windows or tokens; drawn only where stderr is a terminal.
    pub fn window_bar(self, count: usize, what: &'static str) -> ProgressBar {
        let count = Some(count as u64);
        if self.quiet || !std::io::stderr().is_terminal() {
            return ProgressBar::with_draw_target(count, ProgressDrawTarget::hidden());
        }
        let style = ProgressStyle::with_template("{msg} {bar:32} {pos} of {len}  {eta} left")
            .expect("the template is constant");
        ProgressBar::with_draw_target(count, ProgressDrawTarget::stderr())
            .with_style(style)
            .with_message(what)
    }

    /// A line that only `-v` shows; drawn above the bar.
    pub fn detail(self, bar: &ProgressBar, line: impl FnOnce() -> String) {
        if self.verbose {
            bar.suspend(|| tell!("{}", line()));
        }
    }

    /// A warning.
    pub fn warn(self, line: &str) {
        if !self.quiet {
            tell!("warning: {line}");
        }
    }

    /// What is odd about an input or left out of an output.
    pub fn warn_of(self, warnings: &[Warning]) {
        warnings.iter().for_each(|warning| self.warn(&warning.to_string()));
    }
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
            let new = match task {
                Task::Writing => self.console.window_bar(total, "writing a text"),
                Task::Calibrating => self.console.steps("calibrating"),
                Task::Measuring => self.console.steps("measuring"),
            };
            new.set_length(total as u64);
            *bar = Some((task, new));
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
