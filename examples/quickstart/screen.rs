//! What a person sees: a table that is redrawn in place, or a line per second where there is no
//! terminal.

use std::{
    fmt::Write as _,
    io::{IsTerminal, Write as _, stdout},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval},
};
use tower_mesh::discovery::balance::EndpointState;

use crate::{
    journal::Journal,
    observer::{Observer, PERIOD, Row},
    traffic::Traffic,
};

/// Looks at the mesh between two drawings of the table, five of which are made per second.
const LOOKS: u32 = 4;
/// Lines of the log under the table.
const LOG_LINES: usize = 8;
const WIDTH: usize = 100;

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const PLAIN: &str = "\x1b[0m";
const CLEAR_LINE: &str = "\x1b[K";

/// Draws until it is closed.
pub struct Screen {
    drawer: Drawer,
    task: JoinHandle<()>,
}

#[derive(Clone)]
struct Drawer {
    observer: Arc<Observer>,
    traffic: Arc<Traffic>,
    journal: Journal,
    start: Instant,
}

impl Screen {
    /// Starts to look at the mesh, and to draw what it sees.
    pub fn open(observer: Arc<Observer>, traffic: Arc<Traffic>, journal: Journal) -> Self {
        let drawer = Drawer {
            observer,
            traffic,
            journal,
            start: Instant::now(),
        };
        let task = match stdout().is_terminal() {
            true => tokio::spawn(drawer.clone().draw_tables()),
            false => tokio::spawn(drawer.clone().draw_lines()),
        };
        Self { drawer, task }
    }

    /// Stops to draw; the last state stays.
    pub fn close(self) {
        self.task.abort();
        if !stdout().is_terminal() {
            print!("\n{}", self.drawer.table("", 0));
        }
        println!();
    }
}

impl Drawer {
    async fn draw_tables(self) {
        let mut looks = ticks(PERIOD);
        loop {
            for _ in 0..LOOKS {
                looks.tick().await;
                self.observer.look();
            }
            let table = self.table(CLEAR_LINE, LOG_LINES);
            let up = table.lines().count();
            let mut out = stdout().lock();
            // A broken terminal is no reason to stop the traffic.
            let _ = write!(out, "{table}\x1b[{up}A").and_then(|()| out.flush());
        }
    }

    async fn draw_lines(self) {
        let (mut looks, mut logged) = (ticks(PERIOD), 0);
        for number in 1_u32.. {
            looks.tick().await;
            self.observer.look();
            for line in self.journal.since(logged) {
                println!("{line}");
                logged += 1;
            }
            if number % 20 == 0 {
                println!("{}", self.line());
            }
        }
    }

    /// Everything in one line.
    fn line(&self) -> String {
        let mut line = format!("{:5.1}s", self.start.elapsed().as_secs_f64());
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

    /// The table, and the end of the log under it.
    fn table(&self, end: &str, log_lines: usize) -> String {
        let colours = !end.is_empty();
        let paint = |colour, text: String| match colours {
            true => format!("{colour}{text}{PLAIN}"),
            false => text,
        };
        let seconds = self.start.elapsed().as_secs_f64();
        let head = format!(
            "{:<12}{:<7}{:>9}{:>8}{:>10}{:>10}{:>11}  state",
            "endpoint", "scheme", "calls", "share", "p50", "p99", "in flight"
        );
        let title = format!("tower-mesh quickstart, second {seconds:.1}");
        let mut lines = vec![paint(BOLD, title), String::new(), paint(DIM, head)];
        for row in self.observer.rows() {
            let (colour, state) = state(row.state);
            lines.push(format!(
                "{:<12}{:<7}{:>9}{:>7.1}%{:>10}{:>10}{:>11}  {}",
                row.name,
                row.scheme,
                row.sent,
                row.share * 100.0,
                milliseconds(row.p50),
                milliseconds(row.p99),
                row.in_flight,
                paint(colour, state.to_owned()),
            ));
        }
        lines.extend([String::new(), self.totals(), String::new()]);
        let mut log = self.journal.tail(log_lines);
        log.resize(log_lines, String::new());
        lines.extend(log.into_iter().map(|line| {
            let line: String = line.chars().take(WIDTH).collect();
            paint(DIM, line)
        }));
        lines.iter().map(|line| format!("{line}{end}\n")).collect()
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

fn ticks(period: Duration) -> tokio::time::Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

fn state(state: Option<EndpointState>) -> (&'static str, &'static str) {
    let colour = match state {
        Some(EndpointState::Ready) => GREEN,
        Some(EndpointState::Ejected | EndpointState::Refused) => RED,
        Some(_) => YELLOW,
        None => DIM,
    };
    (colour, state.map_or("gone", EndpointState::as_str))
}

fn milliseconds(duration: Option<Duration>) -> String {
    duration.map_or("-".to_owned(), |duration| {
        format!("{:.1} ms", duration.as_secs_f64() * 1e3)
    })
}
