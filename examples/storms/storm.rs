//! A storm: a load, trouble that begins and ends, and what comes of it on either side.

use std::{fmt, future::Future, ops::Range, pin::Pin, time::Duration};

use tokio::{
    task::{AbortHandle, JoinSet},
    time::{Instant, MissedTickBehavior, Sleep, interval, sleep_until},
};

use crate::{
    Result,
    record::{Record, Tally},
    screen::Screen,
};

/// How often both sides are looked at: a point of the curves.
pub const PERIOD: Duration = Duration::from_millis(100);

/// With what the calls of a storm are made and answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Stock,
    Protected,
}

/// What is played. Times are from the start.
pub struct Storm {
    pub name: &'static str,
    pub title: &'static str,
    /// Calls per second that users make.
    pub load: u32,
    pub length: Duration,
    pub trouble: Range<Duration>,
    pub play: fn(Stage) -> Playing,
    /// What the protected side must keep to.
    pub required: Required,
}

/// Of all calls of a storm.
#[derive(Debug, Clone, Copy)]
pub struct Required {
    /// At least this share of the calls goes well.
    pub good: f64,
    /// At most so many attempts for each call.
    pub attempts: f64,
}

pub type Playing = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// Where a side of a storm is played.
pub struct Stage {
    pub side: Side,
    pub record: Record,
    start: Instant,
    length: Duration,
    load: u32,
}

/// What has come of a storm so far.
pub struct Told {
    pub storm: &'static Storm,
    stock: Track,
    protected: Track,
}

/// One side of it.
struct Track {
    /// One for each [`PERIOD`].
    points: Vec<Tally>,
    total: Tally,
}

/// One line of the verdict.
pub struct Promise {
    name: String,
    measured: f64,
    required: String,
    pub holds: bool,
}

// ===== impl Storm =====

impl Storm {
    /// Plays both sides at once, and shows them.
    pub async fn run(&'static self, screen: &mut Screen) -> Result<Told> {
        let (stock, protected) = (Record::default(), Record::default());
        let start = Instant::now();
        let mut sides = JoinSet::new();
        for (side, record) in [(Side::Stock, &stock), (Side::Protected, &protected)] {
            sides.spawn((self.play)(Stage {
                side,
                record: record.clone(),
                start,
                length: self.length,
                load: self.load,
            }));
        }
        let mut told = Told {
            storm: self,
            stock: Track::new(),
            protected: Track::new(),
        };
        let mut looks = interval(PERIOD);
        looks.tick().await;
        while start.elapsed() < self.length {
            looks.tick().await;
            told.stock.add(stock.tally());
            told.protected.add(protected.tally());
            screen.show(&told, start.elapsed());
        }
        while let Some(ended) = sides.join_next().await {
            ended??;
        }
        // With the calls that were under way, which are not of any point.
        (told.stock.total, told.protected.total) = (stock.tally(), protected.tally());
        screen.done(&told);
        Ok(told)
    }
}

// ===== impl Stage =====

impl Stage {
    /// Makes calls at the storm's rate until its end, however long each takes. `call` says whether one went well.
    pub async fn load<F>(&self, call: impl Fn() -> F)
    where
        F: Future<Output = bool> + Send + 'static,
    {
        let mut calls = JoinSet::new();
        let mut ticks = interval(Duration::from_secs(1) / self.load);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        while self.start.elapsed() < self.length {
            ticks.tick().await;
            self.record.call();
            let (call, record) = (call(), self.record.clone());
            calls.spawn(async move {
                if call.await {
                    record.good();
                }
            });
            while calls.try_join_next().is_some() {}
        }
        // What is under way has a moment to end.
        let all = async { while calls.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(Duration::from_secs(1), all).await;
    }

    /// As [`load`](Self::load), with the call of this side.
    pub async fn load_either<S, P>(&self, stock: impl Fn() -> S, protected: impl Fn() -> P)
    where
        S: Future<Output = bool> + Send + 'static,
        P: Future<Output = bool> + Send + 'static,
    {
        match self.side {
            Side::Stock => self.load(stock).await,
            Side::Protected => self.load(protected).await,
        }
    }

    /// The storm's script, beside the load: ends with this.
    pub fn script(&self, script: impl Future<Output = ()> + Send + 'static) -> Script {
        Script(tokio::spawn(script).abort_handle())
    }

    /// A clock for the script: waits until so long after the start.
    pub fn clock(&self) -> impl Fn(Duration) -> Sleep + Send + use<> {
        let start = self.start;
        move |time| sleep_until(start + time)
    }
}

/// Ends what it stands for when it is dropped.
pub struct Script(AbortHandle);

impl Drop for Script {
    fn drop(&mut self) {
        self.0.abort();
    }
}

// ===== impl Told =====

impl Told {
    pub fn total(&self, side: Side) -> Tally {
        self.track(side).total
    }

    pub fn points(&self, side: Side) -> &[Tally] {
        &self.track(side).points
    }

    fn track(&self, side: Side) -> &Track {
        match side {
            Side::Stock => &self.stock,
            Side::Protected => &self.protected,
        }
    }

    pub fn promises(&self) -> [Promise; 3] {
        let (stock, protected) = (self.total(Side::Stock), self.total(Side::Protected));
        let Required { good, attempts } = self.storm.required;
        let name = |what: &str| format!("{}-{what}", self.storm.name);
        [
            Promise {
                name: name("good"),
                measured: protected.share(),
                required: format!(">={good}"),
                holds: protected.share() >= good,
            },
            Promise {
                name: name("attempts"),
                measured: protected.amplification(),
                required: format!("<={attempts}"),
                holds: protected.amplification() <= attempts,
            },
            // Or there would be nothing to protect from.
            Promise {
                name: name("stock"),
                measured: stock.share(),
                required: format!("<{good} or attempts>{attempts}"),
                holds: stock.share() < good || stock.amplification() > attempts,
            },
        ]
    }
}

// ===== impl Track =====

impl Track {
    fn new() -> Self {
        Self {
            points: vec![Tally::default()],
            total: Tally::default(),
        }
    }

    fn add(&mut self, tally: Tally) {
        self.points.push(tally);
        self.total = tally;
    }
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            measured,
            required,
            holds,
        } = self;
        let verdict = if *holds { "ok" } else { "FAILED" };
        write!(
            f,
            "promise {name} measured={measured:.3} required={required} {verdict}"
        )
    }
}
