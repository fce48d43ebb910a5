//! What goes wrong when, what is promised then, and what was measured.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::time::{Instant, sleep, sleep_until};
use tower_mesh::{Mesh, discovery::balance::EndpointState};

use crate::{
    Result,
    cluster::{Cluster, GREETER, NEW, ORDERS},
    instance::Behaviour,
    journal::Journal,
    observer::Observer,
    process::Process,
    promise::Promise,
    reconcile::Reconciliation,
    site::Site,
    traffic::Traffic,
};

const SECOND: Duration = Duration::from_secs(1);
/// What has not come after this long counts as never.
const PATIENCE: Duration = Duration::from_secs(12);
/// Calls that must be in flight at an instance when it is killed.
const VICTIMS: u64 = 8;
/// Calls that are waited for: some are answered while the signal is on its way.
const AIM: u64 = VICTIMS + 4;
/// A third of an equal share among three.
const THIRD_OF_SHARE: f64 = 1.0 / 9.0;

/// Plays the script, in about 25 seconds.
pub struct Script<'a> {
    pub mesh: &'a Mesh,
    pub observer: &'a Observer,
    pub traffic: &'a Arc<Traffic>,
    pub journal: &'a Journal,
}

/// What came of it.
pub struct Outcome {
    pub promises: Vec<Promise>,
    pub reconciliation: Reconciliation,
}

/// An instance that hangs from some moment on.
struct Hung {
    name: String,
    ejected: Promise,
    /// What was sent to each instance until it was ejected.
    sent_before: BTreeMap<String, u64>,
}

impl Script<'_> {
    /// Both services have their troubles at the same time. Then comes the rollout, and the registry has
    /// troubles of its own meanwhile.
    pub async fn play(&self, cluster: &mut Cluster) -> Result<Outcome> {
        let Cluster {
            orders,
            greeters,
            site,
        } = cluster;
        say!("all is well");
        let calls = self.traffic.start();
        let (orders, greeter) = tokio::join!(
            self.trouble_orders(orders, site),
            self.trouble_greeter(greeters),
        );
        let (mut promises, hung) = (orders?, greeter?);
        let (rollout, registry) = tokio::join!(self.roll_out(site), self.corrupt_registry(site));
        promises.extend(rollout?);
        let hung_share = self.share_since(&hung.sent_before, GREETER, &hung.name);
        drop(calls);
        self.traffic.settle().await;

        let failed = self.traffic.failed.load(Relaxed);
        let reconciliation = Reconciliation::of(self.observer, self.traffic, site);
        promises.extend([
            hung.ejected,
            Promise::at_most("hung_share", hung_share, 0.01),
            registry?,
            Promise::at_most("failed_calls", failed as f64, 0.0),
            Promise::at_most(
                "unreconciled_calls",
                reconciliation.unexplained() as f64,
                0.0,
            ),
        ]);
        Ok(Outcome {
            promises,
            reconciliation,
        })
    }

    async fn trouble_orders(&self, orders: &mut Vec<Process>, site: &Site) -> Result<Vec<Promise>> {
        sleep(2 * SECOND).await;
        let slow = self.slow_down(&mut orders[0]).await?;
        sleep(SECOND).await;
        let mut victim = orders.remove(1);
        let killed = self.kill(&mut victim, orders, site).await?;
        sleep(SECOND).await;
        let replaced = self.replace(victim.name(), orders, site).await?;
        sleep(SECOND).await;
        let [ejected, returned] = self.fail(&mut orders[1]).await?;
        Ok(vec![slow, killed, replaced, ejected, returned])
    }

    /// An instance turns ten times slower: it must lose its share.
    async fn slow_down(&self, process: &mut Process) -> Result<Promise> {
        say!("{} turns 10x slower", process.name());
        process.tell(Behaviour::SLOW).await?;
        sleep(2 * SECOND).await;
        let before = self.observer.sent(ORDERS);
        sleep(SECOND).await;
        let share = self.share_since(&before, ORDERS, process.name());
        say!("{} is as fast as before", process.name());
        process.tell(Behaviour::NORMAL).await?;
        Ok(Promise::at_most(
            "slow_instance_share",
            share,
            THIRD_OF_SHARE,
        ))
    }

    /// An instance is killed with calls in flight: they must be answered all the same.
    async fn kill(
        &self,
        victim: &mut Process,
        others: &mut [Process],
        site: &Site,
    ) -> Result<Promise> {
        say!("all orders turn 10x slower, so that calls pile up");
        victim.tell(Behaviour::SLOW).await?;
        for process in others.iter_mut() {
            process.tell(Behaviour::SLOW).await?;
        }
        let tally = site.tally(victim.name());
        let is_busy = || {
            let view = self.observer.endpoint(victim.name());
            let sent = view.map_or(0, |view| u64::from(view.in_flight));
            sent.min(tally.unanswered()) >= AIM
        };
        self.seconds_until(Instant::now(), is_busy).await;
        victim.kill().await?;
        let in_flight = tally.unanswered();
        say!(
            "{} is killed with {in_flight} calls in flight",
            victim.name()
        );
        for process in others {
            process.tell(Behaviour::NORMAL).await?;
        }
        Ok(Promise::at_least(
            "killed_in_flight",
            in_flight as f64,
            VICTIMS as f64,
        ))
    }

    /// Another instance is started in the place of the dead one: it must be found.
    async fn replace(&self, dead: &str, orders: &mut Vec<Process>, site: &Site) -> Result<Promise> {
        let name = "orders-4";
        say!("{name}, of a new version, is started in the place of {dead}");
        let replacement = Process::start(site, ORDERS, name, "http", NEW).await?;
        let start = Instant::now();
        site.replace(dead, &replacement.instance)?;
        orders.push(replacement);
        let is_called = || {
            self.observer
                .endpoint(name)
                .is_some_and(|view| view.calls > 0)
        };
        let called = self.seconds_until(start, is_called).await;
        Ok(Promise::at_most("replacement_called_seconds", called, 2.0))
    }

    /// An instance fails for five seconds: it must be taken out, and come back.
    async fn fail(&self, process: &mut Process) -> Result<[Promise; 2]> {
        let name = process.name().to_owned();
        let is_ejected = || self.state(&name) == Some(EndpointState::Ejected);
        let is_back = || {
            let state = self.state(&name);
            matches!(state, Some(EndpointState::Ready | EndpointState::Penalised))
        };
        // On a busy machine a stall may have ejected it just now.
        self.seconds_until(Instant::now(), &is_back).await;
        say!("{name} answers 503");
        process.tell(Behaviour::Fail).await?;
        let start = Instant::now();
        let ejected = self.seconds_until(start, is_ejected).await;
        sleep_until(start + 5 * SECOND).await;
        say!("{name} answers again");
        process.tell(Behaviour::NORMAL).await?;
        let returned = match ejected.is_finite() {
            true => self.seconds_until(start, is_back).await,
            false => f64::INFINITY,
        };
        Ok([
            Promise::at_most("ejected_503_seconds", ejected, 2.0),
            Promise::at_most("returned_503_seconds", returned, 10.0),
        ])
    }

    /// An instance takes calls and never answers: it must be taken out, and stay out.
    async fn trouble_greeter(&self, greeters: &mut [Process]) -> Result<Hung> {
        sleep(3 * SECOND).await;
        let process = &mut greeters[2];
        let name = process.name().to_owned();
        say!("{name} takes calls and never answers");
        process.tell(Behaviour::Hang).await?;
        let is_ejected = || self.state(&name) == Some(EndpointState::Ejected);
        let ejected = self.seconds_until(Instant::now(), is_ejected).await;
        Ok(Hung {
            ejected: Promise::at_most("ejected_hung_seconds", ejected, 2.0),
            sent_before: self.observer.sent(GREETER),
            name,
        })
    }

    /// The registry is spoilt, then repaired: that must be said, and change nothing.
    async fn corrupt_registry(&self, site: &Site) -> Result<Promise> {
        let endpoints = self.observer.listed();
        let failed = self.traffic.failed.load(Relaxed);
        let (logged, file) = (self.journal.len(), site.registry().display().to_string());
        let is_refused = || {
            let log = self.journal.since(logged);
            let names_file = |line: &String| line.contains(&file);
            log.iter()
                .filter(|line| names_file(line))
                .any(|line| line.contains("services.orders[0].endpoints[0]"))
        };
        let mut changes = Vec::new();

        say!("a bad edit spoils the registry");
        site.corrupt_registry()?;
        if self.seconds_until(Instant::now(), is_refused).await > 2.0 {
            changes.push("not-refused");
        }
        sleep(SECOND).await;
        if self.observer.listed() != endpoints {
            changes.push("endpoints-changed-when-spoilt");
        }
        say!("the registry is repaired");
        site.repair_registry()?;
        sleep(SECOND).await;
        if self.observer.listed() != endpoints {
            changes.push("endpoints-changed-when-repaired");
        }
        if self.traffic.failed.load(Relaxed) > failed {
            changes.push("calls-failed");
        }
        let measured = match changes.is_empty() {
            true => "unchanged".to_owned(),
            false => changes.join(","),
        };
        Ok(Promise::same("corrupt_registry", measured, "unchanged"))
    }

    /// The part of an instance in the requests that were sent since.
    fn share_since(&self, before: &BTreeMap<String, u64>, service: &str, name: &str) -> f64 {
        let mut since = self.observer.sent(service);
        for (name, sent) in &mut since {
            *sent = sent.saturating_sub(before.get(name).copied().unwrap_or(0));
        }
        since[name] as f64 / since.values().sum::<u64>().max(1) as f64
    }

    fn state(&self, name: &str) -> Option<EndpointState> {
        self.observer.endpoint(name).map(|view| view.state)
    }

    /// How long after `start` something was so; infinity for never.
    pub async fn seconds_until(&self, start: Instant, is_so: impl Fn() -> bool) -> f64 {
        while !is_so() {
            if start.elapsed() > PATIENCE {
                return f64::INFINITY;
            }
            sleep(Duration::from_millis(10)).await;
        }
        start.elapsed().as_secs_f64()
    }
}
