//! The rules, compiled: which of them is for a call, and which of its arms.

use std::{borrow::Cow, sync::Arc};

use http::Request;

use super::{
    config::{BackendConfig, FallbackConfig, OnMissing, RouteConfig, RuleConfig},
    draw::{Rendezvous, Weights},
    stats::ArmCount,
    sticky::{Identify, hash_of},
};
use crate::vocab::{
    config::ConfigError,
    context::{RouteArm, RouteDecision, RouteFallback, Subset},
    metrics::Registered,
    request_match::RequestMatch,
    shard::Sharded,
};

/// The longest name of a rule or an arm, which are labels of metrics.
const MAX_NAME: usize = 64;

/// All rules, in the order in which they are looked at.
pub(super) struct Table {
    rules: Box<[Rule]>,
    revision: u64,
}

struct Rule {
    name: Box<str>,
    matches: RequestMatch,
    arms: Box<[Arm]>,
    draw: Draw,
}

/// One arm of one rule.
pub(super) struct Arm {
    /// The same for each: a call clones the one of its thread, and touches no count that others
    /// touch.
    shared: Sharded<Arc<RouteArm>>,
    pub(super) count: Arc<Registered<ArmCount>>,
    /// Which service of a split takes its calls.
    pub(super) service: usize,
}

enum Draw {
    /// One arm has all the weight.
    Only(usize),
    Random(Weights),
    Sticky {
        identify: Identify,
        arms: Rendezvous,
        missing: Missing,
    },
}

/// Where a sticky rule sends calls that do not say whose they are.
enum Missing {
    Random(Weights),
    Arm(usize),
}

/// Finds the service of an arm by its name.
pub(super) type FindService<'a> = &'a dyn Fn(&str) -> Result<usize, ConfigError>;

// ===== impl Table =====

impl Table {
    /// Counts and subsets that `previous` has as well are taken over.
    pub(super) fn compile(
        config: &RouteConfig,
        previous: Option<&Self>,
        service: FindService<'_>,
    ) -> Result<Self, ConfigError> {
        let revision = previous.map_or(0, |previous| previous.revision) + 1;
        let mut rules: Vec<Rule> = Vec::with_capacity(config.rules.len());
        for (at, rule) in config.rules.iter().enumerate() {
            let compile = || {
                check_name(&rule.name, rules.iter().map(|rule| &*rule.name), "rule")?;
                Rule::compile(rule, revision, previous, service)
            };
            rules.push(compile().map_err(|error| error.at(format_args!("rules[{at}]")))?);
        }
        let rules = rules.into();
        Ok(Self { rules, revision })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The arm of a call, and the hash that it was found by; `None` when no rule matches.
    #[inline]
    pub(super) fn decide<B>(
        &self,
        request: &Request<B>,
        random: impl FnOnce() -> u64,
    ) -> Option<(&Arm, Option<u64>)> {
        let rule = self
            .rules
            .iter()
            .find(|rule| rule.matches.matches(request))?;
        let (place, hash) = match &rule.draw {
            Draw::Only(place) => (*place, None),
            Draw::Random(weights) => (weights.pick(random()), None),
            Draw::Sticky {
                identify,
                arms,
                missing,
            } => match identify.hash(request.headers()) {
                Some(hash) => (arms.pick(hash), Some(hash)),
                None => (missing.pick(random), None),
            },
        };
        Some((&rule.arms[place], hash))
    }

    pub(super) fn arms(&self) -> impl Iterator<Item = &Arm> {
        self.rules.iter().flat_map(|rule| &rule.arms)
    }
}

// ===== impl Rule =====

impl Rule {
    fn compile(
        config: &RuleConfig,
        revision: u64,
        previous: Option<&Table>,
        service: FindService<'_>,
    ) -> Result<Self, ConfigError> {
        let matches = RequestMatch::any_of(&config.matches).map_err(|error| error.at("matches"))?;
        let names = arm_names(&config.backends)?;
        let weights = weights(&config.backends)?;
        let fallback = fallback(config, &names)?;
        let mut arms = Vec::with_capacity(names.len());
        for (place, (backend, name)) in config.backends.iter().zip(&names).enumerate() {
            let at_backend = |error: ConfigError| error.at(format_args!("backends[{place}]"));
            let subset = subset(backend, previous).map_err(at_backend)?;
            let mut arm = RouteArm::new(&*config.name, &**name).with_subset(subset);
            arm.revision = revision;
            if fallback.arm != Some(place) {
                arm.fallback = fallback.to.clone();
            }
            arms.push(Arm {
                count: ArmCount::of(&arm, previous),
                service: service(name).map_err(at_backend)?,
                shared: Sharded::new(|| Arc::new(arm.clone())),
            });
        }
        Ok(Self {
            name: config.name.as_str().into(),
            matches,
            arms: arms.into(),
            draw: Draw::compile(config, &names, &weights)?,
        })
    }
}

/// Compiles a backend's labels; equal ones of before are shared, so that they are found at a
/// glance.
fn subset(config: &BackendConfig, previous: Option<&Table>) -> Result<Subset, ConfigError> {
    if config.subset.contains_key("") {
        return Err(ConfigError::new("subset", "", "labels with names"));
    }
    let labels = config.subset.iter();
    let subset = Subset::new(labels.map(|(name, value)| (name.as_str(), value.as_str())));
    let known = previous.into_iter().flat_map(Table::arms);
    let mut known = known.map(|arm| &arm.shared.get().subset);
    Ok(known
        .find(|known| **known == subset)
        .cloned()
        .unwrap_or(subset))
}

/// The names of a rule's arms, given or by default.
fn arm_names(backends: &[BackendConfig]) -> Result<Vec<Cow<'_, str>>, ConfigError> {
    let mut names: Vec<Cow<'_, str>> = Vec::with_capacity(backends.len());
    for (at, backend) in backends.iter().enumerate() {
        let name = match &backend.name {
            Some(name) => Cow::Borrowed(name.as_str()),
            None if backend.subset.is_empty() => Cow::Borrowed("all"),
            None => {
                let labels = backend.subset.iter();
                let labels: Vec<_> = labels
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect();
                Cow::Owned(labels.join(","))
            }
        };
        check_name(&name, names.iter().map(|name| &**name), "arm of the rule")
            .map_err(|error| error.at(format_args!("backends[{at}]")))?;
        names.push(name);
    }
    Ok(names)
}

/// The weights of a rule's arms, at least one of them above 0.
fn weights(backends: &[BackendConfig]) -> Result<Vec<u32>, ConfigError> {
    if backends.is_empty() {
        return Err(ConfigError::new("backends", "[]", "at least one arm"));
    }
    let sum: u64 = backends
        .iter()
        .map(|backend| u64::from(backend.weight))
        .sum();
    if !(1..=u64::from(u32::MAX)).contains(&sum) {
        let expected = format!("weights whose sum is 1 to {}", u32::MAX);
        return Err(ConfigError::new(
            "backends",
            format_args!("a sum of {sum}"),
            expected,
        ));
    }
    Ok(backends.iter().map(|backend| backend.weight).collect())
}

fn check_name<'a>(
    name: &str,
    mut others: impl Iterator<Item = &'a str>,
    what: &str,
) -> Result<(), ConfigError> {
    let visible = |c: char| !c.is_whitespace() && !c.is_control();
    if name.is_empty() || name.chars().count() > MAX_NAME || !name.chars().all(visible) {
        let expected = format!("1 to {MAX_NAME} visible characters");
        return Err(ConfigError::new("name", name.escape_debug(), expected));
    }
    if others.any(|other| other == name) {
        return Err(ConfigError::new(
            "name",
            name,
            format!("a name that no other {what} has"),
        ));
    }
    Ok(())
}

fn place_of(name: &str, names: &[Cow<'_, str>]) -> Result<usize, ConfigError> {
    let place = names.iter().position(|known| known == name);
    place.ok_or_else(|| {
        ConfigError::new(
            "arm",
            name,
            format!("an arm of the rule: {}", names.join(", ")),
        )
    })
}

/// What a rule falls back to.
struct Fallback {
    to: RouteFallback,
    /// The arm that this is: there is nothing behind it.
    arm: Option<usize>,
}

fn fallback(config: &RuleConfig, names: &[Cow<'_, str>]) -> Result<Fallback, ConfigError> {
    let (to, arm) = match &config.fallback {
        FallbackConfig::Fail => (RouteFallback::Fail, None),
        FallbackConfig::Any => (RouteFallback::Any, None),
        FallbackConfig::Arm(name) => {
            let place = place_of(name, names).map_err(|error| error.at("fallback"))?;
            let subset = subset(&config.backends[place], None)?;
            (RouteFallback::Subset(subset), Some(place))
        }
    };
    Ok(Fallback { to, arm })
}

// ===== impl Draw =====

impl Draw {
    fn compile(
        config: &RuleConfig,
        names: &[Cow<'_, str>],
        weights: &[u32],
    ) -> Result<Self, ConfigError> {
        let mut weighty = (0..weights.len()).filter(|&place| weights[place] > 0);
        let only = weighty.next().filter(|_| weighty.next().is_none());
        let Some(sticky) = &config.sticky else {
            return Ok(match only {
                Some(place) => Self::Only(place),
                None => Self::Random(Weights::new(weights)),
            });
        };
        let at_sticky = |error: ConfigError| error.at("sticky");
        let identify = Identify::compile(sticky, &config.name).map_err(at_sticky)?;
        let missing = match &sticky.on_missing {
            OnMissing::Random => Missing::Random(Weights::new(weights)),
            OnMissing::Arm(name) => {
                let place = place_of(name, names).map_err(|error| error.at("sticky.onMissing"))?;
                Missing::Arm(place)
            }
        };
        Ok(match (only, &missing) {
            (Some(place), Missing::Random(_)) => Self::Only(place),
            _ => Self::Sticky {
                identify,
                arms: Rendezvous::new(
                    names
                        .iter()
                        .map(|name| hash_of(name))
                        .zip(weights.iter().copied()),
                ),
                missing,
            },
        })
    }
}

// ===== impl Missing =====

impl Missing {
    #[inline]
    fn pick(&self, random: impl FnOnce() -> u64) -> usize {
        match self {
            Self::Random(weights) => weights.pick(random()),
            Self::Arm(place) => *place,
        }
    }
}

// ===== impl Arm =====

impl Arm {
    #[inline]
    pub(super) fn decision(&self, hash: Option<u64>) -> RouteDecision {
        let decision = RouteDecision::new(self.shared.get().clone());
        match hash {
            Some(hash) => decision.with_hash(hash),
            None => decision,
        }
    }
}
