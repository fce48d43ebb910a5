//! From records to instances: what RFC 2782 says of priorities and weights, without I/O.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use hickory_resolver::proto::rr::{Name, RData, Record, RecordType, rdata::SRV};
use tower_mesh_layers::config::ConfigError;

use crate::{
    instance::{EndpointUrl, Instance, Scheme},
    resolve::{Snapshot, snapshot},
};

/// More instances of one service than this are left out: somebody's zone has gone astray.
pub(super) const MAX_INSTANCES: usize = 10_000;
/// The metadata of an instance from an SRV record.
pub(super) const TARGET: &str = "dns.target";
pub(super) const PRIORITY: &str = "dns.priority";

/// Both kinds of addresses.
pub(super) const FAMILIES: [RecordType; 2] = [RecordType::A, RecordType::AAAA];

/// The servers of one priority.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Group {
    pub(super) priority: u16,
    pub(super) targets: Vec<Target>,
}

/// What one SRV record names.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Target {
    pub(super) name: Name,
    pub(super) port: u16,
    weight: u16,
}

/// A record that cannot be used, and why.
pub(super) type Refused = ConfigError;

/// The usable records by priority, the lowest number first, and the unusable.
pub(super) fn groups(records: &[RData]) -> (Vec<Group>, Vec<Refused>) {
    let mut srv: Vec<&SRV> = records
        .iter()
        .filter_map(|record| match record {
            RData::SRV(srv) => Some(srv),
            _ => None,
        })
        // RFC 2782: "the service is decidedly not available at this domain".
        .filter(|srv| !srv.target.is_root())
        .collect();
    // Servers turn the order round, and what is said about records should not turn with it.
    srv.sort_by(|a, b| (&a.target, a.port).cmp(&(&b.target, b.port)));
    let (mut groups, mut refused) = (BTreeMap::<u16, Vec<Target>>::new(), Vec::new());
    for srv in srv {
        if srv.port == 0 {
            let path = format!("SRV[{}].port", srv.target);
            refused.push(ConfigError::new(path, 0, "1 to 65535"));
            continue;
        }
        groups.entry(srv.priority).or_default().push(Target {
            name: srv.target.clone(),
            port: srv.port,
            weight: srv.weight,
        });
    }
    let groups = groups
        .into_iter()
        .map(|(priority, targets)| Group { priority, targets });
    (groups.collect(), refused)
}

/// Addresses of hosts, as far as they are known.
pub(super) type Addresses = BTreeMap<(Name, RecordType), Vec<IpAddr>>;

/// The addresses of targets that came along with the SRV records (RFC 2782: "the Additional Data
/// section"), and for how long they are good.
pub(super) fn sent_along(targets: &[Target], additional: &[Record]) -> (Addresses, u32) {
    let names: BTreeSet<&Name> = targets.iter().map(|target| &target.name).collect();
    let (mut addresses, mut ttl) = (Addresses::new(), u32::MAX);
    for record in additional {
        if let Some(address) = record.data.ip_addr()
            && names.contains(&record.name)
        {
            let key = (record.name.clone(), record.record_type());
            addresses.entry(key).or_default().push(address);
            ttl = ttl.min(record.ttl);
        }
    }
    (addresses, ttl)
}

/// What is left to ask for. A target of which nothing came along is asked for in full; one that lacks
/// a family that another has is asked for that: servers leave out what no longer fits.
pub(super) fn to_ask(targets: &[Target], known: &Addresses) -> Vec<(Name, RecordType)> {
    let names: BTreeSet<&Name> = targets.iter().map(|target| &target.name).collect();
    let has = |name: &Name, family| known.contains_key(&(name.clone(), family));
    let anyone_has = FAMILIES.map(|family| names.iter().any(|name| has(name, family)));
    let mut to_ask = Vec::new();
    for name in names {
        let nothing = !FAMILIES.iter().any(|&family| has(name, family));
        for (family, expected) in FAMILIES.into_iter().zip(anyone_has) {
            if nothing || (expected && !has(name, family)) {
                to_ask.push((name.clone(), family));
            }
        }
    }
    to_ask
}

/// The instances at plain addresses, all alike.
pub(super) fn at_addresses(
    service: &str,
    scheme: Scheme,
    port: u16,
    addresses: &[IpAddr],
) -> (Snapshot, Vec<Refused>) {
    let mut refused = Vec::new();
    let mut instances = Vec::new();
    for &address in addresses {
        match callable("address", address) {
            Ok(()) => {
                let url = EndpointUrl::new(scheme, SocketAddr::new(address, port));
                instances.push(Instance::at(service, url));
            }
            Err(error) => refused.push(error),
        }
    }
    (limited(snapshot(instances), &mut refused), refused)
}

/// The instances that the targets of one priority make.
pub(super) fn at_targets(
    service: &str,
    scheme: Scheme,
    group: &Group,
    addresses: &Addresses,
) -> (Snapshot, Vec<Refused>) {
    let mut refused = Vec::new();
    let mut found = Vec::new();
    for (target, weight) in group.targets.iter().zip(weights(&group.targets)) {
        let mut hosts = BTreeSet::new();
        for family in FAMILIES {
            let key = (target.name.clone(), family);
            for &address in addresses.get(&key).into_iter().flatten() {
                match callable(&format!("{family}[{}]", target.name), address) {
                    Ok(()) => drop(hosts.insert(SocketAddr::new(address, target.port))),
                    Err(error) => refused.push(error),
                }
            }
        }
        if !hosts.is_empty() {
            found.push((target, weight, hosts));
        }
    }
    // A target with two addresses is no larger than one with one.
    let parts = found.iter().fold(1, |all, (_, _, hosts)| {
        lcm(all, hosts.len() as u64).min(0xffff)
    });
    let mut instances = BTreeMap::<SocketAddr, (u64, &Name)>::new();
    for (target, weight, hosts) in &found {
        for &host in hosts {
            let part = (u64::from(*weight) * parts / hosts.len() as u64).max(1);
            // Two records for one address are one instance with the weight of both.
            instances.entry(host).or_insert((0, &target.name)).0 += part;
        }
    }
    let most = instances.values().map(|(weight, _)| *weight).max();
    let scale = most.unwrap_or(1).max(Instance::MAX_WEIGHT.into());
    let instances = instances.into_iter().map(|(host, (weight, name))| {
        let weight = (weight * u64::from(Instance::MAX_WEIGHT) / scale).max(1) as u32;
        Instance::at(service, EndpointUrl::new(scheme, host))
            .with_weight(weight)
            .with_metadata(TARGET, name.to_string())
            .with_metadata(PRIORITY, group.priority.to_string())
    });
    (limited(snapshot(instances), &mut refused), refused)
}

/// What the weights come to. RFC 2782 draws from zero to their sum: a weight of zero is drawn as often
/// as a one would be. Where all are zero nothing is to be weighed.
fn weights(targets: &[Target]) -> Vec<u32> {
    let none = targets.iter().all(|target| target.weight == 0);
    targets
        .iter()
        .map(|target| match none {
            true => Instance::DEFAULT_WEIGHT,
            false => target.weight.max(1).into(),
        })
        .collect()
}

fn callable(path: &str, address: IpAddr) -> Result<(), Refused> {
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    if address.is_unspecified() || address.is_multicast() || broadcast {
        return Err(ConfigError::new(path, address, "the address of one host"));
    }
    Ok(())
}

/// The first so many by id: the same ones every time.
fn limited(set: Snapshot, refused: &mut Vec<Refused>) -> Snapshot {
    if set.len() <= MAX_INSTANCES {
        return set;
    }
    let expected = format!("at most {MAX_INSTANCES} instances: the others are left out");
    refused.push(ConfigError::new("instances", set.len(), expected));
    set[..MAX_INSTANCES].into()
}

fn lcm(a: u64, b: u64) -> u64 {
    let gcd = |mut a, mut b| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    a / gcd(a, b) * b
}

#[cfg(test)]
#[path = "records_tests.rs"]
mod tests;
