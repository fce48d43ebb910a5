//! The task behind a [`Watch`](super::Watch): it keeps a registry's stream open for ever, and puts
//! the [fail-static rules](super::cache) between the registry and whoever listens.

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use futures_util::StreamExt;
use tokio::time::{self, Instant};

use super::{
    Publisher, Resolve, ResolveError, Snapshot,
    backoff::{Backoff, CAP},
    cache::{FailStatic, Verdict},
    metrics,
};

/// How long a saved set waits for the registry to answer first: a healthy registry nearly always
/// does, and then nobody dials instances of yesterday.
const BOOT_WAIT: Duration = Duration::from_millis(500);

/// A set that was saved by an earlier run.
#[derive(Debug)]
pub(super) struct Saved {
    pub(super) set: Snapshot,
    pub(super) age: Duration,
}

pub(super) struct Driver {
    registry: Arc<dyn Resolve>,
    service: Arc<str>,
    publisher: Publisher,
    /// In the place of what the registry says.
    grace: Option<Duration>,
    rules: FailStatic,
    /// What to serve when the registry has not answered by then.
    boot: Option<(Instant, Saved)>,
}

// ===== impl Driver =====

impl Driver {
    pub(super) fn new(
        registry: Arc<dyn Resolve>,
        service: Arc<str>,
        grace: Option<Duration>,
        publisher: Publisher,
    ) -> Self {
        let initial = grace.unwrap_or_else(|| registry.grace());
        let rules = FailStatic::new(initial, Instant::now());
        publisher.report(rules.health());
        metrics::follow(&service, publisher.health());
        Self {
            registry,
            service,
            publisher,
            grace,
            rules,
            boot: None,
        }
    }

    /// Follows the service until the task is aborted. `load` reads what an earlier run saved.
    pub(super) async fn run(mut self, load: impl Future<Output = Option<Saved>>) {
        if let Some(saved) = load.await {
            self.boot = Some((Instant::now() + BOOT_WAIT, saved));
        }
        let mut backoff = Backoff::new(fastrand::Rng::new());
        loop {
            let opened = Instant::now();
            self.rules
                .set_grace(self.grace.unwrap_or_else(|| self.registry.grace()));
            let mut answers = self.registry.resolve(&self.service);
            while let Some(answer) = self.keep_time(answers.next()).await {
                self.take(answer);
            }
            drop(answers);
            // An answer alone proves nothing: a registry may give one and hang up, again and again.
            if opened.elapsed() >= CAP {
                backoff.reset();
            }
            self.keep_time(time::sleep(backoff.next())).await;
        }
    }

    /// Waits for `work`, and meanwhile does what the clock demands.
    async fn keep_time<F: Future>(&mut self, work: F) -> F::Output {
        let mut work = pin!(work);
        loop {
            let boot_at = self.boot.as_ref().map(|(at, _)| *at);
            let Some(next) = boot_at.into_iter().chain(self.rules.deadline()).min() else {
                return work.await;
            };
            if let Ok(output) = time::timeout_at(next, work.as_mut()).await {
                return output;
            }
            let now = Instant::now();
            if boot_at.is_some_and(|at| at <= now) {
                self.boot(now);
            }
            let verdict = self.rules.tick(now);
            if let Verdict::Applied { removed, .. } = verdict {
                let service = &*self.service;
                tracing::warn!(service, removed, "grace time is over: instances dropped");
            }
            self.publish();
        }
    }

    fn take(&mut self, answer: Result<Snapshot, ResolveError>) {
        let (now, service) = (Instant::now(), &*self.service);
        match answer {
            Ok(answer) => {
                self.boot = None;
                let verdict = self.rules.answer(now, answer);
                log(service, verdict);
                self.publish();
            }
            Err(error) => {
                tracing::warn!(service, %error, "the last instances stay in use");
                self.rules.error(now, error);
                self.boot(now);
                self.publish();
            }
        }
    }

    fn boot(&mut self, now: Instant) {
        let Some((_, Saved { set, age })) = self.boot.take() else {
            return;
        };
        let (service, instances) = (&*self.service, set.len());
        let age_s = age.as_secs();
        tracing::warn!(
            service,
            instances,
            age_s,
            "the registry is silent: starting as saved"
        );
        self.rules.boot(now, set, age);
        self.publish();
    }

    fn publish(&self) {
        // Health first: whoever wakes up for a set finds out how good it is.
        self.publisher.report(self.rules.health());
        if let Some(set) = self.rules.served() {
            self.publisher.publish(Arc::clone(set));
        }
    }
}

fn log(service: &str, verdict: Verdict) {
    match verdict {
        Verdict::Held {
            answered,
            held,
            began: true,
        } => {
            tracing::warn!(
                service,
                answered,
                held,
                "suspect answer: what it lacks stays in use"
            );
        }
        Verdict::Applied { added, removed } => {
            tracing::debug!(service, added, removed, "instances changed");
        }
        Verdict::Held { .. } | Verdict::Unchanged => {}
    }
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
