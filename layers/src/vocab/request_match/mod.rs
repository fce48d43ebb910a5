//! [`RequestMatch`]: which requests a route, a limit, a fault or a policy is for.
//!
//! One engine for all of them, so that a rule means the same wherever it is written. It is written as
//! a [`MatchConfig`], in a file or in code, compiled once, and asked with the request in hand:
//!
//! ```
//! use tower_mesh_layers::RequestMatch;
//!
//! let orders = RequestMatch::path_prefix("/orders").method("POST").header("x-drill", "on").build()?;
//!
//! let request = http::Request::post("/orders/7").header("x-drill", "on").body(())?;
//! assert!(orders.matches(&request));
//! assert!(!orders.matches(&http::Request::post("/orders-old").body(())?));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The same in a file, in the shape of Gateway API's
//! [HTTPRouteMatch](https://gateway-api.sigs.k8s.io/reference/spec/#httproutematch) and
//! [GRPCRouteMatch](https://gateway-api.sigs.k8s.io/reference/spec/#grpcroutematch), with one key per
//! kind of comparison instead of their `type` and `value`:
//!
//! ```
//! # use tower_mesh_layers::{RequestMatch, request_match::MatchConfig};
//! # let json = r#"
//! { "path": { "pathPrefix": "/orders" }, "method": "POST",
//!   "headers": [ { "name": "x-drill", "exact": "on" } ] }
//! # "#;
//! # let orders = RequestMatch::new(&serde_json::from_str::<MatchConfig>(json)?)?;
//! # assert!(orders.matches(&http::Request::post("/orders/7").header("x-drill", "on").body(())?));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is compared, and how
//!
//! All conditions of a match must hold; one that is not written always does.
//!
//! | condition | holds when |
//! |---|---|
//! | `path: { exact: /a/b }` | the path is this, to the byte |
//! | `path: { pathPrefix: /a/b }` | the path begins with these segments: `/a/b`, `/a/b/`, `/a/b/c`, but not `/a/bc`. A `/` at the end of the prefix makes no difference |
//! | `path: { regex: "/a/[0-9]+" }` | the whole path matches |
//! | `method: GET`, `method: [GET, HEAD]` | the method is one of these |
//! | `hostnames: [shop.internal, "*.shop.internal"]` | the host, without port and whatever its case, is one of these. `*.shop.internal` takes any number of labels, and not `shop.internal` |
//! | `headers`, `queryParams`, `metadata` | every entry holds, see below |
//! | `grpc: { service: shop.Orders, method: Place }` | the path is `/shop.Orders/Place`; `method` alone or `service` alone holds for all that have it. The content type is not asked for |
//! | `identities: [spiffe://mesh/checkout, "spiffe://mesh/jobs/*"]` | the caller was authenticated at this hop as one of these, as [`CallContext::identity`](super::CallContext) says |
//! | `all: [..]`, `any: [..]`, `not: [..]` | all, at least one, none of these matches does |
//!
//! An entry of `headers`, `queryParams` or `metadata` has a `name` and one of `exact`, `in`, `prefix`,
//! `suffix`, `contains`, `regex` (of the whole value), `present: true` (with whatever value, the empty
//! one as well) and `present: false`; `ignoreCase: true` compares without regard to ASCII case.
//!
//! - A header or parameter that is missing satisfies `present: false` and nothing else.
//! - A header that is sent on several lines satisfies a comparison when one of its lines does. Lines
//!   are not split at commas.
//! - A query parameter that is repeated counts with its first value, and is compared as it was sent,
//!   percent signs and all; its name is compared to the byte. `?p` and `?p=` are present.
//! - Metadata is what the [`CallContext`](super::CallContext) carries, global and local. It goes by its
//!   key (`tenant`) or by the name of its header (`x-md-global-tenant`).
//!
//! Where Gateway API leaves a choice, or lets a later entry of the same name be ignored, every entry
//! counts here.
//!
//! # What a path is
//!
//! `request.uri().path()`, byte for byte: the path that axum's router and tonic's dispatch go by.
//! Nothing is decoded, and no dots or double slashes are resolved, since a rule that sees another path
//! than the router does can be walked around. So a prefix or exact path with `//`, `/./`, `/../`, an
//! encoded slash, `?` or `#` is refused when it is compiled: it could not do what it seems to say.
//! Inside a nested axum router both see the path without the prefix that was nested at.
//!
//! # Cost
//!
//! Nothing is allocated per request. (The regex engine keeps scratch space per pattern and thread,
//! which grows when first used.) Regexes run in time linear in the text, and one that would take more
//! than 1 MiB compiled is refused.

mod config;
mod path;
#[cfg(test)]
mod tests;
mod value;

use std::sync::Arc;

use http::{HeaderName, Method, Request, request};

pub use self::config::{GrpcMatch, MatchConfig, PathMatch, StringMatch, ValueMatch};
use self::{path::Path, value::Value};
use super::{config::ConfigError, pattern::Pattern, request_ref::RequestRef};

/// Which requests something is for: a [`MatchConfig`], compiled. A clone shares it.
///
/// The default matches every request.
#[derive(Debug, Clone, Default)]
pub struct RequestMatch(Arc<Conditions>);

/// What must hold together; cheap comparisons first.
#[derive(Debug, Default)]
struct Conditions {
    methods: Vec<Method>,
    path: Option<Path>,
    grpc: Option<Grpc>,
    hostnames: Vec<Pattern>,
    headers: Vec<(HeaderName, Value)>,
    identities: Vec<Pattern>,
    metadata: Vec<(HeaderName, Value)>,
    query: Vec<(Box<str>, Value)>,
    all: Vec<Conditions>,
    any: Vec<Conditions>,
    not: Vec<Conditions>,
}

#[derive(Debug)]
struct Grpc {
    service: Option<Box<str>>,
    method: Option<Box<str>>,
}

// ===== impl RequestMatch =====

impl RequestMatch {
    /// Compiles a match.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] with the path of what was refused, such as `headers[1].regex`.
    pub fn new(config: &MatchConfig) -> Result<Self, ConfigError> {
        Ok(Self(Arc::new(config.compile()?)))
    }

    /// Compiles a list of alternatives, as the `matches` of a rule: at least one must match. An empty
    /// list matches every request, as in Gateway API.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] with the path of what was refused, such as `[2].headers[1].regex`.
    pub fn any_of(alternatives: &[MatchConfig]) -> Result<Self, ConfigError> {
        let any = config::compile_list("", alternatives)?;
        Ok(Self(Arc::new(Conditions {
            any,
            ..Conditions::default()
        })))
    }

    /// Matches every request.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Begins a match: the path is `path`, to the byte.
    pub fn path_exact(path: impl Into<String>) -> MatchConfig {
        MatchConfig {
            path: Some(PathMatch::Exact(path.into())),
            ..MatchConfig::default()
        }
    }

    /// Begins a match: the path begins with the segments of `prefix`.
    pub fn path_prefix(prefix: impl Into<String>) -> MatchConfig {
        MatchConfig {
            path: Some(PathMatch::PathPrefix(prefix.into())),
            ..MatchConfig::default()
        }
    }

    /// Begins a match: the whole path matches `pattern`.
    pub fn path_regex(pattern: impl Into<String>) -> MatchConfig {
        MatchConfig {
            path: Some(PathMatch::Regex(pattern.into())),
            ..MatchConfig::default()
        }
    }

    /// Begins a match: any method of a gRPC service, such as `shop.Orders`.
    pub fn grpc_service(service: impl Into<String>) -> MatchConfig {
        MatchConfig::default().grpc(GrpcMatch {
            service: Some(service.into()),
            method: None,
        })
    }

    /// Begins a match: one method of a gRPC service.
    pub fn grpc_method(service: impl Into<String>, method: impl Into<String>) -> MatchConfig {
        let grpc = GrpcMatch {
            service: Some(service.into()),
            method: Some(method.into()),
        };
        MatchConfig::default().grpc(grpc)
    }

    /// Whether a request is meant. Nothing is allocated.
    pub fn matches<B>(&self, request: &Request<B>) -> bool {
        self.0.hold_for(RequestRef::of(request))
    }

    /// The same for a request whose body has gone its own way.
    pub fn matches_parts(&self, parts: &request::Parts) -> bool {
        self.0.hold_for(RequestRef::of_parts(parts))
    }
}

// ===== impl Conditions =====

impl Conditions {
    fn hold_for(&self, request: RequestRef<'_>) -> bool {
        (self.methods.is_empty() || self.methods.contains(request.method))
            && self
                .path
                .as_ref()
                .is_none_or(|path| path.matches(request.uri.path()))
            && self
                .grpc
                .as_ref()
                .is_none_or(|grpc| grpc.matches(request.uri.path()))
            && self.hostnames_hold_for(request)
            && self.headers.iter().all(|(name, value)| {
                value.matches(
                    request
                        .headers
                        .get_all(name)
                        .iter()
                        .map(|line| line.as_bytes()),
                )
            })
            && self.identities_hold_for(request)
            && self.metadata_holds_for(request)
            && self.query.iter().all(|(name, value)| {
                value.matches(query_parameter(request.uri.query(), name).into_iter())
            })
            && self
                .all
                .iter()
                .all(|conditions| conditions.hold_for(request))
            && (self.any.is_empty() || self.any.iter().any(|one| one.hold_for(request)))
            && !self
                .not
                .iter()
                .any(|conditions| conditions.hold_for(request))
    }

    fn hostnames_hold_for(&self, request: RequestRef<'_>) -> bool {
        self.hostnames.is_empty()
            || request.host().is_some_and(|host| {
                self.hostnames
                    .iter()
                    .any(|pattern| pattern.matches_ignore_case(host))
            })
    }

    fn identities_hold_for(&self, request: RequestRef<'_>) -> bool {
        self.identities.is_empty()
            || request.identity().is_some_and(|identity| {
                self.identities
                    .iter()
                    .any(|pattern| pattern.matches(identity.as_bytes()))
            })
    }

    fn metadata_holds_for(&self, request: RequestRef<'_>) -> bool {
        if self.metadata.is_empty() {
            return true;
        }
        let metadata = request.metadata();
        self.metadata.iter().all(|(name, value)| {
            let lines = metadata
                .into_iter()
                .flat_map(|metadata| metadata.values(name.as_str()));
            value.matches(lines.map(|line| line.as_bytes()))
        })
    }
}

/// The first value of a query parameter, as it was sent; the empty one for a bare `?name`.
fn query_parameter<'a>(query: Option<&'a str>, name: &str) -> Option<&'a [u8]> {
    query?.split('&').find_map(|parameter| {
        let rest = parameter.strip_prefix(name)?;
        if rest.is_empty() {
            Some("")
        } else {
            rest.strip_prefix('=')
        }
        .map(str::as_bytes)
    })
}

// ===== impl Grpc =====

impl Grpc {
    fn matches(&self, path: &str) -> bool {
        let Some((service, method)) = path.strip_prefix('/').and_then(|path| path.split_once('/'))
        else {
            return false;
        };
        self.service
            .as_deref()
            .is_none_or(|expected| service == expected)
            && self
                .method
                .as_deref()
                .is_none_or(|expected| method == expected)
    }
}
