//! A small layer that counts calls in flight and their outcomes, and that can be told to break one
//! rule.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full, Limited, combinators::UnsyncBoxBody};
use tower_layer::Layer;
use tower_service::Service;

use crate::test_util::{BoxError, TestBody, contract::Tally};

type BoxBody = UnsyncBoxBody<Bytes, BoxError>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    CallsUnreadyClone,
    LeaksOnDrop,
    LeaksOnPanic,
    LeaksPermitOfReadiness,
    MintsState,
    BuffersResponse,
    BuffersRequest,
    CutsLongRequests,
    SpinsInReadiness,
    SpinsInCall,
    LosesWakeup,
    SwallowsErrors,
    ReplacesErrors,
    ForgetsLength,
    DropsTrailers,
    WaitsForNone,
    ClonesPerCall,
    PanicsAtNoContent,
    KeepsBody,
}

#[derive(Clone)]
pub(super) struct Model {
    pub(super) fault: Fault,
    limit: u64,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    admitted: AtomicU64,
    held: AtomicUsize,
    successes: AtomicU64,
    failures: AtomicU64,
    kept: parking_lot::Mutex<Vec<BoxBody>>,
}

pub(super) struct Modelled<S> {
    inner: S,
    layer: Model,
    reserved: bool,
}

struct Guard {
    state: Arc<State>,
    fault: Fault,
    done: bool,
    grpc: bool,
    failed_head: bool,
}

pin_project_lite::pin_project! {
    struct GuardedBody<B> {
        #[pin]
        inner: B,
        fault: Fault,
        guard: Option<Guard>,
    }
}

// ===== impl Model =====

impl Model {
    pub(super) fn new(fault: Fault) -> Self {
        Self::limited(fault, u64::MAX)
    }

    pub(super) fn limited(fault: Fault, limit: u64) -> Self {
        Self {
            fault,
            limit,
            state: Arc::default(),
        }
    }

    pub(super) fn held(&self) -> usize {
        self.state.held.load(SeqCst)
    }

    pub(super) fn tally(&self) -> Tally {
        Tally {
            successes: self.state.successes.load(SeqCst),
            failures: self.state.failures.load(SeqCst),
        }
    }
}

impl<S> Layer<S> for Model {
    type Service = Modelled<S>;

    fn layer(&self, inner: S) -> Modelled<S> {
        let mut layer = self.clone();
        if self.fault == Fault::MintsState {
            layer.state = Arc::default();
        }
        Modelled {
            inner,
            layer,
            reserved: false,
        }
    }
}

// ===== impl Modelled =====

impl<S: Clone> Clone for Modelled<S> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            layer: self.layer.clone(),
            reserved: false,
        }
    }
}

impl<S, R> Service<Request<TestBody>> for Modelled<S>
where
    S: Service<Request<TestBody>, Response = Response<R>, Error = BoxError>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<BoxBody>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<BoxBody>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if self.layer.fault == Fault::LosesWakeup {
            return self
                .inner
                .poll_ready(&mut Context::from_waker(Waker::noop()));
        }
        let polled = self.inner.poll_ready(cx);
        if polled.is_pending() && self.layer.fault == Fault::SpinsInReadiness {
            cx.waker().wake_by_ref();
        }
        if self.layer.fault == Fault::LeaksPermitOfReadiness && polled.is_ready() && !self.reserved
        {
            self.reserved = true;
            self.layer.state.held.fetch_add(1, SeqCst);
        }
        polled
    }

    fn call(&mut self, request: Request<TestBody>) -> Self::Future {
        let fault = self.layer.fault;
        if std::mem::take(&mut self.reserved) {
            self.layer.state.held.fetch_sub(1, SeqCst);
        }
        if self.layer.state.admitted.fetch_add(1, SeqCst) >= self.layer.limit {
            let mut refusal = Response::new(Full::default().map_err(|e| match e {}).boxed_unsync());
            *refusal.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            return Box::pin(async { Ok(refusal) });
        }
        let head = request.method() == Method::HEAD;
        let guard = Guard::new(&self.layer, request.headers());
        match fault {
            Fault::CallsUnreadyClone => {
                let called = self.inner.clone().call(request);
                Box::pin(async move { guarded(called.await, guard, head).await })
            }
            Fault::BuffersRequest | Fault::CutsLongRequests => {
                let clone = self.inner.clone();
                let mut ready = std::mem::replace(&mut self.inner, clone);
                Box::pin(async move {
                    let request = buffered(request, fault).await?;
                    guarded(ready.call(request).await, guard, head).await
                })
            }
            Fault::SpinsInCall => {
                let mut called = Box::pin(self.inner.call(request));
                Box::pin(async move {
                    let called = std::future::poll_fn(move |cx| {
                        let polled = called.as_mut().poll(cx);
                        if polled.is_pending() {
                            cx.waker().wake_by_ref();
                        }
                        polled
                    });
                    guarded(called.await, guard, head).await
                })
            }
            _ => {
                if fault == Fault::ClonesPerCall {
                    drop(self.inner.clone());
                }
                let called = self.inner.call(request);
                Box::pin(async move { guarded(called.await, guard, head).await })
            }
        }
    }
}

async fn buffered(request: Request<TestBody>, fault: Fault) -> Result<Request<TestBody>, BoxError> {
    let (parts, body) = request.into_parts();
    let whole = match fault {
        Fault::CutsLongRequests => {
            let read = Limited::new(body, 64 * 1024).collect().await;
            read.map_or_else(|_| Bytes::new(), |read| read.to_bytes())
        }
        _ => body.collect().await?.to_bytes(),
    };
    Ok(Request::from_parts(parts, TestBody::full(whole)))
}

async fn guarded<R>(
    answered: Result<Response<R>, BoxError>,
    mut guard: Guard,
    head: bool,
) -> Result<Response<BoxBody>, BoxError>
where
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    let fault = guard.fault;
    let response = match (answered, fault) {
        (Ok(response), _) => response,
        (Err(error), _) if fault == Fault::ReplacesErrors => {
            guard.end(false);
            return Err(error.to_string().into());
        }
        (Err(_), Fault::SwallowsErrors) => {
            guard.end(false);
            let body = Full::default().map_err(|e| match e {}).boxed_unsync();
            return Ok(Response::new(body));
        }
        (Err(error), _) => {
            guard.end(false);
            return Err(error);
        }
    };
    let status = response.status();
    assert!(
        fault != Fault::PanicsAtNoContent || status != 204,
        "no content, no header"
    );
    guard.failed_head = status.is_server_error();
    let over = head || status.is_informational() || status == 204 || status == 304;
    let trailers_only = response.headers().contains_key("grpc-status");
    let response = response.map(|body| body.map_err(Into::into).boxed_unsync());
    let (parts, mut body) = response.into_parts();
    if fault == Fault::BuffersResponse {
        body = Full::new(body.collect().await?.to_bytes())
            .map_err(|e| match e {})
            .boxed_unsync();
    }
    if fault == Fault::KeepsBody {
        let state = guard.state.clone();
        state.kept.lock().push(std::mem::take(&mut body));
    }
    let mut guard = Some(guard);
    if over || body.is_end_stream() || trailers_only {
        let guard = guard.take().expect("just put there");
        let ok = !guard.failed_head;
        guard.end(ok);
    }
    Ok(Response::from_parts(
        parts,
        GuardedBody {
            inner: body,
            fault,
            guard,
        }
        .boxed_unsync(),
    ))
}

// ===== impl Guard =====

impl Guard {
    fn new(layer: &Model, headers: &HeaderMap) -> Self {
        layer.state.held.fetch_add(1, SeqCst);
        Self {
            state: layer.state.clone(),
            fault: layer.fault,
            done: false,
            grpc: headers
                .get("content-type")
                .is_some_and(|kind| kind == "application/grpc"),
            failed_head: false,
        }
    }

    fn end(mut self, ok: bool) {
        self.done = true;
        let counter = if ok {
            &self.state.successes
        } else {
            &self.state.failures
        };
        counter.fetch_add(1, SeqCst);
    }

    fn end_of_stream(self, trailers: Option<&HeaderMap>) {
        let status = trailers.and_then(|trailers| trailers.get("grpc-status"));
        let ok = !self.failed_head && (!self.grpc || status.is_some_and(|status| status == "0"));
        self.end(ok);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.done && self.failed_head {
            self.state.failures.fetch_add(1, SeqCst);
        }
        let leaks = match self.fault {
            Fault::LeaksOnDrop => !self.done,
            Fault::LeaksOnPanic => std::thread::panicking(),
            _ => false,
        };
        if !leaks {
            self.state.held.fetch_sub(1, SeqCst);
        }
    }
}

// ===== impl GuardedBody =====

impl<B> Body for GuardedBody<B>
where
    B: Body<Data = Bytes, Error = BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        let mut frame = ready!(this.inner.as_mut().poll_frame(cx));
        if *this.fault == Fault::DropsTrailers
            && frame
                .as_ref()
                .is_some_and(|f| f.as_ref().is_ok_and(Frame::is_trailers))
        {
            frame = None;
        }
        let (over, trailers) = match &frame {
            None => (true, None),
            Some(Ok(frame)) => (
                *this.fault != Fault::WaitsForNone
                    && (frame.is_trailers() || this.inner.is_end_stream()),
                frame.trailers_ref(),
            ),
            Some(Err(_)) => {
                if let Some(guard) = this.guard.take() {
                    guard.end(false);
                }
                (false, None)
            }
        };
        if over && let Some(guard) = this.guard.take() {
            guard.end_of_stream(trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.fault != Fault::ForgetsLength && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.fault {
            Fault::ForgetsLength => SizeHint::default(),
            _ => self.inner.size_hint(),
        }
    }
}
