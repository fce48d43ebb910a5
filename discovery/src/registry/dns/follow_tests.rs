//! Against a name server in this process that says what it is told to.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use hickory_resolver::proto::op::{Message, ResponseCode};

use super::{
    super::double::{Does, Double, a, aaaa, answer, cname, denial, nothing, ns, srv},
    *,
};
use crate::resolve::Resolve;

pub(super) const SERVFAIL: ResponseCode = ResponseCode::ServFail;
pub(super) const NXDOMAIN: ResponseCode = ResponseCode::NXDomain;

/// Long, as a machine may be busy; only silence waits for it.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
const IMPATIENCE: Duration = Duration::from_millis(300);

pub(super) fn registry(url: &str, servers: &[&Double]) -> DnsRegistry {
    let (scheme, rest) = url.split_once(':').unwrap();
    let (registry, _) = super::super::parse(scheme, rest, None).unwrap();
    let servers = servers.iter().map(|server| server.address);
    registry.servers(servers).timeout(PATIENCE)
}

pub(super) fn ids(answer: Result<Snapshot, ResolveError>) -> Vec<String> {
    let set = answer.expect("an answer");
    set.iter().map(|instance| instance.id.clone()).collect()
}

async fn first(registry: &DnsRegistry) -> Result<Snapshot, ResolveError> {
    registry.resolve("orders").next().await.unwrap()
}

/// What is wrong, from a registry that answers with an error.
async fn error(registry: &DnsRegistry) -> String {
    let error = first(registry).await.expect_err("no answer");
    assert!(matches!(error, ResolveError::Unavailable(_)), "{error}");
    error.to_string()
}

/// Says the next thing of a list with every question of a kind, and then the last one for ever.
fn in_turn(says: Vec<fn() -> Message>) -> impl Fn() -> Message + Send + Sync {
    let next = AtomicUsize::new(0);
    move || says[next.fetch_add(1, Relaxed).min(says.len() - 1)]()
}

#[tokio::test]
async fn both_families_are_put_together() {
    let server = Double::new(|_, kind| match kind {
        RecordType::A => answer([a("orders.test.", 60, 1), a("orders.test.", 60, 2)]),
        _ => answer([aaaa("orders.test.", 60, 1)]),
    })
    .await;
    assert_eq!(
        ids(first(&registry("dns:orders.test:80", &[&server])).await),
        [
            "http://10.0.0.1:80",
            "http://10.0.0.2:80",
            "http://[fd00::1]:80"
        ]
    );
}

#[tokio::test]
async fn a_family_that_fails_takes_nothing_from_the_other_and_keeps_what_it_had() {
    let v6 = in_turn(vec![
        || answer([aaaa("orders.test.", 0, 1)]),
        || denial(SERVFAIL, None),
        || denial(SERVFAIL, None),
        nothing,
    ]);
    let server = Double::new(move |_, kind| match kind {
        RecordType::A => answer([a("orders.test.", 0, 1)]),
        _ => v6(),
    })
    .await;
    let registry = registry("dns:orders.test:80", &[&server]);
    let mut answers = registry.resolve("orders");
    let both = ["http://10.0.0.1:80", "http://[fd00::1]:80"];
    for expected in [&both[..], &both, &both, &both[..1]] {
        assert_eq!(ids(answers.next().await.unwrap()), expected);
    }
    // One that never knew the family does without.
    let broken = Double::new(|_, kind| match kind {
        RecordType::A => answer([a("orders.test.", 60, 1)]),
        _ => denial(SERVFAIL, None),
    })
    .await;
    let registry = self::registry("dns:orders.test:80", &[&broken]);
    assert_eq!(ids(first(&registry).await), both[..1]);
}

#[tokio::test]
async fn nothing_there_is_an_empty_answer_and_a_failure_is_an_error() {
    for url in ["dns:orders.test:80", "dns+srv:_x._tcp.orders.test"] {
        for (code, ttl) in [
            (NXDOMAIN, Some(5)),
            (NXDOMAIN, None),
            (ResponseCode::NoError, Some(5)),
        ] {
            let server = Double::new(move |_, _| denial(code, ttl)).await;
            assert!(
                ids(first(&registry(url, &[&server])).await).is_empty(),
                "{code}"
            );
        }
        for code in [
            SERVFAIL,
            ResponseCode::Refused,
            ResponseCode::NotImp,
            ResponseCode::FormErr,
        ] {
            let server = Double::new(move |_, _| denial(code, Some(5))).await;
            let error = error(&registry(url, &[&server])).await;
            assert!(error.contains(code.to_str()), "{error}");
            assert!(error.contains(&server.address.to_string()), "{error}");
            assert!(error.contains("orders.test."), "{error}");
        }
    }
    let referring = Double::new(|_, _| {
        let mut referral = answer([]);
        referral.add_authority(ns("test.", "ns.elsewhere."));
        referral
    })
    .await;
    let error = error(&registry("dns:orders.test:80", &[&referring])).await;
    assert!(error.contains("referral"), "{error}");
}

/// A name with an answer in one family, and a failure where the rest was.
#[tokio::test]
async fn a_failure_beside_no_records_is_a_failure() {
    let server = Double::new(|_, kind| match kind {
        RecordType::A => nothing(),
        _ => denial(SERVFAIL, None),
    })
    .await;
    error(&registry("dns:orders.test:80", &[&server])).await;
}

#[tokio::test]
async fn nonsense_and_silence_are_errors() {
    for bytes in [
        &b""[..],
        b"\x81\x80",
        b"\x81\x80\x00\x01\x00\x09\x00\x00\x00\x00junk",
    ] {
        let server = Double::new(move |_, _| Does::SayBytes(bytes.to_vec())).await;
        let registry = registry("dns:orders.test:80", &[&server]).timeout(IMPATIENCE);
        error(&registry).await;
    }
    let silent = Double::new(|_, _| Does::Nothing).await;
    let registry = registry("dns:orders.test:80", &[&silent]).timeout(IMPATIENCE);
    let error = error(&registry).await;
    assert!(error.contains("timed out"), "{error}");
}

#[tokio::test]
async fn the_next_server_is_asked_where_one_has_no_answer() {
    let good = Double::new(|_, kind| match kind {
        RecordType::A => answer([a("orders.test.", 0, 1)]),
        _ => nothing(),
    })
    .await;
    let failing = Double::new(|_, _| denial(SERVFAIL, None)).await;
    let silent = Double::new(|_, _| Does::Nothing).await;
    let registry = registry("dns:orders.test:80", &[&failing, &silent, &good]).timeout(IMPATIENCE);
    let mut answers = registry.resolve("orders");
    assert_eq!(ids(answers.next().await.unwrap()), ["http://10.0.0.1:80"]);
    // And it goes first from then on.
    let before = (failing.asked(RecordType::A), silent.asked(RecordType::A));
    answers.next().await.unwrap().unwrap();
    assert_eq!(
        (failing.asked(RecordType::A), silent.asked(RecordType::A)),
        before
    );
    // "There is nothing" is an answer: the next is not asked.
    let empty = Double::new(|_, _| denial(NXDOMAIN, Some(60))).await;
    let registry = self::registry("dns:orders.test:80", &[&empty, &good]);
    assert!(ids(first(&registry).await).is_empty());
}

#[tokio::test]
async fn two_hundred_records_come_over_tcp() {
    let server = Double::new(|_, kind| match kind {
        RecordType::A => answer((1..=200).map(|n| a("orders.test.", 60, n))),
        _ => nothing(),
    })
    .await;
    let registry = registry("dns:orders.test:80", &[&server]);
    assert_eq!(ids(first(&registry).await).len(), 200);
    let (over_udp, over_tcp) = server.asked(RecordType::A);
    assert!(over_udp >= 1 && over_tcp == 1, "{over_udp} {over_tcp}");

    assert_eq!(ids(first(&registry.tcp_only(true)).await).len(), 200);
    assert_eq!(server.asked(RecordType::A), (over_udp, 2));
}

#[tokio::test]
async fn aliases_are_followed_across_answers() {
    let server = Double::new(|name, kind| match (name.to_string().as_str(), kind) {
        ("_x._tcp.orders.test.", _) => answer([
            cname("_x._tcp.orders.test.", 60, "_x._tcp.b.test."),
            // In one answer with its alias: hickory's own resolver loses it.
            srv("_x._tcp.b.test.", 60, (1, 1, 80), "host.test."),
        ]),
        ("host.test.", _) => answer([cname("host.test.", 60, "real.other.")]),
        ("real.other.", RecordType::A) => answer([a("real.other.", 60, 7)]),
        ("loop.test.", _) => answer([cname("loop.test.", 60, "pool.test.")]),
        ("pool.test.", _) => answer([cname("pool.test.", 60, "loop.test.")]),
        _ => nothing(),
    })
    .await;
    let registry = registry("dns+srv:_x._tcp.orders.test", &[&server]);
    assert_eq!(ids(first(&registry).await), ["http://10.0.0.7:80"]);
    let error = error(&self::registry("dns:loop.test:80", &[&server])).await;
    assert!(error.contains("aliases"), "{error}");
}

/// Two targets of priority 1 and one of priority 2, whose addresses are asked for.
fn services(name: &Name, kind: RecordType, targets: impl Fn(&str) -> Message) -> Message {
    match kind {
        RecordType::SRV => answer([
            srv(&name.to_string(), 0, (2, 1, 83), "c.test."),
            srv(&name.to_string(), 0, (1, 60, 81), "a.test."),
            srv(&name.to_string(), 0, (1, 40, 82), "b.test."),
        ]),
        RecordType::A => targets(&name.to_string()),
        _ => nothing(),
    }
}

#[tokio::test]
async fn the_lowest_priority_that_has_addresses_counts() {
    let whole = Double::new(|name, kind| {
        services(name, kind, |target| match target {
            "a.test." => answer([a("a.test.", 60, 1)]),
            "b.test." => answer([a("b.test.", 60, 2)]),
            _ => answer([a("c.test.", 60, 3)]),
        })
    })
    .await;
    let registry = registry("dns+srv:_x._tcp.orders.test", &[&whole]);
    let set = first(&registry).await.unwrap();
    let weights: Vec<_> = set.iter().map(|i| (i.id.as_str(), i.weight)).collect();
    assert_eq!(
        weights,
        [("http://10.0.0.1:81", 60), ("http://10.0.0.2:82", 40)]
    );
    assert!(!whole.names().contains(&"c.test.".to_owned()));

    let gone = Double::new(|name, kind| {
        services(name, kind, |target| match target {
            "c.test." => answer([a("c.test.", 60, 3)]),
            _ => denial(NXDOMAIN, Some(60)),
        })
    })
    .await;
    let registry = self::registry("dns+srv:_x._tcp.orders.test", &[&gone]);
    assert_eq!(ids(first(&registry).await), ["http://10.0.0.3:83"]);

    // That nobody knows is no reason to go to the back-up.
    let unknown = Double::new(|name, kind| {
        services(name, kind, |target| match target {
            "c.test." => answer([a("c.test.", 60, 3)]),
            _ => denial(SERVFAIL, None),
        })
    })
    .await;
    error(&self::registry("dns+srv:_x._tcp.orders.test", &[&unknown])).await;
}

#[tokio::test]
async fn a_target_that_cannot_be_looked_up_keeps_its_addresses() {
    let b = in_turn(vec![
        || answer([a("b.test.", 0, 2)]),
        || denial(SERVFAIL, None),
        || denial(NXDOMAIN, Some(0)),
    ]);
    let server = Double::new(move |name, kind| {
        services(name, kind, |target| match target {
            "a.test." => answer([a("a.test.", 0, 1)]),
            _ => b(),
        })
    })
    .await;
    let registry = registry("dns+srv:_x._tcp.orders.test", &[&server]);
    let mut answers = registry.resolve("orders");
    let both = ["http://10.0.0.1:81", "http://10.0.0.2:82"];
    for expected in [&both[..], &both, &both[..1]] {
        assert_eq!(ids(answers.next().await.unwrap()), expected);
    }
}

#[tokio::test]
async fn addresses_that_came_along_are_not_asked_for() {
    let server = Double::new(|name, kind| {
        let mut services = services(name, kind, |_| nothing());
        services.add_additionals([a("a.test.", 60, 1), a("b.test.", 60, 2)]);
        services
    })
    .await;
    let registry = registry("dns+srv:_x._tcp.orders.test", &[&server]);
    assert_eq!(
        ids(first(&registry).await),
        ["http://10.0.0.1:81", "http://10.0.0.2:82"]
    );
    assert_eq!(server.names().into_iter().collect::<BTreeSet<_>>().len(), 1);
}

#[tokio::test]
async fn bad_records_are_left_out_and_nothing_but_bad_records_is_an_error() {
    let some = Double::new(|name, kind| match kind {
        RecordType::SRV => answer([
            srv(&name.to_string(), 60, (1, 1, 0), "a.test."),
            srv(&name.to_string(), 60, (1, 1, 80), "a.test."),
            srv(&name.to_string(), 60, (0, 0, 0), "."),
        ]),
        _ => answer([a(&name.to_string(), 60, 1)]),
    })
    .await;
    let registry = registry("dns+srv:_x._tcp.orders.test", &[&some]);
    assert_eq!(ids(first(&registry).await), ["http://10.0.0.1:80"]);

    let none =
        Double::new(|name, _| answer([srv(&name.to_string(), 60, (1, 1, 0), "a.test.")])).await;
    let registry = self::registry("dns+srv:_x._tcp.orders.test", &[&none]);
    let error = first(&registry).await.unwrap_err();
    assert!(matches!(error, ResolveError::Invalid(_)));
    let message = "SRV[a.test.].port: got `0`, expected 1 to 65535";
    assert!(error.to_string().ends_with(message), "{error}");

    let no = Double::new(|name, _| answer([srv(&name.to_string(), 60, (0, 0, 0), ".")])).await;
    let registry = self::registry("dns+srv:_x._tcp.orders.test", &[&no]);
    assert!(ids(first(&registry).await).is_empty());
}

/// Row D16 of the promises: at a TTL of zero each question is put at most once a second.
#[tokio::test]
async fn a_time_to_live_of_zero_is_a_question_a_second() {
    let server = Double::new(|name, _| answer([a(&name.to_string(), 0, 1)])).await;
    let registry = registry("dns:orders.test:80", &[&server]);
    let mut answers = registry.resolve("orders");
    let start = Instant::now();
    for _ in 0..4 {
        answers.next().await.unwrap().unwrap();
    }
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(3), "{took:?}");
    let (asked, _) = server.asked(RecordType::A);
    assert!(
        asked == 4 || took > Duration::from_secs(6),
        "{asked} questions in {took:?}"
    );
}

#[tokio::test]
async fn a_name_that_cannot_be_is_refused_before_it_is_asked_for() {
    let server = Double::new(|_, _| nothing()).await;
    let registry = registry("dns:{service}.test:80", &[&server]);
    assert!(registry.check("orders").is_ok());
    let error = registry.check("or/ders").unwrap_err().to_string();
    assert!(error.starts_with("service: got `or/ders`"), "{error}");
    let mut answers = registry.resolve("or/ders");
    let error = answers.next().await.unwrap().unwrap_err();
    assert!(matches!(error, ResolveError::Invalid(_)));
    assert_eq!(server.names(), [""; 0]);
}

#[tokio::test]
async fn with_tls_instances_say_what_their_certificates_are_for() {
    let server = Double::new(|name, kind| match kind {
        RecordType::SRV => answer([srv(&name.to_string(), 60, (1, 1, 81), "evil.test.")]),
        RecordType::A => answer([a(&name.to_string(), 60, 1)]),
        _ => nothing(),
    })
    .await;
    for (url, name) in [
        ("dns:orders.test:443", "orders.test"),
        ("dns+srv:_https._tcp.orders.test.", "orders.test"),
    ] {
        let registry = registry(url, &[&server]);
        let plain = first(&registry).await.unwrap();
        assert!(!plain[0].metadata.contains_key(Instance::SERVER_NAME));
        let over_tls = first(&registry.scheme(crate::instance::Scheme::Grpcs))
            .await
            .unwrap();
        assert_eq!(over_tls[0].metadata[Instance::SERVER_NAME], name);
    }
}

/// The whole way, as a user takes it.
#[tokio::test]
async fn a_registry_url_leads_to_a_server_on_a_port_of_its_own() {
    let server = Double::new(|name, kind| match kind {
        RecordType::SRV => answer([srv(&name.to_string(), 60, (1, 1, 81), "a.test.")]),
        RecordType::A => answer([a("a.test.", 60, 1)]),
        _ => nothing(),
    })
    .await;
    let address: SocketAddr = server.address;
    let url = format!("dns+srv://{address}/_grpc._tcp.{{service}}.test.?scheme=grpc");
    let resolver = crate::registry::resolver(&url, "orders").unwrap();
    let set = resolver.watch().changed().await;
    assert_eq!(set[0].id, "grpc://10.0.0.1:81");
    assert_eq!(server.names()[0], "_grpc._tcp.orders.test.");
    let error = crate::registry::resolver(&url, "or/ders").unwrap_err();
    assert_eq!(error.path(), "service");
}
