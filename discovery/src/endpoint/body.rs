//! The one request body of our own endpoints.

use std::{
    any::Any,
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};
use tower_mesh_layers::{WrapBody, transport::BoxError};

/// A request body of any kind behind one type, so that every client shares the same connections.
///
/// An empty body and one that is a single piece of bytes are kept as they are; every other body is
/// boxed, once: a body that is a `Body` already, or boxed already, is found out and not boxed again.
///
/// ```
/// use tower_mesh_discovery::endpoint::Body;
///
/// let empty = Body::default();
/// let full = Body::from("hello");
/// let any = Body::new(http_body_util::Full::new(bytes::Bytes::from("hello")));
/// # let _ = (empty, full, any);
/// ```
pub struct Body(Kind);

enum Kind {
    Empty,
    /// Never without bytes: `Empty` is that.
    Full(Bytes),
    Boxed(UnsyncBoxBody<Bytes, BoxError>),
    /// A box already, of another error type, so it is taken along instead of boxed again.
    #[cfg(feature = "tonic")]
    Tonic(tonic::body::Body),
}

// ===== impl Body =====

impl Body {
    /// A body without bytes and without trailers.
    pub const fn empty() -> Self {
        Self(Kind::Empty)
    }

    /// Takes any body.
    pub fn new<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        // Nothing more will come out of it, trailers included.
        if body.is_end_stream() {
            return Self::empty();
        }
        // A `dyn Any` is the one way to move a value out of its generic type without `unsafe`. The
        // compiler knows both types and leaves one branch at most.
        let mut body = Some(body);
        let slot: &mut dyn Any = &mut body;
        if let Some(body) = take::<Self>(slot) {
            return body;
        }
        if let Some(full) = take::<Full<Bytes>>(slot) {
            return full.into_inner().map_or_else(Self::empty, Self::from);
        }
        if let Some(boxed) = take::<UnsyncBoxBody<Bytes, BoxError>>(slot) {
            return Self(Kind::Boxed(boxed));
        }
        #[cfg(feature = "tonic")]
        if let Some(tonic) = take::<tonic::body::Body>(slot) {
            return Self(Kind::Tonic(tonic));
        }
        match body {
            Some(body) => Self(Kind::Boxed(body.map_err(Into::into).boxed_unsync())),
            None => Self::empty(),
        }
    }

    /// The bytes of a body that is empty or one piece; `None` when it streams.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match &self.0 {
            Kind::Empty => Some(&[]),
            Kind::Full(bytes) => Some(bytes),
            _ => None,
        }
    }
}

/// Takes the body out of the `Option<T>` behind `slot`, if `T` is its type.
fn take<T: 'static>(slot: &mut dyn Any) -> Option<T> {
    slot.downcast_mut::<Option<T>>()?.take()
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.0 {
            Kind::Empty => "Empty",
            Kind::Full(_) => "Full",
            _ => "Stream",
        };
        f.debug_tuple("Body").field(&kind).finish()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Kind::Empty => Poll::Ready(None),
            Kind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                self.0 = Kind::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Kind::Boxed(body) => Pin::new(body).poll_frame(cx),
            #[cfg(feature = "tonic")]
            Kind::Tonic(body) => Pin::new(body)
                .poll_frame(cx)
                .map(|frame| frame.map(|r| r.map_err(Into::into))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Full(_) => false,
            Kind::Boxed(body) => body.is_end_stream(),
            #[cfg(feature = "tonic")]
            Kind::Tonic(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Boxed(body) => body.size_hint(),
            #[cfg(feature = "tonic")]
            Kind::Tonic(body) => body.size_hint(),
        }
    }
}

impl<T> WrapBody<T> for Body
where
    T: http_body::Body<Data = Bytes> + Send + 'static,
    T::Error: Into<BoxError>,
{
    fn wrap(body: T) -> Self {
        Self::new(body)
    }
}

impl From<()> for Body {
    fn from((): ()) -> Self {
        Self::empty()
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self(if bytes.is_empty() {
            Kind::Empty
        } else {
            Kind::Full(bytes)
        })
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl From<&'static [u8]> for Body {
    fn from(bytes: &'static [u8]) -> Self {
        Bytes::from_static(bytes).into()
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<Full<Bytes>> for Body {
    fn from(full: Full<Bytes>) -> Self {
        Self::new(full)
    }
}

impl From<Empty<Bytes>> for Body {
    fn from(_: Empty<Bytes>) -> Self {
        Self::empty()
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;
    use http_body_util::StreamBody;

    use super::*;

    fn stream(
        frames: Vec<Frame<Bytes>>,
    ) -> impl http_body::Body<Data = Bytes, Error = BoxError> + Send {
        StreamBody::new(futures_util::stream::iter(
            frames.into_iter().map(Ok::<_, BoxError>),
        ))
    }

    #[test]
    fn empty_and_full_bodies_are_not_boxed() {
        for body in [
            Body::default(),
            Body::from(()),
            Body::from(""),
            Body::new(Empty::<Bytes>::new()),
            Body::new(Full::new(Bytes::new())),
            Body::new(Body::new(Empty::<Bytes>::new())),
        ] {
            assert!(matches!(body.0, Kind::Empty));
            assert!(body.is_end_stream());
            assert_eq!(body.size_hint().exact(), Some(0));
        }
        for body in [
            Body::from("full"),
            Body::from(String::from("full")),
            Body::from(b"full".to_vec()),
            Body::new(Full::new(Bytes::from("full"))),
            Body::new(Body::from("full")),
        ] {
            assert!(matches!(body.0, Kind::Full(_)));
            assert_eq!(body.as_bytes(), Some(&b"full"[..]));
            assert_eq!(body.size_hint().exact(), Some(4));
        }
    }

    #[tokio::test]
    async fn a_full_body_is_read_once() {
        let mut body = Body::from("full");
        assert!(!body.is_end_stream());
        assert_eq!(
            body.frame().await.unwrap().unwrap().into_data().unwrap(),
            "full"
        );
        assert!(body.is_end_stream());
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn a_stream_keeps_its_frames_and_trailers_and_is_boxed_once() {
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        let body = Body::new(stream(vec![
            Frame::data(Bytes::from("one")),
            Frame::data(Bytes::from("two")),
            Frame::trailers(trailers.clone()),
        ]));
        assert!(body.as_bytes().is_none());
        let again = <Body as WrapBody<Body>>::wrap(body);
        assert!(matches!(again.0, Kind::Boxed(_)));
        let collected = again.collect().await.unwrap();
        assert_eq!(collected.trailers(), Some(&trailers));
        assert_eq!(collected.to_bytes(), "onetwo");
    }

    #[test]
    fn a_boxed_body_keeps_its_box() {
        let boxed = stream(vec![Frame::data(Bytes::from("x"))]).boxed_unsync();
        assert!(matches!(Body::new(boxed).0, Kind::Boxed(_)));
    }

    #[cfg(feature = "tonic")]
    #[test]
    fn a_tonic_body_is_taken_along_without_another_box() {
        let body = tonic::body::Body::new(stream(vec![Frame::data(Bytes::from("x"))]));
        assert!(matches!(Body::new(body).0, Kind::Tonic(_)));
        assert!(matches!(
            Body::new(tonic::body::Body::empty()).0,
            Kind::Empty
        ));
    }
}
