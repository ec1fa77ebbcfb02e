//! Signs of life where nobody sees a bar: a line a minute, in a file or a CI's log.

use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use indicatif::{BinaryBytes, HumanDuration, ProgressBar, WeakProgressBar};
use serde::{Serialize, Serializer};

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
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Snapshot {
    /// What is done.
    pub task: &'static str,
    /// So much of it.
    pub done: u64,
    /// Of so much.
    pub total: u64,
    /// What both count.
    #[serde(serialize_with = "by_name")]
    pub unit: Unit,
    /// `None` before anything is done.
    pub seconds_left: Option<u64>,
}

fn by_name<S: Serializer>(unit: &Unit, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(unit.name())
}

/// A snapshot among the lines on stderr.
#[derive(Serialize)]
struct Line {
    level: &'static str,
    #[serde(flatten)]
    snapshot: Snapshot,
}

/// How far everything is that runs without a bar.
pub fn snapshots() -> Vec<Snapshot> {
    let mut snapshots = Vec::new();
    HIDDEN.lock().unwrap_or_else(PoisonError::into_inner).retain(|hidden| {
        let snapshot = hidden.snapshot();
        snapshots.extend(snapshot);
        snapshot.is_some()
    });
    snapshots
}

/// Tells how far `bar` is once a minute, until it is finished or dropped.
pub fn watch(bar: &ProgressBar, what: &'static str, unit: Unit) {
    let hidden = Hidden { bar: bar.downgrade(), what, unit };
    HIDDEN.lock().unwrap_or_else(PoisonError::into_inner).push(hidden);
    STARTED.call_once(|| {
        // Without it no progress is shown; nothing else is lost.
        let _ = std::thread::Builder::new().name("heartbeat".into()).spawn(|| {
            loop {
                std::thread::sleep(INTERVAL);
                snapshots().iter().for_each(Snapshot::tell);
            }
        });
    });
}

impl Hidden {
    /// `None` when the work is done.
    fn snapshot(&self) -> Option<Snapshot> {
        let bar = self.bar.upgrade().filter(|bar| !bar.is_finished())?;
        let (done, total) = (bar.position(), bar.length().unwrap_or(0));
        let seconds_left = (done > 0).then(|| bar.eta().as_secs());
        Some(Snapshot { task: self.what, done, total, unit: self.unit, seconds_left })
    }
}

impl Snapshot {
    fn tell(&self) {
        if log::is_kept() {
            return;
        }
        match log::format() {
            LogFormat::Json => log::log_json(&Line { level: "progress", snapshot: *self }),
            LogFormat::Text => tell!("{}", self.line()),
        }
    }

    fn line(&self) -> String {
        let Snapshot { task, done, total, .. } = self;
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
        let line = || hidden.snapshot().map(|snapshot| snapshot.line());
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
            Snapshot { task: "at work", done, total, unit, seconds_left: Some(90) }.line()
        };
        assert_eq!(told(Unit::Bytes, 1 << 30, 3 << 30), "at work: 1.00 GiB of 3.00 GiB, 2 minutes left");
        assert_eq!(told(Unit::Steps, 1, 8), "at work: 12 %, 2 minutes left");
        assert_eq!(told(Unit::Steps, 0, 0), "at work: 0 %, 2 minutes left");
    }
}
