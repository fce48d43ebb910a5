//! Where one endpoint of an instance listens, as a validated URL.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use tower_mesh_layers::config::ConfigError;

const EXPECTED: &str = "`scheme://host[:port]` with scheme http, https, h2c, grpc or grpcs, or \
                        `unix:///absolute/path` (gRPC: `grpc+unix:///absolute/path`)";

/// What is spoken at an endpoint, and whether TLS is under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Scheme {
    /// `http`: HTTP/1.1 in the clear; port 80 unless told.
    Http,
    /// `https`: HTTP over TLS, the version chosen by ALPN; port 443 unless told.
    Https,
    /// `h2c`: HTTP/2 in the clear with prior knowledge (RFC 9113 §3.3); port 80 unless told.
    H2c,
    /// `grpc`: gRPC over HTTP/2 in the clear; port 80 unless told.
    Grpc,
    /// `grpcs`: gRPC over TLS; port 443 unless told.
    Grpcs,
}

// ===== impl Scheme =====

impl Scheme {
    pub(crate) const ALL: [Self; 5] = [Self::Http, Self::Https, Self::H2c, Self::Grpc, Self::Grpcs];

    /// The scheme as it is written in a URL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::H2c => "h2c",
            Self::Grpc => "grpc",
            Self::Grpcs => "grpcs",
        }
    }

    /// The port of a URL that names none: 443 with TLS, else 80.
    pub const fn default_port(self) -> u16 {
        if self.is_tls() { 443 } else { 80 }
    }

    /// Whether connections are made over TLS.
    pub const fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Grpcs)
    }

    /// Whether the endpoint serves gRPC.
    pub const fn is_grpc(self) -> bool {
        matches!(self, Self::Grpc | Self::Grpcs)
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|scheme| scheme.as_str().eq_ignore_ascii_case(text))
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The address part of an [`EndpointUrl`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Address {
    /// An IP address or a lower-case DNS name; an IPv6 address has no brackets here.
    Tcp {
        host: Box<str>,
        port: u16,
    },
    Unix(PathBuf),
}

/// The URL of one endpoint: scheme, and host and port or the path of a Unix socket.
///
/// Parsing is strict: a path, query, fragment or user name is refused, because an endpoint is a
/// peer, not a resource. Two URLs that mean the same peer compare equal and display the same: the
/// host is in lower case and the port is always there.
///
/// ```
/// use tower_mesh_discovery::instance::{EndpointUrl, Scheme};
///
/// let url: EndpointUrl = "grpcs://Orders.Example:8443".parse()?;
/// assert_eq!((url.scheme(), url.host(), url.port()), (Scheme::Grpcs, Some("orders.example"), Some(8443)));
/// assert_eq!("http://[::1]".parse::<EndpointUrl>()?.to_string(), "http://[::1]:80");
/// assert!("unix:///run/orders.sock".parse::<EndpointUrl>()?.unix_path().is_some());
///
/// let refused = "http://10.0.0.1/v1".parse::<EndpointUrl>().unwrap_err();
/// assert_eq!(refused.value(), "http://10.0.0.1/v1");
/// # Ok::<(), tower_mesh_layers::config::ConfigError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointUrl {
    scheme: Scheme,
    address: Address,
}

// ===== impl EndpointUrl =====

impl EndpointUrl {
    /// The endpoint at a socket address.
    ///
    /// ```
    /// use tower_mesh_discovery::instance::{EndpointUrl, Scheme};
    ///
    /// let url = EndpointUrl::new(Scheme::Grpc, ([127, 0, 0, 1], 50051).into());
    /// assert_eq!(url.to_string(), "grpc://127.0.0.1:50051");
    /// ```
    pub fn new(scheme: Scheme, addr: SocketAddr) -> Self {
        let host = addr.ip().to_string().into();
        Self {
            scheme,
            address: Address::Tcp {
                host,
                port: addr.port(),
            },
        }
    }

    /// The endpoint at a Unix socket.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] when the path is not absolute, or the scheme is not `http` or `grpc`.
    pub fn unix(scheme: Scheme, path: impl Into<PathBuf>) -> Result<Self, ConfigError> {
        let path = path.into();
        if !path.is_absolute() {
            let expected = "the absolute path of a Unix socket";
            return Err(ConfigError::new("", path.display(), expected));
        }
        if !matches!(scheme, Scheme::Http | Scheme::Grpc) {
            return Err(ConfigError::new(
                "",
                scheme,
                "http or grpc over a Unix socket",
            ));
        }
        Ok(Self {
            scheme,
            address: Address::Unix(path),
        })
    }

    /// What is spoken there.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The IP address (IPv6 without brackets) or lower-case DNS name; `None` for a Unix socket.
    pub fn host(&self) -> Option<&str> {
        match &self.address {
            Address::Tcp { host, .. } => Some(host),
            Address::Unix(_) => None,
        }
    }

    /// The port; `None` for a Unix socket.
    pub fn port(&self) -> Option<u16> {
        match self.address {
            Address::Tcp { port, .. } => Some(port),
            Address::Unix(_) => None,
        }
    }

    /// The socket address, when the host is an IP address.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        let ip: IpAddr = self.host()?.parse().ok()?;
        Some(SocketAddr::new(ip, self.port()?))
    }

    /// The path of the Unix socket; `None` for TCP.
    pub fn unix_path(&self) -> Option<&Path> {
        match &self.address {
            Address::Tcp { .. } => None,
            Address::Unix(path) => Some(path),
        }
    }

    /// `host:port` as a `Host` header carries it: brackets around IPv6, no port where it is the
    /// scheme's default, `localhost` for a Unix socket.
    pub fn authority(&self) -> String {
        match &self.address {
            Address::Tcp { host, port } if *port == self.scheme.default_port() => {
                Bracketed(host).to_string()
            }
            Address::Tcp { host, port } => format!("{}:{port}", Bracketed(host)),
            Address::Unix(_) => "localhost".to_owned(),
        }
    }
}

/// A host in brackets if it is an IPv6 address.
struct Bracketed<'a>(&'a str);

impl fmt::Display for Bracketed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.contains(':') {
            write!(f, "[{}]", self.0)
        } else {
            f.write_str(self.0)
        }
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Tcp { host, port } => {
                write!(f, "{}://{}:{port}", self.scheme, Bracketed(host))
            }
            Address::Unix(path) if self.scheme == Scheme::Http => {
                write!(f, "unix://{}", path.display())
            }
            Address::Unix(path) => write!(f, "{}+unix://{}", self.scheme, path.display()),
        }
    }
}

impl fmt::Debug for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EndpointUrl({self})")
    }
}

/// An address where `http` is spoken.
impl From<SocketAddr> for EndpointUrl {
    fn from(addr: SocketAddr) -> Self {
        Self::new(Scheme::Http, addr)
    }
}

impl FromStr for EndpointUrl {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let refused = |why: &str| ConfigError::new("", text, format!("{EXPECTED}: {why}"));
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| refused("there is no `://` in it"))?;
        if let Some(prefix) = unix_prefix(scheme) {
            let scheme = match prefix {
                "" => Scheme::Http,
                name => Scheme::parse(name).ok_or_else(|| refused("the scheme is unknown"))?,
            };
            if rest.contains('\0') || rest.ends_with('/') || rest.contains(['?', '#']) {
                return Err(refused("this is no path of a socket"));
            }
            return Self::unix(scheme, rest)
                .map_err(|error| refused(&format!("a Unix socket is {}", error.expected())));
        }
        let scheme = Scheme::parse(scheme).ok_or_else(|| refused("the scheme is unknown"))?;
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#', '@']) {
            return Err(refused(
                "a user, path, query or fragment is not part of an endpoint",
            ));
        }
        let (host, port) = split_port(authority).ok_or_else(|| refused("the port is missing"))?;
        let port = match port {
            None => scheme.default_port(),
            Some(port) => parse_port(port).ok_or_else(|| refused("the port is 1 to 65535"))?,
        };
        let host = parse_host(host).ok_or_else(|| refused("the host is not a name or address"))?;
        Ok(Self {
            scheme,
            address: Address::Tcp { host, port },
        })
    }
}

/// What stands before `unix` in `unix` and `grpc+unix`.
fn unix_prefix(scheme: &str) -> Option<&str> {
    if scheme.eq_ignore_ascii_case("unix") {
        return Some("");
    }
    let (prefix, suffix) = scheme.split_once('+')?;
    (suffix.eq_ignore_ascii_case("unix") && !prefix.is_empty()).then_some(prefix)
}

/// Splits `host:port`; the colons inside brackets belong to the host.
fn split_port(authority: &str) -> Option<(&str, Option<&str>)> {
    let host_end = if authority.starts_with('[') {
        authority.find(']')? + 1
    } else {
        0
    };
    let (host, port) = match authority[host_end..].find(':') {
        None => (authority, None),
        Some(colon) => {
            let (host, port) = authority.split_at(host_end + colon);
            (host, Some(&port[1..]))
        }
    };
    (port != Some("")).then_some((host, port))
}

/// 1 to 65535.
pub(crate) fn parse_port(text: &str) -> Option<u16> {
    // `u16::from_str` would take `+80`.
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|port| *port != 0)
}

/// An IP address or a DNS name, canonical. Compose and SRV names have a `_`.
fn parse_host(text: &str) -> Option<Box<str>> {
    if let Some(inner) = text.strip_prefix('[') {
        let ip: Ipv6Addr = inner.strip_suffix(']')?.parse().ok()?;
        return Some(ip.to_string().into());
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    // A last label of digits cannot be a top-level domain, so this is meant as an IPv4 address.
    if name
        .rsplit('.')
        .next()?
        .bytes()
        .all(|byte| byte.is_ascii_digit())
    {
        let ip: Ipv4Addr = text.parse().ok()?;
        return Some(ip.to_string().into());
    }
    is_dns_name(text).then(|| text.to_ascii_lowercase().into())
}

/// A DNS name as hosts and services have it (RFC 1123, and the `_` of RFC 2782), with or without its
/// last dot.
pub(crate) fn is_dns_name(text: &str) -> bool {
    let label_ok = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    name.len() <= 253 && name.split('.').all(label_ok)
}

impl Serialize for EndpointUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EndpointUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = EndpointUrl;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EXPECTED)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<EndpointUrl, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> EndpointUrl {
        text.parse()
            .unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn urls_are_shown_in_one_canonical_form() {
        for (text, canonical, authority) in [
            (
                "http://10.0.0.1:8080",
                "http://10.0.0.1:8080",
                "10.0.0.1:8080",
            ),
            ("HTTP://Orders/", "http://orders:80", "orders"),
            ("https://orders.svc", "https://orders.svc:443", "orders.svc"),
            ("h2c://my_app:80", "h2c://my_app:80", "my_app"),
            ("grpc://[::1]:50051", "grpc://[::1]:50051", "[::1]:50051"),
            ("grpcs://[0:0::1]", "grpcs://[::1]:443", "[::1]"),
            ("unix:///run/a.sock", "unix:///run/a.sock", "localhost"),
            ("http+unix:///run/a.sock", "unix:///run/a.sock", "localhost"),
            (
                "grpc+unix:///run/a.sock",
                "grpc+unix:///run/a.sock",
                "localhost",
            ),
        ] {
            let url = parse(text);
            assert_eq!(
                (url.to_string().as_str(), url.authority().as_str()),
                (canonical, authority)
            );
            assert_eq!(parse(canonical), url);
        }
    }

    #[test]
    fn everything_that_is_not_an_endpoint_is_refused_with_its_value() {
        for text in [
            "",
            "orders",
            "10.0.0.1:80",
            "ftp://orders",
            "http://",
            "http://:80",
            "http://orders:",
            "http://orders:0",
            "http://orders:65536",
            "http://orders:+80",
            "http://orders:80:80",
            "http://or ders",
            "http://-orders",
            "http://a..b",
            "http://300.0.0.1",
            "http://1.2.3",
            "http://::1",
            "http://[::1",
            "http://[::1]x",
            "http://[::1%eth0]:80",
            "http://user@orders",
            "http://orders/v1",
            "http://orders?isSecure=false",
            "http://orders#x",
            "unix://relative.sock",
            "unix:///",
            "https+unix:///run/a.sock",
            "+unix:///run/a.sock",
        ] {
            let error = text.parse::<EndpointUrl>().expect_err(text);
            assert_eq!(error.value(), text);
            assert!(error.expected().contains("grpcs"), "{error}");
        }
    }

    #[test]
    fn an_ip_address_needs_no_lookup() {
        assert_eq!(
            parse("http://[::1]:8080").socket_addr(),
            Some("[::1]:8080".parse().unwrap())
        );
        assert_eq!(parse("http://orders:8080").socket_addr(), None);
        let addr: SocketAddr = "[2001:db8::1]:443".parse().unwrap();
        assert_eq!(
            EndpointUrl::new(Scheme::Https, addr).socket_addr(),
            Some(addr)
        );
    }

    proptest! {
        #[test]
        fn no_text_panics_and_every_url_reads_back(text in "([a-z0-9+]{0,6}://)?[\\[\\]a-zA-Z0-9:./_-]{0,20}") {
            if let Ok(url) = text.parse::<EndpointUrl>() {
                prop_assert_eq!(url.to_string().parse::<EndpointUrl>().unwrap(), url);
            }
        }
    }
}
