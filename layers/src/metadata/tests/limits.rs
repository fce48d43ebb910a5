//! How much metadata there may be, whoever sends it.

use proptest::prelude::*;

use super::*;

#[tokio::test]
async fn what_is_above_a_limit_is_dropped_and_the_rest_goes_on() {
    for (builder, expected) in [
        (
            trusting().max_entries(2),
            &["x-md-global-a: 1", "x-md-global-bcd: 22"][..],
        ),
        (
            trusting().max_bytes(64),
            &[
                "x-md-global-a: 1",
                "x-md-global-bcd: 22",
                "x-md-global-f: 3",
            ],
        ),
        (
            trusting().max_key_length(2),
            &["x-md-global-a: 1", "x-md-global-f: 3"],
        ),
    ] {
        let long = format!("x-md-global-e: {}", "x".repeat(70));
        let lines = match expected.len() {
            2 if expected[1].contains("bcd") => {
                vec![
                    "x-md-global-a: 1",
                    "x-md-global-bcd: 22",
                    "x-md-global-f: 3",
                ]
            }
            2 => vec![
                "x-md-global-a: 1",
                "x-md-global-bcd: 22",
                "x-md-global-f: 3",
            ],
            _ => vec![
                "x-md-global-a: 1",
                "x-md-global-bcd: 22",
                &long,
                "x-md-global-f: 3",
            ],
        };
        let (limited, open) = (builder.clone(), trusting());
        // On the way in, and on the way out.
        let (received, sender) = (server(limited.clone()), client(open.clone()));
        assert_eq!(hop(&received, &sender, &lines).await, headers(expected));
        let (receiver, sent) = (server(open), client(limited));
        assert_eq!(hop(&receiver, &sent, &lines).await, headers(expected));
        for stats in [received.stats(), sent.stats()] {
            let dropped = stats.dropped_for_count + stats.dropped_for_size + stats.dropped_for_key;
            assert_eq!(dropped, 1, "{stats:?}");
        }
    }
}

#[tokio::test]
async fn much_baggage_is_cut_before_anybody_reads_it() {
    let members: Vec<_> = (0..5_000)
        .map(|n| format!("key{n:05}=value{n:05}"))
        .collect();
    let line = format!("baggage: {}", members.join(","));
    assert!(line.len() > 84_000);
    let layer = server(trusting());
    let seen = pass(&layer, request(&[&line])).await;
    let expected = members[..64].join(",");
    assert_eq!(seen.headers["baggage"], expected);
    assert_eq!(seen.metadata.unwrap().get("baggage"), Some(&*expected));
    assert_eq!(layer.stats().baggage_cut, 1);

    let state = format!("tracestate: a={}", "x".repeat(4_096));
    let lines = ["traceparent: 00-1-2-01", &state];
    let sent = hop(&layer, &MetadataLayer::client(), &lines).await;
    assert_eq!(sent, headers(&lines[..1]));
}

#[tokio::test]
async fn a_few_bytes_do_not_keep_all_of_what_was_read() {
    // A connection reads a head into one buffer, and the values are slices of it.
    let read = bytes::Bytes::from(vec![b'x'; 84_000]);
    let mut request = get("/");
    let slice =
        |range: std::ops::Range<usize>| HeaderValue::from_maybe_shared(read.slice(range)).unwrap();
    request.headers_mut().insert("x-large", slice(0..80_000));
    request
        .headers_mut()
        .insert("x-md-global-a", slice(80_000..80_001));
    request
        .headers_mut()
        .insert("baggage", slice(80_001..80_002));
    let seen = Seen::default();
    server(trusting())
        .layer(seen.service())
        .oneshot(request)
        .await
        .unwrap();
    let metadata = seen.only().metadata.unwrap();
    assert_eq!(metadata.len(), 2);
    assert!(read.is_unique(), "something still holds a slice of it");
}

fn entry() -> impl Strategy<Value = (String, Vec<u8>)> {
    let name = prop_oneof![
        "(x-md-global-|x-md-local-|x-md-|micro-|x-app-)[a-z0-9.-]{0,20}",
        Just("x-cse-context".to_owned()),
        Just("traceparent".to_owned()),
        Just("tracestate".to_owned()),
        Just("baggage".to_owned()),
        Just("connection".to_owned()),
        Just("x-cse-src-microservice".to_owned()),
    ];
    let value = prop_oneof![
        proptest::collection::vec(0x20_u8..=0xff, 0..60),
        "[{}\":,a-z0-9=;\\\\]{0,60}".prop_map(String::into_bytes),
        r#"\{"[a-zA-Z -]{0,9}":"[ -~]{0,9}","caller":"x"\}"#.prop_map(String::into_bytes),
    ];
    (name, value)
}

proptest! {
    #[test]
    fn no_headers_panic_and_the_limits_hold(
        entries in proptest::collection::vec(entry(), 0..24),
        (most_entries, most_bytes, most_key) in (1..8_usize, 64..200_usize, 1..16_usize),
    ) {
        let dialects = [Dialect::GoChassis, Dialect::Kratos, Dialect::GoMicro];
        let builder = trusting().accept(dialects).send(dialects).propagate("x-app-*");
        let builder = builder.max_entries(most_entries).max_bytes(most_bytes).max_key_length(most_key);
        let mut request = get("/");
        for (name, value) in &entries {
            let (name, value) = (HeaderName::try_from(name), HeaderValue::from_bytes(value));
            if let (Ok(name), Ok(value)) = (name, value) {
                request.headers_mut().append(name, value);
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (inside, sent) = runtime.block_on(async {
            let seen = pass(&server(builder.clone()), request).await;
            let mut onwards = get("/");
            CallContext::get_or_insert(onwards.extensions_mut()).metadata = seen.metadata.clone();
            (seen.metadata, pass(&client(builder), onwards).await.headers)
        });
        let inside = inside.unwrap_or_default();
        let is_counted = |key: &str| !matches!(key, "traceparent" | "tracestate" | "baggage");
        let counted: Vec<_> = inside.iter().filter(|(_, key, _)| is_counted(key)).collect();
        prop_assert!(counted.len() <= most_entries);
        let bytes: usize = counted.iter().map(|(_, key, value)| key.len() + value.len()).sum();
        prop_assert!(bytes <= most_bytes);
        prop_assert!(counted.iter().all(|(_, key, _)| !key.is_empty() && key.len() <= most_key));
        let kratos = |name: &HeaderName| name.as_str().starts_with("x-md-");
        prop_assert!(sent.keys().filter(|name| kratos(name)).count() <= most_entries);
        let is_local = |name: &HeaderName| name.as_str().starts_with("x-md-local-");
        prop_assert!(!sent.keys().any(is_local));
    }
}
