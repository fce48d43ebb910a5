//! What makes an attempt worth repeating.

use std::{fmt, str::FromStr};

use http::StatusCode;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::vocab::{config::ConfigError, grpc::Code, outcome::FailureKind};

/// One way for an attempt to fail, as it is named in `retryOn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Condition {
    /// `connect`: no connection could be made.
    Connect,
    /// `reset`: the connection or the stream broke before the response head.
    Reset,
    /// `timeout`: no response head within the attempt timeout, or an error that says so.
    Timeout,
    /// `other`: any other error of the inner service.
    Other,
    /// `503`: an HTTP status.
    Status(StatusCode),
    /// `UNAVAILABLE`: a gRPC status without a response before it.
    Grpc(Code),
}

// ===== impl Condition =====

impl Condition {
    const EXPECTED: &'static str = "`connect`, `reset`, `timeout`, `other`, an HTTP status from 400 \
                                    to 599, or the name of a gRPC status such as `UNAVAILABLE`";

    /// What is retried unless the configuration says otherwise: what another attempt can be expected
    /// to heal. Not 500: an error in the peer's code comes again.
    pub const DEFAULT: [Self; 9] = [
        Self::Connect,
        Self::Reset,
        Self::Timeout,
        Self::Status(StatusCode::TOO_MANY_REQUESTS),
        Self::Status(StatusCode::BAD_GATEWAY),
        Self::Status(StatusCode::SERVICE_UNAVAILABLE),
        Self::Status(StatusCode::GATEWAY_TIMEOUT),
        Self::Grpc(Code::RESOURCE_EXHAUSTED),
        Self::Grpc(Code::UNAVAILABLE),
    ];

    pub(super) fn of(kind: FailureKind) -> Self {
        match kind {
            FailureKind::Connect => Self::Connect,
            FailureKind::Reset => Self::Reset,
            FailureKind::Timeout => Self::Timeout,
            FailureKind::Http(status) => Self::Status(status),
            FailureKind::Grpc(code) => Self::Grpc(code),
            FailureKind::MissingStatus | FailureKind::Other => Self::Other,
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect => f.write_str("connect"),
            Self::Reset => f.write_str("reset"),
            Self::Timeout => f.write_str("timeout"),
            Self::Other => f.write_str("other"),
            Self::Status(status) => write!(f, "{}", status.as_u16()),
            Self::Grpc(code) => f.write_str(code.name()),
        }
    }
}

impl FromStr for Condition {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let refused = || ConfigError::new("", text, Self::EXPECTED);
        Ok(match text {
            "connect" => Self::Connect,
            "reset" => Self::Reset,
            "timeout" => Self::Timeout,
            "other" => Self::Other,
            _ if text.starts_with(|c: char| c.is_ascii_digit()) => {
                let status = text.parse::<u16>().ok().filter(|s| (400..600).contains(s));
                let status = status.and_then(|status| StatusCode::from_u16(status).ok());
                Self::Status(status.ok_or_else(refused)?)
            }
            // From 1: OK is no failure.
            _ => (1..=16)
                .map(Code::from_u8)
                .find(|code| code.name() == text)
                .map(Self::Grpc)
                .ok_or_else(refused)?,
        })
    }
}

impl Serialize for Condition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Condition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Condition;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(Condition::EXPECTED)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Condition, E> {
                text.parse().map_err(E::custom)
            }

            // YAML reads a bare 503 as a number.
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Condition, E> {
                number.to_string().parse().map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Condition, E> {
                number.to_string().parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Condition {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Condition".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let mut names: Vec<_> = [Self::Connect, Self::Reset, Self::Timeout, Self::Other].into();
        names.extend((1..=16).map(|code| Self::Grpc(Code::from_u8(code))));
        schemars::json_schema!({
            "description": "One way for an attempt to fail.",
            "anyOf": [
                { "enum": names },
                { "type": "string", "pattern": "^[45][0-9]{2}$", "examples": ["503"] },
                { "type": "integer", "minimum": 400, "maximum": 599 },
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_read_back_as_they_are_written() {
        for condition in Condition::DEFAULT.into_iter().chain([Condition::Other]) {
            assert_eq!(condition.to_string().parse(), Ok(condition));
        }
        let read: Vec<Condition> =
            serde_json::from_str(r#"["connect", 503, "503", "DATA_LOSS"]"#).unwrap();
        let unavailable = Condition::Status(StatusCode::SERVICE_UNAVAILABLE);
        let expected = [
            Condition::Connect,
            unavailable,
            unavailable,
            Condition::Grpc(Code::DATA_LOSS),
        ];
        assert_eq!(read, expected);
    }

    #[test]
    fn unknown_conditions_are_refused_with_what_is_allowed() {
        for text in [
            "",
            "5xx",
            "200",
            "600",
            "OK",
            "unavailable",
            "-503",
            "99999",
        ] {
            let error = text.parse::<Condition>().unwrap_err();
            assert_eq!(
                (error.value(), error.expected()),
                (text, Condition::EXPECTED)
            );
        }
        let error = serde_json::from_str::<Condition>("200").unwrap_err();
        assert!(error.to_string().contains("400 to 599"), "{error}");
    }
}
