//! What a probe answers.

use std::{future::poll_fn, task::Poll};

use http::{HeaderValue, Response, StatusCode};

use super::{Gate, ProbeError, TestBody};

/// One answer of a [`Probe`](super::Probe).
///
/// By default the request's body is read to its end and the answer comes at once.
#[derive(Debug, Clone)]
pub struct Answer {
    pub(super) act: Act,
    pub(super) reads_request: bool,
    pub(super) pending_times: usize,
    pub(super) gate: Option<Gate>,
}

#[derive(Debug, Clone)]
pub(super) enum Act {
    Respond(Box<Response<TestBody>>),
    Fail(ProbeError),
    PanicInCall,
    PanicInPoll,
}

// ===== impl Answer =====

impl Answer {
    /// 200 with an empty body.
    pub fn ok() -> Self {
        Self::response(Response::new(TestBody::empty()))
    }

    /// This status with an empty body.
    ///
    /// # Panics
    ///
    /// Panics if `status` is not in 100 to 999.
    pub fn status(status: u16) -> Self {
        let status = StatusCode::from_u16(status).expect("a status is in 100..=999");
        let mut response = Response::new(TestBody::empty());
        *response.status_mut() = status;
        Self::response(response)
    }

    /// This response.
    pub fn response(response: Response<TestBody>) -> Self {
        Self::act(Act::Respond(Box::new(response)))
    }

    /// A gRPC response: 200 with the content type, and a body for the caller to fill.
    pub fn grpc(body: TestBody) -> Self {
        Self::ok()
            .header("content-type", "application/grpc")
            .body(body)
    }

    /// A gRPC error as "trailers only": the status stands in the headers, and there is no body.
    ///
    /// # Panics
    ///
    /// Panics if `status` is not ASCII digits.
    pub fn grpc_status(status: &'static str) -> Self {
        Self::grpc(TestBody::empty()).header("grpc-status", status)
    }

    /// An error instead of a response.
    pub fn fail(error: ProbeError) -> Self {
        Self::act(Act::Fail(error))
    }

    /// A panic inside `Service::call`.
    pub fn panic_in_call() -> Self {
        Self::act(Act::PanicInCall)
    }

    /// A panic inside the poll of the future.
    pub fn panic_in_poll() -> Self {
        Self::act(Act::PanicInPoll)
    }

    /// Never an answer.
    pub fn never() -> Self {
        Self::ok().gated(&Gate::new())
    }

    /// Sets the body of a response.
    #[must_use]
    pub fn body(mut self, body: impl Into<TestBody>) -> Self {
        if let Act::Respond(response) = &mut self.act {
            *response.body_mut() = body.into();
        }
        self
    }

    /// Adds a header to a response.
    ///
    /// # Panics
    ///
    /// Panics if the name or the value is not valid.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &'static str) -> Self {
        if let Act::Respond(response) = &mut self.act {
            response
                .headers_mut()
                .insert(name, HeaderValue::from_static(value));
        }
        self
    }

    /// Answers without reading the request's body.
    #[must_use]
    pub fn ignoring_request(mut self) -> Self {
        self.reads_request = false;
        self
    }

    /// Makes the future pending `times` times first, each with a wake-up at once.
    #[must_use]
    pub fn pending_times(mut self, times: usize) -> Self {
        self.pending_times = times;
        self
    }

    /// Makes the future pending until `gate` is open.
    #[must_use]
    pub fn gated(mut self, gate: &Gate) -> Self {
        self.gate = Some(gate.clone());
        self
    }

    /// The response, if this answer is one.
    pub fn into_response(self) -> Option<Response<TestBody>> {
        match self.act {
            Act::Respond(response) => Some(*response),
            _ => None,
        }
    }

    fn act(act: Act) -> Self {
        Self {
            act,
            reads_request: true,
            pending_times: 0,
            gate: None,
        }
    }
}

/// Pending `times` times, with a wake-up at once each time.
pub(super) async fn pending_times(mut times: usize) {
    poll_fn(|cx| {
        if times == 0 {
            return Poll::Ready(());
        }
        times -= 1;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
