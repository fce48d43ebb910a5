//! Following one name: asks, turns what comes into an answer of the registry, and waits until the next
//! questions are due.
//!
//! ```text
//! SRV or A and AAAA of the name ──► (addresses of the targets) ──► instances
//!        │ no records: empty                │ a question failed: what it said last
//!        │ no answer: error                 │ nothing known of any: error
//! ```

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use hickory_resolver::proto::rr::{Name, RecordType};
use tokio::time::{Instant, sleep_until};
use tower_mesh_layers::config::ConfigError;

use super::{
    DnsRegistry, Question,
    message::{Found, Reply},
    name::certified,
    records::{self, Addresses, FAMILIES, Group},
    schedule::{Outcome, Schedule},
    servers::{AskError, Servers},
};
use crate::{
    instance::Instance,
    resolve::{Answers, ResolveError, Snapshot, snapshot},
};

/// So many targets are asked for at one time.
pub(super) const MAX_QUESTIONS: usize = 16;

/// The stream of answers for one service.
pub(super) fn answers(registry: DnsRegistry, service: &str) -> Answers {
    let follower = match Follower::new(registry, service) {
        Ok(follower) => follower,
        Err(error) => {
            let refused = Err(ResolveError::invalid(error));
            return Box::pin(stream::iter([refused]).chain(stream::pending()));
        }
    };
    Box::pin(stream::unfold(follower, async |mut follower| {
        let answer = follower.next().await;
        Some((answer, follower))
    }))
}

struct Follower {
    registry: DnsRegistry,
    service: Arc<str>,
    name: Name,
    /// Opened anew after a failure: the system's may have changed.
    servers: Option<Arc<Servers>>,
    schedule: Schedule,
    /// What the last good round knew of addresses: a family or a target that cannot be looked up just
    /// now has not lost its addresses.
    known: Addresses,
    /// What was wrong the last time, so that it is said once.
    said: Vec<String>,
    due: Option<Instant>,
}

/// What a round of questions came to.
struct Round {
    answer: Result<Snapshot, ResolveError>,
    outcome: Outcome,
    /// What was left out, or is served from memory.
    wrong: Vec<String>,
}

/// What is known of some hosts after asking for them.
#[derive(Default)]
struct Hosts {
    addresses: Addresses,
    /// Some server said so just now.
    found: bool,
    ttl: Option<Duration>,
    failed: Vec<AskError>,
}

// ===== impl Follower =====

impl Follower {
    fn new(registry: DnsRegistry, service: &str) -> Result<Self, ConfigError> {
        let [min, max] = registry.ttl;
        Ok(Self {
            name: registry.question.name().fill(service)?,
            schedule: Schedule::new(min, max, fastrand::Rng::new()),
            registry,
            service: service.into(),
            servers: None,
            known: Addresses::new(),
            said: Vec::new(),
            due: None,
        })
    }

    async fn next(&mut self) -> Result<Snapshot, ResolveError> {
        if let Some(due) = self.due {
            sleep_until(due).await;
        }
        let asked = Instant::now();
        let round = self.round().await;
        let wait = self.schedule.next(round.outcome);
        self.due = Some(match round.outcome {
            Outcome::Failed => {
                self.servers = None;
                Instant::now() + wait
            }
            // Answers age from the question on.
            _ => asked + wait,
        });
        self.say(round.wrong);
        round.answer
    }

    async fn round(&mut self) -> Round {
        let servers = match self.servers().await {
            Ok(servers) => servers,
            Err(error) => return Round::failed(error),
        };
        match self.registry.question {
            Question::Addresses { port, .. } => self.addresses(&servers, port).await,
            Question::Services(_) => self.services(&servers).await,
        }
    }

    async fn servers(&mut self) -> Result<Arc<Servers>, ResolveError> {
        if let Some(servers) = &self.servers {
            return Ok(Arc::clone(servers));
        }
        let asking = self.registry.asking;
        let opened = match self.registry.servers.as_slice() {
            [] => tokio::task::spawn_blocking(move || Servers::system(asking))
                .await
                .map_err(ResolveError::unavailable)?,
            given => Servers::given(given, asking),
        };
        let servers = Arc::new(opened.map_err(ResolveError::unavailable)?);
        self.servers = Some(Arc::clone(&servers));
        Ok(servers)
    }

    /// `dns:`: the addresses of the name are the instances.
    async fn addresses(&mut self, servers: &Servers, port: u16) -> Round {
        let mut absent = None;
        for name in servers.candidates(&self.name) {
            let mut hosts = Hosts::default();
            for (family, reply) in FAMILIES.into_iter().zip(servers.addresses(&name).await) {
                absent = hosts
                    .learn(&self.known, (name.clone(), family), reply)
                    .or(absent);
            }
            if !hosts.found {
                // Another search domain may have a name that is not the one that is meant.
                if let Some(error) = hosts.failed.pop() {
                    return Round::failed(ResolveError::unavailable(error));
                }
                continue;
            }
            let all: Vec<_> = hosts.addresses.values().flatten().copied().collect();
            let made = records::at_addresses(&self.service, self.registry.scheme, port, &all);
            return self.found(hosts, made, Vec::new());
        }
        Round::absent(absent)
    }

    /// `dns+srv:`: the targets of the lowest-numbered priority that has addresses.
    async fn services(&mut self, servers: &Servers) -> Round {
        let mut absent = None;
        let mut found = None;
        for name in servers.candidates(&self.name) {
            match servers.ask(&name, RecordType::SRV).await {
                Err(error) => return Round::failed(ResolveError::unavailable(error)),
                Ok(Reply::Absent(ttl)) => absent = ttl.or(absent),
                Ok(Reply::Found(records)) => {
                    found = Some(records);
                    break;
                }
            }
        }
        let Some(srv) = found else {
            return Round::absent(absent);
        };
        let (groups, mut refused) = records::groups(&srv.records);
        if groups.is_empty() && !refused.is_empty() {
            return Round::invalid(refused.remove(0), srv.ttl);
        }
        for group in &groups {
            let mut hosts = self.targets(servers, &srv, group).await;
            if !hosts.found {
                if let Some(error) = hosts.failed.pop() {
                    return Round::failed(ResolveError::unavailable(error));
                }
                continue;
            }
            let scheme = self.registry.scheme;
            let made = records::at_targets(&self.service, scheme, group, &hosts.addresses);
            return self.found(hosts, made, refused);
        }
        Round::absent(Some(srv.ttl))
    }

    /// The addresses of a group: those that came along, and what has to be asked for.
    async fn targets(&self, servers: &Servers, srv: &Found, group: &Group) -> Hosts {
        let (addresses, ttl) = records::sent_along(&group.targets, &srv.additional);
        let to_ask = records::to_ask(&group.targets, &addresses);
        let mut hosts = Hosts {
            found: !addresses.is_empty(),
            ttl: Some(srv.ttl.min(Duration::from_secs(ttl.into()))),
            addresses,
            failed: Vec::new(),
        };
        let asking = to_ask.into_iter().map(async |key| {
            let reply = servers.ask(&key.0, key.1).await;
            (key, reply)
        });
        let mut replies = stream::iter(asking).buffer_unordered(MAX_QUESTIONS);
        while let Some((key, reply)) = replies.next().await {
            hosts.learn(&self.known, key, reply);
        }
        hosts
    }

    fn found(
        &mut self,
        hosts: Hosts,
        (set, mut refused): (Snapshot, Vec<ConfigError>),
        earlier: Vec<ConfigError>,
    ) -> Round {
        let ttl = hosts.ttl.unwrap_or_default();
        if set.is_empty() && !refused.is_empty() {
            return Round::invalid(refused.remove(0), ttl);
        }
        let set = self.certified(set);
        let refused = earlier.into_iter().chain(refused);
        let failed = hosts.failed.iter();
        let wrong = refused
            .map(|error| error.to_string())
            .chain(failed.map(ToString::to_string));
        let wrong: Vec<_> = wrong.collect();
        self.known = hosts.addresses;
        Round {
            answer: Ok(set),
            outcome: match hosts.failed.is_empty() {
                true => Outcome::Found(ttl),
                false => Outcome::Partial(ttl),
            },
            wrong,
        }
    }

    /// With TLS the instances say what their certificates are for: their addresses do not.
    fn certified(&self, set: Snapshot) -> Snapshot {
        let name = self.registry.scheme.is_tls().then(|| certified(&self.name));
        let Some(name) = name.flatten() else {
            return set;
        };
        let certified = |instance: &Arc<Instance>| {
            let instance = Instance::clone(instance);
            Arc::new(instance.with_metadata(Instance::SERVER_NAME, name.clone()))
        };
        set.iter().map(certified).collect()
    }

    fn say(&mut self, mut wrong: Vec<String>) {
        wrong.sort();
        if wrong != self.said {
            let (service, name) = (&*self.service, &self.name);
            for problem in &wrong {
                tracing::warn!(service, %name, problem, "DNS record left out, or as last known");
            }
            self.said = wrong;
        }
    }
}

// ===== impl Hosts =====

impl Hosts {
    /// Takes in what was said of one host's addresses of one family, or else what was `known`.
    /// Returns for how long there are none.
    fn learn(
        &mut self,
        known: &Addresses,
        key: (Name, RecordType),
        reply: Result<Reply, AskError>,
    ) -> Option<Duration> {
        match reply {
            Ok(Reply::Found(Found { records, ttl, .. })) => {
                self.found = true;
                self.ttl = Some(self.ttl.map_or(ttl, |least| least.min(ttl)));
                let addresses = records.iter().filter_map(|record| record.ip_addr());
                self.addresses.insert(key, addresses.collect());
            }
            Ok(Reply::Absent(ttl)) => return ttl,
            Err(error) => {
                self.failed.push(error);
                if let Some(addresses) = known.get(&key) {
                    self.addresses.insert(key, addresses.clone());
                }
            }
        }
        None
    }
}

// ===== impl Round =====

impl Round {
    fn failed(error: ResolveError) -> Self {
        Self {
            answer: Err(error),
            outcome: Outcome::Failed,
            wrong: Vec::new(),
        }
    }

    /// A good answer of bad content.
    fn invalid(error: ConfigError, ttl: Duration) -> Self {
        Self {
            answer: Err(ResolveError::invalid(error)),
            outcome: Outcome::Found(ttl),
            wrong: Vec::new(),
        }
    }

    fn absent(ttl: Option<Duration>) -> Self {
        Self {
            answer: Ok(snapshot(Vec::<Arc<Instance>>::new())),
            outcome: Outcome::Absent(ttl),
            wrong: Vec::new(),
        }
    }
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "search_tests.rs"]
mod search_tests;
