//! What a person sees while a storm is on: two rows for each, with the curve of what goes well.

use std::{
    io::{IsTerminal, Write, stdout},
    time::Duration,
};

use crate::{
    record::Tally,
    storm::{PERIOD, Side, Told},
};

const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";
/// In a narrow terminal lines are cut off: wrapped ones would make the table grow at each drawing.
const NO_WRAP: &str = "\x1b[?7l";
const WRAP: &str = "\x1b[?7h";

/// Points of a curve for each of its characters: with these the longest fits into 80 columns.
const POINTS: usize = 4;
const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A table that grows by a storm at a time. The storm that is on is redrawn in place.
pub struct Screen {
    is_terminal: bool,
    drawn: bool,
}

// ===== impl Screen =====

impl Screen {
    pub fn new() -> Self {
        println!(
            "{:<10}{:>6}{:>9}{:>8}{:>11}  answered well, of the load",
            "side", "good", "attempts", "good/s", "attempts/s"
        );
        Self {
            is_terminal: stdout().is_terminal(),
            drawn: false,
        }
    }

    /// The state of a storm that is on.
    pub fn show(&mut self, told: &Told, age: Duration) {
        if self.is_terminal {
            self.draw(told, &format!("{:.1} s", age.as_secs_f64()));
        }
    }

    /// The last state of a storm, which stays.
    pub fn done(&mut self, told: &Told) {
        self.draw(told, &format!("{} s", told.storm.length.as_secs()));
        self.drawn = false;
    }

    fn draw(&mut self, told: &Told, age: &str) {
        let mut lines = vec![format!(
            "{} ({age}, {} calls/s)",
            told.storm.title, told.storm.load
        )];
        for (side, name, colour) in [
            (Side::Stock, "stock", RED),
            (Side::Protected, "protected", GREEN),
        ] {
            lines.push(self.row(told, side, name, colour));
        }
        let mut frame = String::new();
        if self.is_terminal {
            frame.push_str(NO_WRAP);
            if self.drawn {
                frame.push_str("\x1b[3F");
            }
        }
        for line in lines {
            let clear = if self.is_terminal { "\x1b[K" } else { "" };
            frame.push_str(&format!("{clear}{line}\n"));
        }
        if self.is_terminal {
            frame.push_str(WRAP);
        }
        self.drawn = true;
        let mut out = stdout().lock();
        // A broken terminal is no reason to stop the storm.
        let _ = out.write_all(frame.as_bytes()).and_then(|()| out.flush());
    }

    fn row(&self, told: &Told, side: Side, name: &str, colour: &str) -> String {
        let points = told.points(side);
        let total = told.total(side);
        let now = last_second(points);
        let curve = curve(points, told.storm.load);
        let (colour, plain, dim) = match self.is_terminal {
            true => (colour, PLAIN, DIM),
            false => ("", "", ""),
        };
        format!(
            "{dim}{name:<10}{plain}{:>5.1}%{:>8.2}x{:>8}{:>11}  {colour}{curve}{plain}",
            total.share() * 100.0,
            total.amplification(),
            now.good,
            now.attempts,
        )
    }
}

fn last_second(points: &[Tally]) -> Tally {
    let second = (Duration::from_secs(1).as_millis() / PERIOD.as_millis()) as usize;
    let now = points.last().copied().unwrap_or_default();
    now - points[points.len().saturating_sub(second + 1)]
}

/// The share of the load that is answered well, over time.
fn curve(points: &[Tally], load: u32) -> String {
    let expected = f64::from(load) * PERIOD.as_secs_f64() * POINTS as f64;
    let ends = points.iter().step_by(POINTS);
    let pairs = ends.clone().zip(ends.skip(1));
    pairs
        .map(|(from, to)| {
            let share = (*to - *from).good as f64 / expected;
            let block = (share * 7.0).round().clamp(0.0, 7.0) as usize;
            BLOCKS[block]
        })
        .collect()
}
