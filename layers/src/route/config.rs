//! Options of the routes, as they are written in a file and in code.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::vocab::request_match::MatchConfig;

/// Options of the routes; the [module](super) has them in a table.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteConfig {
    /// Looked at in this order; the first that matches a call decides. Default: none, and no call
    /// is routed.
    pub rules: Vec<RuleConfig>,
}

/// One rule: which calls it is for, and where they go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuleConfig {
    /// Its name in metrics and errors, which no other rule has: 1 to 64 visible characters.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 64)))]
    pub name: String,
    /// Calls for which one of these matches. Default: all calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<MatchConfig>,
    /// The arms that its calls are divided among, at least one.
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub backends: Vec<BackendConfig>,
    /// Sends all calls of one caller to the same arm. Default: every call is drawn for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<StickyConfig>,
    /// What happens to calls whose arm has no ready endpoint. Default: they fail.
    #[serde(default)]
    pub fallback: FallbackConfig,
}

/// One arm of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendConfig {
    /// Its name, which no other arm of the rule has: 1 to 64 visible characters. Sticky callers are
    /// divided by it, so a new name is a new arm. Default: the subset, as `version=2.0`, or `all`.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 64)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Labels that an endpoint must have to belong to the arm: entries of its instance's metadata,
    /// and `version`, which is the instance's version. Default: none, and all endpoints belong to
    /// it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub subset: BTreeMap<String, String>,
    /// How many parts of the rule's calls it gets, of the sum over all arms: 0 to 4294967295, and 0
    /// is none. Default: 1.
    #[cfg_attr(feature = "schema", schemars(range(max = u32::MAX)))]
    #[serde(default = "default_weight")]
    pub weight: u32,
}

/// How the calls of one caller find the same arm again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StickyConfig {
    /// Where the caller is named, at least one; the first of these that a call has counts.
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub key: Vec<StickyKey>,
    /// Mixed with the key, so that rules with different salts divide the same callers differently.
    /// Default: the name of the rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub salt: Option<String>,
    /// Where calls go that have none of the keys. Default: they are drawn one by one.
    #[serde(default)]
    pub on_missing: OnMissing,
}

/// Where a caller is named. What is there and empty counts as missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum StickyKey {
    /// In a header; in the first line of it.
    Header(String),
    /// In a cookie.
    Cookie(String),
}

/// Where a sticky rule sends calls that do not say whose they are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum OnMissing {
    /// Each is drawn for itself, by the weights.
    #[default]
    Random,
    /// All go to the arm with this name.
    Arm(String),
}

/// What happens to calls whose arm has no ready endpoint; the [module](super) tells it in full.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum FallbackConfig {
    /// They stay with their arm, and are refused where it has no endpoint at all.
    #[default]
    Fail,
    /// They go to any endpoint of the service.
    Any,
    /// They go to the arm of the rule with this name.
    Arm(String),
}

fn default_weight() -> u32 {
    1
}

// ===== impl RouteConfig =====

impl RouteConfig {
    /// These rules, in this order.
    pub fn new(rules: impl IntoIterator<Item = RuleConfig>) -> Self {
        Self {
            rules: rules.into_iter().collect(),
        }
    }
}

// ===== impl RuleConfig =====

impl RuleConfig {
    /// A rule for all calls, with no arm yet.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            matches: Vec::new(),
            backends: Vec::new(),
            sticky: None,
            fallback: FallbackConfig::default(),
        }
    }

    /// Adds calls that the rule is for: before the first of these it is for all.
    #[must_use]
    pub fn matching(mut self, matches: MatchConfig) -> Self {
        self.matches.push(matches);
        self
    }

    /// Adds an arm.
    #[must_use]
    pub fn backend(mut self, backend: BackendConfig) -> Self {
        self.backends.push(backend);
        self
    }

    /// Sends all calls of one caller to the same arm.
    #[must_use]
    pub fn sticky(mut self, sticky: StickyConfig) -> Self {
        self.sticky = Some(sticky);
        self
    }

    /// Says what happens to calls whose arm has no ready endpoint.
    #[must_use]
    pub fn fallback(mut self, fallback: FallbackConfig) -> Self {
        self.fallback = fallback;
        self
    }
}

// ===== impl BackendConfig =====

impl BackendConfig {
    /// An arm that all endpoints belong to, with one part of the calls.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: Some(name.into()),
            ..Self::default()
        }
    }

    /// Only endpoints of this version belong to it.
    #[must_use]
    pub fn version(self, version: impl Into<String>) -> Self {
        self.label("version", version)
    }

    /// Only endpoints with this label belong to it.
    #[must_use]
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.subset.insert(name.into(), value.into());
        self
    }

    /// Sets how many parts of the calls it gets.
    #[must_use]
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }
}

impl Default for BackendConfig {
    fn default() -> Self {
        Self {
            name: None,
            subset: BTreeMap::new(),
            weight: default_weight(),
        }
    }
}

// ===== impl StickyConfig =====

impl StickyConfig {
    /// A caller is named in this header.
    pub fn header(name: impl Into<String>) -> Self {
        Self {
            key: vec![StickyKey::Header(name.into())],
            ..Self::default()
        }
    }

    /// A caller is named in this cookie.
    pub fn cookie(name: impl Into<String>) -> Self {
        Self {
            key: vec![StickyKey::Cookie(name.into())],
            ..Self::default()
        }
    }

    /// Where a call has none of the keys so far, its caller is named here.
    #[must_use]
    pub fn or(mut self, key: StickyKey) -> Self {
        self.key.push(key);
        self
    }

    /// Divides the callers differently from rules with another salt.
    #[must_use]
    pub fn salt(mut self, salt: impl Into<String>) -> Self {
        self.salt = Some(salt.into());
        self
    }

    /// Says where calls go that have none of the keys.
    #[must_use]
    pub fn on_missing(mut self, on_missing: OnMissing) -> Self {
        self.on_missing = on_missing;
        self
    }
}
