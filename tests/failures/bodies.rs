//! Bodies that are larger than they look.

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use axum::{Router, body::Body, routing::post};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use tower::{ServiceExt, util::MapRequestLayer};
use tower_http::decompression::RequestDecompressionLayer;
use tower_mesh::layers::{
    Live,
    body_limit::{BodyLimitConfig, BodyLimitLayer, ByteSize},
};

use crate::harness::{Measured, Protection, paused};

/// A gigabyte of zeros in a megabyte: what unfolds to the first of its parts, again and again. (Nobody gets to its end,
/// which is missing.)
fn bomb() -> Bytes {
    const HEADER: usize = 10;
    const PART: usize = 1 << 20;
    const PARTS: usize = 1 << 10;
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&vec![0; PART]).expect("memory");
    // To a whole byte, where a copy of the part fits on.
    encoder.flush().expect("memory");
    let (header, part) = encoder.get_ref().split_at(HEADER);
    [header, &part.repeat(PARTS)].concat().into()
}

/// S16: a zip bomb, and a handler that reads all it gets.
pub(crate) fn s16_zip_bomb(p: Protection) -> Measured {
    const LIMIT: ByteSize = ByteSize::mib(1);
    /// Where the handler gives up by itself, so that the run without the protection ends.
    const ENOUGH: u64 = 64 << 20;

    let config = BodyLimitConfig {
        request: Some(LIMIT),
        ..BodyLimitConfig::default()
    };
    let layer = BodyLimitLayer::optional(Live::new(p.pick(Some(config), None)));
    let unfolded = Arc::new(AtomicU64::new(0));
    let counting = {
        let unfolded = unfolded.clone();
        MapRequestLayer::new(move |request: Request<Body>| {
            let unfolded = unfolded.clone();
            request.map(|body| {
                Body::new(body.map_frame(move |frame| {
                    let bytes = frame.data_ref().map_or(0, Bytes::len);
                    unfolded.fetch_add(bytes as u64, SeqCst);
                    frame
                }))
            })
        })
    };
    let handler = post(async |mut body: Body| {
        let mut read = 0;
        while read < ENOUGH {
            match body.frame().await {
                Some(Ok(frame)) => read += frame.data_ref().map_or(0, Bytes::len) as u64,
                Some(Err(_)) => return StatusCode::BAD_REQUEST,
                None => break,
            }
        }
        StatusCode::OK
    });
    let app = Router::new()
        .route("/", handler)
        .layer(layer.expect("a limit"))
        .layer(counting)
        .layer(RequestDecompressionLayer::new());
    let request = Request::post("/").header("content-encoding", "gzip");
    let request = request.body(Body::from(bomb())).expect("a request");
    let answer = paused(app.oneshot(request)).expect("a router never fails");
    Measured::new()
        .exactly("answered", 413, answer.status().as_u16().into())
        .at_most(
            "KiB unfolded",
            (LIMIT.bytes() / 1024 + 64) as f64,
            unfolded.load(SeqCst) as f64 / 1024.0,
        )
}
