//! From a handler to its calls.

use std::future::ready;

use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::time::sleep;

use super::*;
use crate::{
    context::{self, InContext},
    deadline::{DeadlineLayer, Scope as DeadlineScope},
};

#[tokio::test]
async fn global_goes_on_and_local_does_not() {
    let lines = [
        "x-md-global-tenant: a",
        "x-md-global-tenant: b",
        "x-md-local-caller: web",
        "x-md-mine: 1",
        "accept: text/plain",
    ];
    let server = server(trusting());
    let seen = pass(&server, request(&lines)).await;
    let listing = [
        "Global tenant: a",
        "Global tenant: b",
        "Received caller: web",
        "Received mine: 1",
    ];
    assert_eq!(listed(seen.metadata.as_ref()), listing);
    assert_eq!(seen.metadata, seen.current);
    assert_eq!(seen.metadata.unwrap().caller(), Some("web"));
    assert_eq!(seen.headers, headers(&lines));

    let sent = hop(&server, &MetadataLayer::client(), &lines).await;
    assert_eq!(sent, headers(&lines[..2]));
}

#[tokio::test]
async fn without_metadata_there_is_no_context_and_no_header() {
    for layer in [
        MetadataLayer::server(),
        MetadataLayer::client(),
        MetadataLayer::default(),
    ] {
        let seen = pass(&layer, request(&["accept: text/plain"])).await;
        assert!(!seen.has_context);
        assert_eq!(seen.headers.len(), 1);
    }
}

#[tokio::test]
async fn constants_go_with_each_call_that_has_none_of_their_key() {
    let builder = MetadataLayer::builder()
        .local("caller", "cart")
        .global("region", "eu");
    let cart = client(builder);
    let alone = pass(&cart, get("/")).await;
    assert_eq!(
        alone.headers,
        headers(&["x-md-global-region: eu", "x-md-local-caller: cart"])
    );

    // What the caller said of itself is not what we say of us.
    let lines = ["x-md-local-caller: web", "x-md-global-region: us"];
    let sent = hop(&server(trusting()), &cart, &lines).await;
    assert_eq!(
        sent,
        headers(&["x-md-global-region: us", "x-md-local-caller: cart"])
    );
}

#[tokio::test]
async fn what_a_request_says_itself_stays_as_it_is() {
    let mut request = request(&["x-md-global-tenant: mine"]);
    request.set_global("tenant", "other").unwrap();
    request.append_global("cohort", "beta").unwrap();
    request.set_local("caller", "me").unwrap();
    assert_eq!(request.call_metadata().get("cohort"), Some("beta"));
    let cart = client(MetadataLayer::builder().local("caller", "cart"));
    let seen = pass(&cart, request).await;
    let expected = [
        "x-md-global-tenant: mine",
        "x-md-global-cohort: beta",
        "x-md-local-caller: me",
    ];
    assert_eq!(seen.headers, headers(&expected));
}

#[tokio::test]
async fn a_layer_twice_writes_once() {
    let seen = Seen::default();
    let layer = client(MetadataLayer::builder().global("a", "1"));
    let twice = layer.layer(layer.layer(seen.service()));
    twice.oneshot(get("/")).await.unwrap();
    assert_eq!(seen.only().headers, headers(&["x-md-global-a: 1"]));
}

#[tokio::test]
async fn in_a_gateway_what_came_for_this_hop_goes_no_further() {
    let builder = trusting().local("caller", "gateway").propagate("x-tenant");
    let gateway = builder.role(Role::Both).build().unwrap();
    let lines = [
        "x-md-global-a: 1",
        "x-md-global-a: 2",
        "x-md-local-caller: web",
        "x-md-mine: 1",
        "micro-from-service: web",
        "x-tenant: t",
        "traceparent: 00-1-2-01",
    ];
    let seen = pass(&gateway, request(&lines)).await;
    let expected = [
        lines[0],
        lines[1],
        lines[5],
        lines[6],
        "x-md-local-caller: gateway",
    ];
    assert_eq!(seen.headers, headers(&expected));
}

#[tokio::test(start_paused = true)]
async fn what_is_set_in_a_handler_goes_with_the_calls_from_there_on() {
    let seen = Seen::default();
    let peer = MetadataLayer::client().layer(seen.service());
    let handler = service_fn(move |_: Request<TestBody>| {
        let peer = peer.clone();
        async move {
            let call = || peer.clone().oneshot(get("/"));
            call().await?;
            set_global("tenant", "b").unwrap();
            append_local("hint", "1").unwrap();
            append_local("hint", "2").unwrap();
            sleep(Duration::from_millis(1)).await; // another poll
            call().await?;
            let mut more = Metadata::new();
            more.set_global("tenant", "c").unwrap();
            scope(more, call()).await?;
            assert!(remove("tenant") && !remove("tenant"));
            call().await
        }
    });
    for inside in [None, Some(DeadlineScope::Call), Some(DeadlineScope::Head)] {
        let handler = handler.clone();
        let outer = server(trusting());
        let incoming = request(&["x-md-global-tenant: a"]);
        match inside {
            None => drop(outer.layer(handler).oneshot(incoming).await.unwrap()),
            Some(scope) => {
                let deadline = DeadlineLayer::builder()
                    .timeout(Duration::from_secs(1))
                    .scope(scope);
                let deadline = deadline.role(Role::Server).build().unwrap();
                let service = outer.layer(deadline.layer(handler));
                drop(service.oneshot(incoming).await.unwrap());
            }
        }
        let sent: Vec<_> = seen.0.lock().drain(..).map(|seen| seen.headers).collect();
        let hints = ["x-md-local-hint: 1", "x-md-local-hint: 2"];
        let with = |tenant| headers(&[&[tenant], &hints[..]].concat());
        let expected = [
            headers(&["x-md-global-tenant: a"]),
            with("x-md-global-tenant: b"),
            with("x-md-global-tenant: c"),
            headers(&hints),
        ];
        assert_eq!(sent, expected, "{inside:?}");
        assert!(CallContext::current().is_none());
    }
}

#[tokio::test]
async fn without_a_server_layer_nothing_can_be_set() {
    assert_eq!(set_global("a", "1"), Err(MetadataError::NoContext));
    assert_eq!(append_local("a", "1"), Err(MetadataError::NoContext));
    assert!(!remove("a"));
    assert_eq!(current(), None);
    // And with one, also where the call came with nothing, and may not last longer than it.
    let handler = service_fn(async |_: Request<TestBody>| {
        set_global("a", "1").unwrap();
        assert_eq!(current().unwrap().get("a"), Some("1"));
        Ok::<_, Infallible>(Response::new(TestBody::empty()))
    });
    MetadataLayer::server()
        .layer(handler)
        .oneshot(get("/"))
        .await
        .unwrap();
    assert_eq!(current(), None);
}

#[tokio::test(start_paused = true)]
async fn a_stream_makes_its_calls_in_the_context_of_its_call() {
    let seen = Seen::default();
    let peer = MetadataLayer::client().layer(seen.service());
    let handler = service_fn(move |_: Request<TestBody>| {
        set_local("from", "stream").unwrap();
        let peer = peer.clone();
        let frames = futures_util::stream::unfold(0, move |count| {
            let peer = peer.clone();
            async move {
                sleep(Duration::from_millis(1)).await;
                peer.oneshot(get("/")).await.unwrap();
                let frame = Frame::data(bytes::Bytes::from_static(b"x"));
                (count < 2).then_some((Ok::<_, Infallible>(frame), count + 1))
            }
        });
        ready(Ok::<_, Infallible>(Response::new(StreamBody::new(
            Box::pin(frames),
        ))))
    });
    let service = server(trusting()).layer(handler);
    let response = service
        .oneshot(request(&["x-md-global-tenant: a"]))
        .await
        .unwrap();
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "xx"
    );
    let sent: Vec<_> = seen.0.lock().drain(..).map(|seen| seen.headers).collect();
    assert_eq!(
        sent,
        vec![headers(&["x-md-global-tenant: a", "x-md-local-from: stream"]); 3]
    );
    assert!(CallContext::current().is_none());
}

#[tokio::test]
async fn a_spawned_task_has_a_part_in_it_where_it_is_told_to() {
    let seen = Seen::default();
    let peer = MetadataLayer::client().layer(seen.service());
    let handler = service_fn(move |_: Request<TestBody>| {
        let peer = peer.clone();
        async move {
            let call = || peer.clone().oneshot(get("/"));
            tokio::spawn(call()).await.unwrap()?;
            context::spawn(call()).await.unwrap()?;
            tokio::spawn(call().in_current_context()).await.unwrap()
        }
    });
    let service = server(trusting()).layer(handler);
    service
        .oneshot(request(&["x-md-global-tenant: a"]))
        .await
        .unwrap();
    let sent: Vec<_> = seen
        .0
        .lock()
        .drain(..)
        .map(|seen| seen.headers.len())
        .collect();
    assert_eq!(sent, [0, 1, 1]);
}

#[tokio::test]
async fn a_request_made_outside_of_the_handler_inherits_what_it_has_nothing_of() {
    let mut prepared = get("/");
    CallContext::get_or_insert(prepared.extensions_mut());
    let prepared = Arc::new(Mutex::new(Some(prepared)));
    let seen = Seen::default();
    let peer = MetadataLayer::client().layer(seen.service());
    let handler = service_fn(move |_: Request<TestBody>| {
        peer.clone().oneshot(prepared.lock().take().unwrap())
    });
    let service = server(trusting()).layer(handler);
    service
        .oneshot(request(&["x-md-global-tenant: a"]))
        .await
        .unwrap();
    assert_eq!(seen.only().headers, headers(&["x-md-global-tenant: a"]));
}

#[tokio::test]
async fn a_trace_goes_through_as_it_came() {
    let parent = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let lines = [
        parent,
        "tracestate: a=1,b=2",
        "tracestate: c=3",
        "baggage: k=v;p",
        "baggage: l=w",
    ];
    let sent = hop(&server(trusting()), &MetadataLayer::client(), &lines).await;
    assert_eq!(sent, headers(&lines));

    let off = trusting().trace_context(false);
    assert!(
        hop(&server(off.clone()), &MetadataLayer::client(), &lines)
            .await
            .is_empty()
    );
    assert!(
        hop(&server(trusting()), &client(off), &lines)
            .await
            .is_empty()
    );

    // No state without its parent, and no parent of two.
    for lines in [&lines[1..3], &[parent, parent, lines[1]]] {
        assert!(
            hop(&server(trusting()), &MetadataLayer::client(), lines)
                .await
                .is_empty()
        );
    }
}

#[tokio::test]
async fn a_trace_that_was_begun_here_keeps_its_own_state() {
    let lines = [
        "traceparent: 00-1-2-01",
        "tracestate: theirs=1",
        "baggage: theirs=1",
    ];
    let seen = Seen::default();
    let peer = MetadataLayer::client().layer(seen.service());
    let ours = ["traceparent: 00-9-9-01", "baggage: ours=1"];
    let handler = service_fn(move |_: Request<TestBody>| peer.clone().oneshot(request(&ours)));
    server(trusting())
        .layer(handler)
        .oneshot(request(&lines))
        .await
        .unwrap();
    assert_eq!(seen.only().headers, headers(&ours));
}
