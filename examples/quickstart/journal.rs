//! The log, kept in memory: the screen shows its end, and the script looks things up in it.

use std::{collections::VecDeque, io, sync::Arc};

use parking_lot::Mutex;
use tracing_subscriber::filter::LevelFilter;

/// How many lines are kept.
const KEPT: usize = 1_000;

/// The last lines of the log. A clone is a handle to the same.
#[derive(Debug, Clone, Default)]
pub struct Journal {
    lines: Arc<Mutex<Lines>>,
}

#[derive(Debug, Default)]
struct Lines {
    kept: VecDeque<String>,
    /// All that ever were.
    total: usize,
}

impl Journal {
    /// Takes the log of this process.
    pub fn install() -> Self {
        let journal = Self::default();
        let writer = journal.clone();
        tracing_subscriber::fmt()
            .with_max_level(LevelFilter::INFO)
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .with_target(false)
            .without_time()
            .init();
        journal
    }

    /// How many lines there have been.
    pub fn len(&self) -> usize {
        self.lines.lock().total
    }

    /// The lines since there were `start`.
    pub fn since(&self, start: usize) -> Vec<String> {
        let lines = self.lines.lock();
        let new = lines.total.saturating_sub(start).min(lines.kept.len());
        lines
            .kept
            .iter()
            .skip(lines.kept.len() - new)
            .cloned()
            .collect()
    }

    /// The last lines.
    pub fn tail(&self, count: usize) -> Vec<String> {
        self.since(self.len().saturating_sub(count))
    }
}

/// The subscriber writes each event at once.
impl io::Write for Journal {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let mut lines = self.lines.lock();
        for line in String::from_utf8_lossy(event).lines() {
            lines.kept.push_back(line.trim().to_owned());
            lines.total += 1;
        }
        while lines.kept.len() > KEPT {
            lines.kept.pop_front();
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
