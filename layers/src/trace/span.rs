//! The spans, and their fields at the beginning.

use std::fmt;

use http::{Request, Version, header};
use tracing::{Span, field};

use crate::vocab::{
    classify::CallKind,
    context::{CallContext, RouteArm},
    key::{grpc_method, method_name},
    request_ref::RequestRef,
};

/// What a span is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A call that is handled.
    Server,
    /// A call that is made.
    Client,
    /// One attempt to make it.
    Attempt,
}

/// What a request says about itself. Read only where somebody listens.
#[derive(Clone, Copy)]
struct About<'a> {
    request: RequestRef<'a>,
    version: Version,
    is_grpc: bool,
    peer: Option<&'a str>,
}

/// What a call is called: `GET /orders/{id}`, `shop.Orders/Get`.
struct Name<'a>(About<'a>);

/// The fields differ in nothing but their values, and each macro call is a callsite with a cached answer
/// of whether anybody listens to it.
macro_rules! call_span {
    ($target:literal, $name:literal, $kind:literal, $about:expr, $arm:expr) => {
        tracing::info_span!(
            target: $target,
            $name,
            otel.name = field::display(Name($about)),
            otel.kind = $kind,
            otel.status_code = field::Empty,
            error.type = field::Empty,
            http.request.method = method_name($about.request.method),
            http.request.resend_count = field::Empty,
            http.response.status_code = field::Empty,
            http.route = $about.route(),
            url.path = $about.request.uri.path(),
            url.scheme = $about.request.uri.scheme_str(),
            network.protocol.version = ($kind == "server").then(|| version($about.version)),
            user_agent.original = ($kind == "server").then(|| $about.user_agent()).flatten(),
            server.address = $about.host(),
            server.port = $about.port(),
            peer.service = $about.peer,
            rpc.system = $about.is_grpc.then_some("grpc"),
            rpc.service = $about.rpc().map(|(service, _)| service),
            rpc.method = $about.rpc().map(|(_, method)| method),
            rpc.grpc.status_code = field::Empty,
            mesh.endpoint = field::Empty,
            mesh.rejection.layer = field::Empty,
            mesh.rejection.reason = field::Empty,
            mesh.route.rule = $arm.map(|arm: &RouteArm| &*arm.rule),
            mesh.route.arm = $arm.map(|arm: &RouteArm| &*arm.name),
        )
    };
}

/// The span of a call; a disabled one where nobody listens.
#[inline]
pub(super) fn make<B>(
    kind: Kind,
    peer: Option<&str>,
    call: CallKind,
    request: &Request<B>,
) -> Span {
    let about = About {
        request: RequestRef::of(request),
        version: request.version(),
        is_grpc: call.is_grpc(),
        peer,
    };
    const NO_ARM: Option<&RouteArm> = None;
    match kind {
        Kind::Server => call_span!("tower_mesh::trace", "server", "server", about, NO_ARM),
        Kind::Client => call_span!("tower_mesh::trace", "client", "client", about, NO_ARM),
        Kind::Attempt => {
            let context = CallContext::get(request.extensions());
            let route = context.and_then(|context| context.route.as_ref());
            let arm = route.map(|route| route.arm());
            let span = call_span!(
                "tower_mesh::trace::attempt",
                "attempt",
                "client",
                about,
                arm
            );
            let resent = context.map_or(0, |context| context.attempt.number.saturating_sub(1));
            if resent > 0 {
                span.record("http.request.resend_count", i64::from(resent));
            }
            span
        }
    }
}

// ===== impl About =====

impl<'a> About<'a> {
    fn route(self) -> Option<&'a str> {
        if self.is_grpc {
            return None;
        }
        self.request
            .route()
            .or_else(|| self.request.operation_name())
    }

    fn rpc(self) -> Option<(&'a str, &'a str)> {
        if !self.is_grpc {
            return None;
        }
        grpc_method(self.request.uri.path())
    }

    fn host(self) -> Option<&'a str> {
        let host = self.request.host()?;
        std::str::from_utf8(host).ok()
    }

    fn port(self) -> Option<i64> {
        let authority = std::str::from_utf8(self.request.authority()?).ok()?;
        let (_, port) = authority.rsplit_once(':')?;
        port.parse::<u16>().ok().map(i64::from)
    }

    fn user_agent(self) -> Option<&'a str> {
        self.request.headers.get(header::USER_AGENT)?.to_str().ok()
    }
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "0.9",
        Version::HTTP_10 => "1.0",
        Version::HTTP_11 => "1.1",
        Version::HTTP_2 => "2",
        _ => "3",
    }
}

// ===== impl Name =====

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(about) = self;
        if about.is_grpc {
            return match about.rpc() {
                Some((service, method)) => write!(f, "{service}/{method}"),
                None => f.write_str("_OTHER"),
            };
        }
        let method = match method_name(about.request.method) {
            "_OTHER" => "HTTP",
            method => method,
        };
        if let Some(route) = about.request.route() {
            return write!(f, "{method} {route}");
        }
        f.write_str(about.request.operation_name().unwrap_or(method))
    }
}
