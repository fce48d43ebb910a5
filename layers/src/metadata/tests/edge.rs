//! Who is trusted, and what becomes of what the others send.

use super::*;
use crate::context::{AuthMethod, Identity};

const FORGED: &[&str] = &[
    "x-md-global-tenant: root",
    "X-MD-Local-Caller: admin",
    "x-md-tenant: root",
    "x-mesh-identity: root",
    "x-mesh-route: canary",
    "x-cse-context: {\"x-cse-src-microservice\":\"root\"}",
    "x-cse-src-microservice: root",
    "Micro-From-Service: root",
    "micro-namespace: root",
    "x-forwarded-for: 10.0.0.1",
    "forwarded: for=10.0.0.1",
    "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "tracestate: a=b",
    "baggage: tenant=root",
    "x-b3-traceid: 1",
    "grpc-previous-rpc-attempts: 9",
];

fn from(peer: &str, mut request: Request<TestBody>) -> Request<TestBody> {
    request
        .extensions_mut()
        .insert(PeerAddr(peer.parse().unwrap()));
    request
}

fn every_dialect(builder: MetadataBuilder) -> MetadataBuilder {
    builder.accept([Dialect::Kratos, Dialect::GoMicro, Dialect::GoChassis])
}

#[tokio::test]
async fn nothing_of_an_untrusted_caller_reaches_handler_or_upstream() {
    for builder in [
        MetadataLayer::builder(),
        MetadataLayer::builder().trust(Trust::peers(["10.0.0.0/8"], ["checkout"]).unwrap()),
    ] {
        for role in [Role::Server, Role::Both] {
            let layer = every_dialect(builder.clone()).role(role).build().unwrap();
            let seen = pass(&layer, from("203.0.113.7:80", request(FORGED))).await;
            assert!(seen.headers.is_empty(), "{:?}", seen.headers);
            assert_eq!(
                (seen.metadata, seen.current, seen.has_context),
                (None, None, false)
            );
            assert_eq!(layer.stats().stripped, FORGED.len() as u64);

            let upstream = hop(&layer, &MetadataLayer::client(), FORGED).await;
            assert!(upstream.is_empty(), "{upstream:?}");
        }
    }
}

#[tokio::test]
async fn what_anybody_may_send_stays() {
    let lines = [
        "authorization: Bearer 7",
        "x-request-id: 1",
        "grpc-timeout: 1S",
        "x-tenant: a",
    ];
    let layer = server(MetadataLayer::builder());
    let seen = pass(&layer, request(&lines)).await;
    assert_eq!(seen.headers, headers(&lines));
    assert_eq!(layer.stats(), MetadataStats::default());
}

#[tokio::test]
async fn callers_are_trusted_by_address_or_by_identity() {
    let trust = Trust::peers(["10.0.0.0/8"], ["checkout"]).unwrap();
    let layer = server(MetadataLayer::builder().trust(trust));
    for (peer, identity, trusted) in [
        ("10.1.2.3:80", None, true),
        ("203.0.113.7:80", None, false),
        ("203.0.113.7:80", Some("checkout"), true),
        ("203.0.113.7:80", Some("cart"), false),
    ] {
        let mut request = from(peer, request(&["x-md-global-tenant: a"]));
        if let Some(name) = identity {
            let context = CallContext::get_or_insert(request.extensions_mut());
            context.identity = Some(Arc::new(Identity::new(name, AuthMethod::Mtls)));
        }
        let seen = pass(&layer, request).await;
        assert_eq!(seen.metadata.is_some(), trusted, "{peer} {identity:?}");
        assert_eq!(seen.headers.is_empty(), !trusted);
    }
}

#[tokio::test]
async fn behind_a_proxy_the_client_counts_and_stays_known() {
    let trust = Trust::peers(["10.0.0.0/8"], [""; 0]).unwrap();
    let layer = server(MetadataLayer::builder().trust(trust).behind(1));
    let lines = |client| {
        let forwarded = format!("x-forwarded-for: 10.9.9.9, {client}");
        request(&["x-md-global-tenant: a", &forwarded])
    };
    let outside = pass(&layer, from("10.0.0.9:80", lines("203.0.113.7"))).await;
    assert!(outside.headers.is_empty() && outside.metadata.is_none());
    assert_eq!(
        outside.client,
        Some(ClientAddr("203.0.113.7".parse().unwrap()))
    );

    let inside = pass(&layer, from("10.0.0.9:80", lines("10.1.2.3"))).await;
    assert!(inside.metadata.is_some() && inside.headers.contains_key("x-forwarded-for"));
}

#[tokio::test]
async fn a_limit_further_in_still_tells_clients_apart() {
    use crate::{Key, rate_limit::RateLimitLayer};
    let limit = RateLimitLayer::per_minute(1)
        .key(Key::client_ip(1))
        .build()
        .unwrap();
    let service = MetadataLayer::server().layer(limit.layer(Seen::default().service()));
    for (client, status) in [
        ("203.0.113.7", 200),
        ("203.0.113.8", 200),
        ("203.0.113.7", 429),
    ] {
        let call = from(
            "10.0.0.9:80",
            request(&[&format!("x-forwarded-for: {client}")]),
        );
        assert_eq!(
            service.clone().oneshot(call).await.unwrap().status(),
            status
        );
    }
}

#[tokio::test]
async fn a_context_that_is_there_already_is_not_believed_either() {
    // As of a client in the same process, whose call did not go over a wire.
    let mut forged = get("/");
    forged.set_global("tenant", "root").unwrap();
    let seen = pass(&MetadataLayer::server(), forged).await;
    assert_eq!((seen.metadata, seen.current), (None, None));
}

#[tokio::test]
async fn headers_that_are_added_to_what_is_passed_on_need_trust_as_well() {
    let builder = MetadataLayer::builder()
        .propagate("x-tenant")
        .propagate("x-app-*");
    let lines = ["x-tenant: a", "x-app-b: c", "x-other: d"];
    let strict = server(builder.clone());
    assert!(
        hop(&strict, &MetadataLayer::client(), &lines)
            .await
            .is_empty()
    );
    assert_eq!(strict.stats().untrusted, 2);

    let open = server(builder.trust(Trust::All));
    let sent = hop(&open, &MetadataLayer::client(), &lines).await;
    assert_eq!(sent, headers(&lines[..2]));
}

#[tokio::test]
async fn credentials_and_what_is_about_the_connection_are_never_passed_on() {
    let layer = server(every_dialect(trusting()).propagate("*"));
    let lines = [
        "authorization: Bearer 7",
        "proxy-authorization: Basic 7",
        "cookie: a=b",
        "set-cookie: a=b",
        "te: trailers",
        "upgrade: websocket",
        "keep-alive: 5",
        "transfer-encoding: chunked",
        "connection: keep-alive, X-MD-Global-Hop , x-hop",
        "x-md-global-hop: 1",
        "x-hop: 1",
        "x-md-global-authorization: Bearer 7",
        "x-md-local-cookie: a=b",
        "micro-authorization: Bearer 7",
        r#"x-cse-context: {"Authorization":"Bearer 7","Cookie":"a=b"}"#,
    ];
    let sent = hop(&layer, &MetadataLayer::client(), &lines).await;
    assert!(sent.is_empty(), "{sent:?}");
    assert!(layer.stats().never_propagated >= 7, "{:?}", layer.stats());
}
