//! What a person sees: a table that is redrawn in place, or a plain log where there is no terminal.

use std::{
    fmt::Write as _,
    io::{IsTerminal, Write as _, stdout},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use tokio::{
    sync::oneshot::{self, error::TryRecvError},
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};
use tower_mesh::discovery::balance::EndpointState;

use crate::{
    journal::Journal,
    observer::{Observer, PERIOD, Row},
    table::Table,
    traffic::Traffic,
};

/// Looks at the mesh between two drawings of the table, five of which are made per second.
const LOOKS: u32 = 4;
/// Looks at the mesh between two lines of the plain log: one second.
const LOOKS_PER_LINE: u32 = 20;
/// Lines of the log under the table, which then fits into 24.
const LOG_LINES: usize = 8;

/// In a narrow terminal lines are cut off: wrapped ones would make the table grow at each drawing.
const NO_WRAP: &str = "\x1b[?7l";
const WRAP: &str = "\x1b[?7h";

/// Draws until it is closed.
pub struct Screen {
    close: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

struct Drawer {
    observer: Arc<Observer>,
    traffic: Arc<Traffic>,
    journal: Journal,
    closed: oneshot::Receiver<()>,
}

// ===== impl Screen =====

impl Screen {
    /// Starts to look at the mesh, and to draw what it sees.
    pub fn open(observer: &Arc<Observer>, traffic: &Arc<Traffic>, journal: &Journal) -> Self {
        let (close, closed) = oneshot::channel();
        let drawer = Drawer {
            observer: observer.clone(),
            traffic: traffic.clone(),
            journal: journal.clone(),
            closed,
        };
        let task = match stdout().is_terminal() {
            true => tokio::spawn(drawer.draw_tables()),
            false => tokio::spawn(drawer.draw_lines()),
        };
        Self { close, task }
    }

    /// Draws the last state, which stays.
    pub async fn close(self) {
        drop(self.close);
        // It failed if it could not draw.
        let _ = self.task.await;
        println!();
    }
}

// ===== impl Drawer =====

impl Drawer {
    /// The cursor stays under the table, where the next output belongs however this one ends.
    async fn draw_tables(mut self) {
        let (mut looks, mut drawn) = (ticks(), 0);
        while self.is_open() {
            for _ in 0..LOOKS {
                looks.tick().await;
                self.observer.look();
            }
            let lines = self.table(true).lines(&self.journal, LOG_LINES);
            let mut frame = match drawn {
                0 => NO_WRAP.to_owned(),
                _ => format!("{NO_WRAP}\x1b[{drawn}F"),
            };
            for line in &lines {
                let _ = writeln!(frame, "\x1b[K{line}");
            }
            // What was typed meanwhile goes: `^C`.
            frame.push_str("\x1b[J");
            frame.push_str(WRAP);
            drawn = lines.len();
            let mut out = stdout().lock();
            // A broken terminal is no reason to stop the traffic.
            let _ = out.write_all(frame.as_bytes()).and_then(|()| out.flush());
        }
    }

    /// What happened, and each second how the endpoints do.
    async fn draw_lines(mut self) {
        let (mut looks, mut logged) = (ticks(), self.journal.len());
        for number in 1_u32.. {
            looks.tick().await;
            self.observer.look();
            for line in self.journal.since(logged) {
                println!("{line}");
                logged += 1;
            }
            if !self.is_open() {
                break;
            }
            if number.is_multiple_of(LOOKS_PER_LINE) {
                println!("{}", self.line());
            }
        }
        println!();
        for line in self.table(false).lines(&self.journal, 0) {
            println!("{line}");
        }
    }

    fn is_open(&mut self) -> bool {
        self.closed.try_recv() == Err(TryRecvError::Empty)
    }

    fn table(&self, colours: bool) -> Table {
        Table {
            colours,
            age: self.journal.age(),
            rows: self.observer.rows(),
            totals: self.totals(),
        }
    }

    /// Everything in one line.
    fn line(&self) -> String {
        let mut line = format!("{:5.1}s", self.journal.age().as_secs_f64());
        for Row {
            name, share, state, ..
        } in self.observer.rows()
        {
            let _ = match state {
                Some(EndpointState::Ready) => write!(line, "  {name} {:.0}%", share * 100.0),
                Some(state) => write!(line, "  {name} {:.0}% {}", share * 100.0, state.as_str()),
                None => Ok(()),
            };
        }
        format!("{line}  {}", self.totals())
    }

    fn totals(&self) -> String {
        let totals = self.observer.totals();
        format!(
            "calls {}  retries {}  ejections {}  rejections {}  failed calls {}",
            self.traffic.finished.load(Relaxed),
            totals.retries,
            totals.ejections,
            totals.rejections,
            self.traffic.failed.load(Relaxed),
        )
    }
}

fn ticks() -> tokio::time::Interval {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
