//! [`Key`]: what limits and breakers are kept by.
//!
//! A key is a recipe. Applied to a request it gives 64 bits, under which a [`Keyed`](super::Keyed)
//! holds the state, and, only when a new state is made, a label for metrics and logs:
//!
//! | key | in a file | one state per | label |
//! |---|---|---|---|
//! | [`Key::global()`] | `global` | nothing: one for all | `global` |
//! | [`Key::operation()`] | `operation` | operation, see below | `GET /orders/{id}`, `/shop.Orders/Get` |
//! | [`Key::authority()`] | `authority` | host and port as sent, in lower case | `orders:8080` |
//! | [`Key::header(name)`](Key::header) | `header: x-tenant` | value of the header, all lines of it | `x-tenant=acme` |
//! | [`Key::identity()`] | `identity` | authenticated caller | `spiffe://mesh/checkout` |
//! | [`Key::client_ip(hops)`](Key::client_ip) | `clientIp: { trustedHops: 1 }` | IPv4 address, IPv6 /64 | `203.0.113.7`, `2001:db8:1:2::/64` |
//! | [`a.and(b)`](Key::and) | a list of these | combination | labels joined by `, ` |
//!
//! Requests that lack what the key asks for (no such header, an unknown caller) share one state.
//!
//! **Operations** must be few, or a caller who makes up paths makes up states. So an operation is, in
//! this order: an [`Operation`] extension; the method's path of a gRPC call; HTTP method and the
//! route that axum matched (its `MatchedPath`, feature `axum`: put the layer on the router, not
//! around it); else all paths of an HTTP method together, as `GET _OTHER`. HTTP methods that are not
//! in RFC 9110 and RFC 5789 are `_OTHER`, as are gRPC paths that are not `/package.Service/Method` or
//! longer than 128 bytes.
//!
//! ```
//! use tower_mesh_layers::Key;
//!
//! let key = Key::operation().and(Key::header("x-tenant")?);
//! let request = http::Request::get("/orders/7").header("x-tenant", "acme").body(())?;
//! let state = key.extract(&request);
//! assert_eq!(state.label(), "GET _OTHER, x-tenant=acme");
//!
//! let other = http::Request::get("/orders/8").header("x-tenant", "umbrella").body(())?;
//! assert_ne!(state.hash(), key.extract(&other).hash());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod config;
mod extract;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

use http::{HeaderName, Request};

pub use self::extract::Extracted;
#[allow(unused_imports, reason = "for the layers that name calls")]
pub(crate) use self::extract::{grpc_method, method_name};
use super::{
    classify::CallKind, client_addr::ClientIp, config::ConfigError, keyed::DEFAULT_CAP,
    request_ref::RequestRef,
};

/// What limits and breakers are kept by: one part of a request, or several together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Operation,
    Authority,
    Header(HeaderName),
    Identity,
    ClientIp(ClientIp),
}

/// A request extension: the name of the operation, where neither gRPC nor axum gives one.
///
/// Names must be few: a route's template, not its path. A clone allocates nothing.
///
/// ```
/// use tower_mesh_layers::{Key, Operation};
///
/// let mut request = http::Request::get("http://orders/orders/7").body(())?;
/// request.extensions_mut().insert(Operation::from_static("get order"));
/// assert_eq!(Key::operation().extract(&request).label(), "get order");
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Operation(Name);

#[derive(Debug, Clone)]
enum Name {
    Static(&'static str),
    Shared(Arc<str>),
}

// ===== impl Key =====

impl Key {
    /// One state for all requests.
    pub const fn global() -> Self {
        Self { parts: Vec::new() }
    }

    /// One state per operation.
    pub fn operation() -> Self {
        Part::Operation.into()
    }

    /// One state per host and port that the request is addressed to: the authority of the request's
    /// URI, or else its `Host` header.
    pub fn authority() -> Self {
        Part::Authority.into()
    }

    /// One state per value of a header.
    ///
    /// In labels the values of `authorization`, `cookie` and `proxy-authorization`, and those marked
    /// sensitive, are replaced by a number that means nothing outside this process.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] when `name` is not a header name.
    pub fn header(name: impl AsRef<str>) -> Result<Self, ConfigError> {
        let name = name.as_ref();
        match name.parse() {
            Ok(name) => Ok(Part::Header(name).into()),
            Err(_) => Err(ConfigError::new("", name, "the name of an HTTP header")),
        }
    }

    /// One state per authenticated caller, as
    /// [`CallContext::identity`](super::CallContext::identity) has it.
    pub fn identity() -> Self {
        Part::Identity.into()
    }

    /// One state per client address, behind this many trusted proxies that write `X-Forwarded-For`;
    /// with 0 the client is the connection's peer. See [`client_addr`](super::client_addr); for
    /// proxies that write `Forwarded`, use `Key::from(ClientIp { .. })`.
    pub fn client_ip(trusted_hops: usize) -> Self {
        ClientIp::behind(trusted_hops).into()
    }

    /// One state per combination of what both keys tell apart.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.parts.extend(other.parts);
        self
    }

    /// Whether all requests share one state.
    pub fn is_global(&self) -> bool {
        self.parts.is_empty()
    }

    /// How many states a layer should keep unless it is told otherwise: 1,000 for operations, of
    /// which a service has tens or hundreds, and [`DEFAULT_CAP`] where callers make the keys.
    pub fn default_cap(&self) -> usize {
        match self.parts.as_slice() {
            [] => 1,
            [Part::Operation] => 1_000,
            _ => DEFAULT_CAP,
        }
    }

    /// Applies the key to a request. Nothing is allocated.
    #[inline]
    pub fn extract<'a, B>(&'a self, request: &'a Request<B>) -> Extracted<'a> {
        Extracted::new(&self.parts, RequestRef::of(request))
    }

    /// The same for a layer that has found out already what kind of a call this is.
    #[inline]
    #[allow(dead_code, reason = "for the layers that have a key")]
    pub(crate) fn extract_for<'a, B>(
        &'a self,
        call: CallKind,
        request: &'a Request<B>,
    ) -> Extracted<'a> {
        let request = RequestRef {
            is_grpc: Some(call.is_grpc()),
            ..RequestRef::of(request)
        };
        Extracted::new(&self.parts, request)
    }
}

impl From<Part> for Key {
    fn from(part: Part) -> Self {
        Self { parts: vec![part] }
    }
}

impl From<ClientIp> for Key {
    fn from(client: ClientIp) -> Self {
        Part::ClientIp(client).into()
    }
}

/// As in labels, with header names in place of their values.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_global() {
            return f.write_str("global");
        }
        for (at, part) in self.parts.iter().enumerate() {
            f.write_str(if at == 0 { "" } else { ", " })?;
            match part {
                Part::Operation => f.write_str("operation"),
                Part::Authority => f.write_str("authority"),
                Part::Header(name) => write!(f, "header {name}"),
                Part::Identity => f.write_str("identity"),
                Part::ClientIp(_) => f.write_str("client ip"),
            }?;
        }
        Ok(())
    }
}

// ===== impl Operation =====

impl Operation {
    /// An operation with a fixed name.
    pub const fn from_static(name: &'static str) -> Self {
        Self(Name::Static(name))
    }

    /// An operation with a name that is made once and shared.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(Name::Shared(name.into()))
    }
}
