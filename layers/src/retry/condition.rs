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
    /// `501-509`, `5xx`: a range of HTTP statuses.
    Statuses(StatusRange),
    /// `UNAVAILABLE`: a gRPC status without a response before it.
    Grpc(Code),
}

/// HTTP statuses from one to another, both included, as in [`Condition::Statuses`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StatusRange {
    first: u16,
    last: u16,
}

/// A list of conditions, compiled: whether one is in it is a look at a bit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Conditions {
    /// By the number of [`kind_of`].
    kinds: u8,
    /// By the code.
    grpc: u32,
    /// By the status, from 400.
    statuses: [u64; 4],
}

// ===== impl Condition =====

impl Condition {
    const EXPECTED: &'static str = "`connect`, `reset`, `timeout`, `other`, an HTTP status from 400 \
                                    to 599, a range of them such as `501-509` or `5xx`, or the \
                                    name of a gRPC status such as `UNAVAILABLE`";

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
            Self::Statuses(range) => range.fmt(f),
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
            "4xx" => Self::Statuses(StatusRange::CLIENT_ERRORS),
            "5xx" => Self::Statuses(StatusRange::SERVER_ERRORS),
            _ if text.starts_with(|c: char| c.is_ascii_digit()) => {
                let range = match text.split_once('-') {
                    Some((first, last)) => status(first).zip(status(last)),
                    None => status(text).map(|status| (status, status)),
                };
                let (first, last) = range.filter(|(a, b)| a <= b).ok_or_else(refused)?;
                match StatusCode::from_u16(first) {
                    Ok(status) if first == last => Self::Status(status),
                    _ => Self::Statuses(StatusRange { first, last }),
                }
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

/// A status that can be a failure.
fn status(text: &str) -> Option<u16> {
    let is_plain = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
    let status = text.parse().ok().filter(|_| is_plain)?;
    (400..600).contains(&status).then_some(status)
}

// ===== impl StatusRange =====

impl StatusRange {
    /// `4xx`
    pub const CLIENT_ERRORS: Self = Self {
        first: 400,
        last: 499,
    };
    /// `5xx`
    pub const SERVER_ERRORS: Self = Self {
        first: 500,
        last: 599,
    };

    /// Whether a status is in it.
    pub fn contains(self, status: StatusCode) -> bool {
        (self.first..=self.last).contains(&status.as_u16())
    }
}

impl fmt::Display for StatusRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::CLIENT_ERRORS => f.write_str("4xx"),
            Self::SERVER_ERRORS => f.write_str("5xx"),
            Self { first, last } => write!(f, "{first}-{last}"),
        }
    }
}

// ===== impl Conditions =====

impl Conditions {
    pub(super) fn new(conditions: &[Condition]) -> Self {
        let mut set = Self::default();
        for condition in conditions {
            match *condition {
                Condition::Status(status) => set.insert_status(status.as_u16()),
                Condition::Statuses(range) => {
                    (range.first..=range.last).for_each(|status| set.insert_status(status));
                }
                Condition::Grpc(code) => set.grpc |= 1 << code.as_u8(),
                kind => set.kinds |= kind_of(kind),
            }
        }
        set
    }

    fn insert_status(&mut self, status: u16) {
        if let Some((word, bit)) = place(status) {
            self.statuses[word] |= bit;
        }
    }

    /// `condition` is one way to fail, not a range of them.
    pub(super) fn contains(&self, condition: Condition) -> bool {
        match condition {
            Condition::Status(status) => {
                place(status.as_u16()).is_some_and(|(word, bit)| self.statuses[word] & bit != 0)
            }
            Condition::Grpc(code) => self.grpc & (1 << code.as_u8()) != 0,
            kind => self.kinds & kind_of(kind) != 0,
        }
    }

    /// Whether there is a gRPC status among them.
    pub(super) fn has_grpc(&self) -> bool {
        self.grpc != 0
    }
}

/// Where the bit of a status is.
fn place(status: u16) -> Option<(usize, u64)> {
    let nth = status.checked_sub(400).filter(|nth| *nth < 200)?;
    Some((usize::from(nth / 64), 1 << (nth % 64)))
}

fn kind_of(condition: Condition) -> u8 {
    match condition {
        Condition::Connect => 1,
        Condition::Reset => 2,
        Condition::Timeout => 4,
        Condition::Other => 8,
        Condition::Status(_) | Condition::Statuses(_) | Condition::Grpc(_) => 0,
    }
}

// ===== serde =====

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
                {
                    "type": "string",
                    "pattern": "^([45]xx|[45][0-9]{2}(-[45][0-9]{2})?)$",
                    "examples": ["503", "501-509", "5xx"],
                },
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
        for text in ["4xx", "5xx", "501-509", "499-500"] {
            assert_eq!(text.parse::<Condition>().unwrap().to_string(), text);
        }
        assert_eq!("503-503".parse(), Ok(unavailable));
        assert_eq!("500-599".parse::<Condition>(), "5xx".parse());
    }

    /// Against a list that is searched.
    #[test]
    fn a_set_has_what_its_list_has() {
        let every: Vec<_> = (400..600)
            .map(|status| Condition::Status(StatusCode::from_u16(status).unwrap()))
            .chain((1..=16).map(|code| Condition::Grpc(Code::from_u8(code))))
            .chain(["connect", "reset", "timeout", "other"].map(|kind| kind.parse().unwrap()))
            .collect();
        for list in [
            vec![],
            Condition::DEFAULT.to_vec(),
            vec!["5xx".parse().unwrap(), "ABORTED".parse().unwrap()],
            vec!["501-509".parse().unwrap(), "other".parse().unwrap()],
            vec!["400-599".parse().unwrap()],
            every.clone(),
        ] {
            let set = Conditions::new(&list);
            for one in &every {
                let listed = list.iter().any(|condition| match (condition, one) {
                    (Condition::Statuses(range), Condition::Status(status)) => {
                        range.contains(*status)
                    }
                    _ => condition == one,
                });
                assert_eq!(set.contains(*one), listed, "{one} in {list:?}");
            }
        }
        assert!(!Conditions::new(&every).contains(Condition::Status(StatusCode::OK)));
    }

    #[test]
    fn unknown_conditions_are_refused_with_what_is_allowed() {
        for text in [
            "",
            "6xx",
            "509-501",
            "399-500",
            "500-",
            "500-600",
            "500-502-504",
            "+503",
            "0503",
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
