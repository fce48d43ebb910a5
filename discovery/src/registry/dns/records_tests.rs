use proptest::{collection::vec, prelude::*};

use super::{
    super::double::{a, aaaa, address, name, ns, srv},
    *,
};

/// SRV records as (priority, weight, port, target).
fn datas(records: &[(u16, u16, u16, &str)]) -> Vec<RData> {
    let record = |&(priority, weight, port, target): &_| {
        srv("_x._tcp.test.", 1, (priority, weight, port), target).data
    };
    records.iter().map(record).collect()
}

fn group(records: &[(u16, u16, u16, &str)]) -> Group {
    let (mut groups, refused) = groups(&datas(records));
    assert_eq!((groups.len(), refused.len()), (1, 0));
    groups.remove(0)
}

fn known(records: &[Record]) -> Addresses {
    let mut known = Addresses::new();
    for record in records {
        let key = (record.name.clone(), record.record_type());
        known.entry(key).or_default().extend(record.data.ip_addr());
    }
    known
}

/// URL and weight of each instance.
fn made(group: &Group, addresses: &[Record]) -> Vec<(String, u32)> {
    let (set, refused) = at_targets("orders", Scheme::Grpc, group, &known(addresses));
    assert!(refused.is_empty(), "{refused:?}");
    set.iter()
        .map(|instance| (instance.id.clone(), instance.weight))
        .collect()
}

fn text(refused: &[Refused]) -> Vec<String> {
    refused.iter().map(ToString::to_string).collect()
}

#[test]
fn records_are_grouped_by_priority_in_whatever_order_they_come() {
    let mut records = datas(&[
        (20, 5, 80, "c.test."),
        (10, 60, 9_001, "a.test."),
        (10, 40, 9_002, "b.test."),
        (10, 40, 9_001, "b.test."),
    ]);
    let (first, _) = groups(&records);
    assert_eq!(
        first.iter().map(|group| group.priority).collect::<Vec<_>>(),
        [10, 20]
    );
    let ports: Vec<_> = first[0].targets.iter().map(|target| target.port).collect();
    assert_eq!(ports, [9_001, 9_001, 9_002]);
    records.reverse();
    assert_eq!(groups(&records).0, first);
}

#[test]
fn a_record_without_a_port_is_refused_and_one_without_a_target_says_no() {
    let (groups, refused) = groups(&datas(&[(1, 1, 0, "a.test."), (1, 1, 5, "b.test.")]));
    assert_eq!(groups[0].targets.len(), 1);
    assert_eq!(
        text(&refused),
        ["SRV[a.test.].port: got `0`, expected 1 to 65535"]
    );
    assert_eq!(super::groups(&datas(&[(0, 0, 0, ".")])), (vec![], vec![]));
}

#[test]
fn weights_are_the_records() {
    let group = group(&[(10, 60, 9_001, "a.test."), (10, 40, 9_002, "b.test.")]);
    let addresses = [a("a.test.", 1, 1), a("b.test.", 1, 2)];
    assert_eq!(
        made(&group, &addresses),
        [
            ("grpc://10.0.0.1:9001".into(), 60),
            ("grpc://10.0.0.2:9002".into(), 40)
        ]
    );
    let (set, _) = at_targets("orders", Scheme::Http, &group, &known(&addresses));
    assert_eq!(set[0].metadata[TARGET], "a.test.");
    assert_eq!(set[0].metadata[PRIORITY], "10");
    assert_eq!(set[0].validate(), Ok(()));
}

#[test]
fn the_addresses_of_a_target_share_its_weight() {
    let group = group(&[(1, 60, 80, "a.test."), (1, 30, 80, "b.test.")]);
    let addresses = [
        a("a.test.", 1, 1),
        aaaa("a.test.", 1, 1),
        a("a.test.", 1, 3),
        a("b.test.", 1, 2),
    ];
    // 20 each and 30, times three so that nothing is rounded.
    let weights: Vec<_> = made(&group, &addresses)
        .into_iter()
        .map(|(_, weight)| weight)
        .collect();
    assert_eq!(weights, [60, 90, 60, 60]);
}

#[test]
fn a_weight_of_zero_is_as_small_as_can_be_and_nothing_where_all_are() {
    let addresses = [a("a.test.", 1, 1), a("b.test.", 1, 2)];
    let weights = |first, second| -> Vec<u32> {
        let group = group(&[(1, first, 80, "a.test."), (1, second, 80, "b.test.")]);
        let made = made(&group, &addresses);
        made.into_iter().map(|(_, weight)| weight).collect()
    };
    assert_eq!(weights(0, 100), [1, 100]);
    assert_eq!(weights(0, 0), [100, 100]);
    assert_eq!(weights(65_535, 0), [65_535, 1]);
}

#[test]
fn two_records_for_one_address_are_one_instance() {
    let group = group(&[
        (1, 10, 80, "a.test."),
        (1, 20, 80, "b.test."),
        (1, 5, 81, "a.test."),
    ]);
    let addresses = [a("a.test.", 1, 1), a("b.test.", 1, 1)];
    assert_eq!(
        made(&group, &addresses),
        [
            ("grpc://10.0.0.1:80".into(), 30),
            ("grpc://10.0.0.1:81".into(), 5)
        ]
    );
}

#[test]
fn addresses_that_nobody_has_are_refused() {
    let addresses: Vec<IpAddr> = ["0.0.0.0", "::", "224.0.0.1", "255.255.255.255", "10.0.0.1"]
        .map(|address| address.parse().unwrap())
        .into();
    let (set, refused) = at_addresses("orders", Scheme::Http, 80, &addresses);
    assert_eq!(set.len(), 1);
    let refused = text(&refused);
    assert_eq!(refused.len(), 4);
    assert_eq!(
        refused[0],
        "address: got `0.0.0.0`, expected the address of one host"
    );

    let group = group(&[(1, 1, 80, "a.test.")]);
    let sink = Record::from_rdata(name("a.test."), 1, RData::A("0.0.0.0".parse().unwrap()));
    let (set, refused) = at_targets("orders", Scheme::Http, &group, &known(&[sink]));
    assert!(set.is_empty());
    assert_eq!(
        text(&refused),
        ["A[a.test.]: got `0.0.0.0`, expected the address of one host"]
    );
}

#[test]
fn the_first_ten_thousand_count_and_the_rest_is_said() {
    let addresses: Vec<IpAddr> = (0..=MAX_INSTANCES as u32)
        .map(|n| std::net::Ipv4Addr::from(0x0a00_0000 + n).into())
        .collect();
    let (set, refused) = at_addresses("orders", Scheme::Http, 80, &addresses);
    assert_eq!(set.len(), MAX_INSTANCES);
    let refused = text(&refused);
    assert!(
        refused[0].starts_with("instances: got `10001`, expected at most 10000"),
        "{refused:?}"
    );
}

#[test]
fn only_what_did_not_come_along_is_asked_for() {
    let group = group(&[
        (1, 1, 80, "a.test."),
        (1, 1, 81, "a.test."),
        (1, 1, 80, "b.test."),
    ]);
    let [v4, v6] = FAMILIES;
    let questions = |records: &[Record]| -> Vec<(String, RecordType)> {
        let (addresses, _) = sent_along(&group.targets, records);
        let to_ask = to_ask(&group.targets, &addresses);
        to_ask
            .into_iter()
            .map(|(name, kind)| (name.to_string(), kind))
            .collect()
    };
    let (a4, b4, a6) = (
        a("a.test.", 1, 1),
        a("b.test.", 1, 2),
        aaaa("a.test.", 1, 1),
    );
    assert_eq!(questions(&[a4.clone(), b4.clone()]), []);
    assert_eq!(
        questions(&[a4.clone(), b4, a6.clone()]),
        [("b.test.".into(), v6)]
    );
    assert_eq!(
        questions(&[a4]),
        [("b.test.".into(), v4), ("b.test.".into(), v6)]
    );
    let all = [v4, v6].map(|kind| ["a.test.", "b.test."].map(|name| (name.to_owned(), kind)));
    let mut all = all.concat();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(questions(&[ns("test.", "a.test.")]), all);
}

#[test]
fn only_the_targets_own_addresses_are_taken_along() {
    let group = group(&[(1, 1, 80, "a.test.")]);
    let records = [
        a("A.test.", 30, 1),
        a("ns.test.", 5, 9),
        aaaa("a.test.", 60, 1),
    ];
    let (addresses, ttl) = sent_along(&group.targets, &records);
    assert_eq!(ttl, 30);
    assert_eq!(addresses.len(), 2);
    let key = (name("a.test."), RecordType::A);
    assert_eq!(addresses[&key], [address(1).ip_addr().unwrap()]);
}

proptest! {
    /// Each target gets its share of the calls, whatever the number of its addresses, as far as
    /// weights of 16 bits can say it.
    #[test]
    fn the_share_of_a_target_is_its_weight(targets in vec((1_u16..1_000, 1_u8..5), 1..20)) {
        let names: Vec<String> = (0..targets.len()).map(|i| format!("t{i}.test.")).collect();
        let records: Vec<_> = targets
            .iter()
            .zip(&names)
            .map(|((weight, _), name)| (1, *weight, 80, name.as_str()))
            .collect();
        let mut addresses = Vec::new();
        for ((_, hosts), owner) in targets.iter().zip(&names) {
            for _ in 0..*hosts {
                addresses.push(a(owner, 1, addresses.len() as u8));
            }
        }
        let group = group(&records);
        let (set, _) = at_targets("orders", Scheme::Http, &group, &known(&addresses));
        prop_assert_eq!(set.len(), addresses.iter().filter(|a| a.data != address(0)).count() + 1);
        let total: f64 = set.iter().map(|instance| f64::from(instance.weight)).sum();
        let sum: f64 = targets.iter().map(|(weight, _)| f64::from(*weight)).sum();
        for ((weight, _), name) in targets.iter().zip(&names) {
            let got: f64 = set
                .iter()
                .filter(|instance| instance.metadata[TARGET] == *name)
                .map(|instance| f64::from(instance.weight))
                .sum();
            let (got, due) = (got / total, f64::from(*weight) / sum);
            prop_assert!((got - due).abs() < 0.001, "{name}: {got} for {due}");
        }
    }

    #[test]
    fn every_instance_is_valid(
        records in vec((0_u16..3, any::<u16>(), any::<u16>(), 0_u8..4), 0..20),
        hosts in vec((0_u8..4, any::<[u8; 4]>()), 0..20),
    ) {
        let names = ["a.test.", "b.test.", "c.test.", "."];
        let records: Vec<_> = records
            .into_iter()
            .map(|(priority, weight, port, at)| (priority, weight, port, names[usize::from(at)]))
            .collect();
        let hosts = hosts.into_iter().map(|(at, octets)| {
            let data = RData::A(std::net::Ipv4Addr::from(octets).into());
            Record::from_rdata(name(names[usize::from(at)]), 1, data)
        });
        let known = known(&hosts.collect::<Vec<_>>());
        for group in groups(&datas(&records)).0 {
            for instance in at_targets("orders", Scheme::Http, &group, &known).0.iter() {
                prop_assert_eq!(instance.validate(), Ok(()));
            }
        }
    }
}
