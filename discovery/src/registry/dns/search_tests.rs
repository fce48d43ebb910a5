//! Search domains, as a resolv.conf would have them.

use std::collections::BTreeSet;

use hickory_resolver::proto::op::Message;

use super::{
    super::{
        Asking,
        double::{self, Double, a, answer, denial, nothing},
    },
    tests::{NXDOMAIN, PATIENCE, SERVFAIL, ids, registry},
    *,
};

/// Servers with search domains, as a resolv.conf would make them.
async fn search(script: impl Fn(&str) -> Message + Send + Sync + 'static) -> (Double, Servers) {
    let server = Double::new(move |name, kind| match kind {
        RecordType::A => script(&name.to_string()),
        _ => nothing(),
    })
    .await;
    let asking = Asking {
        timeout: PATIENCE,
        tcp: false,
    };
    let domains = ["one.test.", "two.test."].map(double::name);
    let servers = Servers::given(&[server.address], asking).unwrap();
    (server, servers.searching(domains.into(), 1))
}

#[tokio::test]
async fn search_domains_are_tried_in_order_until_one_has_the_name() {
    let (server, servers) = search(|name| match name {
        "orders.two.test." => answer([a(name, 60, 2)]),
        _ => denial(NXDOMAIN, Some(60)),
    })
    .await;
    let mut follower = follower("dns:orders:80", servers);
    assert_eq!(ids(follower.next().await), ["http://10.0.0.2:80"]);
    let names: BTreeSet<_> = server.names().into_iter().collect();
    assert_eq!(
        names.into_iter().collect::<Vec<_>>(),
        ["orders.one.test.", "orders.two.test."]
    );
}

/// Where the first domain cannot be asked, the second one's `orders` may be somebody else.
#[tokio::test]
async fn a_search_domain_that_fails_ends_the_search() {
    let (server, servers) = search(|name| match name {
        "orders.two.test." => answer([a(name, 60, 2)]),
        _ => denial(SERVFAIL, None),
    })
    .await;
    let mut follower = follower("dns:orders:80", servers);
    let error = follower.next().await.unwrap_err().to_string();
    assert!(error.contains("orders.one.test."), "{error}");
    assert!(!server.names().contains(&"orders.two.test.".to_owned()));
}

#[test]
fn names_with_enough_dots_are_taken_as_they_are_first() {
    let asking = Asking {
        timeout: PATIENCE,
        tcp: false,
    };
    let domains = ["one.test.", "two.test."].map(double::name);
    let servers = Servers::given(&[], asking)
        .unwrap()
        .searching(domains.into(), 2);
    for (name, candidates) in [
        ("a.", &["a."][..]),
        ("a.b", &["a.b.one.test.", "a.b.two.test.", "a.b."]),
        ("a.b.c", &["a.b.c.", "a.b.c.one.test.", "a.b.c.two.test."]),
    ] {
        let names = servers.candidates(&double::name(name));
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        assert_eq!(names, candidates);
    }
}

#[tokio::test]
async fn without_any_server_nothing_is_known() {
    let asking = Asking {
        timeout: PATIENCE,
        tcp: false,
    };
    let mut follower = follower("dns:orders:80", Servers::given(&[], asking).unwrap());
    let error = follower.next().await.unwrap_err().to_string();
    assert!(error.contains("no name servers"), "{error}");
}

fn follower(url: &str, servers: Servers) -> Follower {
    let registry = registry(url, &[]);
    let mut follower = Follower::new(registry, "orders").unwrap();
    follower.servers = Some(Arc::new(servers));
    follower
}

#[tokio::test]
async fn the_hosts_file_goes_before_the_servers() {
    let (server, servers) = search(|name| answer([a(name, 60, 2)])).await;
    let servers = servers.with_hosts("10.0.0.9 orders.one.test # first\nfd00::9 orders.one.test");
    let mut follower = follower("dns:orders:80", servers);
    let ids = ids(follower.next().await);
    assert_eq!(ids, ["http://10.0.0.9:80", "http://[fd00::9]:80"]);
    assert_eq!(server.names(), [""; 0]);
}
