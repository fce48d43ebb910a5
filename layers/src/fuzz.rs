//! Every parser of a header, with input that nobody would write.
//!
//! Values are made of valid ones, by what goes wrong on the way and by what people try: bytes that flip,
//! vanish, repeat and come from another value, pieces of the grammar in the wrong place. Each target says
//! what must hold whatever came, beyond that nothing panics.
//!
//! Seeded, so that a failure comes again; `TOWER_MESH_FUZZ_INPUTS` says how many there are for each parser,
//! and `tests/run --full` gives each a million.

use std::{convert::Infallible, env, fmt, future::ready, net::IpAddr, thread, time::Duration};

use bytes::Bytes;
use fastrand::Rng;
use futures_util::FutureExt;
use http::{Extensions, HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::Empty;
use tokio::time::Instant;
use tower::{Layer, ServiceExt, service_fn};

use crate::{
    CallContext, Key, Outcome, Pushback, Trust,
    classify::{CallKind, Classifier, Classify, ClassifyEnd, Head, pushback},
    client_addr::{ClientIp, ForwardedHeader, PeerAddr},
    deadline::{DeadlineConfig, DeadlineLayer, Role},
    grpc,
    idempotency::IdempotencyLayer,
    metadata::{MetadataConfig, MetadataLayer},
    route::{RouteConfig, RouteLayer},
};

const DEFAULT_INPUTS: usize = 20_000;
/// A header of this size is more than any server takes.
const LONGEST: usize = 400;

/// Shows the value that a check panicked on.
struct Shown<'a>(&'a dyn fmt::Debug);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            #[allow(clippy::print_stderr, reason = "to be seen beside the panic")]
            {
                eprintln!("the value was {:?}", self.0);
            }
        }
    }
}

/// Gives `check` values made of `seeds`.
fn fuzz(seeds: &[&str], pieces: &[&str], mut check: impl FnMut(&HeaderValue)) {
    let inputs = env::var("TOWER_MESH_FUZZ_INPUTS").map_or(DEFAULT_INPUTS, |inputs| {
        inputs.parse().expect("TOWER_MESH_FUZZ_INPUTS is a number")
    });
    let mut rng = Rng::with_seed(inputs as u64);
    let mut bytes = Vec::new();
    for round in 0..inputs {
        bytes.clear();
        bytes.extend_from_slice(seeds[round % seeds.len()].as_bytes());
        for _ in 0..rng.usize(0..6) {
            mutate(&mut bytes, seeds, pieces, &mut rng);
        }
        bytes.truncate(LONGEST);
        // What http refuses comes to no parser.
        for byte in &mut bytes {
            if HeaderValue::from_bytes(&[*byte]).is_err() {
                *byte = b' ';
            }
        }
        let value = HeaderValue::from_bytes(&bytes).expect("each byte was looked at");
        let shown = Shown(&value);
        check(&value);
        drop(shown);
    }
}

fn mutate(bytes: &mut Vec<u8>, seeds: &[&str], pieces: &[&str], rng: &mut Rng) {
    let at = rng.usize(0..=bytes.len());
    let end = (at + rng.usize(0..8)).min(bytes.len());
    match rng.u32(0..7) {
        0 => drop(bytes.drain(at..end)),
        1 if at < bytes.len() => bytes[at] ^= 1 << rng.u32(0..8),
        2 if at < bytes.len() => bytes[at] = rng.u8(..),
        3 => {
            let again = bytes[at..end].repeat(rng.usize(1..20));
            bytes.splice(at..at, again);
        }
        4 => {
            let other = rng.choice(seeds).expect("there are seeds").as_bytes();
            let from = rng.usize(0..=other.len());
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
        _ => {
            let piece = rng.choice(pieces).expect("there are pieces");
            bytes.splice(at..end, piece.bytes());
        }
    }
}

fn headers(name: &'static str, value: &HeaderValue) -> HeaderMap {
    HeaderMap::from_iter([(name.parse().expect("a valid name"), value.clone())])
}

/// A request with this header, over gRPC or not.
fn request(name: &'static str, value: &HeaderValue, is_grpc: bool) -> Request<Empty<Bytes>> {
    let mut request = Request::post("/shop.Orders/Place");
    if is_grpc {
        request = request.header(header::CONTENT_TYPE, "application/grpc");
    }
    let request = request.header(name, value).body(Empty::new());
    request.expect("a valid request")
}

/// What the handler behind a layer saw of the context of a call; `None` where the call was refused.
macro_rules! seen_behind {
    ($layer:expr, $request:expr) => {{
        let handler = service_fn(|mut request: Request<Empty<Bytes>>| {
            let mut response = Response::new(Empty::<Bytes>::new());
            response
                .extensions_mut()
                .insert(CallContext::get_or_insert(request.extensions_mut()).clone());
            ready(Ok::<_, Infallible>(response))
        });
        let answer = $layer.layer(handler).oneshot($request).now_or_never();
        let answer = answer.expect("nothing waits").expect("nothing fails");
        answer.extensions().get::<CallContext>().cloned()
    }};
}

fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> T {
    serde_json::from_str(text).expect("a valid configuration")
}

const DURATIONS: [&str; 8] = [
    "1S",
    "99999999H",
    "100m",
    "0n",
    "1u",
    "300ms",
    "1m30s",
    "2.5s",
];
const NUMBERS: [&str; 10] = [
    "0",
    "1",
    "-1",
    "+",
    "e9",
    ".",
    "18446744073709551616",
    "4294967296",
    " ",
    "H",
];

#[test]
fn grpc_timeout() {
    let layer = DeadlineLayer::new(DeadlineConfig::default()).expect("valid");
    let layer = layer.role(Role::Server);
    fuzz(&DURATIONS, &NUMBERS, |value| {
        let text = value.as_bytes();
        let is_one = (2..=9).contains(&text.len())
            && text[..text.len() - 1].iter().all(u8::is_ascii_digit)
            && b"HMSmun".contains(&text[text.len() - 1]);
        assert_eq!(grpc::parse_timeout(value).is_ok(), is_one);
        let seen = seen_behind!(layer, request("grpc-timeout", value, true));
        let has_deadline = seen.is_some_and(|context| context.deadline.is_some());
        assert!(is_one || !has_deadline);
    });
}

#[test]
fn timeouts_in_other_words() {
    let config: DeadlineConfig = from_json(
        r#"{ "timeout": "1h", "accept": [ { "header": "x-a", "unit": "ms" }, { "header": "x-b", "unit": "text" },
            { "header": "x-c", "unit": "s" }, { "header": "x-d", "unit": "ns" } ] }"#,
    );
    let layer = DeadlineLayer::new(config)
        .expect("valid")
        .role(Role::Server);
    let latest = Duration::from_secs(3_600);
    fuzz(&DURATIONS, &NUMBERS, |value| {
        for name in ["x-a", "x-b", "x-c", "x-d"] {
            let before = Instant::now();
            if let Some(context) = seen_behind!(layer, request(name, value, false)) {
                let deadline = context.deadline.expect("there is a timeout of our own");
                assert!(deadline <= Instant::now() + latest && deadline >= before);
            }
        }
    });
}

#[test]
fn grpc_status() {
    let end = |value: &HeaderValue| {
        let trailers = headers("grpc-status", value);
        let code = grpc::Code::from_headers(&trailers).expect("it is there");
        assert!(code.as_u8() <= 16);
        match Classifier.head(CallKind::GRPC, &Response::new(())) {
            Head::Open(end) => end.end(Some(&trailers)),
            Head::Decided(_) => unreachable!("the head of a stream decides nothing"),
        }
    };
    fuzz(&["0", "14", "8", "1", "16"], &NUMBERS, |value| {
        let is_ok = value.as_bytes() == b"0";
        assert_eq!(end(value) == Outcome::Success && is_ok, is_ok);
    });
}

#[test]
fn pushback_in_three_headers() {
    let seeds = [
        "2000",
        "-1",
        "120",
        "never",
        "Sun, 06 Nov 1994 08:49:37 GMT",
    ];
    let pieces = [
        "Sun, ", "31 Feb", "99:99:99", " GMT", "Nov", "9999", "-", "0", "never",
    ];
    fuzz(&seeds, &pieces, |value| {
        for name in ["retry-after", "grpc-retry-pushback-ms", "x-mesh-retry"] {
            let read = pushback(&headers(name, value));
            match name {
                "x-mesh-retry" => assert_eq!(read.is_some(), value == "never"),
                // What cannot be read is never taken for "at once".
                "grpc-retry-pushback-ms" => assert!(read.is_some()),
                _ => assert!(!matches!(read, Some(Pushback::Never))),
            }
        }
    });
}

#[test]
fn forwarded_for() {
    let seeds = [
        "203.0.113.7, 192.0.2.1",
        "for=\"[2001:db8::1]:8080\";proto=https, for=192.0.2.1",
        "unknown, _hidden, ::1",
        "for=\"_a\\\"b\"; by=1",
    ];
    let pieces = [
        ",",
        ";",
        "\"",
        "\\",
        "for=",
        "[",
        "]",
        ":",
        "::ffff:1.2.3.4",
        "::",
        "1.2.3.4",
        "=",
    ];
    let peer: IpAddr = [198, 51, 100, 1].into();
    let mut extensions = Extensions::new();
    extensions.insert(PeerAddr((peer, 1).into()));
    fuzz(&seeds, &pieces, |value| {
        for header in [ForwardedHeader::XForwardedFor, ForwardedHeader::Forwarded] {
            let name = match header {
                ForwardedHeader::XForwardedFor => "x-forwarded-for",
                ForwardedHeader::Forwarded => "forwarded",
            };
            let sent = headers(name, value);
            for trusted_hops in 0..3 {
                let client = ClientIp {
                    trusted_hops,
                    header,
                };
                let found = client.find(&sent, &extensions).expect("there is a peer");
                assert!(trusted_hops > 0 || found == peer);
            }
        }
    });
}

#[test]
fn metadata_of_three_dialects() {
    let config: MetadataConfig = from_json(
        r#"{ "accept": ["kratos", "go-micro", "go-chassis"], "maxEntries": 5, "maxBytes": 300, "maxKeyLength": 20 }"#,
    );
    let layer = MetadataLayer::new(MetadataConfig {
        trust: Trust::All,
        ..config
    });
    let layer = layer.expect("valid").role(Role::Server);
    let seeds = [
        r#"{"x-cse-src":"a","b":"c"}"#,
        "tenant-a",
        r#"{"\u00e4":"\ud83d\ude00"}"#,
        "userId=alice;prop=1,serverNode=DF%2028",
    ];
    let pieces = [
        "{", "}", "\"", ":", ",", "\\u", "\\ud800", "[", "null", "%", ";", "=",
    ];
    fuzz(&seeds, &pieces, |value| {
        for name in [
            "x-cse-context",
            "x-md-global-a",
            "x-md-local-a",
            "micro-a",
            "baggage",
        ] {
            let seen = seen_behind!(layer, request(name, value, false)).expect("never refused");
            let Some(metadata) = &seen.metadata else {
                continue;
            };
            let entries: Vec<_> = metadata.iter().collect();
            assert!(entries.len() <= 5, "{entries:?}");
        }
    });
}

#[test]
fn trace_context() {
    let layer = MetadataLayer::builder()
        .trust(Trust::All)
        .role(Role::Server);
    let layer = layer.build().expect("valid");
    let seeds = [
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",
    ];
    let pieces = ["-", "00", "ff", "0000000000000000", "=", ",", " ", "zz"];
    fuzz(&seeds, &pieces, |value| {
        for name in ["traceparent", "tracestate"] {
            assert!(seen_behind!(layer, request(name, value, false)).is_some());
        }
    });
}

#[test]
fn idempotency_keys() {
    let layer = IdempotencyLayer::default();
    let seeds = [
        "\"8e03978e-40d5-43dd-bc93-6894a57f9324\"",
        "8e03978e-40d5-43dd-bc93-6894a57f9324",
        "\"a\\\"b\\\\\";a=1;b=\"c\";*d=:aGk=:",
    ];
    let pieces = [
        "\"", "\\", ";", ",", "=", " ", "\t", "a=?1", "\u{e4}", "\\\"",
    ];
    let handle = layer.handle();
    fuzz(&seeds, &pieces, |value| {
        let before = handle.stats();
        let _ = seen_behind!(layer, request("idempotency-key", value, false));
        let after = handle.stats();
        let is_key = after.executed + after.replayed > before.executed + before.replayed;
        assert_eq!(after.refused > before.refused, !is_key);
        let text = value.as_bytes().trim_ascii();
        let is_quoted = text.len() > 2 && text[0] == b'"' && text[1..].contains(&b'"');
        let is_bare = (1..=255).contains(&text.len())
            && text
                .iter()
                .all(|byte| byte.is_ascii_graphic() && !b"\",;\\".contains(byte));
        assert!(!is_key || is_quoted || is_bare);
        assert!(is_key || !is_bare);
    });
}

#[test]
fn cookies_and_keys() {
    let config: RouteConfig = from_json(
        r#"{ "rules": [ { "name": "split", "backends": [ { "name": "a", "weight": 1 }, { "name": "b", "weight": 1 } ],
            "sticky": { "key": [ { "cookie": "user" } ] } } ] }"#,
    );
    let layer = RouteLayer::new(config).expect("valid");
    let key = Key::header("cookie").expect("valid");
    let seeds = [
        "user=alice",
        "a=b; user=alice; c=d",
        "user=",
        "xuser=1;user=2",
    ];
    let pieces = [";", "=", "user", " ", "user=", "\t", "\""];
    fuzz(&seeds, &pieces, |value| {
        let sent = request("cookie", value, false);
        assert_eq!(key.extract(&sent).hash(), key.extract(&sent).hash());
        assert!(key.extract(&sent).label().len() <= 1_000);
        let first = seen_behind!(layer, sent.clone()).expect("never refused");
        let again = seen_behind!(layer, sent).expect("never refused");
        let arm = |context: CallContext| context.route.expect("a route").arm().name.clone();
        if value.as_bytes().starts_with(b"user=a") {
            assert_eq!(arm(first), arm(again), "a user stays where she is");
        }
    });
}
