use proptest::prelude::*;

use super::*;

fn find(hops: usize, header: ForwardedHeader, peer: Option<&str>, lines: &[&str]) -> String {
    let mut extensions = Extensions::new();
    if let Some(peer) = peer {
        extensions.insert(PeerAddr(SocketAddr::new(peer.parse().unwrap(), 9)));
    }
    let name = match header {
        ForwardedHeader::XForwardedFor => X_FORWARDED_FOR,
        ForwardedHeader::Forwarded => header::FORWARDED,
    };
    let lines = lines
        .iter()
        .map(|line| (name.clone(), HeaderValue::from_str(line).unwrap()));
    let headers = HeaderMap::from_iter(lines);
    let found = ClientIp {
        trusted_hops: hops,
        header,
    }
    .find(&headers, &extensions);
    found.map_or_else(|| "none".to_owned(), |addr| addr.to_string())
}

#[test]
fn the_client_is_the_nth_from_the_right() {
    let peer = Some("192.0.2.9");
    for (hops, lines, expected) in [
        (0, &["203.0.113.7"][..], "192.0.2.9"),
        (1, &[], "192.0.2.9"),
        (1, &["203.0.113.7"], "203.0.113.7"),
        (1, &["10.9.9.9, 203.0.113.7"], "203.0.113.7"),
        (2, &["10.9.9.9, 203.0.113.7, 192.0.2.1"], "203.0.113.7"),
        (2, &["10.9.9.9", "203.0.113.7", "192.0.2.1"], "203.0.113.7"),
        (2, &["10.9.9.9,203.0.113.7", "192.0.2.1"], "203.0.113.7"),
        // Fewer entries than hops: the proxies that did write are still ours.
        (3, &["203.0.113.7"], "203.0.113.7"),
        // Empty elements are no entries.
        (1, &["203.0.113.7, ,"], "203.0.113.7"),
        // What is not an address ends the walk on the last good one.
        (1, &["unknown"], "192.0.2.9"),
        (2, &["10.9.9.9, _hidden, 192.0.2.1"], "192.0.2.1"),
        (3, &["10.9.9.9, _hidden, 192.0.2.1"], "192.0.2.1"),
        // Nothing that a client puts in front changes how the right end is read.
        (1, &["\", 203.0.113.7"], "203.0.113.7"),
        (1, &["\\\", 203.0.113.7"], "203.0.113.7"),
    ] {
        assert_eq!(
            find(hops, ForwardedHeader::XForwardedFor, peer, lines),
            expected,
            "{lines:?}"
        );
    }
    assert_eq!(
        find(1, ForwardedHeader::XForwardedFor, None, &["203.0.113.7"]),
        "203.0.113.7"
    );
    assert_eq!(
        find(0, ForwardedHeader::XForwardedFor, None, &["203.0.113.7"]),
        "none"
    );
}

#[test]
fn forwarded_is_read_as_rfc_7239_says() {
    for (hops, lines, expected) in [
        (1, &["for=203.0.113.7"][..], "203.0.113.7"),
        (
            1,
            &["by=10.0.0.1; FOR=\"203.0.113.7:4711\";proto=https"],
            "203.0.113.7",
        ),
        (1, &["for=\"[2001:db8::7]:80\""], "2001:db8::7"),
        (
            2,
            &["for=10.9.9.9, for=203.0.113.7", "for=192.0.2.1"],
            "203.0.113.7",
        ),
        (1, &["proto=https"], "192.0.2.9"),
        (1, &["for=unknown"], "192.0.2.9"),
        // A quoted comma or semicolon separates nothing.
        (
            2,
            &["for=203.0.113.7, host=\"a, for=10.9.9.9, b\";for=192.0.2.1"],
            "203.0.113.7",
        ),
        (
            1,
            &["host=\"a;for=10.9.9.9;b\";for=203.0.113.7"],
            "203.0.113.7",
        ),
        (
            1,
            &["host=\"a\\\";for=10.9.9.9;b\";for=203.0.113.7"],
            "203.0.113.7",
        ),
        (1, &["for=\", for=203.0.113.7"], "203.0.113.7"),
    ] {
        let found = find(hops, ForwardedHeader::Forwarded, Some("192.0.2.9"), lines);
        assert_eq!(found, expected, "{lines:?}");
    }
}

#[test]
fn nodes_are_addresses_with_or_without_a_port() {
    for (node, expected) in [
        ("192.0.2.7", Some("192.0.2.7")),
        ("192.0.2.7:80", Some("192.0.2.7")),
        ("2001:db8::7", Some("2001:db8::7")),
        ("[2001:db8::7]", Some("2001:db8::7")),
        ("[2001:db8::7]:80", Some("2001:db8::7")),
        ("\"[2001:db8::7]:80\"", Some("2001:db8::7")),
        ("::ffff:192.0.2.7", Some("192.0.2.7")),
        ("192.0.2.7:", None),
        ("192.0.2.7:99999", None),
        ("192.0.2", None),
        ("192.0.2.07", None),
        ("[192.0.2.7]", None),
        ("[2001:db8::7", None),
        ("[2001:db8::7]80", None),
        ("fe80::1%eth0", None),
        ("localhost", None),
        ("", None),
    ] {
        let expected = expected.map(|addr| addr.parse().unwrap());
        assert_eq!(parse_node(node.as_bytes()), expected, "{node}");
    }
}

#[test]
fn hops_are_counted_also_where_an_edge_has_removed_the_headers() {
    for (header, name, lines, expected) in [
        (
            ForwardedHeader::XForwardedFor,
            X_FORWARDED_FOR,
            ["10.9.9.9", "203.0.113.7, 192.0.2.1"],
            "203.0.113.7",
        ),
        (
            ForwardedHeader::Forwarded,
            header::FORWARDED,
            ["for=203.0.113.7", "for=192.0.2.1"],
            "203.0.113.7",
        ),
    ] {
        let lines = lines.map(|line| (name.clone(), HeaderValue::from_static(line)));
        let mut extensions = Extensions::new();
        keep_forwarded(&HeaderMap::from_iter(lines), &mut extensions);
        let client = ClientIp {
            trusted_hops: 2,
            header,
        };
        let found = client.find(&HeaderMap::new(), &extensions);
        assert_eq!(found, Some(expected.parse().unwrap()));
        assert_eq!(
            ClientIp::default().find(&HeaderMap::new(), &extensions),
            None
        );
    }
}

#[test]
fn a_client_address_that_was_worked_out_wins() {
    let mut extensions = Extensions::new();
    extensions.insert(PeerAddr("192.0.2.9:80".parse().unwrap()));
    extensions.insert(ClientAddr("::ffff:203.0.113.7".parse().unwrap()));
    let headers = HeaderMap::from_iter([(X_FORWARDED_FOR, HeaderValue::from_static("10.9.9.9"))]);
    let found = ClientIp::behind(1).find(&headers, &extensions);
    assert_eq!(found, Some("203.0.113.7".parse().unwrap()));
}

#[cfg(feature = "axum")]
#[test]
fn axum_says_who_the_peer_is() {
    let mut extensions = Extensions::new();
    let peer: SocketAddr = "[::ffff:192.0.2.9]:80".parse().unwrap();
    extensions.insert(axum::extract::ConnectInfo(peer));
    assert_eq!(peer_addr(&extensions), Some("192.0.2.9".parse().unwrap()));
}

#[cfg(feature = "tonic")]
#[test]
fn tonic_says_who_the_peer_is() {
    use tonic::transport::server::TcpConnectInfo;
    let mut extensions = Extensions::new();
    let remote_addr = Some("192.0.2.9:80".parse().unwrap());
    extensions.insert(TcpConnectInfo {
        local_addr: None,
        remote_addr,
    });
    assert_eq!(peer_addr(&extensions), Some("192.0.2.9".parse().unwrap()));
}

#[test]
fn one_subscriber_is_an_ipv4_address_or_an_ipv6_64() {
    let of = |addr: &str| subscriber(addr.parse().unwrap()).to_string();
    assert_eq!(of("203.0.113.7"), "203.0.113.7");
    assert_eq!(of("::ffff:203.0.113.7"), "203.0.113.7");
    assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
}

proptest! {
    #[test]
    fn what_a_client_sends_cannot_move_the_result(
        junk in "[ -~]{0,40}",
        header in prop_oneof![
            Just(ForwardedHeader::XForwardedFor),
            Just(ForwardedHeader::Forwarded),
        ],
    ) {
        let entry = match header {
            ForwardedHeader::XForwardedFor => "203.0.113.7",
            ForwardedHeader::Forwarded => "for=203.0.113.7",
        };
        let one_line = format!("{junk}, {entry}");
        prop_assert_eq!(find(1, header, None, &[&one_line]), "203.0.113.7");
        prop_assert_eq!(find(1, header, None, &[&junk, entry]), "203.0.113.7");
    }

    #[test]
    fn no_header_panics(line in "[ -~]{0,60}", hops in 0..5_usize) {
        find(hops, ForwardedHeader::XForwardedFor, None, &[&line]);
        find(hops, ForwardedHeader::Forwarded, None, &[&line]);
    }
}
