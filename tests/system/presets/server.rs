//! The server preset.

use super::*;

#[tokio::test(start_paused = true)]
async fn the_slots_of_the_server_preset_see_a_call_in_the_documented_order() {
    let log = Log::default();
    let config = ServerConfig {
        deadline: with_deadline(),
        rate_limit: one_call(),
        ..ServerConfig::default()
    };
    let server = around_server(&all_server_slots(&log, &config), log.peer([Answer::ok()]));
    assert_eq!(answer(&server, get()).await, OK);
    let seen = [
        ("outermost", false),
        ("before_limits", true),
        ("before_handler", true),
        ("peer", true),
    ];
    assert_eq!(log.take_deadlines(), seen);

    assert_eq!(answer(&server, get()).await, TOO_MANY);
    assert_eq!(log.take_places(), ["outermost", "before_limits"]);
}

#[tokio::test(start_paused = true)]
async fn a_call_to_a_server_that_comes_too_late_costs_no_quota() {
    let log = Log::default();
    let config = ServerConfig {
        rate_limit: one_call(),
        ..ServerConfig::default()
    };
    let server = around_server(&all_server_slots(&log, &config), log.peer([Answer::ok()]));
    assert_eq!(answer(&server, expired()).await, EXPIRED);
    assert_eq!(log.take_places(), ["outermost"]);
    assert_eq!(answer(&server, get()).await, OK);
}

#[tokio::test(start_paused = true)]
async fn a_call_to_a_server_that_finds_no_place_costs_no_quota() {
    let log = Log::default();
    let (concurrency_limit, rate_limit) = one_at_once();
    let config = ServerConfig {
        concurrency_limit,
        rate_limit,
        ..ServerConfig::default()
    };
    let preset = all_server_slots(&log, &config);
    let server = around_server(
        &preset,
        log.peer([Answer::ok().body(TestBody::full("until it is read"))]),
    );
    let first = server.clone().oneshot(get()).await.unwrap();
    log.take_places();
    assert_eq!(answer(&server, get()).await, BUSY);
    assert_eq!(log.take_places(), ["outermost", "before_limits"]);
    assert_eq!(preset.concurrency_limits().stats().in_flight, 1);
    drop(first);
    assert_eq!(answer(&server, get()).await, OK);
}

#[tokio::test(start_paused = true)]
async fn a_server_preset_with_nothing_configured_passes_everything_on() {
    let log = Log::default();
    let config = ServerConfig {
        catch_panic: None,
        trace: None,
        metrics: None,
        drain: None,
        metadata: None,
        deadline: None,
        concurrency_limit: None,
        body_limit: None,
        rate_limit: None,
        idempotency: None,
    };
    let preset = all_server_slots(&log, &config);
    let server = around_server(
        &preset,
        log.peer([Answer::ok(), Answer::fail(ProbeError::reset())]),
    );
    let every = ["outermost", "before_limits", "before_handler", "peer"];
    // Without the deadline layer even a call that is too late.
    assert_eq!(answer(&server, expired()).await, OK);
    assert_eq!(log.take_places(), every);
    let error = server.clone().oneshot(get()).await.err().unwrap();
    let error: &ProbeError = error.downcast_ref().unwrap();
    assert_eq!(error.kind(), ProbeError::reset().kind());
    assert_eq!(log.take_places(), every);
}

#[tokio::test(start_paused = true)]
async fn a_server_answers_for_a_handler_that_panics_and_its_metrics_know() {
    let server = ServerLayer::new(&ServerConfig::default()).unwrap();
    let panics = server.panics();
    let peer = Log::default().peer([Answer::panic_in_poll(), Answer::ok()]);
    let server = forget(server.layer(peer));
    let panicked = (StatusCode::INTERNAL_SERVER_ERROR, Some(Reason::Panicked));
    let mut request = get();
    let operation = Operation::from_static("panics behind the preset");
    request.extensions_mut().insert(operation);
    assert_eq!(answer(&server, request).await, panicked);
    assert_eq!(answer(&server, get()).await, OK);
    assert_eq!(panics.stats().before_head, 1);
    let labels = [("http_route", "panics behind the preset")];
    assert_eq!(counted(SERVER_CALLS, &labels), 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_leaves_refuses_before_it_reads_who_calls() {
    let log = Log::default();
    let preset = all_server_slots(&log, &ServerConfig::default());
    let server = around_server(&preset, log.peer([Answer::ok()]));
    assert_eq!(answer(&server, get()).await, OK);
    log.take_places();
    preset.drain().start();
    let draining = (StatusCode::SERVICE_UNAVAILABLE, Some(Reason::Draining));
    assert_eq!(answer(&server, get()).await, draining);
    assert_eq!(log.take_places(), ["outermost"]);
    preset.drain().drained().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_too_large_costs_a_server_no_quota() {
    let log = Log::default();
    let config = ServerConfig {
        body_limit: Some(BodyLimitConfig {
            request: Some("4".parse().unwrap()),
            ..BodyLimitConfig::default()
        }),
        rate_limit: one_call(),
        ..ServerConfig::default()
    };
    let server = around_server(&all_server_slots(&log, &config), log.peer([Answer::ok()]));
    let too_large = get().map(|_| Body::from("12345"));
    let refused = (StatusCode::PAYLOAD_TOO_LARGE, Some(Reason::BodyTooLarge));
    assert_eq!(answer(&server, too_large).await, refused);
    assert_eq!(log.take_places(), ["outermost", "before_limits"]);
    assert_eq!(answer(&server, get()).await, OK);
}

/// A server preset that takes requests of 64 bytes.
fn of_64_bytes() -> ServerLayer {
    let config = ServerConfig {
        body_limit: Some(BodyLimitConfig {
            request: Some("64B".parse().unwrap()),
            ..BodyLimitConfig::default()
        }),
        ..ServerConfig::default()
    };
    ServerLayer::new(&config).unwrap()
}

#[tokio::test]
async fn the_server_preset_bounds_requests_on_axum_and_behind_a_map_on_hyper() {
    let app = Router::new().route("/", post(async |body: Bytes| body));
    let handler = Scripted::always(Answer::ok()).0;
    let on_hyper = ServiceBuilder::new()
        .layer(MapRequestLayer::new(|request: Request<Incoming>| {
            request.map(Body::new)
        }))
        .layer(of_64_bytes())
        .service(handler);
    for server in [
        Server::axum(app.layer(of_64_bytes())),
        Server::hyper(on_hyper),
    ] {
        for (bytes, expected) in [(64, StatusCode::OK), (65, StatusCode::PAYLOAD_TOO_LARGE)] {
            let request = Request::post("/").body("x".repeat(bytes)).unwrap();
            let request = clients::send_to(server.addr(), request);
            let answer = clients::h1().request(request).await.unwrap();
            assert_eq!(answer.status(), expected);
        }
    }
}

#[tokio::test]
async fn the_server_preset_bounds_requests_on_tonic() {
    let routes = Routes::new(Scripted::always(grpc::unary("fine")).0);
    let server = Port::any().serve(move |listener, stop| async move {
        TonicServer::builder()
            .layer(of_64_bytes())
            .add_routes(routes)
            .serve_with_incoming_shutdown(TcpIncoming::from(listener), stop.requested())
            .await
            .unwrap();
    });
    let mut client = grpc::Client::new(support::channel(server.addr()));
    let within = "x".repeat(64 - 5); // and the prefix of the message
    client.unary("Any", within.clone()).await.unwrap();
    let refused = client.unary("Any", within + "x").await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_to_a_server_has_a_span_inside_the_outermost_slot() {
    let _listening = listen(tracing_subscriber::registry());
    let log = Log::default();
    let preset = all_server_slots(&log, &ServerConfig::default());
    let server = around_server(&preset, log.peer([Answer::ok()]));
    assert_eq!(answer(&server, get()).await, OK);
    let seen = [
        ("outermost", ""),
        ("before_limits", "server"),
        ("before_handler", "server"),
        ("peer", "server"),
    ];
    assert_eq!(log.take_spans(), seen);
}

#[tokio::test(start_paused = true)]
async fn metrics_of_a_server_count_what_the_layers_inside_refuse() {
    let config = ServerConfig {
        rate_limit: one_call(),
        ..ServerConfig::default()
    };
    let server = ServerLayer::new(&config).unwrap();
    let server = forget(server.layer(Log::default().peer([Answer::ok()])));
    let named = |mut request: Request<Body>| {
        let operation = Operation::from_static("counted by the server");
        request.extensions_mut().insert(operation);
        request
    };
    for (request, expected) in [(expired(), EXPIRED), (get(), OK), (get(), TOO_MANY)] {
        assert_eq!(answer(&server, named(request)).await, expected);
    }
    for error in ["", "DEADLINE_EXCEEDED", "RATE_LIMITED"] {
        let route = ("http_route", "counted by the server");
        assert_eq!(counted(SERVER_CALLS, &[route, ("error_type", error)]), 1);
    }
}
