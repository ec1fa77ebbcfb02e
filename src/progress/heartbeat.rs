//! Signs of life where nobody sees a bar: a line a minute, in a file or a CI's log.

use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use indicatif::{BinaryBytes, HumanDuration, ProgressBar, WeakProgressBar};
use serde::Serialize;

use super::Unit;
use crate::log::{self, LogFormat};

const INTERVAL: Duration = Duration::from_secs(60);

/// The bars that are not drawn.
static HIDDEN: Mutex<Vec<Hidden>> = Mutex::new(Vec::new());
static STARTED: Once = Once::new();

struct Hidden {
    bar: WeakProgressBar,
    what: &'static str,
    unit: Unit,
}

/// How far some work is.
#[derive(Serialize)]
struct Progress {
    level: &'static str,
    task: &'static str,
    done: u64,
    total: u64,
    unit: Unit,
    /// `None` before anything is done.
    seconds_left: Option<u64>,
}

/// Tells how far `bar` is once a minute, until it is finished or dropped.
pub fn watch(bar: &ProgressBar, what: &'static str, unit: Unit) {
    let hidden = Hidden { bar: bar.downgrade(), what, unit };
    HIDDEN.lock().unwrap_or_else(PoisonError::into_inner).push(hidden);
    STARTED.call_once(|| {
        // Without it nothing is told, and nothing else is lost.
        let _ = std::thread::Builder::new().name("heartbeat".into()).spawn(|| {
            loop {
                std::thread::sleep(INTERVAL);
                tell_all();
            }
        });
    });
}

fn tell_all() {
    HIDDEN.lock().unwrap_or_else(PoisonError::into_inner).retain(|hidden| match hidden.progress() {
        Some(progress) => {
            progress.tell();
            true
        }
        None => false,
    });
}

impl Hidden {
    /// `None` when the work is done.
    fn progress(&self) -> Option<Progress> {
        let bar = self.bar.upgrade().filter(|bar| !bar.is_finished())?;
        let (done, total) = (bar.position(), bar.length().unwrap_or(0));
        let seconds_left = (done > 0).then(|| bar.eta().as_secs());
        Some(Progress { level: "progress", task: self.what, done, total, unit: self.unit, seconds_left })
    }
}

impl Progress {
    fn tell(&self) {
        match log::format() {
            LogFormat::Json => log::log_json(self),
            LogFormat::Text => tell!("{}", self.line()),
        }
    }

    fn line(&self) -> String {
        let Progress { task, done, total, .. } = self;
        let far = match self.unit {
            Unit::Bytes => format!("{} of {}", BinaryBytes(*done), BinaryBytes(*total)),
            Unit::Items => format!("{done} of {total}"),
            Unit::Steps => format!("{} %", (100 * done).checked_div(*total).unwrap_or(0)),
        };
        let left =
            self.seconds_left.map(|left| format!(", {} left", HumanDuration(Duration::from_secs(left))));
        format!("{task}: {far}{}", left.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hidden_bar_says_how_far_it_is_until_it_is_done() {
        let bar = ProgressBar::hidden();
        bar.set_length(400);
        let hidden = Hidden { bar: bar.downgrade(), what: "comparing", unit: Unit::Items };
        let line = || hidden.progress().map(|progress| progress.line());
        assert_eq!(line().as_deref(), Some("comparing: 0 of 400"));
        bar.set_position(100);
        let told = line().expect("not finished");
        assert!(told.starts_with("comparing: 100 of 400, ") && told.ends_with(" left"), "{told}");
        bar.finish();
        assert_eq!(line(), None);
    }

    #[test]
    fn each_unit_has_its_words() {
        let told = |unit, done, total| {
            Progress { level: "progress", task: "at work", done, total, unit, seconds_left: Some(90) }.line()
        };
        assert_eq!(told(Unit::Bytes, 1 << 30, 3 << 30), "at work: 1.00 GiB of 3.00 GiB, 2 minutes left");
        assert_eq!(told(Unit::Steps, 1, 8), "at work: 12 %, 2 minutes left");
        assert_eq!(told(Unit::Steps, 0, 0), "at work: 0 %, 2 minutes left");
    }
}
