//! Metadata as the seed frameworks write and read it.

use super::*;

const ALL: [Dialect; 3] = [Dialect::Kratos, Dialect::GoMicro, Dialect::GoChassis];

/// What a server makes of headers, as `scope key: value`.
async fn read(accept: &[Dialect], lines: &[&str]) -> Vec<String> {
    let layer = server(trusting().accept(accept.iter().copied()));
    listed(pass(&layer, request(lines)).await.metadata.as_ref())
}

/// What a client writes for entries, each `scope key: value`.
async fn written(send: &[Dialect], entries: &[&str]) -> HeaderMap {
    let mut request = get("/");
    for entry in entries {
        let (key, value) = entry.split_once(": ").unwrap();
        match key.split_once(' ').unwrap() {
            ("global", key) => request.append_global(key, value).unwrap(),
            ("local", key) => request.append_local(key, value).unwrap(),
            (other, _) => panic!("{other}"),
        }
    }
    pass(&client(trusting().send(send.iter().copied())), request)
        .await
        .headers
}

#[tokio::test]
async fn kratos_both_ways() {
    // As its client middleware sends what has the prefix `x-md-global-`, and its server reads `x-md-`.
    let lines = [
        "x-md-global-extra: 2233",
        "x-md-global-color: red",
        "x-md-global-color: blue",
        "x-md-local-caller: helloworld",
        "x-md-service-name: helloworld",
    ];
    let expected = [
        "Global extra: 2233",
        "Global color: red",
        "Global color: blue",
        "Received caller: helloworld",
        "Received service-name: helloworld",
    ];
    assert_eq!(read(&[Dialect::Kratos], &lines).await, expected);
    let entries = [
        "global extra: 2233",
        "global color: red",
        "global color: blue",
        "local caller: helloworld",
    ];
    assert_eq!(
        written(&[Dialect::Kratos], &entries).await,
        headers(&lines[..4])
    );
    for nothing in ["x-md-global-: 1", "x-md-local-: 1", "x-md-: 1"] {
        assert!(read(&[Dialect::Kratos], &[nothing]).await.is_empty());
    }
}

#[tokio::test]
async fn go_micro_both_ways() {
    let lines = [
        "Micro-From-Service: go.micro.srv.greeter",
        "Micro-Namespace: go.micro",
        "Micro-Trace-Id: 5a3b",
        "Micro-Tenant: a",
        "Micro-Tenant: b",
    ];
    // These make a call what it is, and are nobody else's.
    let transport = [
        "Micro-Id: 1",
        "Micro-Service: greeter",
        "Micro-Method: Say.Hello",
        "Micro-Endpoint: Say.Hello",
        "Micro-Error: {}",
        "Micro-Stream: 7",
        "Micro-Topic: events",
        "Micro-Router: x",
        "Micro-Network: x",
        "Micro-Gateway: x",
        "Micro-Peer: x",
        "Micro-Link: x",
        "Micro-Tunnel-Id: x",
        "Micro-: x",
    ];
    let expected = [
        "Received caller: go.micro.srv.greeter",
        "Global namespace: go.micro",
        "Global trace-id: 5a3b",
        "Global tenant: a",
        "Global tenant: b",
    ];
    let both = [&lines[..], &transport[..]].concat();
    assert_eq!(read(&[Dialect::GoMicro], &both).await, expected);
    let entries = [
        "local caller: go.micro.srv.greeter",
        "global namespace: go.micro",
        "global trace-id: 5a3b",
        "global tenant: a",
        "global tenant: b",
        "global topic: events",
        "global service: greeter",
    ];
    assert_eq!(
        written(&[Dialect::GoMicro], &entries).await,
        headers(&lines)
    );
}

#[tokio::test]
async fn go_chassis_both_ways() {
    let context = r#"{"x-cse-src-microservice":"it-consumer","testKey":"testValue"}"#;
    let line = format!("x-cse-context: {context}");
    let expected = ["Received caller: it-consumer", "Global testkey: testValue"];
    assert_eq!(read(&[Dialect::GoChassis], &[&line]).await, expected);
    let caller = "x-cse-src-microservice: it-consumer";
    assert_eq!(read(&[Dialect::GoChassis], &[caller]).await, expected[..1]);
    // Named twice it is who the context says.
    let both = read(
        &[Dialect::GoChassis],
        &[&line, "x-cse-src-microservice: other"],
    )
    .await;
    assert_eq!(both, expected);

    let entries = [
        "local caller: it-consumer",
        "global testKey: testValue",
        "global testKey: second",
    ];
    let lower = line.replace("testKey", "testkey");
    assert_eq!(
        written(&[Dialect::GoChassis], &entries).await,
        headers(&[caller, &lower])
    );
    let entries = ["global name: Zoë \"Z\" \\ 🦀"];
    let escaped = r#"x-cse-context: {"name":"Zo\u00eb \"Z\" \\ \ud83e\udd80"}"#;
    assert_eq!(
        written(&[Dialect::GoChassis], &entries).await,
        headers(&[escaped])
    );
    assert!(written(&[Dialect::GoChassis], &[]).await.is_empty());
}

#[tokio::test]
async fn a_malformed_context_is_ignored_and_counted() {
    let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(8_192));
    for context in [
        "",
        "{",
        "[]",
        "null",
        r#"{"a":1}"#,
        r#"{"a":"1"}}"#,
        r#"{'a':'1'}"#,
        &large,
    ] {
        let layer = server(trusting().accept(ALL));
        let line = format!("x-cse-context: {context}");
        let seen = pass(&layer, request(&[&line, "x-md-global-b: 2"])).await;
        assert_eq!(listed(seen.metadata.as_ref()), ["Global b: 2"], "{context}");
        assert_eq!(layer.stats().malformed, 1, "{context}");
    }
    let layer = server(trusting().accept(ALL));
    let line = "x-cse-context: {\"a b\":\"1\",\"c\":\"\\u0000\",\"\":\"2\",\"d\":\"3\"}";
    let seen = pass(&layer, request(&[line])).await;
    assert_eq!(listed(seen.metadata.as_ref()), ["Global d: 3"]);
    assert_eq!(layer.stats().malformed, 3);
}

#[tokio::test]
async fn a_dialect_counts_only_where_it_is_listed() {
    let lines = [
        "x-md-global-a: 1",
        "micro-b: 2",
        r#"x-cse-context: {"c":"3"}"#,
    ];
    for (accept, expected) in [
        (&[][..], &[][..]),
        (&[Dialect::Kratos], &["Global a: 1"]),
        (&[Dialect::GoMicro], &["Global b: 2"]),
        (&[Dialect::GoChassis], &["Global c: 3"]),
        (&ALL, &["Global a: 1", "Global b: 2", "Global c: 3"]),
    ] {
        assert_eq!(read(accept, &lines).await, expected);
    }
}

#[tokio::test]
async fn between_dialects_the_first_one_that_has_a_key_counts() {
    let lines = [
        "x-md-local-a: 1",
        "micro-a: 2",
        r#"x-cse-context: {"a":"3","b":"4"}"#,
    ];
    assert_eq!(read(&ALL, &lines).await, ["Received a: 1", "Global b: 4"]);
    let reversed = [Dialect::GoChassis, Dialect::GoMicro, Dialect::Kratos];
    assert_eq!(
        read(&reversed, &lines).await,
        ["Global a: 3", "Global b: 4"]
    );
}

#[tokio::test]
async fn what_is_sent_in_all_dialects_comes_back_as_it_was() {
    let entries = [
        "global tenant: a",
        "global tenant: b",
        "local hint: 1",
        "local caller: cart",
    ];
    let headers = written(&ALL, &entries).await;
    let mut request = get("/");
    *request.headers_mut() = headers;
    let seen = pass(&server(trusting().accept(ALL)), request).await;
    let expected = [
        "Global tenant: a",
        "Global tenant: b",
        "Received hint: 1",
        "Received caller: cart",
    ];
    assert_eq!(listed(seen.metadata.as_ref()), expected);
}
