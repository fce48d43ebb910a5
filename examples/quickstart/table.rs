//! The table of endpoints as text, for a terminal of 80 columns and 24 lines.

use std::time::Duration;

use tower_mesh::discovery::balance::EndpointState;

use crate::{journal::Journal, observer::Row};

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const PLAIN: &str = "\x1b[0m";

/// One column less than every terminal has.
const WIDTH: usize = 79;
/// The time and the level of a line of the log are this wide.
const INDENT: &str = "              ";
/// Columns of a whole share.
const BAR: usize = 10;
/// Blocks of eighths of a column.
const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

/// One moment.
pub struct Table {
    /// Whether it goes to a terminal.
    pub colours: bool,
    pub age: Duration,
    pub rows: Vec<Row>,
    pub totals: String,
}

impl Table {
    /// Its lines, with the end of the log under it: always `log_lines` of them, so that the height
    /// stays.
    pub fn lines(&self, log: &Journal, log_lines: usize) -> Vec<String> {
        let seconds = self.age.as_secs_f64();
        let head = format!(
            "{:<10}{:<6}{:>6} {:<17}{:>9}{:>9}{:>10}  {}",
            "endpoint", "scheme", "calls", "  share", "p50", "p99", "in flight", "state"
        );
        let title = format!("tower-mesh quickstart, second {seconds:.1}");
        let mut lines = vec![
            self.paint(BOLD, &title),
            String::new(),
            self.paint(DIM, &head),
        ];
        lines.extend(self.rows.iter().map(|row| self.row(row)));
        lines.extend([String::new(), self.totals.clone()]);
        if log_lines > 0 {
            lines.push(String::new());
            lines.extend(self.log(log, log_lines));
        }
        lines
    }

    fn row(&self, row: &Row) -> String {
        let (colour, state) = match row.state {
            Some(state @ EndpointState::Ready) => (GREEN, state.as_str()),
            Some(state @ (EndpointState::Ejected | EndpointState::Refused)) => {
                (RED, state.as_str())
            }
            Some(state) => (YELLOW, state.as_str()),
            None => (DIM, "gone"),
        };
        let bar = format!("{:<BAR$}", bar(row.share));
        format!(
            "{:<10}{:<6}{:>6}{:>6.1}% {}{:>9}{:>9}{:>10}  {}",
            row.name,
            row.scheme,
            row.sent,
            row.share * 100.0,
            self.paint(colour, &bar),
            milliseconds(row.p50),
            milliseconds(row.p99),
            row.in_flight,
            self.paint(colour, state),
        )
    }

    /// What the script does stands out from what comes of it.
    fn log(&self, log: &Journal, lines: usize) -> Vec<String> {
        let mut shown = Vec::new();
        for line in log.tail(lines) {
            let is_script = line.contains("---- ");
            shown.extend(wrap(&line).into_iter().map(|line| match is_script {
                true => line,
                false => self.paint(DIM, &line),
            }));
        }
        shown.drain(..shown.len().saturating_sub(lines));
        shown.resize(lines, String::new());
        shown
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        match self.colours {
            true => format!("{colour}{text}{PLAIN}"),
            false => text.to_owned(),
        }
    }
}

fn bar(share: f64) -> String {
    let eighths = (share * (8 * BAR) as f64).round() as usize;
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

/// A line in pieces that fit, broken between words; all but the first are indented.
fn wrap(line: &str) -> Vec<String> {
    let mut pieces = vec![String::new()];
    for word in line.split_inclusive(' ') {
        let piece = pieces.last_mut().expect("there is one from the start");
        if piece.chars().count() + word.trim_end().chars().count() > WIDTH {
            pieces.push(INDENT.to_owned() + word);
        } else {
            piece.push_str(word);
        }
    }
    pieces
}

fn milliseconds(duration: Option<Duration>) -> String {
    duration.map_or("-".to_owned(), |duration| {
        format!("{:.1} ms", duration.as_secs_f64() * 1e3)
    })
}
