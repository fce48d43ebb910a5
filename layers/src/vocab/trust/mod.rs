//! [`Trust`]: whose headers are believed.
//!
//! Metadata, identities, fault triggers, route overrides and a proxy's word about the client all travel
//! as headers, which anybody can write. So nobody is trusted until the configuration says who is, and
//! what others send of it is dropped at the edge ([`strip_untrusted`]) before anything reads it.
//!
//! ```
//! use tower_mesh_layers::Trust;
//!
//! let trust = Trust::peers(["10.0.0.0/8"], ["spiffe://mesh/*"])?;
//! assert!(trust.trusts(Some("10.1.2.3".parse()?), None));
//! assert!(trust.trusts(None, Some("spiffe://mesh/checkout")));
//! assert!(!trust.trusts(Some("203.0.113.7".parse()?), None));
//! assert!(!Trust::default().trusts(Some("127.0.0.1".parse()?), Some("root")));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! In a file:
//!
//! | written | trusted |
//! |---|---|
//! | `trust: none` (the default) | nobody |
//! | `trust: all` | everybody: where only the mesh can connect |
//! | `trust: { cidrs: [10.0.0.0/8], identities: ["spiffe://mesh/*"] }` | callers with an address in one of the ranges, and callers authenticated as one of the identities (exact, or with a `*` at one end) |
//!
//! **Behind a proxy** the address to ask about is the client's, not the proxy's, or whatever the
//! outside sends through the proxy would be trusted: [`Trust::trusts_request`] counts the same
//! `trustedHops` as [`Key::client_ip`](super::Key::client_ip) does. An identity speaks for itself: it
//! was proven at this hop, so list a proxy's only if the proxy drops these headers itself.

mod cidr;
mod internal;

use std::{fmt, net::IpAddr};

use http::Request;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use self::{
    cidr::Cidr,
    internal::{INTERNAL_HEADERS, INTERNAL_PREFIXES, Stripped, is_internal, strip_untrusted},
};
use super::{
    client_addr::ClientIp, config::ConfigError, pattern::Pattern, request_ref::RequestRef,
};

/// Whose headers are believed. See [the module](self).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Trust {
    /// Nobody's.
    #[default]
    None,
    /// Everybody's.
    All,
    /// Those of some; made by [`Trust::peers`].
    Peers(TrustedPeers),
}

/// Callers that are trusted, by address or by identity.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedPeers {
    cidrs: Vec<Cidr>,
    identities: Vec<Pattern>,
}

// ===== impl Trust =====

impl Trust {
    /// Trusts callers with an address in one of the ranges, and callers authenticated as one of the
    /// identities: exact, or with a `*` at one end.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] at `cidrs[0]` or `identities[0]`, whichever entry is malformed.
    pub fn peers<C, I>(
        cidrs: impl IntoIterator<Item = C>,
        identities: impl IntoIterator<Item = I>,
    ) -> Result<Self, ConfigError>
    where
        C: AsRef<str>,
        I: AsRef<str>,
    {
        let cidrs = parse_each("cidrs", cidrs, str::parse)?;
        let identities = parse_each("identities", identities, Pattern::parse)?;
        Ok(Self::Peers(TrustedPeers { cidrs, identities }))
    }

    /// Whether a caller with this address, or this authenticated identity, is trusted.
    pub fn trusts(&self, addr: Option<IpAddr>, identity: Option<&str>) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Peers(peers) => {
                addr.is_some_and(|addr| peers.cidrs.iter().any(|cidr| cidr.contains(addr)))
                    || identity.is_some_and(|identity| {
                        peers
                            .identities
                            .iter()
                            .any(|one| one.matches(identity.as_bytes()))
                    })
            }
        }
    }

    /// Whether the caller of a request is trusted: by the address that `client` finds, and the identity
    /// that the request's [`CallContext`](super::CallContext) has.
    pub fn trusts_request<B>(&self, request: &Request<B>, client: &ClientIp) -> bool {
        if !matches!(self, Self::Peers(_)) {
            return matches!(self, Self::All); // without a search for the address
        }
        let addr = client.find(request.headers(), request.extensions());
        self.trusts(addr, RequestRef::of(request).identity())
    }
}

fn parse_each<T>(
    field: &str,
    texts: impl IntoIterator<Item = impl AsRef<str>>,
    parse: impl Fn(&str) -> Result<T, ConfigError>,
) -> Result<Vec<T>, ConfigError> {
    let texts = texts.into_iter().enumerate();
    texts
        .map(|(at, text)| {
            parse(text.as_ref()).map_err(|error| error.at(format_args!("{field}[{at}]")))
        })
        .collect()
}

// ===== serde =====

#[derive(Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
struct RawPeers {
    /// Ranges of addresses.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<Cidr>"))]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cidrs: Vec<String>,
    /// Authenticated callers, exact or with a `*` at one end.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<super::schema::Pattern>"))]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    identities: Vec<String>,
}

impl Serialize for Trust {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => serializer.serialize_str("none"),
            Self::All => serializer.serialize_str("all"),
            Self::Peers(peers) => RawPeers {
                cidrs: peers.cidrs.iter().map(Cidr::to_string).collect(),
                identities: peers.identities.iter().map(Pattern::to_string).collect(),
            }
            .serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Trust {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TrustVisitor)
    }
}

struct TrustVisitor;

impl<'de> de::Visitor<'de> for TrustVisitor {
    type Value = Trust;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`none`, `all` or `{ cidrs: [..], identities: [..] }`")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Trust, E> {
        match text {
            "none" => Ok(Trust::None),
            "all" => Ok(Trust::All),
            _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
        }
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Trust, A::Error> {
        let raw = RawPeers::deserialize(de::value::MapAccessDeserializer::new(map))?;
        Trust::peers(raw.cidrs, raw.identities).map_err(de::Error::custom)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Trust {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Trust".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let peers = RawPeers::json_schema(generator);
        schemars::json_schema!({
            "description": "Whose headers are believed: nobody's, everybody's, or those of some.",
            "anyOf": [{ "enum": ["none", "all"] }, peers],
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        client_addr::PeerAddr,
        context::{AuthMethod, CallContext, Identity},
    };

    #[test]
    fn nobody_is_trusted_by_default() {
        let trust = Trust::default();
        assert!(!trust.trusts(Some("127.0.0.1".parse().unwrap()), Some("root")));
        assert!(!trust.trusts(None, None));
        assert!(Trust::All.trusts(None, None));
    }

    #[test]
    fn an_address_or_an_identity_is_enough() {
        let trust = Trust::peers(["10.0.0.0/8", "::1"], ["checkout", "spiffe://mesh/*"]).unwrap();
        for (addr, identity, expected) in [
            (Some("10.1.2.3"), None, true),
            (Some("::ffff:10.1.2.3"), None, true),
            (Some("::1"), Some("stranger"), true),
            (Some("203.0.113.7"), Some("checkout"), true),
            (None, Some("spiffe://mesh/cart"), true),
            (Some("203.0.113.7"), None, false),
            (None, Some("spiffe://mesh/"), false),
            (None, Some("spiffe://other/spiffe://mesh/cart"), false),
            (None, Some("checkout2"), false),
            (None, None, false),
        ] {
            let addr = addr.map(|addr| addr.parse().unwrap());
            assert_eq!(
                trust.trusts(addr, identity),
                expected,
                "{addr:?} {identity:?}"
            );
        }
    }

    #[test]
    fn behind_a_proxy_it_is_the_client_that_counts() {
        let trust = Trust::peers(["10.0.0.0/8"], ["checkout"]).unwrap();
        let request = |forwarded: &str, identity: Option<&str>| {
            let mut request = Request::get("/")
                .header("x-forwarded-for", forwarded)
                .body(())
                .unwrap();
            request
                .extensions_mut()
                .insert(PeerAddr("10.0.0.9:80".parse().unwrap()));
            let context = CallContext::get_or_insert(request.extensions_mut());
            context.identity = identity.map(|name| Arc::new(Identity::new(name, AuthMethod::Mtls)));
            request
        };
        let outside = request("10.9.9.9, 203.0.113.7", None);
        assert!(!trust.trusts_request(&outside, &ClientIp::behind(1)));
        assert!(trust.trusts_request(&outside, &ClientIp::behind(0)));
        assert!(trust.trusts_request(&request("10.9.9.9", None), &ClientIp::behind(1)));
        let known = request("203.0.113.7", Some("checkout"));
        assert!(trust.trusts_request(&known, &ClientIp::behind(1)));
        assert!(!Trust::None.trusts_request(&known, &ClientIp::behind(0)));
        assert!(Trust::All.trusts_request(&outside, &ClientIp::behind(1)));
    }

    #[test]
    fn it_is_written_as_documented() {
        let peers = Trust::peers(["10.0.0.0/8", "::1"], ["a", "b*", "*c", "*"]).unwrap();
        for (trust, text) in [
            (Trust::None, r#""none""#),
            (Trust::All, r#""all""#),
            (
                peers,
                r#"{"cidrs":["10.0.0.0/8","::1/128"],"identities":["a","b*","*c","*"]}"#,
            ),
            (Trust::Peers(TrustedPeers::default()), "{}"),
        ] {
            assert_eq!(serde_json::to_string(&trust).unwrap(), text);
            assert_eq!(serde_json::from_str::<Trust>(text).unwrap(), trust);
        }
    }

    #[test]
    fn what_is_malformed_is_refused_with_its_place() {
        for (text, part) in [
            (
                r#"{"cidrs":["10.0.0.0/8","10.1.2.3/8"]}"#,
                "cidrs[1]: got `10.1.2.3/8`",
            ),
            (r#"{"identities":["a*b"]}"#, "identities[0]: got `a*b`"),
            (
                r#"{"cidr":[]}"#,
                "unknown field `cidr`, expected `cidrs` or `identities`",
            ),
            (r#""everyone""#, "expected `none`, `all` or `{ cidrs"),
            ("true", "expected `none`, `all` or `{ cidrs"),
        ] {
            let error = serde_json::from_str::<Trust>(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
