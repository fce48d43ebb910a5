//! Makes a call with an idempotency key once, however often it comes, and gives the same answer each time.
//!
//! A client whose connection broke does not know whether its POST was done. With a key of its own making in the header
//! `Idempotency-Key` it can send it again: [The Idempotency-Key HTTP Header
//! Field](https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/), a draft of the IETF.
//!
//! ```
//! # #[cfg(feature = "axum")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
//! use axum::{Router, body::Body, http::Request, routing::post};
//! use tower::ServiceExt;
//! use tower_mesh_layers::idempotency::IdempotencyLayer;
//!
//! static ORDERS: AtomicU64 = AtomicU64::new(0);
//!
//! let app = Router::new()
//!     .route("/orders", post(|| async { format!("order {}", ORDERS.fetch_add(1, Relaxed)) }))
//!     .layer(IdempotencyLayer::default());
//!
//! let order = |text| Request::post("/orders").header("idempotency-key", "\"8e03978e\"").body(Body::from(text));
//! let first = app.clone().oneshot(order("a book")?).await?;
//! let again = app.clone().oneshot(order("a book")?).await?;
//! assert_eq!((first.status(), again.status()), (200.try_into()?, 200.try_into()?));
//! assert_eq!(again.headers()["idempotency-replayed"], "true");
//! assert_eq!(ORDERS.load(Relaxed), 1);
//!
//! // The key of another request.
//! assert_eq!(app.oneshot(order("two books")?).await?.status(), 422);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "axum"))]
//! # fn main() {}
//! ```
//!
//! It belongs inside of authentication and of the limits, and right around what is to be done once.
//!
//! # What happens to a call
//!
//! | | HTTP | gRPC |
//! |---|---|---|
//! | has no key | passes as it is | the same |
//! | has none, and `required` is set | 400 | INVALID_ARGUMENT |
//! | has a malformed one | 400 | INVALID_ARGUMENT |
//! | is larger than `maxRequest` | 413 | RESOURCE_EXHAUSTED |
//! | is the first with its key | the handler's answer | the same |
//! | comes while the first is in flight | 409, `Retry-After: 1`; or waits for it | ABORTED |
//! | comes after that | the same answer, with `idempotency-replayed: true` | the same |
//! | the same, and the answer was larger than `maxAnswer` | 409 | ALREADY_EXISTS |
//! | has the key of another request | 422 | INVALID_ARGUMENT |
//! | finds `maxEntries` keys in flight | 503, `Retry-After: 1` | UNAVAILABLE |
//!
//! All but two of these refusals say that the call need not be repeated (`x-mesh-retry: never`,
//! `grpc-retry-pushback-ms: -1`). A call that cannot be protected is refused, and not made without protection: whoever
//! sends a key relies on it.
//!
//! **A key** is a string of 1 to 255 printable ASCII characters in quotes, as the draft has it (RFC 8941, section 3.3.3),
//! or bare, as clients of many APIs send it. `"a"` and `a` are the same key.
//!
//! **The same request** has the same method, path, query and body, byte by byte: a JSON document with its fields in
//! another order is another request. Bodies are compared by 128 bits of hash under a random secret of the process.
//! Headers are not compared.
//!
//! # Whose key it is
//!
//! Callers choose their keys, so one may have that of another, and must not get the other's answer. By default a key is
//! of an operation and in it of a caller, who is known by
//!
//! - its [identity](crate::CallContext), where a layer outside has found one, and
//! - its `authorization` header.
//!
//! A server that knows its callers by something else has to say so, and one whose tokens change from call to call as
//! well, or a repeated call with a new token would be another one:
//!
//! ```
//! use tower_mesh_layers::{Key, idempotency::IdempotencyLayer};
//!
//! // By a cookie or another header; or by `Key::identity()` alone.
//! let session = Key::operation().and(Key::header("cookie")?);
//! let layer = IdempotencyLayer::builder().key(session).build()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Which answers are kept
//!
//! All that the handler gives, successes and errors: a 400 or 500 comes again as well, and who wants another attempt
//! takes another key. But
//!
//! - not 429 and 503, UNAVAILABLE and RESOURCE_EXHAUSTED, nor refusals of layers inside of this one: nothing was done,
//!   and the next call with the key is made;
//! - not what was never answered: **a client that goes away, a timeout outside of this layer, a panic, an error of the
//!   service or a body that breaks off give the key back**, and the next call with it is made. hyper drops the handler with
//!   its connection, at whatever `.await` it is. A handler that must not be left half done has to be a task of its own
//!   (`tokio::spawn`), or one transaction;
//! - of an answer larger than `maxAnswer`, and of one that has no end (`text/event-stream`), only that it was given.
//!
//! Kept are the status, the headers, the body and the trailers; not `set-cookie` (a key that is shared by mistake must not
//! hand on a session), headers of the connection (RFC 9110, section 7.6.1) and extensions.
//!
//! Keys and answers are **in the memory of this process**: behind a load balancer a repeated call may come to another
//! instance, and a restart forgets. Where that is too little, route by the key (a hash of the header), or keep the key
//! with what the handler writes. Beyond `maxEntries` or `maxBytes` the oldest answers go before their `ttl`
//! (`mesh_idempotency_evicted_total`), each of 16 parts for itself; keys in flight never go.
//!
//! # What is buffered
//!
//! Of calls with a key: the request, up to `maxRequest`, before the handler is called; and its answer, up to `maxAnswer`,
//! before the first byte goes out, so that it is kept whatever the client does next: what a handler streams slowly comes
//! at once, at its end. A call that waits for another one holds its request meanwhile. Calls without a key are not touched.
//!
//! # gRPC
//!
//! With `grpc` set, calls with the metadata `idempotency-key` count as well. That can only work for unary methods, and
//! nothing on the wire says which are: let `matches` name them. A client that streams and waits for answers in between
//! would wait for ever.
//!
//! # Options
//!
//! | option | default | |
//! |---|---|---|
//! | `matches` | POST and PATCH | which calls may have a key |
//! | `required` | false | whether they must |
//! | `grpc` | false | whether gRPC calls are meant as well |
//! | `key` | `[operation, identity, { header: authorization }]` | whose keys are kept apart |
//! | `wait` | not at all | how long a call waits for the first one with its key: 1 ms to 5 min |
//! | `ttl` | 24 h | how long after its answer a key is known: 1 s to 30 days |
//! | `maxRequest` | 64 KiB | the most bytes of a request that has a key: up to 64 MiB |
//! | `maxAnswer` | 64 KiB | the most bytes of an answer that is kept, with its headers: 256 B to 64 MiB |
//! | `maxEntries` | 10,000 | the most keys that are known at a time: 1,000 to 10,000,000 |
//! | `maxBytes` | 64 MiB | the most bytes of all answers: 16 times `maxAnswer` to 64 GiB |
//! | `name` | `default` | the label `policy` of the metrics |
//!
//! # Metrics
//!
//! | metric | labels | |
//! |---|---|---|
//! | `mesh_idempotency_calls_total` | `policy`, `result` = `executed`, `replayed`, `in_flight`, `reused`, `not_kept`, `invalid`, `too_large`, `full` | what became of calls with a key, or that should have had one |
//! | `mesh_idempotency_keys` | `policy`, `state` = `in_flight`, `completed` | keys that are known |
//! | `mesh_idempotency_answer_bytes` | `policy` | bytes of the answers that are kept |
//! | `mesh_idempotency_evicted_total` | `policy` | keys that had to make room before their `ttl` |

mod answer;
mod body;
mod claims;
mod config;
mod digest;
mod future;
mod handle;
mod header;
mod layer;
mod read;
mod refusal;
mod service;
mod store;
#[cfg(test)]
mod tests;

pub use self::{
    body::AnswerBody,
    config::IdempotencyConfig,
    future::ResponseFuture,
    handle::{IdempotencyHandle, IdempotencyStats},
    layer::{IdempotencyBuilder, IdempotencyLayer},
    service::Idempotency,
};
pub use crate::vocab::config::ByteSize;
