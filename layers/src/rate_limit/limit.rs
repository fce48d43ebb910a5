//! One limit: whom it is for, what a call costs, and where the counts are.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use http::Request;
use tokio::time::Instant;

use super::{
    config::{CostRule, RateAlgorithm, RateLimitConfig},
    gcra::{self, Gcra},
    leases::{Leased, Leases},
    window::{SlidingWindow, Window},
};
use crate::vocab::{
    config::ConfigError,
    key::Key,
    keyed::{Keyed, KeyedStats},
    request_match::RequestMatch,
    shard::Counter,
};

/// How tokens are counted. It has no state of its own: that is in cells, one for each key.
pub(super) trait Algorithm {
    type Cell: Default;
    type Taken;

    /// Takes so many tokens out of `cell` at once, or none.
    fn take(&self, cell: &Self::Cell, tokens: NonZeroU32) -> Result<Self::Taken, Refused>;

    /// Gives tokens back that were taken and not used.
    fn give_back(&self, cell: &Self::Cell, tokens: NonZeroU32);

    /// Whether a new cell would behave the same.
    fn is_idle(&self, cell: &Self::Cell) -> bool;
}

/// Refused: a call will pass after this time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) wait: Duration,
}

/// One limit under one configuration.
pub(super) struct Limit {
    /// `None` where it is for all calls.
    matches: Option<RequestMatch>,
    /// The first that matches says what a call costs; one if none does.
    costs: Box<[(RequestMatch, Option<NonZeroU32>)]>,
    counting: Counting,
    /// Handed on from configuration to configuration.
    pub(super) exceeded: Arc<Counter>,
}

/// An algorithm, and its cells.
enum Counting {
    Gcra(Gcra, Arc<Cells<gcra::Cell>>),
    Window(SlidingWindow, Arc<Cells<Window>>),
    Leased(Leased, Arc<Leases>),
}

/// Handed on for as long as they are kept by the same keys.
enum Cells<C> {
    /// One for all calls.
    One(Arc<C>),
    /// One for each key.
    Keyed { key: Key, cells: Keyed<C> },
}

/// What a call was let in with.
pub(super) enum Admitted<'a> {
    /// The limit is for other calls, or this one costs nothing.
    Free,
    Gcra(&'a Gcra, gcra::Taken),
    /// So many more tokens are there.
    Left(u32),
}

/// Tokens that can be given back.
pub(super) struct Charge {
    cell: ChargedCell,
    tokens: NonZeroU32,
}

enum ChargedCell {
    Gcra(Arc<gcra::Cell>),
    Window(Arc<Window>),
    Leased(Arc<Leases>),
}

// ===== impl Refused =====

impl Refused {
    /// No waiting helps.
    pub(super) const FOR_GOOD: Self = Self {
        wait: Duration::from_secs(24 * 3600),
    };
}

// ===== impl Limit =====

impl Limit {
    /// Compiles a limit in the place of `previous`.
    pub(super) fn new(
        config: &RateLimitConfig,
        previous: Option<(&Self, &RateLimitConfig)>,
    ) -> Result<Self, ConfigError> {
        let compile_cost = |(at, rule): (usize, &CostRule)| {
            let matches = RequestMatch::any_of(&rule.matches)
                .map_err(|error| error.at("matches").at(format_args!("costs[{at}]")))?;
            Ok((matches, NonZeroU32::new(rule.cost)))
        };
        let costs: Result<_, ConfigError> =
            config.costs.iter().enumerate().map(compile_cost).collect();
        let matches = RequestMatch::any_of(&config.matches).map_err(|error| error.at("matches"))?;
        let kept = previous.filter(|(_, previous)| previous.shares_cells_with(config));
        Ok(Self {
            matches: (!config.matches.is_empty()).then_some(matches),
            costs: costs?,
            counting: Counting::new(config, kept.map(|(kept, _)| &kept.counting)),
            exceeded: previous.map_or_else(Arc::default, |(previous, _)| previous.exceeded.clone()),
        })
    }

    /// What the call costs here; `None` where it is free.
    #[inline]
    fn cost<B>(&self, request: &Request<B>) -> Option<NonZeroU32> {
        if let Some(matches) = &self.matches
            && !matches.matches(request)
        {
            return None;
        }
        if self.costs.is_empty() {
            return Some(NonZeroU32::MIN);
        }
        let rule = self
            .costs
            .iter()
            .find(|(matches, _)| matches.matches(request));
        rule.map_or(Some(NonZeroU32::MIN), |(_, cost)| *cost)
    }

    /// Takes what the call costs.
    #[inline]
    pub(super) fn charge<B>(&self, request: &Request<B>) -> Result<Admitted<'_>, Refused> {
        let Some(tokens) = self.cost(request) else {
            return Ok(Admitted::Free);
        };
        match &self.counting {
            Counting::Gcra(gcra, cells) => {
                let taken = cells.with(gcra, request, |cell| gcra.take(cell, tokens))?;
                Ok(Admitted::Gcra(gcra, taken))
            }
            Counting::Window(window, cells) => {
                let left = cells.with(window, request, |cell| window.take(cell, tokens))?;
                Ok(Admitted::Left(left))
            }
            Counting::Leased(leased, leases) => leased.take(leases, tokens).map(Admitted::Left),
        }
    }

    /// The same, and how to give it back.
    pub(super) fn charge_kept<B>(
        &self,
        request: &Request<B>,
    ) -> Result<(Admitted<'_>, Option<Charge>), Refused> {
        let Some(tokens) = self.cost(request) else {
            return Ok((Admitted::Free, None));
        };
        let (admitted, cell) = match &self.counting {
            Counting::Gcra(gcra, cells) => {
                let cell = cells.of(gcra, request);
                let taken = gcra.take(&cell, tokens)?;
                (Admitted::Gcra(gcra, taken), ChargedCell::Gcra(cell))
            }
            Counting::Window(window, cells) => {
                let cell = cells.of(window, request);
                let left = window.take(&cell, tokens)?;
                (Admitted::Left(left), ChargedCell::Window(cell))
            }
            Counting::Leased(leased, leases) => {
                let left = leased.take(leases, tokens)?;
                (Admitted::Left(left), ChargedCell::Leased(leases.clone()))
            }
        };
        Ok((admitted, Some(Charge { cell, tokens })))
    }

    /// Gives back what a call was charged. Under a limit that counts in another way by now, nothing: what
    /// was used of the old one is forgotten.
    pub(super) fn give_back(&self, charge: &Charge) {
        match (&self.counting, &charge.cell) {
            (Counting::Gcra(gcra, _), ChargedCell::Gcra(cell)) => {
                gcra.give_back(cell, charge.tokens)
            }
            (Counting::Window(window, _), ChargedCell::Window(cell)) => {
                window.give_back(cell, charge.tokens);
            }
            (Counting::Leased(leased, _), ChargedCell::Leased(leases)) => {
                leased.give_back(leases, charge.tokens);
            }
            _ => {}
        }
    }

    /// What is known of its keys; `None` where it has none.
    pub(super) fn keys(&self) -> Option<KeyedStats> {
        match &self.counting {
            Counting::Gcra(_, cells) => cells.stats(),
            Counting::Window(_, cells) => cells.stats(),
            Counting::Leased(..) => None,
        }
    }
}

// ===== impl Counting =====

impl Counting {
    fn new(config: &RateLimitConfig, kept: Option<&Self>) -> Self {
        let now = Instant::now();
        let (rate, burst) = (config.rate, config.burst());
        match config.algorithm {
            RateAlgorithm::Gcra => {
                let kept = match kept {
                    Some(Self::Gcra(gcra, cells)) => Some((gcra, cells)),
                    _ => None,
                };
                let gcra = Gcra::new(
                    rate,
                    burst,
                    config.queued_tokens(),
                    kept.map(|kept| kept.0),
                    now,
                );
                let cells = kept.map(|kept| kept.1.clone());
                Self::Gcra(gcra, cells.unwrap_or_else(|| Cells::new(config)))
            }
            RateAlgorithm::SlidingWindow => {
                let kept = match kept {
                    Some(Self::Window(window, cells)) => Some((window, cells)),
                    _ => None,
                };
                let window = SlidingWindow::new(rate, kept.map(|kept| kept.0), now);
                let cells = kept.map(|kept| kept.1.clone());
                Self::Window(window, cells.unwrap_or_else(|| Cells::new(config)))
            }
            RateAlgorithm::Leased => {
                let kept = match kept {
                    Some(Self::Leased(leased, leases)) => Some((leased, leases)),
                    _ => None,
                };
                let leased = Leased::new(rate, burst, kept.map(|kept| kept.0), now);
                let leases = kept.map(|kept| kept.1.clone()).unwrap_or_default();
                // What threads hold was leased under another quota.
                leases.forget();
                Self::Leased(leased, leases)
            }
        }
    }
}

// ===== impl Cells =====

impl<C: Default> Cells<C> {
    fn new(config: &RateLimitConfig) -> Arc<Self> {
        Arc::new(if config.key.is_global() {
            Self::One(Arc::default())
        } else {
            Self::Keyed {
                key: config.key.clone(),
                cells: Keyed::new(config.most_keys(), C::default()),
            }
        })
    }

    #[inline]
    fn with<A, B, R>(&self, algorithm: &A, request: &Request<B>, run: impl FnOnce(&C) -> R) -> R
    where
        A: Algorithm<Cell = C>,
    {
        match self {
            Self::One(cell) => run(cell),
            Self::Keyed { .. } => run(&self.of(algorithm, request)),
        }
    }

    fn of<A, B>(&self, algorithm: &A, request: &Request<B>) -> Arc<C>
    where
        A: Algorithm<Cell = C>,
    {
        match self {
            Self::One(cell) => cell.clone(),
            Self::Keyed { key, cells } => {
                let key = key.extract(request);
                cells.of(&key, |cell| algorithm.is_idle(cell), C::default)
            }
        }
    }

    fn stats(&self) -> Option<KeyedStats> {
        match self {
            Self::One(_) => None,
            Self::Keyed { cells, .. } => Some(cells.stats()),
        }
    }
}

// ===== impl Admitted =====

impl Admitted<'_> {
    /// So many more tokens are there; `None` where nobody counts.
    pub(super) fn left(&self) -> Option<u32> {
        match self {
            Self::Free => None,
            Self::Gcra(gcra, taken) => Some(gcra.left(taken)),
            Self::Left(left) => Some(*left),
        }
    }

    /// How long the call has to wait for its turn.
    pub(super) fn wait(&self) -> Duration {
        match self {
            Self::Gcra(gcra, taken) => gcra.wait(taken),
            Self::Free | Self::Left(_) => Duration::ZERO,
        }
    }
}
