//! One call from request to the end of the response body, read as different clients read.

use std::pin::pin;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, response};
use http_body::{Body, SizeHint};
use http_body_util::BodyExt;
use tower_service::Service;

use super::{BoxError, drive};

/// How much of a response body a client reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// As hyper's server and client do: not at all for HEAD, 1xx, 204 and 304; no poll of a body
    /// that says it is at its end; no poll after `content-length` bytes or after trailers.
    LikeHyper,
    /// Until the body gives `None`, as `BodyExt::collect` does.
    ToEnd,
    /// This many frames at most; then the body is dropped.
    Frames(usize),
}

/// How reading a response body ended.
#[derive(Debug)]
pub enum End {
    /// The body came to its end.
    Complete,
    /// The body failed.
    Failed(BoxError),
    /// The reader had enough.
    Dropped,
}

/// What came out of a call.
#[derive(Debug)]
pub struct Exchange {
    /// The response head.
    pub head: response::Parts,
    /// What the body said of its length before it was read.
    pub size_hint: SizeHint,
    /// Whether the body said it was at its end before it was read.
    pub was_end_stream: bool,
    /// The data frames.
    pub chunks: Vec<Bytes>,
    /// The trailers.
    pub trailers: Option<HeaderMap>,
    /// How it ended.
    pub end: End,
}

// ===== impl Exchange =====

impl Exchange {
    /// All data.
    pub fn data(&self) -> Vec<u8> {
        self.chunks.concat()
    }
}

// ===== impl End =====

impl End {
    /// Whether the body came to its end.
    pub fn is_complete(&self) -> bool {
        matches!(self, Self::Complete)
    }
}

/// Calls a service once it is ready, and reads the response body as `read` says. The body is
/// dropped before this returns.
///
/// # Errors
///
/// Fails with the error of the service. A failing body is an [`End`], not an error.
pub async fn exchange<S, B, R>(
    service: &mut S,
    request: Request<B>,
    read: Read,
) -> Result<Exchange, S::Error>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    let method = request.method().clone();
    let response = drive::call(service, request).await?;
    Ok(read_response(&method, response, read).await)
}

/// Reads a response body as `read` says, and drops it. `method` is that of the request.
pub async fn read_response<R>(method: &Method, response: Response<R>, read: Read) -> Exchange
where
    R: Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    let (head, body) = response.into_parts();
    let mut left = content_length(&head).or(body.size_hint().exact());
    let mut exchange = Exchange {
        size_hint: body.size_hint(),
        was_end_stream: body.is_end_stream(),
        chunks: Vec::new(),
        trailers: None,
        end: End::Dropped,
        head,
    };
    if read == Read::LikeHyper && has_no_body(method, exchange.head.status) {
        exchange.end = End::Complete;
        return exchange;
    }
    let mut body = pin!(body);
    let mut frames = 0;
    loop {
        let done = match read {
            Read::LikeHyper => {
                body.is_end_stream() || left == Some(0) || exchange.trailers.is_some()
            }
            Read::ToEnd => false,
            Read::Frames(limit) if frames >= limit => return exchange,
            Read::Frames(_) => false,
        };
        if done {
            exchange.end = End::Complete;
            return exchange;
        }
        frames += 1;
        match body.frame().await {
            None => {
                exchange.end = End::Complete;
                return exchange;
            }
            Some(Err(error)) => {
                exchange.end = End::Failed(error.into());
                return exchange;
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    left = left.map(|left| left.saturating_sub(data.len() as u64));
                    exchange.chunks.push(data);
                }
                Err(frame) => exchange.trailers = frame.into_trailers().ok(),
            },
        }
    }
}

/// RFC 9110, section 6.4.1: which responses have no content. An upgraded connection (101) has none
/// that belongs to the call.
fn has_no_body(method: &Method, status: StatusCode) -> bool {
    *method == Method::HEAD
        || status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
        || (*method == Method::CONNECT && status.is_success())
}

fn content_length(head: &response::Parts) -> Option<u64> {
    head.headers
        .get(http::header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}
