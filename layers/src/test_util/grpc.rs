//! gRPC without generated code: answers, a service and a client over plain bytes.
//!
//! ```
//! use tonic::{service::Routes, transport::Endpoint};
//! use tower_mesh_layers::test_util::{grpc, servers::Server};
//!
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let (service, _probe) = grpc::service();
//! let server = Server::tonic(Routes::new(service));
//! let channel = Endpoint::new(server.uri("/").to_string()).unwrap().connect_lazy();
//! let mut client = grpc::Client::new(channel); // or your layers around the channel
//! assert_eq!(client.unary("Unary", "hello").await.unwrap().into_inner(), "hello");
//! assert_eq!(client.unary("Failed", "14").await.unwrap_err().code(), tonic::Code::Unavailable);
//! # });
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::uri::PathAndQuery;
use http_body::Body as HttpBody;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    client::GrpcService,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use super::{Answer, BoxError, Gate, ProbeHandle, Scripted, TestBody};

/// Frames a message: a byte that says "not compressed", the length in four bytes, the message.
///
/// # Panics
///
/// Panics if the message is longer than 4 GiB.
pub fn message(payload: impl AsRef<[u8]>) -> Bytes {
    let payload = payload.as_ref();
    let mut framed = BytesMut::with_capacity(payload.len() + 5);
    framed.put_u8(0);
    framed.put_u32(
        payload
            .len()
            .try_into()
            .expect("a message is at most 4 GiB long"),
    );
    framed.put_slice(payload);
    framed.freeze()
}

/// Takes the messages out of the data of a body; `None` if the data is cut, or compressed.
pub fn messages(mut data: Bytes) -> Option<Vec<Bytes>> {
    let mut messages = Vec::new();
    while data.has_remaining() {
        if data.len() < 5 || data.get_u8() != 0 {
            return None;
        }
        let length = usize::try_from(data.get_u32()).ok()?;
        if data.len() < length {
            return None;
        }
        messages.push(data.split_to(length));
    }
    Some(messages)
}

/// One message, then OK in the trailers.
pub fn unary(payload: impl AsRef<[u8]>) -> Answer {
    stream(payload, 1, "0")
}

/// An error as "trailers only": no body, the status in the headers.
pub fn failed(status: &'static str) -> Answer {
    Answer::grpc_status(status)
}

/// `count` messages, then `status` in the trailers.
pub fn stream(payload: impl AsRef<[u8]>, count: usize, status: &'static str) -> Answer {
    let messages = std::iter::repeat_n(message(payload), count);
    Answer::grpc(TestBody::chunks(messages).trailer("grpc-status", status))
}

/// `count` messages, then an orderly end without `grpc-status`.
pub fn without_status(payload: impl AsRef<[u8]>, count: usize) -> Answer {
    Answer::grpc(TestBody::chunks(std::iter::repeat_n(
        message(payload),
        count,
    )))
}

/// Messages for ever, as fast as they are read.
///
/// Many small ones that nobody reads look like an attack to h2, which ends the connection with ENHANCE_YOUR_CALM:
/// use at least 256 bytes where the reader may lag.
pub fn endless(payload: impl AsRef<[u8]>) -> Answer {
    Answer::grpc(TestBody::stream().endless(message(payload)))
}

/// One message, then nothing: the stream stays open.
pub fn open(payload: impl AsRef<[u8]>) -> Answer {
    Answer::grpc(TestBody::stream().data(message(payload)).gate(&Gate::new()))
}

/// The service `kit.Test`, and what it counts. Its methods:
///
/// | method | answer |
/// |---|---|
/// | `Unary`, `Echo` | every message of the request, then OK in the trailers |
/// | `Failed` | trailers-only |
/// | `FailedStream` | two messages, then the status in the trailers |
/// | `Stream` | three messages, then OK in the trailers |
/// | `NoStatus` | one message, then an end without `grpc-status` |
/// | `Endless` | the message [`ENDLESS`] for ever |
/// | `Open` | one message, then the stream stays open |
/// | any other | UNIMPLEMENTED |
///
/// The status of `Failed` and `FailedStream` is that of the request's metadata `x-status`
/// (1 to 16; [`Client`] sets it to the message it sends), or UNAVAILABLE.
pub fn service() -> (Scripted, ProbeHandle) {
    Scripted::answering(|_, request| {
        let status = request
            .headers
            .get("x-status")
            .and_then(|status| known(status.as_bytes()));
        let status = status.unwrap_or("14");
        match request.uri.path().rsplit('/').next() {
            // The status comes in trailers of its own: the request has none.
            Some("Unary" | "Echo") => Answer::grpc(TestBody::echo().trailer("grpc-status", "0")),
            Some("Failed") => failed(status),
            Some("FailedStream") => stream("abc", 2, status),
            Some("Stream") => stream("abc", 3, "0"),
            Some("NoStatus") => without_status("abc", 1),
            Some("Endless") => endless(ENDLESS),
            Some("Open") => open("abc"),
            _ => failed("12"),
        }
    })
}

/// A message of the method `Endless`: large enough for h2, see [`endless`].
pub const ENDLESS: [u8; 512] = [b'x'; 512];

fn known(status: &[u8]) -> Option<&'static str> {
    const KNOWN: [&str; 16] = [
        "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16",
    ];
    KNOWN.into_iter().find(|known| known.as_bytes() == status)
}

/// A client of `kit.Test` over any service that fits a generated client: messages are bytes.
#[derive(Debug, Clone)]
pub struct Client<T> {
    inner: tonic::client::Grpc<T>,
}

/// A codec whose messages are bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct BytesCodec;

// ===== impl Client =====

impl<T> Client<T>
where
    T: GrpcService<Body>,
    T::Error: Into<BoxError>,
    T::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
    <T::ResponseBody as HttpBody>::Error: Into<BoxError> + Send,
{
    /// A client over a channel, or over layers around one.
    pub fn new(channel: T) -> Self {
        Self {
            inner: tonic::client::Grpc::new(channel),
        }
    }

    /// A unary call.
    ///
    /// # Errors
    ///
    /// Fails with the status that the server, the transport or a layer gave.
    pub async fn unary(
        &mut self,
        method: &str,
        payload: impl Into<Bytes>,
    ) -> Result<Response<Bytes>, Status> {
        self.ready().await?;
        self.inner
            .unary(request(payload.into()), path(method), BytesCodec)
            .await
    }

    /// A server-streaming call.
    ///
    /// # Errors
    ///
    /// Fails with the status that the server, the transport or a layer gave instead of a stream.
    pub async fn stream(
        &mut self,
        method: &str,
        payload: impl Into<Bytes>,
    ) -> Result<Response<Streaming<Bytes>>, Status> {
        self.ready().await?;
        self.inner
            .server_streaming(request(payload.into()), path(method), BytesCodec)
            .await
    }

    async fn ready(&mut self) -> Result<(), Status> {
        self.inner
            .ready()
            .await
            .map_err(|error| Status::from_error(error.into()))
    }
}

fn request(payload: Bytes) -> Request<Bytes> {
    let status = std::str::from_utf8(&payload)
        .ok()
        .and_then(|text| text.parse().ok());
    let mut request = Request::new(payload);
    if let Some(status) = status {
        request.metadata_mut().insert("x-status", status);
    }
    request
}

fn path(method: &str) -> PathAndQuery {
    format!("/kit.Test/{method}")
        .parse()
        .expect("a method name fits into a path")
}

// ===== impl BytesCodec =====

impl Codec for BytesCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
