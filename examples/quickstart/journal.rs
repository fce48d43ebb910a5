//! The log, kept in memory: the screen shows its end, and the script looks things up in it.

use std::{collections::VecDeque, fmt, io, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing_subscriber::{
    filter::LevelFilter,
    fmt::{format::Writer, time::FormatTime},
};

/// How many lines are kept.
const KEPT: usize = 1_000;

/// The last lines of the log. A clone is a handle to the same.
#[derive(Debug, Clone)]
pub struct Journal {
    lines: Arc<Mutex<Lines>>,
    start: Instant,
}

#[derive(Debug, Default)]
struct Lines {
    kept: VecDeque<String>,
    /// All that ever were.
    total: usize,
}

// ===== impl Journal =====

impl Journal {
    /// Takes the log of this process.
    pub fn install() -> Self {
        let journal = Self {
            lines: Arc::default(),
            start: Instant::now(),
        };
        let writer = journal.clone();
        tracing_subscriber::fmt()
            .with_max_level(LevelFilter::INFO)
            .with_writer(move || writer.clone())
            .with_timer(journal.clone())
            .with_ansi(false)
            .with_target(false)
            .init();
        journal
    }

    /// How long this process has run.
    pub fn age(&self) -> Duration {
        self.start.elapsed()
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
            lines.kept.push_back(line.trim_end().to_owned());
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

impl FormatTime for Journal {
    fn format_time(&self, out: &mut Writer<'_>) -> fmt::Result {
        write!(out, "{:5.1}s", self.age().as_secs_f64())
    }
}
