//! What a routing layer decides for a call, and what a balancer and the logs below read of it.
//!
//! What is the same for all calls of an arm is made once and shared ([`RouteArm`]); a call adds its
//! hash ([`RouteDecision`]). So to decide costs no allocation.

use std::{
    collections::BTreeMap,
    fmt,
    hash::{BuildHasher, Hash, Hasher},
    num::NonZeroU64,
    sync::Arc,
};

/// Where a routing layer sends a call. A clone allocates nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteDecision {
    arm: Arc<RouteArm>,
    /// 0 stands for 1, so that the decision is two words.
    hash: Option<NonZeroU64>,
}

/// One arm of a routing rule, as the layers below see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RouteArm {
    /// The rule that matched.
    pub rule: Box<str>,
    /// The arm of the rule that was drawn.
    pub name: Box<str>,
    /// The endpoints that belong to the arm.
    pub subset: Subset,
    /// What happens to a call when the arm has no ready endpoint.
    pub fallback: RouteFallback,
    /// How often the rules had changed when this one was made, counting from 1; 0 where nobody
    /// counts.
    pub revision: u64,
}

/// What happens to a call of an arm that has no ready endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RouteFallback {
    /// It stays with its arm: endpoints of it that are out are called all the same, and where there
    /// are none the call is refused. So an arm that is missing shows at once, with the share it
    /// has.
    #[default]
    Fail,
    /// It goes to any other endpoint of the service.
    Any,
    /// It goes to these endpoints.
    Subset(Subset),
}

/// Which endpoints of a service are meant: those whose instances have all of these labels.
///
/// A label is an entry of an instance's metadata; `version` is the version of the instance. The
/// empty subset, which is the default, means every endpoint. A clone allocates nothing.
///
/// ```
/// use tower_mesh_layers::context::Subset;
///
/// let canary = Subset::new([("version", "2.0")]);
/// assert!(canary.matches(|label| (label == "version").then_some("2.0")));
/// assert!(!canary.matches(|_| None));
/// assert_eq!(canary.to_string(), "version=2.0");
/// assert!(Subset::default().is_everything());
/// ```
#[derive(Clone, Default)]
pub struct Subset(Option<Arc<Labels>>);

struct Labels {
    hash: u64,
    /// Sorted by name.
    pairs: Box<[(Box<str>, Box<str>)]>,
}

// ===== impl RouteDecision =====

impl RouteDecision {
    /// Sends a call to this arm.
    #[inline]
    pub const fn new(arm: Arc<RouteArm>) -> Self {
        Self { arm, hash: None }
    }

    /// Says by what hash of the caller the arm was chosen.
    #[must_use]
    #[inline]
    pub const fn with_hash(mut self, hash: u64) -> Self {
        self.hash = Some(match NonZeroU64::new(hash) {
            Some(hash) => hash,
            None => NonZeroU64::MIN,
        });
        self
    }

    /// The arm, with the rule that it belongs to.
    #[inline]
    pub fn arm(&self) -> &RouteArm {
        &self.arm
    }

    /// What sticky picking went by, never 0; `None` where the arm was drawn or is the only one.
    #[inline]
    pub fn hash(&self) -> Option<u64> {
        self.hash.map(NonZeroU64::get)
    }
}

// ===== impl RouteArm =====

impl RouteArm {
    /// An arm that all endpoints belong to.
    pub fn new(rule: impl Into<Box<str>>, name: impl Into<Box<str>>) -> Self {
        Self {
            rule: rule.into(),
            name: name.into(),
            ..Self::default()
        }
    }

    /// Sets the endpoints that belong to the arm.
    #[must_use]
    pub fn with_subset(mut self, subset: Subset) -> Self {
        self.subset = subset;
        self
    }

    /// Sets what happens when none of them is ready.
    #[must_use]
    pub fn with_fallback(mut self, fallback: RouteFallback) -> Self {
        self.fallback = fallback;
        self
    }
}

// ===== impl Subset =====

impl Subset {
    /// The endpoints whose instances have all of these labels. Of several values for one label the
    /// last one counts.
    pub fn new<K, V>(labels: impl IntoIterator<Item = (K, V)>) -> Self
    where
        K: Into<Box<str>>,
        V: Into<Box<str>>,
    {
        let pairs: BTreeMap<Box<str>, Box<str>> = labels
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        if pairs.is_empty() {
            return Self(None);
        }
        let pairs: Box<[_]> = pairs.into_iter().collect();
        let hash = foldhash::quality::FixedState::default().hash_one(&pairs);
        Self(Some(Arc::new(Labels { hash, pairs })))
    }

    /// Whether every endpoint belongs to it.
    #[inline]
    pub fn is_everything(&self) -> bool {
        self.0.is_none()
    }

    /// The labels, sorted by name.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        let pairs = self.0.as_ref().map_or(&[][..], |labels| &labels.pairs);
        pairs.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Whether an instance belongs to it, of which `label` tells the labels.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.labels()
            .all(|(name, value)| label(name) == Some(value))
    }

    /// Where to look for it in a table: the same for equal subsets in one process.
    #[inline]
    pub fn table_hash(&self) -> u64 {
        self.0.as_ref().map_or(0, |labels| labels.hash)
    }
}

impl PartialEq for Subset {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            // Nearly always the same: the labels are compared only after the rules changed.
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || (a.hash == b.hash && a.pairs == b.pairs),
            _ => false,
        }
    }
}

impl Eq for Subset {}

impl Hash for Subset {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.table_hash());
    }
}

impl fmt::Display for Subset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (name, value)) in self.labels().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            write!(f, "{comma}{name}={value}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Subset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.labels()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_is_two_words_and_keeps_its_hash() {
        assert_eq!(size_of::<Option<RouteDecision>>(), 16);
        let decision = RouteDecision::new(Arc::new(RouteArm::new("rule", "arm")));
        assert_eq!(decision.hash(), None);
        assert_eq!(decision.clone().with_hash(7).hash(), Some(7));
        assert_eq!(decision.with_hash(0).hash(), Some(1));
    }

    #[test]
    fn subsets_are_equal_by_their_labels() {
        let subset = Subset::new([("zone", "a"), ("version", "1"), ("version", "2")]);
        assert_eq!(subset.to_string(), "version=2,zone=a");
        let other = Subset::new([("version", "2"), ("zone", "a")]);
        assert_eq!((&subset, subset.table_hash()), (&other, other.table_hash()));
        assert_ne!(subset, Subset::new([("version", "2")]));
        assert_ne!(subset, Subset::default());
    }

    #[test]
    fn all_labels_must_be_there() {
        let subset = Subset::new([("version", "2"), ("zone", "a")]);
        let has = |labels: &'static [(&str, &str)]| {
            subset.matches(|name| Some(labels.iter().find(|(label, _)| *label == name)?.1))
        };
        assert!(has(&[("zone", "a"), ("version", "2"), ("team", "x")]));
        assert!(!has(&[("zone", "a")]));
        assert!(!has(&[("zone", "a"), ("version", "20")]));
    }
}
