//! How a match is written, in a file and in code.

use std::fmt;

use http::{HeaderName, Method};
use serde::{Deserialize, Deserializer, Serialize, de};

use super::{
    super::{config::ConfigError, pattern::Pattern},
    Conditions, Grpc, RequestMatch,
    path::Path,
    value::Value,
};

/// A match as it is written. All conditions must hold; one that is not written always does. See
/// [the module](super) for what each compares.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct MatchConfig {
    /// The path. Default: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathMatch>,
    /// Methods, of which the request has one. In a file also a single one. Default: any.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Methods"))]
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    pub method: Vec<String>,
    /// Hosts, of which the request is for one, exact or with a `*` at one end. Default: any.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<crate::schema::Pattern>"))]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<String>,
    /// Headers, all of which must match.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<ValueMatch>,
    /// Query parameters, all of which must match.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub query_params: Vec<ValueMatch>,
    /// The gRPC service and method. Default: any, and HTTP as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcMatch>,
    /// Authenticated callers, of which the request is from one, exact or with a `*` at one end.
    /// Default: any, and nobody as well.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<crate::schema::Pattern>"))]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub identities: Vec<String>,
    /// Entries of the propagated metadata, all of which must match.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub metadata: Vec<ValueMatch>,
    /// Further matches, all of which must hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub all: Vec<MatchConfig>,
    /// Further matches, at least one of which must hold unless there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub any: Vec<MatchConfig>,
    /// Further matches, none of which may hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not: Vec<MatchConfig>,
}

/// How the path is compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum PathMatch {
    /// To the byte.
    Exact(String),
    /// By whole segments from the start.
    PathPrefix(String),
    /// The whole path, by a regular expression.
    Regex(String),
}

/// A gRPC service and method, at least one of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(transform = crate::schema::service_or_method))]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcMatch {
    /// The service with its package, such as `shop.Orders`. Default: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The method, such as `Place`. Default: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
}

/// One header, query parameter or metadata entry, and how its value is compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "RawValueMatch", into = "RawValueMatch")]
pub struct ValueMatch {
    /// Its name: of a header or metadata entry in any case, of a query parameter to the byte.
    pub name: String,
    /// How the value is compared.
    pub value: StringMatch,
    /// Whether ASCII case makes no difference. Default: it does.
    pub ignore_case: bool,
}

/// How a value is compared. A `&str` becomes `Exact`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StringMatch {
    /// It is this.
    Exact(String),
    /// It is one of these.
    In(Vec<String>),
    /// It begins with this.
    Prefix(String),
    /// It ends with this.
    Suffix(String),
    /// It has this in it.
    Contains(String),
    /// All of it matches this regular expression.
    Regex(String),
    /// It is there, and may be empty.
    Present,
    /// It is not there.
    Absent,
}

// ===== impl MatchConfig =====

impl MatchConfig {
    /// Adds a method that the request may have.
    #[must_use]
    pub fn method(mut self, method: impl AsRef<str>) -> Self {
        self.method.push(method.as_ref().to_owned());
        self
    }

    /// Adds a host that the request may be for.
    #[must_use]
    pub fn hostname(mut self, hostname: impl Into<String>) -> Self {
        self.hostnames.push(hostname.into());
        self
    }

    /// Adds a header that must compare: `("x-drill", "on")`, `("x-user", StringMatch::Present)`.
    #[must_use]
    pub fn header(mut self, name: impl AsRef<str>, value: impl Into<StringMatch>) -> Self {
        self.headers.push(ValueMatch::new(name, value));
        self
    }

    /// Adds a query parameter that must compare.
    #[must_use]
    pub fn query_param(mut self, name: impl AsRef<str>, value: impl Into<StringMatch>) -> Self {
        self.query_params.push(ValueMatch::new(name, value));
        self
    }

    /// Sets the gRPC service and method.
    #[must_use]
    pub fn grpc(mut self, grpc: GrpcMatch) -> Self {
        self.grpc = Some(grpc);
        self
    }

    /// Adds a caller that the request may be from.
    #[must_use]
    pub fn identity(mut self, identity: impl Into<String>) -> Self {
        self.identities.push(identity.into());
        self
    }

    /// Adds a metadata entry that must compare.
    #[must_use]
    pub fn metadata(mut self, name: impl AsRef<str>, value: impl Into<StringMatch>) -> Self {
        self.metadata.push(ValueMatch::new(name, value));
        self
    }

    /// Adds a match that must hold as well.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.all.push(other);
        self
    }

    /// Adds a match that must not hold.
    #[must_use]
    pub fn and_not(mut self, other: Self) -> Self {
        self.not.push(other);
        self
    }

    /// Makes this match and another one alternatives.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            any: vec![self, other],
            ..Self::default()
        }
    }

    /// Compiles the match.
    ///
    /// # Errors
    ///
    /// Those of [`RequestMatch::new`].
    pub fn build(&self) -> Result<RequestMatch, ConfigError> {
        RequestMatch::new(self)
    }

    pub(super) fn compile(&self) -> Result<Conditions, ConfigError> {
        let parse_patterns = |field: &str, patterns: &[String]| {
            compile_each(field, patterns, |pattern| Pattern::parse(pattern))
        };
        Ok(Conditions {
            methods: compile_each("method", &self.method, |method| parse_method(method))?,
            path: self
                .path
                .as_ref()
                .map(Path::compile)
                .transpose()
                .map_err(|e| e.at("path"))?,
            grpc: self.grpc.as_ref().map(GrpcMatch::compile).transpose()?,
            hostnames: parse_patterns("hostnames", &self.hostnames)?,
            headers: compile_each("headers", &self.headers, ValueMatch::compile_header)?,
            identities: parse_patterns("identities", &self.identities)?,
            metadata: compile_each("metadata", &self.metadata, ValueMatch::compile_header)?,
            query: compile_each("queryParams", &self.query_params, ValueMatch::compile_query)?,
            all: compile_list("all", &self.all)?,
            any: compile_list("any", &self.any)?,
            not: compile_list("not", &self.not)?,
        })
    }
}

pub(super) fn compile_list(
    field: &str,
    list: &[MatchConfig],
) -> Result<Vec<Conditions>, ConfigError> {
    compile_each(field, list, MatchConfig::compile)
}

/// Compiles a list; an error says which entry.
fn compile_each<T, C>(
    field: &str,
    list: &[T],
    compile: impl Fn(&T) -> Result<C, ConfigError>,
) -> Result<Vec<C>, ConfigError> {
    let entries = list.iter().enumerate();
    entries
        .map(|(at, entry)| compile(entry).map_err(|error| error.at(format_args!("{field}[{at}]"))))
        .collect()
}

fn parse_method(text: &str) -> Result<Method, ConfigError> {
    // Methods are case-sensitive: `get` is none that anybody sends.
    let lower = text.bytes().any(|byte| byte.is_ascii_lowercase());
    Method::from_bytes(text.as_bytes())
        .ok()
        .filter(|_| !lower)
        .ok_or_else(|| ConfigError::new("", text, "an HTTP method in upper case"))
}

// ===== impl GrpcMatch =====

impl GrpcMatch {
    fn compile(&self) -> Result<Grpc, ConfigError> {
        let check = |field: &str, name: &Option<String>| match name {
            Some(name) if name.is_empty() || name.contains('/') => {
                let expected = "a name as in the .proto file, the service's with its package";
                Err(ConfigError::new(format!("grpc.{field}"), name, expected))
            }
            name => Ok(name.as_deref().map(Box::from)),
        };
        let grpc = Grpc {
            service: check("service", &self.service)?,
            method: check("method", &self.method)?,
        };
        if grpc.service.is_none() && grpc.method.is_none() {
            return Err(ConfigError::new(
                "grpc",
                "{}",
                "a service, a method or both",
            ));
        }
        Ok(grpc)
    }
}

// ===== impl ValueMatch =====

impl ValueMatch {
    /// Compares the value of what has this name.
    pub fn new(name: impl AsRef<str>, value: impl Into<StringMatch>) -> Self {
        Self {
            name: name.as_ref().to_owned(),
            value: value.into(),
            ignore_case: false,
        }
    }

    /// Makes ASCII case make no difference.
    #[must_use]
    pub fn ignore_case(mut self) -> Self {
        self.ignore_case = true;
        self
    }

    fn compile_header(&self) -> Result<(HeaderName, Value), ConfigError> {
        let name = self.name.parse().map_err(|_| {
            ConfigError::new(
                "name",
                &self.name,
                "the name of an HTTP header; hosts go under `hostnames`",
            )
        })?;
        Ok((name, Value::compile(self)?))
    }

    fn compile_query(&self) -> Result<(Box<str>, Value), ConfigError> {
        if self.name.is_empty() || self.name.contains(['&', '=', '#']) {
            let expected = "the name of a query parameter as it is sent, without `&`, `=` and `#`";
            return Err(ConfigError::new("name", &self.name, expected));
        }
        Ok((self.name.as_str().into(), Value::compile(self)?))
    }
}

// ===== impl StringMatch =====

impl From<&str> for StringMatch {
    fn from(exact: &str) -> Self {
        Self::Exact(exact.to_owned())
    }
}

impl From<String> for StringMatch {
    fn from(exact: String) -> Self {
        Self::Exact(exact)
    }
}

// ===== serde =====

/// The flat form: the comparison's name is a key beside `name`.
#[derive(Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(
    feature = "schema",
    schemars(rename = "ValueMatch", transform = crate::schema::one_comparison)
)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct RawValueMatch {
    /// Its name: of a header or metadata entry in any case, of a query parameter to the byte.
    name: String,
    /// It is this.
    #[serde(skip_serializing_if = "Option::is_none")]
    exact: Option<String>,
    /// It is one of these.
    #[serde(rename = "in", skip_serializing_if = "Option::is_none")]
    one_of: Option<Vec<String>>,
    /// It begins with this.
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix: Option<String>,
    /// It ends with this.
    #[serde(skip_serializing_if = "Option::is_none")]
    suffix: Option<String>,
    /// It has this in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    contains: Option<String>,
    /// All of it matches this regular expression.
    #[serde(skip_serializing_if = "Option::is_none")]
    regex: Option<String>,
    /// Whether it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    present: Option<bool>,
    /// Whether ASCII case makes no difference.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    ignore_case: bool,
}

impl TryFrom<RawValueMatch> for ValueMatch {
    type Error = ConfigError;

    fn try_from(raw: RawValueMatch) -> Result<Self, ConfigError> {
        let present = raw.present.map(|is| {
            if is {
                StringMatch::Present
            } else {
                StringMatch::Absent
            }
        });
        let written = [
            raw.exact.map(StringMatch::Exact),
            raw.one_of.map(StringMatch::In),
            raw.prefix.map(StringMatch::Prefix),
            raw.suffix.map(StringMatch::Suffix),
            raw.contains.map(StringMatch::Contains),
            raw.regex.map(StringMatch::Regex),
            present,
        ];
        let mut written = written.into_iter().flatten();
        match (written.next(), written.next()) {
            (Some(value), None) => Ok(Self {
                name: raw.name,
                value,
                ignore_case: raw.ignore_case,
            }),
            (none, _) => {
                let value = if none.is_none() {
                    "none of them"
                } else {
                    "several"
                };
                let expected = "a name and one of `exact`, `in`, `prefix`, `suffix`, `contains`, \
                                `regex`, `present`";
                Err(ConfigError::new(raw.name, value, expected))
            }
        }
    }
}

impl From<ValueMatch> for RawValueMatch {
    fn from(
        ValueMatch {
            name,
            value,
            ignore_case,
        }: ValueMatch,
    ) -> Self {
        let mut raw = Self {
            name,
            ignore_case,
            ..Self::default()
        };
        match value {
            StringMatch::Exact(value) => raw.exact = Some(value),
            StringMatch::In(values) => raw.one_of = Some(values),
            StringMatch::Prefix(value) => raw.prefix = Some(value),
            StringMatch::Suffix(value) => raw.suffix = Some(value),
            StringMatch::Contains(value) => raw.contains = Some(value),
            StringMatch::Regex(value) => raw.regex = Some(value),
            StringMatch::Present => raw.present = Some(true),
            StringMatch::Absent => raw.present = Some(false),
        }
        raw
    }
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct Visitor;

    impl<'de> de::Visitor<'de> for Visitor {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a method or a list of methods")
        }

        fn visit_str<E: de::Error>(self, one: &str) -> Result<Vec<String>, E> {
            Ok(vec![one.to_owned()])
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, many: A) -> Result<Vec<String>, A::Error> {
            Vec::deserialize(de::value::SeqAccessDeserializer::new(many))
        }
    }

    deserializer.deserialize_any(Visitor)
}
