//! Whose request it is, by address: the connection's peer, or a client behind trusted proxies.
//!
//! Proxies append the address that they were called from to `X-Forwarded-For` or `Forwarded`, so with
//! N proxies of our own in front, the N rightmost entries were written by them and the N-th is the
//! client. Everything further left came with the request and can be invented; the leftmost entry,
//! which much software takes, is whatever the client says.
//!
//! ```text
//!   client ──► proxy ──► proxy ──► us          trusted hops: 2
//!   X-Forwarded-For: 10.9.9.9, 203.0.113.7, 192.0.2.1        peer of the connection: 192.0.2.2
//!                    invented   ^ the client ^ first proxy   (the second proxy)
//! ```
//!
//! The walk starts at the peer and takes at most N steps to the left. It ends early at the first
//! entry that is missing or not an address (`unknown`, `_hidden`), on the last address it had: an
//! address further left would have been written by nobody whom we trust.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Once,
        atomic::{AtomicU64, Ordering},
    },
};

use http::{Extensions, HeaderMap, HeaderName, HeaderValue, header};
use serde::{Deserialize, Serialize};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// A request extension: the client's address, for a layer or server that has worked it out itself
/// (from the PROXY protocol, a CDN's header). It wins over everything, and no hops are counted from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientAddr(pub IpAddr);

/// A request extension: the address that the connection came from, for servers on plain hyper.
///
/// axum's `ConnectInfo<SocketAddr>` and tonic's connect infos are found without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PeerAddr(pub SocketAddr);

/// How to tell the client's address: how many proxies in front are ours, and which header they write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientIp {
    /// How many proxies in front of us are trusted. Default 0: the connection's peer is the client,
    /// and no header is read.
    pub trusted_hops: usize,
    /// The header that those proxies append to. Default `X-Forwarded-For`.
    pub header: ForwardedHeader,
}

/// The header that trusted proxies append to.
///
/// Only this one is read: a proxy passes the other one on as the client sent it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`: a list of addresses.
    #[default]
    XForwardedFor,
    /// `Forwarded`: [RFC 7239](https://www.rfc-editor.org/rfc/rfc7239), its `for` parameters.
    Forwarded,
}

/// A request extension: the proxies' lines that an edge has removed from the headers, since their
/// sender is not trusted. Hops are counted from the right, which no sender can forge, so they may still be
/// counted here; nobody else shall read them.
#[derive(Debug, Clone)]
struct Removed(Vec<(ForwardedHeader, HeaderValue)>);

/// Keeps the proxies' lines for [`ClientIp::find`] before they are removed from the headers.
#[allow(dead_code, reason = "for the layers that are an edge")]
pub(crate) fn keep_forwarded(headers: &HeaderMap, extensions: &mut Extensions) {
    let both = [ForwardedHeader::XForwardedFor, ForwardedHeader::Forwarded];
    let lines = both.into_iter().flat_map(|header| {
        let lines = headers.get_all(header.name()).iter();
        lines.map(move |line| (header, line.clone()))
    });
    let lines: Vec<_> = lines.collect();
    if !lines.is_empty() {
        extensions.insert(Removed(lines));
    }
}

// ===== impl ClientIp =====

impl ClientIp {
    /// The client behind this many trusted proxies that write `X-Forwarded-For`.
    pub const fn behind(trusted_hops: usize) -> Self {
        Self {
            trusted_hops,
            header: ForwardedHeader::XForwardedFor,
        }
    }

    /// The client's address, IPv4 written as IPv4; `None` where neither the server nor a trusted
    /// proxy gives one.
    pub fn find(&self, headers: &HeaderMap, extensions: &Extensions) -> Option<IpAddr> {
        if let Some(ClientAddr(addr)) = extensions.get() {
            return Some(addr.to_canonical());
        }
        let mut client = peer_addr(extensions);
        if self.trusted_hops == 0 {
            return client;
        }
        let lines = headers.get_all(self.header.name()).iter().rev();
        let removed = extensions.get().map_or(&[][..], |Removed(lines)| lines);
        let removed = removed
            .iter()
            .rev()
            .filter(|(header, _)| *header == self.header);
        let lines = lines.chain(removed.map(|(_, line)| line));
        let hops = lines.flat_map(|line| ElementsFromRight(Some(line.as_bytes())));
        for hop in hops.filter(|hop| !hop.is_empty()).take(self.trusted_hops) {
            let Some(addr) = self.header.parse(hop) else {
                break;
            };
            client = Some(addr);
        }
        client
    }
}

// ===== impl ForwardedHeader =====

impl ForwardedHeader {
    fn name(self) -> HeaderName {
        match self {
            Self::XForwardedFor => X_FORWARDED_FOR,
            Self::Forwarded => header::FORWARDED,
        }
    }

    /// The address that one hop wrote.
    fn parse(self, element: &[u8]) -> Option<IpAddr> {
        match self {
            Self::XForwardedFor => parse_node(element),
            Self::Forwarded => parse_forwarded(element),
        }
    }
}

/// The address that the connection of a request came from, IPv4 written as IPv4: [`PeerAddr`], axum's
/// `ConnectInfo<SocketAddr>` (feature `axum`), tonic's `TcpConnectInfo` with or without TLS (feature
/// `tonic`).
pub fn peer_addr(extensions: &Extensions) -> Option<IpAddr> {
    Some(peer_socket(extensions)?.ip().to_canonical())
}

fn peer_socket(extensions: &Extensions) -> Option<SocketAddr> {
    if let Some(PeerAddr(addr)) = extensions.get() {
        return Some(*addr);
    }
    #[cfg(feature = "axum")]
    if let Some(info) = extensions.get::<axum::extract::ConnectInfo<SocketAddr>>() {
        return Some(info.0);
    }
    #[cfg(feature = "tonic")]
    {
        use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
        if let Some(info) = extensions.get::<TcpConnectInfo>() {
            return info.remote_addr();
        }
        if let Some(info) = extensions.get::<TlsConnectInfo<TcpConnectInfo>>() {
            return info.get_ref().remote_addr();
        }
    }
    None
}

/// What one customer of a network operator holds: an IPv4 address, or an IPv6 /64, since any host may
/// use every address of its /64 ([RFC 7421](https://www.rfc-editor.org/rfc/rfc7421)).
pub(crate) fn subscriber(addr: IpAddr) -> IpAddr {
    match addr.to_canonical() {
        IpAddr::V6(addr) => IpAddr::V6(Ipv6Addr::from_bits(addr.to_bits() & !u128::from(u64::MAX))),
        addr => addr,
    }
}

static MISSING: AtomicU64 = AtomicU64::new(0);

/// How many requests were to be told apart by client address and had none, since the process began.
/// They all share one key.
pub fn missing_client_addrs() -> u64 {
    MISSING.load(Ordering::Relaxed)
}

/// Counts a request without an address, and says once how to give it one.
pub(crate) fn note_missing() {
    static WARN: Once = Once::new();
    MISSING.fetch_add(1, Ordering::Relaxed);
    WARN.call_once(|| {
        tracing::warn!(
            "requests carry no client address, so all callers share one key: serve an axum router \
             with `into_make_service_with_connect_info::<SocketAddr>()`, insert \
             `tower_mesh_layers::PeerAddr` as a request extension on other servers, or set \
             `trustedHops` if a proxy of yours is in front"
        );
    });
}

/// The elements of a comma-separated list from right to left, trimmed.
///
/// From the right, since what a trusted proxy appended must be read the same whatever a client put
/// before it, an opening quote included.
struct ElementsFromRight<'a>(Option<&'a [u8]>);

impl<'a> Iterator for ElementsFromRight<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let list = self.0?;
        let mut quoted = false;
        for at in (0..list.len()).rev() {
            match list[at] {
                b'"' if !is_escaped(list, at) => quoted = !quoted,
                b',' if !quoted => {
                    self.0 = Some(&list[..at]);
                    return Some(list[at + 1..].trim_ascii());
                }
                _ => {}
            }
        }
        self.0 = None;
        Some(list.trim_ascii())
    }
}

fn is_escaped(text: &[u8], at: usize) -> bool {
    text[..at]
        .iter()
        .rev()
        .take_while(|byte| **byte == b'\\')
        .count()
        % 2
        == 1
}

/// The address in the `for` parameter of one element of `Forwarded`.
fn parse_forwarded(element: &[u8]) -> Option<IpAddr> {
    let (mut quoted, mut escaped) = (false, false);
    let mut parameters = element.split(|byte| {
        let literal = std::mem::take(&mut escaped);
        match byte {
            b'\\' if quoted => escaped = !literal,
            b'"' if !literal => quoted = !quoted,
            _ => {}
        }
        *byte == b';' && !quoted
    });
    parameters
        .find_map(|parameter| {
            let (name, node) = parameter.trim_ascii().split_at_checked(4)?;
            name.eq_ignore_ascii_case(b"for=").then_some(node)
        })
        .and_then(parse_node)
}

/// An address with or without a port, as proxies write it: `192.0.2.7`, `192.0.2.7:80`,
/// `2001:db8::7`, `[2001:db8::7]:80`, each with or without quotes.
fn parse_node(node: &[u8]) -> Option<IpAddr> {
    let node = node
        .strip_prefix(b"\"")
        .and_then(|rest| rest.strip_suffix(b"\""))
        .unwrap_or(node);
    let node = std::str::from_utf8(node).ok()?;
    let addr = if let Some(rest) = node.strip_prefix('[') {
        let (addr, port) = rest.split_once(']')?;
        if !port.is_empty() {
            port.strip_prefix(':')?.parse::<u16>().ok()?;
        }
        IpAddr::V6(addr.parse::<Ipv6Addr>().ok()?)
    } else if let Ok(addr) = node.parse::<IpAddr>() {
        addr
    } else {
        let (addr, port) = node.split_once(':')?;
        port.parse::<u16>().ok()?;
        IpAddr::V4(addr.parse::<Ipv4Addr>().ok()?)
    };
    Some(addr.to_canonical())
}

#[cfg(test)]
mod tests;
