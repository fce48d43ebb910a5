//! Options of the deadline layer.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::header::{self, Accepted, TimeoutUnit};
use crate::vocab::{
    classify::CallKind,
    config::{ConfigError, duration, duration_in_range},
    context::Covers,
    grpc,
    live::Live,
};

/// Options of the deadline layer; the [module](super) has them in a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DeadlineConfig {
    /// How long a call may take: 1 ms to 24 h. Default none: only what the caller says counts.
    #[cfg_attr(feature = "schema", schemars(with = "Option<crate::schema::Duration>"))]
    #[serde(with = "duration::option", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// How long the response head may take, where that is less than the call may: 1 ms to 24 h. Default
    /// none.
    #[cfg_attr(feature = "schema", schemars(with = "Option<crate::schema::Duration>"))]
    #[serde(with = "duration::option", skip_serializing_if = "Option::is_none")]
    pub head_timeout: Option<Duration>,
    /// How long a reader of the response body may wait for the next frame: 1 ms to 24 h. Default none.
    #[cfg_attr(feature = "schema", schemars(with = "Option<crate::schema::Duration>"))]
    #[serde(with = "duration::option", skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Duration>,
    /// What must be over by the deadline. Default `auto`.
    pub scope: Scope,
    /// Other headers than `grpc-timeout` in which callers may say how long they wait; at most 8,
    /// default none.
    #[cfg_attr(feature = "schema", schemars(length(max = 8)))]
    pub accept: Vec<TimeoutHeader>,
    /// The label `policy` of its metrics. Default `default`.
    pub name: String,
}

/// What must be over by the deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum Scope {
    /// gRPC: the whole call, as gRPC defines deadlines. HTTP: the response head, so that downloads
    /// and event streams go on.
    #[default]
    Auto,
    /// The whole call, up to the end of the response body.
    Call,
    /// The response head.
    Head,
}

/// A header in which callers may say how long they wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TimeoutHeader {
    /// Its name, such as `x-envoy-expected-rq-timeout-ms`.
    pub header: String,
    /// What its number means.
    pub unit: TimeoutUnit,
}

/// What runs of a [`DeadlineConfig`].
pub(super) struct Compiled {
    pub(super) accept: Box<[Accepted]>,
    pub(super) name: String,
    pub(super) phases: Phases,
    pub(super) terms: Terms,
}

/// What every call needs of a [`Compiled`].
#[derive(Clone, Copy)]
pub(super) struct Terms {
    /// Off where there is no configuration.
    pub(super) on: bool,
    pub(super) timeout: Option<Duration>,
    /// `timeout` as a header, so that the first hop formats nothing.
    pub(super) timeout_header: Option<&'static HeaderValue>,
    /// Whether other headers than `grpc-timeout` are read.
    pub(super) accepts_more: bool,
    /// Whether there are [`Phases`].
    pub(super) has_phases: bool,
    scope: Scope,
}

/// What is limited beside the call as a whole.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Phases {
    pub(super) head: Option<Duration>,
    pub(super) idle: Option<Duration>,
}

/// The [`Terms`] as a service last saw them: to see that they are still the same costs less than to
/// read them anew.
#[derive(Clone, Copy)]
pub(super) struct Seen {
    revision: u64,
    terms: Terms,
}

// ===== impl DeadlineConfig =====

impl Default for DeadlineConfig {
    fn default() -> Self {
        Self {
            timeout: None,
            head_timeout: None,
            idle_timeout: None,
            scope: Scope::Auto,
            accept: Vec::new(),
            name: "default".to_owned(),
        }
    }
}

impl DeadlineConfig {
    /// Checks every value.
    ///
    /// # Errors
    ///
    /// The first value that is out of range, with its field.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.compile().map(drop)
    }

    /// What runs where there may be no configuration.
    pub(super) fn compile_optional(config: &Option<Self>) -> Result<Compiled, ConfigError> {
        match config {
            Some(config) => config.compile(),
            None => {
                let mut compiled = Self::default().compile()?;
                compiled.terms.on = false;
                Ok(compiled)
            }
        }
    }

    fn compile(&self) -> Result<Compiled, ConfigError> {
        const LEAST: Duration = Duration::from_millis(1);
        const MOST: Duration = Duration::from_secs(24 * 3600);
        // Each is looked up in every request.
        const MOST_HEADERS: usize = 8;
        for (field, timeout) in [
            ("timeout", self.timeout),
            ("headTimeout", self.head_timeout),
            ("idleTimeout", self.idle_timeout),
        ] {
            if let Some(timeout) = timeout {
                duration_in_range(field, timeout, LEAST..=MOST)?;
            }
        }
        if self.accept.len() > MOST_HEADERS {
            let given = format!("{} headers", self.accept.len());
            return Err(ConfigError::new(
                "accept",
                given,
                format!("at most {MOST_HEADERS}"),
            ));
        }
        let accept = self.accept.iter().enumerate();
        let accept = accept.map(|(at, header)| {
            header
                .compile()
                .map_err(|error| error.at(format_args!("accept[{at}]")))
        });
        let phases = Phases {
            head: self.head_timeout,
            idle: self.idle_timeout,
        };
        Ok(Compiled {
            phases,
            accept: accept.collect::<Result<_, _>>()?,
            name: self.name.clone(),
            terms: Terms {
                on: true,
                timeout: self.timeout,
                timeout_header: self.timeout.and_then(header::constant),
                accepts_more: !self.accept.is_empty(),
                has_phases: phases.any(),
                scope: self.scope,
            },
        })
    }
}

// ===== impl TimeoutHeader =====

impl TimeoutHeader {
    /// A header whose number is in `unit`.
    pub fn new(header: impl Into<String>, unit: TimeoutUnit) -> Self {
        Self {
            header: header.into(),
            unit,
        }
    }

    fn compile(&self) -> Result<Accepted, ConfigError> {
        let refused = |expected: &str| ConfigError::new("header", &self.header, expected);
        let name: HeaderName = self
            .header
            .parse()
            .map_err(|_| refused("the name of a header"))?;
        if name == grpc::TIMEOUT {
            return Err(refused(
                "a header other than `grpc-timeout`, which is always read",
            ));
        }
        Ok(Accepted {
            name,
            unit: self.unit,
        })
    }
}

// ===== impl Terms =====

impl Terms {
    /// What a deadline of this call covers.
    pub(super) fn covers(&self, call: CallKind) -> Covers {
        match self.scope {
            Scope::Auto if call.is_grpc() => Covers::Call,
            Scope::Auto | Scope::Head => Covers::Head,
            Scope::Call => Covers::Call,
        }
    }
}

// ===== impl Phases =====

impl Phases {
    fn any(&self) -> bool {
        self.head.is_some() || self.idle.is_some()
    }

    /// Until when the response head must be there.
    pub(super) fn until_head(&self, deadline: Option<Instant>) -> Option<Instant> {
        let own = self.head.map(|head| Instant::now() + head);
        [own, deadline].into_iter().flatten().min()
    }
}

// ===== impl Seen =====

impl Seen {
    pub(super) fn now(config: &Live<Compiled>) -> Self {
        // NOTE: the revision first. If the value changes in between, it is read once more.
        let revision = config.revision();
        let terms = config.get().terms;
        Self { revision, terms }
    }

    #[inline]
    pub(super) fn terms(&mut self, config: &Live<Compiled>) -> &Terms {
        if self.revision != config.revision() {
            *self = Self::now(config);
        }
        &self.terms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_reads_back_as_it_was_written() {
        let text = r#"{"timeout":"1500ms","scope":"call","accept":[{"header":"x-request-timeout","unit":"text"}],"name":"edge"}"#;
        let config: DeadlineConfig = serde_json::from_str(text).unwrap();
        assert_eq!(config.timeout, Some(Duration::from_millis(1500)));
        assert_eq!(config.accept[0].unit, TimeoutUnit::Text);
        config.validate().unwrap();
        let written = serde_json::to_string(&config).unwrap();
        assert_eq!(
            serde_json::from_str::<DeadlineConfig>(&written).unwrap(),
            config
        );
        assert_eq!(
            serde_json::from_str::<DeadlineConfig>("{}").unwrap(),
            DeadlineConfig::default()
        );
    }

    #[test]
    fn a_refusal_names_field_value_and_range() {
        let headers = |count: usize| {
            let header = r#"{"header":"x-timeout","unit":"ms"}"#;
            format!(r#"{{"accept":[{}]}}"#, vec![header; count].join(","))
        };
        for (text, message) in [
            (
                r#"{"timeout":"0s"}"#.to_owned(),
                "timeout: got `0s`, expected 1ms to 24h",
            ),
            (
                r#"{"timeout":"25h"}"#.to_owned(),
                "timeout: got `25h`, expected 1ms to 24h",
            ),
            (headers(9), "accept: got `9 headers`, expected at most 8"),
            (
                headers(2).replacen("x-timeout", "a b", 1),
                "accept[0].header: got `a b`, expected the name of a header",
            ),
            (
                headers(1).replace("x-timeout", "grpc-timeout"),
                "accept[0].header: got `grpc-timeout`, expected a header other than `grpc-timeout`, which is always read",
            ),
        ] {
            let config: DeadlineConfig = serde_json::from_str(&text).unwrap();
            assert_eq!(config.validate().unwrap_err().to_string(), message);
        }
        for text in [
            r#"{"timeOut":"1s"}"#,
            r#"{"timeout":5}"#,
            r#"{"scope":"body"}"#,
        ] {
            assert!(
                serde_json::from_str::<DeadlineConfig>(text).is_err(),
                "{text}"
            );
        }
    }
}
