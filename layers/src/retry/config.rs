//! Options of the retry layer.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::condition::Condition;
use crate::vocab::{
    body::ReplayConfig,
    budget::BudgetTerms,
    config::{ConfigError, Ratio, duration, duration_in_range, in_range},
    request_match::MatchConfig,
};

/// Options of the retry layer; the [module](super) has them in a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RetryConfig {
    /// How often a call is tried, the first attempt included: 1 to 10, default 3. 1 turns retries off.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 10)))]
    pub max_attempts: u32,
    /// How long an attempt may take to its response head: 1 ms to 1 h, default unlimited. The
    /// deadline of the call counts as well.
    #[cfg_attr(feature = "schema", schemars(with = "Option<crate::schema::Duration>"))]
    #[serde(with = "duration::option", skip_serializing_if = "Option::is_none")]
    pub attempt_timeout: Option<Duration>,
    /// What is retried. Default [`Condition::DEFAULT`].
    pub retry_on: Vec<Condition>,
    /// Requests that are safe to repeat although their method does not say so. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub idempotent: Vec<MatchConfig>,
    /// Repeats every request, whatever its method. Default `false`.
    pub non_idempotent: bool,
    /// How many more attempts an endpoint gets before another one is tried: 0 to 9, default 0.
    #[cfg_attr(feature = "schema", schemars(range(max = 9)))]
    pub retry_on_same: u32,
    /// What counts instead for some requests; the first rule that matches does. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RetryRule>,
    /// The pauses between attempts.
    pub backoff: BackoffConfig,
    /// The longest pause that a peer may ask for: 0 to 1 h, default 30 s. A call whose peer asks for
    /// more is not retried.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Duration"))]
    #[serde(with = "duration")]
    pub max_pushback: Duration,
    /// How many retries there may be.
    pub budget: BudgetConfig,
    /// How much of request bodies is kept to send them again.
    pub replay: ReplayConfig,
    /// The label `policy` of its metrics. Default `default`.
    pub name: String,
}

/// The pauses between attempts: at random between nothing and an upper bound, which doubles.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BackoffConfig {
    /// The upper bound of the first pause: 1 ms to 1 min, default 25 ms.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Duration"))]
    #[serde(with = "duration")]
    pub base: Duration,
    /// The upper bound of all pauses: `base` to 10 min, default 250 ms.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Duration"))]
    #[serde(with = "duration")]
    pub max: Duration,
}

/// What counts for some requests; what is not said here counts as for all others.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RetryRule {
    /// The requests that are meant: one of the matches is enough, and none at all means every request.
    pub matches: Vec<MatchConfig>,
    /// How often a call is tried, the first attempt included: 1 to 10.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 10)))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// How long an attempt may take to its response head: 1 ms to 1 h.
    #[cfg_attr(feature = "schema", schemars(with = "Option<crate::schema::Duration>"))]
    #[serde(with = "duration::option", skip_serializing_if = "Option::is_none")]
    pub attempt_timeout: Option<Duration>,
    /// What is retried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_on: Option<Vec<Condition>>,
    /// Whether the requests are safe to repeat, whatever their method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idempotent: Option<bool>,
}

/// How many retries there may be, for all calls through the layer together: a share of the calls, or
/// as many as gRPC's tokens allow. See [`Budget`](crate::budget).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "BudgetFields", into = "BudgetFields")]
pub enum BudgetConfig {
    /// Those of Finagle and Linkerd.
    Ratio {
        /// Retries for each call of the last 10 s. Default 20%.
        ratio: Ratio,
        /// Retries per second that are there without any calls, up to ten seconds' worth at once:
        /// 0 to 1,000,000, default 10.
        reserve: u32,
    },
    /// gRPC's `retryThrottling`: no retries while half of the tokens or fewer are there.
    Tokens {
        /// How many tokens there are at first, and at most: 1 to 1,000, default 10. An attempt that
        /// fails costs one.
        max_tokens: u32,
        /// How much of a token an attempt that succeeds gives back: above 0%, default 10%.
        token_ratio: Ratio,
    },
}

/// A [`BudgetConfig`] as it is written: fields of one kind or of the other.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct BudgetFields {
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<Ratio>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reserve: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ratio: Option<Ratio>,
}

// ===== impl RetryConfig =====

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            attempt_timeout: None,
            retry_on: Condition::DEFAULT.to_vec(),
            idempotent: Vec::new(),
            non_idempotent: false,
            retry_on_same: 0,
            rules: Vec::new(),
            backoff: BackoffConfig::default(),
            max_pushback: Duration::from_secs(30),
            budget: BudgetConfig::default(),
            replay: ReplayConfig::default(),
            name: "default".to_owned(),
        }
    }
}

impl Default for BackoffConfig {
    fn default() -> Self {
        // Envoy's: about the tail of a call within a data centre, so that the first pause outlasts a
        // hiccup; ten times that where it does not.
        Self {
            base: Duration::from_millis(25),
            max: Duration::from_millis(250),
        }
    }
}

impl Default for BudgetConfig {
    fn default() -> Self {
        Self::Ratio {
            ratio: Self::RATIO,
            reserve: Self::RESERVE,
        }
    }
}

impl BudgetConfig {
    /// Finagle's, and Linkerd's.
    const RATIO: Ratio = Ratio::percent(20);
    const RESERVE: u32 = 10;
    /// Those of the example in gRFC A6.
    const MAX_TOKENS: u32 = 10;
    const TOKEN_RATIO: Ratio = Ratio::percent(10);

    pub(super) fn terms(self) -> BudgetTerms {
        match self {
            Self::Ratio { ratio, reserve } => BudgetTerms::ratio(ratio, reserve),
            Self::Tokens {
                max_tokens,
                token_ratio,
            } => BudgetTerms::tokens(max_tokens, token_ratio),
        }
    }

    fn validate(self) -> Result<(), ConfigError> {
        match self {
            Self::Ratio { reserve, .. } => in_range("budget.reserve", reserve, 0..=1_000_000)?,
            Self::Tokens {
                max_tokens,
                token_ratio,
            } => {
                if token_ratio == Ratio::ZERO {
                    let expected = "a percentage above 0%, or no token would ever come back";
                    return Err(ConfigError::new("budget.tokenRatio", token_ratio, expected));
                }
                in_range("budget.maxTokens", max_tokens, 1..=1_000)?
            }
        };
        Ok(())
    }
}

impl TryFrom<BudgetFields> for BudgetConfig {
    type Error = ConfigError;

    fn try_from(fields: BudgetFields) -> Result<Self, ConfigError> {
        let BudgetFields {
            ratio,
            reserve,
            max_tokens,
            token_ratio,
        } = fields;
        let has_tokens = max_tokens.is_some() || token_ratio.is_some();
        match (ratio, reserve) {
            (None, None) if has_tokens => Ok(Self::Tokens {
                max_tokens: max_tokens.unwrap_or(Self::MAX_TOKENS),
                token_ratio: token_ratio.unwrap_or(Self::TOKEN_RATIO),
            }),
            _ if has_tokens => Err(ConfigError::new(
                "",
                "fields of two kinds of budget",
                "`ratio` and `reserve`, or `maxTokens` and `tokenRatio`",
            )),
            _ => Ok(Self::Ratio {
                ratio: ratio.unwrap_or(Self::RATIO),
                reserve: reserve.unwrap_or(Self::RESERVE),
            }),
        }
    }
}

impl From<BudgetConfig> for BudgetFields {
    fn from(config: BudgetConfig) -> Self {
        match config {
            BudgetConfig::Ratio { ratio, reserve } => Self {
                ratio: Some(ratio),
                reserve: Some(reserve),
                ..Self::default()
            },
            BudgetConfig::Tokens {
                max_tokens,
                token_ratio,
            } => Self {
                max_tokens: Some(max_tokens),
                token_ratio: Some(token_ratio),
                ..Self::default()
            },
        }
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for BudgetConfig {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "BudgetConfig".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let ratio = generator.subschema_for::<Ratio>();
        schemars::json_schema!({
            "description": "How many retries there may be, for all calls through the layer together.",
            "anyOf": [
                {
                    "description": "A share of the calls of the last 10 s, and some without any.",
                    "type": "object",
                    "properties": {
                        "ratio": { "allOf": [ratio], "default": Self::RATIO },
                        "reserve": {
                            "description": "Retries per second that are there without any calls.",
                            "type": "integer", "minimum": 0, "maximum": 1_000_000,
                            "default": Self::RESERVE,
                        },
                    },
                    "additionalProperties": false,
                },
                {
                    "description": "gRPC's throttling: none while half of the tokens or fewer are there.",
                    "type": "object",
                    "properties": {
                        "maxTokens": {
                            "description": "The tokens; an attempt that fails costs one.",
                            "type": "integer", "minimum": 1, "maximum": 1_000,
                            "default": Self::MAX_TOKENS,
                        },
                        "tokenRatio": { "allOf": [ratio], "default": Self::TOKEN_RATIO },
                    },
                    "additionalProperties": false,
                },
            ],
        })
    }
}

impl RetryRule {
    /// What counts for these requests, of which one match is enough.
    pub fn new(matches: impl IntoIterator<Item = MatchConfig>) -> Self {
        Self {
            matches: matches.into_iter().collect(),
            ..Self::default()
        }
    }

    /// How often a call is tried, the first attempt included; 1 turns retries off.
    #[must_use]
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = Some(attempts);
        self
    }

    /// How long an attempt may take to its response head.
    #[must_use]
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = Some(timeout);
        self
    }

    /// What is retried.
    #[must_use]
    pub fn retry_on(mut self, conditions: impl IntoIterator<Item = Condition>) -> Self {
        self.retry_on = Some(conditions.into_iter().collect());
        self
    }

    /// Whether the requests are safe to repeat, whatever their method.
    #[must_use]
    pub fn idempotent(mut self, idempotent: bool) -> Self {
        self.idempotent = Some(idempotent);
        self
    }

    fn validate(&self) -> Result<(), ConfigError> {
        attempts_in_range(self.max_attempts.unwrap_or(1))?;
        timeout_in_range(self.attempt_timeout)
    }
}

const MS: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
/// As many as a call can be told apart by; each is a match for every call.
pub(super) const MOST_RULES: usize = 100;

fn attempts_in_range(attempts: u32) -> Result<(), ConfigError> {
    in_range("maxAttempts", attempts, 1..=10)?;
    Ok(())
}

fn timeout_in_range(timeout: Option<Duration>) -> Result<(), ConfigError> {
    if let Some(timeout) = timeout {
        duration_in_range("attemptTimeout", timeout, MS..=60 * MINUTE)?;
    }
    Ok(())
}

impl RetryConfig {
    /// Checks every value.
    ///
    /// # Errors
    ///
    /// The first value that is out of range, with its field.
    pub fn validate(&self) -> Result<(), ConfigError> {
        attempts_in_range(self.max_attempts)?;
        timeout_in_range(self.attempt_timeout)?;
        in_range("retryOnSame", self.retry_on_same, 0..=9)?;
        in_range("rules", self.rules.len(), 0..=MOST_RULES)?;
        for (nth, rule) in self.rules.iter().enumerate() {
            let checked = rule.validate();
            checked.map_err(|error| error.at(format!("rules[{nth}]")))?;
        }
        duration_in_range(
            "maxPushback",
            self.max_pushback,
            Duration::ZERO..=60 * MINUTE,
        )?;
        let BackoffConfig { base, max } = self.backoff;
        duration_in_range("backoff.base", base, MS..=MINUTE)?;
        duration_in_range("backoff.max", max, base..=10 * MINUTE)?;
        self.budget.validate()?;
        self.replay.validate().map_err(|error| error.at("replay"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid_and_reads_back() {
        let config = RetryConfig::default();
        config.validate().unwrap();
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<RetryConfig>(&text).unwrap(), config);
        assert_eq!(serde_json::from_str::<RetryConfig>("{}").unwrap(), config);
    }

    #[test]
    fn a_budget_is_of_one_kind_or_of_the_other() {
        for (text, expected) in [
            ("{}", BudgetConfig::default()),
            (
                r#"{"reserve":0}"#,
                BudgetConfig::Ratio {
                    ratio: Ratio::percent(20),
                    reserve: 0,
                },
            ),
            (
                r#"{"maxTokens":100}"#,
                BudgetConfig::Tokens {
                    max_tokens: 100,
                    token_ratio: Ratio::percent(10),
                },
            ),
        ] {
            let read: BudgetConfig = serde_json::from_str(text).unwrap();
            assert_eq!(read, expected);
            let written = serde_json::to_string(&read).unwrap();
            assert_eq!(
                serde_json::from_str::<BudgetConfig>(&written).unwrap(),
                read
            );
        }
    }

    #[test]
    fn a_refusal_names_field_value_and_range() {
        for (text, message) in [
            (
                r#"{"maxAttempts":0}"#,
                "maxAttempts: got `0`, expected 1 to 10",
            ),
            (
                r#"{"attemptTimeout":"0s"}"#,
                "attemptTimeout: got `0s`, expected 1ms to 1h",
            ),
            (
                r#"{"backoff":{"base":"1s"}}"#,
                "backoff.max: got `250ms`, expected 1s to 10m",
            ),
            (
                r#"{"budget":{"reserve":1000001}}"#,
                "budget.reserve: got `1000001`, expected 0 to 1000000",
            ),
            (
                r#"{"budget":{"maxTokens":0}}"#,
                "budget.maxTokens: got `0`, expected 1 to 1000",
            ),
            (
                r#"{"budget":{"tokenRatio":"0%"}}"#,
                "budget.tokenRatio: got `0%`, expected a percentage above 0%, or no token would \
                 ever come back",
            ),
            (
                r#"{"rules":[{},{"maxAttempts":11}]}"#,
                "rules[1].maxAttempts: got `11`, expected 1 to 10",
            ),
            (
                r#"{"replay":{"total":5}}"#,
                "replay.total: got `5`, expected 65536 to 68719476736",
            ),
        ] {
            let config: RetryConfig = serde_json::from_str(text).unwrap();
            assert_eq!(config.validate().unwrap_err().to_string(), message);
        }
        for text in [
            r#"{"maxattempts":3}"#,
            r#"{"retryOn":["6xx"]}"#,
            r#"{"budget":{"ratio":"20%","maxTokens":10}}"#,
            r#"{"budget":{"tokens":10}}"#,
            r#"{"budget":{"ratio":0.2}}"#,
            r#"{"backoff":{"base":25}}"#,
        ] {
            assert!(serde_json::from_str::<RetryConfig>(text).is_err(), "{text}");
        }
    }
}
