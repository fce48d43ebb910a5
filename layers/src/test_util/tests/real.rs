//! The servers, clients and faults of the kit, over real sockets.

use std::time::Duration;

use axum::{Router, routing::get};
use http::Request;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, service::Routes, transport::Endpoint};

use crate::test_util::{
    Answer, BodyCase, Fault, FaultProxy, Gate, ProbeHandle, Read, Scripted, TestBody, clients,
    exchange::exchange,
    grpc,
    servers::{Port, Server},
};

const SOON: Duration = Duration::from_secs(60);

/// What a client must see of a case over the wire: what a direct call would have shown it.
async fn assert_matrix<C>(mut client: C, grpc_too: bool)
where
    C: tower_service::Service<
            Request<TestBody>,
            Response = http::Response<hyper::body::Incoming>,
            Error = hyper_util::client::legacy::Error,
        >,
{
    for case in BodyCase::ALL {
        // An upgrade is a conversation of its own, and HTTP/2 has none; gRPC needs HTTP/2.
        if case == BodyCase::Upgrade || (case.is_grpc() && !grpc_too) {
            continue;
        }
        let (mut service, _) = Scripted::always(case.answer());
        let expected = exchange(&mut service, case.request(), case.read())
            .await
            .unwrap();
        let server = Server::hyper(Scripted::always(case.answer()).0);
        let request = clients::send_to(server.addr(), case.request());
        let seen = timeout(SOON, exchange(&mut client, request, case.read()))
            .await
            .unwrap();
        // A body that breaks at once may take the head with it.
        let Ok(seen) = seen else {
            assert_eq!(case, BodyCase::FailsAtOnce);
            continue;
        };
        assert_eq!(seen.head.status, expected.head.status, "{case:?}");
        assert_eq!(seen.head.headers["x-kit"], "kept", "{case:?}");
        if case.read() == Read::LikeHyper || case.read() == Read::ToEnd {
            assert_eq!(seen.data(), expected.data(), "{case:?}");
            assert_eq!(
                seen.end.is_complete(),
                expected.end.is_complete(),
                "{case:?}"
            );
        }
        if grpc_too {
            assert_eq!(seen.trailers, expected.trailers, "{case:?}");
        }
    }
}

#[tokio::test]
async fn the_body_matrix_survives_http1() {
    assert_matrix(clients::h1(), false).await;
}

#[tokio::test]
async fn the_body_matrix_survives_http2() {
    assert_matrix(clients::h2(), true).await;
}

#[tokio::test]
async fn an_axum_server_stops_after_its_last_call_and_frees_its_port() {
    let gate = Gate::new();
    let open = gate.clone();
    let slow = get(move || async move {
        open.opened().await;
        "done"
    });
    let server = Server::axum(Router::new().route("/", slow));
    let addr = server.addr();
    let client = clients::h1();
    let request = Request::get(server.uri("/")).body(String::new()).unwrap();
    let call = tokio::spawn(async move { client.request(request).await });
    while gate.waiting() == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    let stop = tokio::spawn(server.stop());
    sleep(Duration::from_millis(20)).await;
    assert!(!stop.is_finished());
    gate.open();
    assert_eq!(call.await.unwrap().unwrap().status(), 200);
    timeout(SOON, stop).await.unwrap().unwrap();
    drop(Port::at(addr));
}

#[tokio::test]
async fn a_killed_server_breaks_the_calls_that_run_and_may_come_back() {
    let (service, probe) = Scripted::always(Answer::never());
    let server = Server::hyper(service);
    let addr = server.addr();
    let client = clients::h1();
    let running = client.request(clients::send_to(addr, Request::new(String::new())));
    let running = tokio::spawn(running);
    while probe.in_flight() == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    server.kill();
    timeout(SOON, running).await.unwrap().unwrap().unwrap_err();
    assert_eq!(probe.in_flight(), 0);

    let server = Port::at(addr).hyper(Scripted::always(Answer::status(204)).0);
    let again = client.request(clients::send_to(server.addr(), Request::new(String::new())));
    assert_eq!(again.await.unwrap().status(), 204);
}

#[tokio::test]
async fn grpc_answers_arrive_as_they_were_scripted() {
    let (service, _probe) = grpc::service();
    let server = Server::tonic(Routes::new(service));
    let channel = Endpoint::new(server.uri("/").to_string())
        .unwrap()
        .connect_lazy();
    let mut client = grpc::Client::new(channel);

    assert_eq!(
        client.unary("Unary", "hello").await.unwrap().into_inner(),
        "hello"
    );
    assert_eq!(
        client.unary("Failed", "5").await.unwrap_err().code(),
        Code::NotFound
    );
    assert_eq!(
        client.unary("Nothing", "").await.unwrap_err().code(),
        Code::Unimplemented
    );
    for (method, payload, messages, code) in [
        ("Stream", "", 3, None),
        ("FailedStream", "13", 2, Some(Code::Internal)),
    ] {
        let mut stream = client.stream(method, payload).await.unwrap().into_inner();
        for _ in 0..messages {
            assert_eq!(stream.message().await.unwrap().unwrap(), "abc", "{method}");
        }
        let end = stream.message().await.map_err(|status| status.code());
        assert_eq!(end, code.map_or(Ok(None), Err), "{method}");
    }
    let mut endless = client.stream("Endless", "").await.unwrap().into_inner();
    for _ in 0..100 {
        endless.message().await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_stream_without_a_status_reaches_the_wire_as_such() {
    let (service, _probe) = grpc::service();
    let server = Server::tonic(Routes::new(service));
    let request = BodyCase::GrpcMissingStatus.request();
    let mut request = clients::send_to(server.addr(), request);
    *request.uri_mut() = server.uri("/kit.Test/NoStatus");
    let seen = exchange(&mut clients::h2(), request, Read::ToEnd)
        .await
        .unwrap();
    assert_eq!(grpc::messages(seen.data().into()).unwrap(), ["abc"]);
    assert!(
        seen.end.is_complete() && seen.trailers.is_none(),
        "{seen:?}"
    );
}

#[tokio::test]
async fn the_health_service_answers() {
    let (server, _reporter) = Server::health();
    let channel = Endpoint::new(server.uri("/").to_string())
        .unwrap()
        .connect_lazy();
    let mut client = tonic_health::pb::health_client::HealthClient::new(channel);
    let checked = client
        .check(tonic_health::pb::HealthCheckRequest::default())
        .await
        .unwrap();
    assert_eq!(checked.into_inner().status, 1);
}

struct Proxied {
    proxy: FaultProxy,
    probe: ProbeHandle,
    _server: Server,
}

impl Proxied {
    async fn new(answer: Answer) -> Self {
        let (service, probe) = Scripted::always(answer);
        let server = Server::hyper(service);
        let proxy = FaultProxy::start(server.addr()).await.unwrap();
        Self {
            proxy,
            probe,
            _server: server,
        }
    }

    /// A call on a connection of its own: the data of the answer, or the error.
    async fn call(&self) -> Result<Vec<u8>, String> {
        let mut client = clients::h1();
        let request = clients::send_to(self.proxy.addr(), Request::new(String::new()));
        let called = exchange(&mut client, request, Read::ToEnd).await;
        let exchange = called.map_err(|error| chain(&error))?;
        match exchange.end {
            crate::test_util::End::Failed(error) => Err(chain(&*error)),
            _ => Ok(exchange.data()),
        }
    }
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

#[tokio::test]
async fn a_refusing_proxy_is_a_closed_port_and_opens_again() {
    let proxied = Proxied::new(Answer::ok().body("hello")).await;
    assert_eq!(proxied.call().await.unwrap(), b"hello");
    for _ in 0..3 {
        proxied.proxy.set(Fault::Refuse).await;
        assert!(proxied.call().await.unwrap_err().contains("refused"));
        proxied.proxy.set(Fault::Pass).await;
        assert_eq!(proxied.call().await.unwrap(), b"hello");
    }
    assert_eq!(proxied.proxy.connections(), 4);
}

#[tokio::test]
async fn a_resetting_proxy_breaks_new_and_open_connections() {
    let proxied = Proxied::new(Answer::never()).await;
    let (running, ()) = tokio::join!(proxied.call(), async {
        while proxied.probe.in_flight() == 0 {
            sleep(Duration::from_millis(1)).await;
        }
        proxied.proxy.set(Fault::Reset).await;
        assert_eq!(proxied.proxy.open_connections(), 0);
    });
    let error = running.unwrap_err();
    assert!(error.contains("reset"), "{error}");
    timeout(SOON, proxied.call()).await.unwrap().unwrap_err();
}

#[tokio::test]
async fn a_hanging_proxy_accepts_and_answers_when_it_is_healed() {
    let proxied = Proxied::new(Answer::ok().body("late")).await;
    proxied.proxy.set(Fault::Hang).await;
    let (answered, ()) = tokio::join!(timeout(SOON, proxied.call()), async {
        while proxied.proxy.connections() == 0 {
            sleep(Duration::from_millis(1)).await;
        }
        sleep(Duration::from_millis(50)).await;
        assert_eq!(proxied.probe.calls(), 0);
        proxied.proxy.set(Fault::Pass).await;
    });
    assert_eq!(answered.unwrap().unwrap(), b"late");
}

#[tokio::test]
async fn a_delaying_proxy_adds_latency_and_keeps_the_throughput() {
    let large = vec![7; 8 << 20];
    let proxied = Proxied::new(Answer::ok().body(TestBody::full(large.clone()))).await;
    let (up, down) = (Duration::from_millis(40), Duration::from_millis(60));
    proxied.proxy.set(Fault::Delay { up, down }).await;
    let started = Instant::now();
    assert_eq!(proxied.call().await.unwrap(), large);
    assert!(started.elapsed() >= up + down, "{:?}", started.elapsed());
    // 512 chunks or more, one after the other, would take half a minute.
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn a_cutting_proxy_ends_an_answer_in_its_middle() {
    let proxied = Proxied::new(Answer::ok().body(TestBody::full(vec![7; 100_000]))).await;
    proxied.proxy.set(Fault::CutAfter(50_000)).await;
    let error = timeout(SOON, proxied.call()).await.unwrap().unwrap_err();
    assert!(
        error.contains("end of file before message length reached"),
        "{error}"
    );
    proxied.proxy.set(Fault::CutAfter(200_000)).await;
    assert_eq!(proxied.call().await.unwrap().len(), 100_000);
}
