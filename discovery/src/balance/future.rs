//! The future of one balanced call.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_mesh_layers::{CallKind, Classify, Pending, ResponseBody, Tracked, transport};
use tower_service::Service;

use super::{
    endpoint::EndpointGuard,
    seek::{Candidate, Found, Seek},
};

pin_project! {
    /// The response of [`Balance`](super::Balance).
    pub struct ResponseFuture<S, B, C>
    where
        S: Service<Request<B>>,
        S: Send,
        S: Sync,
        S: 'static,
    {
        #[pin]
        state: State<S, B, S::Future, S::Error>,
        kind: CallKind,
        classify: C,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, B, F, E>
    where
        S: Send,
        S: Sync,
        S: 'static,
    {
        InFlight {
            #[pin]
            future: F,
            call: Option<Pending<EndpointGuard<S>>>,
        },
        Seeking {
            request: Option<Request<B>>,
            // Boxed: few calls get here, and all would carry it.
            seek: Box<Seek<S, E>>,
        },
        Done,
    }
}

// ===== impl ResponseFuture =====

impl<S, B, C> ResponseFuture<S, B, C>
where
    S: Service<Request<B>> + Send + Sync + 'static,
{
    pub(super) fn in_flight(
        future: S::Future,
        call: Pending<EndpointGuard<S>>,
        kind: CallKind,
        classify: C,
    ) -> Self {
        let call = Some(call);
        Self {
            state: State::InFlight { future, call },
            kind,
            classify,
        }
    }

    pub(super) fn seeking(
        request: Request<B>,
        seek: Box<Seek<S, S::Error>>,
        kind: CallKind,
        classify: C,
    ) -> Self {
        let request = Some(request);
        Self {
            state: State::Seeking { request, seek },
            kind,
            classify,
        }
    }
}

impl<S, B, C, ResB> Future for ResponseFuture<S, B, C>
where
    S: Service<Request<B>, Response = Response<ResB>> + Clone + Send + Sync + 'static,
    S::Error: 'static,
    B: 'static,
    ResB: Body<Data = Bytes>,
    C: Classify,
{
    type Output = Result<Response<ResponseBody<Tracked<ResB, C::End, EndpointGuard<S>>>>, S::Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::InFlight { future, call } => {
                    let pending = call.as_mut().expect("polled after it was ready");
                    let result = ready!(pending.run(|| future.poll(cx)));
                    let call = call.take().expect("just polled");
                    return Poll::Ready(match result {
                        Ok(response) => Ok(call
                            .track(this.classify, *this.kind, response)
                            .map(ResponseBody::inner)),
                        Err(error) => {
                            let diagnosis = transport::diagnose(&error);
                            call.end(this.classify.error(*this.kind, diagnosis));
                            Err(error)
                        }
                    });
                }
                StateProj::Seeking { request, seek } => {
                    let found = {
                        let request = request.as_ref().expect("polled after it was ready");
                        ready!(seek.poll(request, cx))
                    };
                    match found {
                        Found::Ready(Candidate {
                            mut service,
                            mut call,
                            ..
                        }) => {
                            let request = request.take().expect("just looked at");
                            call.guard().sent();
                            let future = call.run(|| service.call(request));
                            this.state.set(State::InFlight {
                                future,
                                call: Some(call),
                            });
                        }
                        Found::Failed(error) => {
                            this.state.set(State::Done);
                            return Poll::Ready(Err(error));
                        }
                        Found::Rejected(rejection) => {
                            this.state.set(State::Done);
                            return Poll::Ready(Ok(rejection.into_response(*this.kind)));
                        }
                    }
                }
                StateProj::Done => panic!("polled after it was ready"),
            }
        }
    }
}

impl<S, B, C> fmt::Debug for ResponseFuture<S, B, C>
where
    S: Service<Request<B>> + Send + Sync + 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}
