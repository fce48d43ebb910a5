//! A registry in the DNS: the addresses of a name, or what its SRV records (RFC 2782) say.
//!
//! ```text
//! dns:orders.internal:8080                            A and AAAA records, and a port
//! dns:{service}.shop.svc.cluster.local:50051?scheme=grpc
//! dns+srv:_http._tcp.{service}.example.               SRV records: addresses, ports, weights
//! dns+srv://10.0.0.2,10.0.0.3:5353/_grpc._tcp.orders.example?scheme=grpc&tcp=true
//! ```
//!
//! `{service}` stands for the name of the service that is followed; a name without it is asked for
//! whatever the service's name is. Between `//` and `/` are the name servers, by address, in the order
//! in which they are asked; port 53 unless told. Without any, the operating system's are asked
//! (`/etc/resolv.conf`), a name that does not end with a dot is looked for in its search domains, and
//! for addresses the hosts file goes first.
//!
//! ```
//! use tower_mesh_discovery::registry::resolver;
//!
//! let orders = resolver("dns+srv://10.0.0.2/_http._tcp.{service}.example?maxTtl=30s", "orders")?;
//! assert_eq!(orders.service(), "orders");
//!
//! let error = resolver("dns:{servce}.example:80", "orders").unwrap_err();
//! assert!(error.expected().contains("did you mean `service`?"));
//! # Ok::<(), tower_mesh_layers::config::ConfigError>(())
//! ```
//!
//! # Parameters
//!
//! | parameter | default | allowed | what |
//! |---|---|---|---|
//! | `scheme` | `http` | `http`, `https`, `h2c`, `grpc`, `grpcs` | what the instances speak |
//! | `minTtl` | `1s` | 1 s to 1 h | no name is asked for more often, whatever its TTL |
//! | `maxTtl` | `5m` | 1 s to 1 h | nor more rarely |
//! | `timeout` | `2s` | 100 ms to 30 s | how long one server may take before the next is asked |
//! | `tcp` | `false` | `true`, `false` | ask over TCP only; otherwise over UDP, and TCP for what does not fit |
//! | `grace` | `30s` | 0 to 1 h | how long an answer that lost most instances is [doubted](crate::resolve::cache) |
//!
//! # Instances
//!
//! Every address is an instance; its URL is its id. IPv4 and IPv6 are asked for at the same time and
//! put together. For SRV records:
//!
//! * **Port** is the record's.
//! * **Weight** is the record's, divided by the number of the target's addresses. A weight of 0 counts
//!   as 1, which is how often the RFC's own draw takes it; where all are 0 all are equal.
//! * **Priority**: the instances are those of the lowest number of which a target has an address. The
//!   others are asked for again with every refresh, and are no instances meanwhile: that a server
//!   does not answer calls is the balancer's to find out, and does not bring back-up servers in.
//! * **Addresses** that come along with the records are used; the others are asked for.
//! * **Metadata**: `dns.target` and `dns.priority`.
//!
//! With `https` and `grpcs` the metadata `tls.serverName` is the name that was asked for, without
//! `_service._proto.`: that is what our own HTTP endpoint wants in the certificate. The target of an SRV
//! record is not, since whoever forges a record would name a host of their own.
//!
//! A record that cannot be used (port 0, address `0.0.0.0`, more than 10,000 instances) is left out with
//! a warning that names it. If none can be used the answer is an error.
//!
//! # When an answer counts
//!
//! | the servers say | then |
//! |---|---|
//! | records | they are the instances until the shortest TTL of them is over, and up to 500 ms more |
//! | no such name, no such records, SRV target `.` | the service has no instances, [once the grace time is over](crate::resolve::cache); asked again after the negative TTL, at most 30 s |
//! | SERVFAIL, REFUSED, any other code; a referral; nonsense; nothing in time | the next server is asked; if none answers the last instances stay, and all are asked again after 1 s, doubling up to 30 s, and up to half as much more |
//! | one of the questions for addresses fails | what it said last time stays in the set |
//!
//! There is no cache: each refresh asks a server. One that caches, as most recursive ones do, adds what
//! is left of its own copy's TTL, so a change arrives within one TTL all the same.
//!
//! A name that is missing in one search domain is looked for in the next; one that cannot be asked for
//! ends the search, since the next domain may have another service of that name.

#[cfg(test)]
mod double;
mod follow;
mod message;
mod name;
mod records;
mod schedule;
mod servers;
mod url;

use std::{net::SocketAddr, time::Duration};

use tower_mesh_layers::config::ConfigError;

use self::{name::Template, servers::Asking};
use crate::{
    instance::Scheme,
    resolve::{Answers, Resolve},
};

pub(super) use self::url::parse;

/// A registry in the DNS. See the [module](self).
///
/// ```
/// use tower_mesh_discovery::{registry::DnsRegistry, resolve::Resolver};
///
/// let registry = DnsRegistry::srv("_http._tcp.{service}.example.")?.servers(["10.0.0.2:53".parse().unwrap()]);
/// let orders = Resolver::new(registry, "orders");
/// # Ok::<(), tower_mesh_layers::config::ConfigError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsRegistry {
    question: Question,
    servers: Vec<SocketAddr>,
    scheme: Scheme,
    ttl: [Duration; 2],
    asking: Asking,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Question {
    Addresses { name: Template, port: u16 },
    Services(Template),
}

// ===== impl DnsRegistry =====

impl DnsRegistry {
    /// Between these bounds is the time after which an answer is asked for again, by default: from 1 s
    /// to 5 min.
    pub const DEFAULT_TTL: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(300)];
    /// How long one server may take, by default: 2 s.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);

    /// The instances are at the addresses of `name`, in which `{service}` stands for the service's
    /// name, and all at `port`.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] when that is no DNS name, or the port is 0.
    pub fn addresses(name: &str, port: u16) -> Result<Self, ConfigError> {
        if port == 0 {
            return Err(ConfigError::new("port", port, "1 to 65535"));
        }
        let name = Template::parse(name)?;
        Ok(Self::new(Question::Addresses { name, port }))
    }

    /// The instances are where the SRV records of `name` say, in which `{service}` stands for the
    /// service's name.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] when that is no DNS name.
    pub fn srv(name: &str) -> Result<Self, ConfigError> {
        Ok(Self::new(Question::Services(Template::parse(name)?)))
    }

    fn new(question: Question) -> Self {
        Self {
            question,
            servers: Vec::new(),
            scheme: Scheme::Http,
            ttl: Self::DEFAULT_TTL,
            asking: Asking {
                timeout: Self::DEFAULT_TIMEOUT,
                tcp: false,
            },
        }
    }

    /// The name servers to ask, the first one first; the operating system's by default.
    #[must_use]
    pub fn servers(mut self, servers: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.servers = servers.into_iter().collect();
        self
    }

    /// What the instances speak: `http` by default.
    #[must_use]
    pub fn scheme(mut self, scheme: Scheme) -> Self {
        self.scheme = scheme;
        self
    }

    /// The bounds of the time after which an answer is asked for again: at least 1 s.
    #[must_use]
    pub fn ttl(mut self, min: Duration, max: Duration) -> Self {
        let min = min.max(Self::DEFAULT_TTL[0]);
        self.ttl = [min, max.max(min)];
        self
    }

    /// How long one server may take before the next is asked.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.asking.timeout = timeout;
        self
    }

    /// Asks over TCP only.
    #[must_use]
    pub fn tcp_only(mut self, tcp_only: bool) -> Self {
        self.asking.tcp = tcp_only;
        self
    }
}

impl Resolve for DnsRegistry {
    fn resolve(&self, service: &str) -> Answers {
        follow::answers(self.clone(), service)
    }

    fn check(&self, service: &str) -> Result<(), ConfigError> {
        self.question.name().fill(service).map(drop)
    }
}

// ===== impl Question =====

impl Question {
    fn name(&self) -> &Template {
        match self {
            Self::Addresses { name, .. } | Self::Services(name) => name,
        }
    }
}
