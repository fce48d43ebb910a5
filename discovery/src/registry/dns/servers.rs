//! Asking name servers.
//!
//! Under this are hickory's connections (UDP, retransmission, TCP after a truncated response), one pool
//! per server. Above them its resolver would come, with a cache, a search list and aliases; those are
//! here instead, since for a registry the difference between "there is nothing" and "nobody knows"
//! must survive all of them. In hickory-resolver 0.26 a search domain that fails and another that
//! answers NXDOMAIN come out as NXDOMAIN, SERVFAIL of one server is final though another would know,
//! and SRV records behind an alias come out as none.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{StreamExt, future};
use hickory_resolver::{
    Hosts, NameServerPool, PoolContext, TlsConfig,
    config::{ConnectionConfig, NameServerConfig, ResolverOpts},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider, xfer::DnsHandle},
    proto::{
        op::{DnsRequestOptions, Message, OpCode, Query},
        rr::{Name, RecordType},
    },
    system_conf::read_system_conf,
};

use super::message::{self, Found, Read, Reply};

/// Aliases are followed from response to response so often.
const MAX_ALIASES: usize = 8;

/// How servers are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asking {
    /// How long one server may take.
    pub(super) timeout: Duration,
    /// Only over TCP.
    pub(super) tcp: bool,
}

/// The name servers to ask, in order.
pub(super) struct Servers {
    servers: Vec<Server>,
    /// The one that answered last is asked first.
    first: AtomicUsize,
    search: Vec<Name>,
    ndots: usize,
    hosts: Hosts,
}

struct Server {
    address: SocketAddr,
    pool: NameServerPool<TokioRuntimeProvider>,
}

/// No server answered a question.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{question}: {server}: {why}")]
pub(super) struct AskError {
    question: String,
    server: String,
    why: String,
}

// ===== impl Servers =====

impl Servers {
    /// These servers, for names that are complete.
    pub(super) fn given(addresses: &[SocketAddr], asking: Asking) -> Result<Self, NetError> {
        let servers = addresses
            .iter()
            .map(|&address| Server::new(address, asking));
        Ok(Self {
            servers: servers.collect::<Result<_, _>>()?,
            first: AtomicUsize::new(0),
            search: Vec::new(),
            ndots: 0,
            hosts: Hosts::default(),
        })
    }

    /// The servers, search domains and hosts file of the operating system, as they are now. Blocks.
    pub(super) fn system(asking: Asking) -> Result<Self, NetError> {
        let (config, options) = read_system_conf()?;
        let mut servers = Vec::new();
        for server in config.name_servers() {
            let port = server.connections.first().map_or(53, |first| first.port);
            let address = SocketAddr::new(server.ip, port);
            servers.push(Server::new(address, asking)?);
        }
        let search = match config.search() {
            [] => config.domain().into_iter().cloned().collect(),
            search => search.to_vec(),
        };
        Ok(Self {
            servers,
            first: AtomicUsize::new(0),
            search,
            ndots: options.ndots,
            hosts: Hosts::from_system().unwrap_or_default(),
        })
    }

    #[cfg(test)]
    pub(super) fn searching(mut self, search: Vec<Name>, ndots: usize) -> Self {
        (self.search, self.ndots) = (search, ndots);
        self
    }

    #[cfg(test)]
    pub(super) fn with_hosts(mut self, file: &str) -> Self {
        self.hosts.read_hosts_conf(file.as_bytes()).unwrap();
        self
    }

    /// What a name may stand for, in the order to try: as resolv.conf(5) has it.
    pub(super) fn candidates(&self, name: &Name) -> Vec<Name> {
        let mut absolute = name.clone();
        absolute.set_fqdn(true);
        if name.is_fqdn() {
            return vec![absolute];
        }
        let mut candidates: Vec<Name> = self
            .search
            .iter()
            .filter_map(|domain| name.clone().append_domain(domain).ok())
            .collect();
        let dots = usize::from(name.num_labels()).saturating_sub(1);
        let place = if dots >= self.ndots {
            0
        } else {
            candidates.len()
        };
        candidates.insert(place, absolute);
        candidates
    }

    /// Asks for the addresses of a name, both families at once.
    pub(super) async fn addresses(&self, name: &Name) -> [Result<Reply, AskError>; 2] {
        let local = super::records::FAMILIES.map(|family| self.in_hosts(name, family));
        if local.iter().any(Option::is_some) {
            return local.map(|found| Ok(found.map_or(Reply::Absent(None), Reply::Found)));
        }
        let [a, aaaa] = super::records::FAMILIES.map(|family| self.ask(name, family));
        future::join(a, aaaa).await.into()
    }

    fn in_hosts(&self, name: &Name, kind: RecordType) -> Option<Found> {
        let lookup = self
            .hosts
            .lookup_static_host(&Query::query(name.clone(), kind))?;
        let records = lookup.answers().iter().map(|record| record.data.clone());
        Some(Found {
            records: records.collect(),
            ttl: Duration::MAX,
            additional: Vec::new(),
        })
    }

    /// Asks for records of an absolute name, and of what it is an alias for.
    pub(super) async fn ask(&self, name: &Name, kind: RecordType) -> Result<Reply, AskError> {
        let (mut current, mut ttl) = (name.clone(), Duration::MAX);
        for _ in 0..=MAX_ALIASES {
            match self.exchange(&current, kind).await? {
                Answer::Reply(Reply::Found(mut found)) => {
                    found.ttl = found.ttl.min(ttl);
                    return Ok(Reply::Found(found));
                }
                Answer::Reply(Reply::Absent(negative)) => {
                    return Ok(Reply::Absent(negative.map(|negative| negative.min(ttl))));
                }
                Answer::Alias(target, alias_ttl) => (current, ttl) = (target, ttl.min(alias_ttl)),
            }
        }
        let why = format!("more than {MAX_ALIASES} aliases");
        Err(AskError::new(name, kind, "all servers".to_owned(), why))
    }

    /// One question to one server after the other, until one has an answer.
    async fn exchange(&self, name: &Name, kind: RecordType) -> Result<Answer, AskError> {
        let first = self.first.load(Relaxed);
        let mut failed = None;
        for place in 0..self.servers.len() {
            let index = (first + place) % self.servers.len();
            let server = &self.servers[index];
            match server.exchange(name, kind).await {
                Ok(answer) => {
                    self.first.store(index, Relaxed);
                    return Ok(answer);
                }
                Err(why) => {
                    tracing::debug!(server = %server.address, %name, %kind, why, "no answer");
                    failed = Some((server.address.to_string(), why));
                }
            }
        }
        let (server, why) =
            failed.unwrap_or_else(|| ("the system".to_owned(), "no name servers".to_owned()));
        Err(AskError::new(name, kind, server, why))
    }
}

// ===== impl AskError =====

impl AskError {
    fn new(name: &Name, kind: RecordType, server: String, why: String) -> Self {
        Self {
            question: format!("{kind} records of `{name}`"),
            server,
            why,
        }
    }
}

/// What one server says.
enum Answer {
    Reply(Reply),
    Alias(Name, Duration),
}

// ===== impl Server =====

impl Server {
    fn new(address: SocketAddr, asking: Asking) -> Result<Self, NetError> {
        let mut connections = match asking.tcp {
            true => vec![ConnectionConfig::tcp()],
            false => vec![ConnectionConfig::udp(), ConnectionConfig::tcp()],
        };
        for connection in &mut connections {
            connection.port = address.port();
        }
        let config = NameServerConfig::new(address.ip(), true, connections);
        let mut options = ResolverOpts::default();
        options.timeout = asking.timeout;
        options.num_concurrent_reqs = 1;
        // The targets of many SRV records are asked for at once, over one connection after a
        // truncated response.
        options.max_active_requests = 4 * super::follow::MAX_QUESTIONS;
        let context = PoolContext::new(options, TlsConfig::new()?);
        let pool =
            NameServerPool::from_config([config], Arc::new(context), TokioRuntimeProvider::new());
        Ok(Self { address, pool })
    }

    async fn exchange(&self, name: &Name, kind: RecordType) -> Result<Answer, String> {
        let query = Query::query(name.clone(), kind);
        let options = DnsRequestOptions::default();
        let response = match self.pool.lookup(query, options).next().await {
            None => return Err("no response".to_owned()),
            Some(Ok(response)) => response.into_message(),
            Some(Err(NetError::Dns(DnsError::NoRecordsFound(nothing)))) => {
                let mut message = Message::response(0, OpCode::Query);
                message.metadata.response_code = nothing.response_code;
                message.authorities = nothing.authorities.as_deref().unwrap_or_default().to_vec();
                message
            }
            Some(Err(NetError::Dns(DnsError::ResponseCode(code)))) => return Err(code.to_string()),
            Some(Err(error)) => return Err(error.to_string()),
        };
        match message::read(name, kind, response) {
            Read::Reply(reply) => Ok(Answer::Reply(reply)),
            Read::Alias(name, ttl) => Ok(Answer::Alias(name, ttl)),
            Read::Refused(why) => Err(why),
        }
    }
}

impl std::fmt::Debug for Servers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let addresses: Vec<_> = self.servers.iter().map(|server| server.address).collect();
        f.debug_struct("Servers")
            .field("servers", &addresses)
            .field("search", &self.search)
            .finish_non_exhaustive()
    }
}
