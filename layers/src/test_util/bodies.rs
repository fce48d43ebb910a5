//! The body matrix: the ways in which a call comes to its end.

use http::{Method, Request, Response, header};

use super::{Answer, ProbeError, Read, TestBody};

/// One way in which a response ends. A layer that counts calls, holds permits or classifies must
/// get each of them right, and must hand each of them through unchanged.
///
/// The trap is that hyper does not poll a body that is at its end: an ordinary response never
/// yields the `None` that a naive wrapper waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyCase {
    /// 200 without a body.
    Empty,
    /// 200 with one frame of known length.
    Full,
    /// The same to a reader that polls until `None`.
    FullToEnd,
    /// 200 with a body that the client drops unread.
    FullUnread,
    /// 500 with a body that the client drops unread.
    ErrorUnread,
    /// 204.
    NoContent,
    /// 304.
    NotModified,
    /// HEAD, answered with a length that does not follow.
    Head,
    /// 101: the connection is the upgrade's from there on.
    Upgrade,
    /// A stream of unknown length.
    Chunked,
    /// A stream of unknown length with trailers.
    ChunkedTrailers,
    /// A stream that the client drops after its first frame.
    ChunkedDropped,
    /// A stream that never ends, dropped by the client after some frames.
    Endless,
    /// A stream that breaks after its first frame.
    FailsMidway,
    /// A body that breaks at once.
    FailsAtOnce,
    /// gRPC: a message and OK in the trailers.
    GrpcUnary,
    /// gRPC: NOT_FOUND in the headers, no body.
    GrpcTrailersOnly,
    /// gRPC: three messages and OK in the trailers.
    GrpcStream,
    /// gRPC: a message, then INTERNAL in the trailers.
    GrpcFailedStream,
    /// gRPC: a message, and an end without trailers.
    GrpcMissingStatus,
    /// gRPC: a stream that the client drops after its first message.
    GrpcDropped,
}

/// How a call counts, for a layer that classifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A success.
    Success,
    /// A failure of the peer.
    Failure,
    /// Neither: the caller gave up before it was known.
    Neither,
    /// A success or neither: the caller gave up after a head that promised success. Classifiers
    /// differ here.
    NoFailure,
}

/// A message of three bytes in gRPC's framing: uncompressed, length in four bytes.
pub const GRPC_MESSAGE: &[u8] = b"\x00\x00\x00\x00\x03abc";

const TEXT: &str = "All happy families are alike";

// ===== impl BodyCase =====

impl BodyCase {
    /// The whole matrix.
    pub const ALL: [Self; 21] = [
        Self::Empty,
        Self::Full,
        Self::FullToEnd,
        Self::FullUnread,
        Self::ErrorUnread,
        Self::NoContent,
        Self::NotModified,
        Self::Head,
        Self::Upgrade,
        Self::Chunked,
        Self::ChunkedTrailers,
        Self::ChunkedDropped,
        Self::Endless,
        Self::FailsMidway,
        Self::FailsAtOnce,
        Self::GrpcUnary,
        Self::GrpcTrailersOnly,
        Self::GrpcStream,
        Self::GrpcFailedStream,
        Self::GrpcMissingStatus,
        Self::GrpcDropped,
    ];

    /// Whether the call is gRPC.
    pub fn is_grpc(self) -> bool {
        matches!(
            self,
            Self::GrpcUnary
                | Self::GrpcTrailersOnly
                | Self::GrpcStream
                | Self::GrpcFailedStream
                | Self::GrpcMissingStatus
                | Self::GrpcDropped
        )
    }

    /// The request: a gRPC call with one message, or a GET or HEAD.
    pub fn request(self) -> Request<TestBody> {
        if self.is_grpc() {
            return grpc_request("/kit.Test/Call", TestBody::stream().data(GRPC_MESSAGE));
        }
        let mut request = get("/kit");
        match self {
            Self::Head => *request.method_mut() = Method::HEAD,
            Self::Upgrade => {
                let websocket = http::HeaderValue::from_static("websocket");
                request.headers_mut().insert(header::UPGRADE, websocket);
            }
            _ => {}
        }
        request
    }

    /// The answer that the probe gives. It carries the header `x-kit: kept`.
    pub fn answer(self) -> Answer {
        let stream = TestBody::stream;
        let answer = match self {
            Self::Empty => Answer::ok(),
            Self::Full | Self::FullToEnd | Self::FullUnread => Answer::ok().body(TEXT),
            Self::ErrorUnread => Answer::status(500).body(TEXT),
            Self::NoContent => Answer::status(204),
            Self::NotModified => Answer::status(304),
            // axum strips the body of an answer to HEAD, others rely on hyper not to send it.
            Self::Head => Answer::ok().header("content-length", "28").body(TEXT),
            Self::Upgrade => Answer::status(101).header("upgrade", "websocket"),
            Self::Chunked => Answer::ok().body(chunked()),
            Self::ChunkedTrailers => Answer::ok().body(chunked().trailer("x-checksum", "7")),
            Self::ChunkedDropped => Answer::ok().body(chunked()),
            Self::Endless => Answer::ok().body(stream().endless("tick")),
            // Pending in between, so that a server has sent what there is before it hears the error.
            Self::FailsMidway => {
                let body = stream()
                    .data("All")
                    .pending_once()
                    .fail(ProbeError::reset());
                Answer::ok().body(body)
            }
            Self::FailsAtOnce => Answer::ok().body(stream().fail(ProbeError::reset())),
            Self::GrpcUnary => Answer::grpc(messages(1).trailer("grpc-status", "0")),
            Self::GrpcTrailersOnly => Answer::grpc_status("5"),
            Self::GrpcStream => Answer::grpc(messages(3).trailer("grpc-status", "0")),
            Self::GrpcFailedStream => Answer::grpc(messages(1).trailer("grpc-status", "13")),
            Self::GrpcMissingStatus => Answer::grpc(messages(1)),
            Self::GrpcDropped => Answer::grpc(messages(3).trailer("grpc-status", "0")),
        };
        answer.header("x-kit", "kept")
    }

    /// How the client reads.
    pub fn read(self) -> Read {
        match self {
            Self::FullToEnd | Self::GrpcUnary => Read::ToEnd,
            Self::FullUnread | Self::ErrorUnread => Read::Frames(0),
            Self::ChunkedDropped | Self::GrpcDropped => Read::Frames(1),
            Self::Endless => Read::Frames(5),
            _ => Read::LikeHyper,
        }
    }

    /// How a layer that classifies must count the call.
    pub fn verdict(self) -> Verdict {
        match self {
            Self::FullUnread | Self::ChunkedDropped | Self::Endless => Verdict::NoFailure,
            Self::GrpcDropped => Verdict::Neither,
            Self::ErrorUnread
            | Self::FailsMidway
            | Self::FailsAtOnce
            | Self::GrpcFailedStream
            | Self::GrpcMissingStatus => Verdict::Failure,
            _ => Verdict::Success,
        }
    }

    /// The answer as a plain response, for a server that is not a probe.
    pub fn response(self) -> Response<TestBody> {
        self.answer()
            .into_response()
            .expect("every case answers with a response")
    }
}

/// A GET request without a body.
pub fn get(path: &'static str) -> Request<TestBody> {
    let mut request = Request::new(TestBody::empty());
    *request.uri_mut() = http::Uri::from_static(path);
    request
}

/// A gRPC request.
pub fn grpc_request(path: &'static str, body: TestBody) -> Request<TestBody> {
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = http::Uri::from_static(path);
    let headers = request.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/grpc"),
    );
    headers.insert(header::TE, http::HeaderValue::from_static("trailers"));
    request
}

fn chunked() -> TestBody {
    TestBody::chunks(["All happy ", "families ", "are alike"])
}

fn messages(count: usize) -> TestBody {
    TestBody::chunks(std::iter::repeat_n(GRPC_MESSAGE, count))
}
