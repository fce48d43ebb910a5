//! What the head of a request must look like on the wire.
//!
//! Callers write whatever suits them: tonic `/pkg.Service/Method`, others `http://orders/items`.
//! HTTP/1 wants the path alone and a `Host` header (RFC 9112 §3.2.1), HTTP/2 wants scheme, authority
//! and path (RFC 9113 §8.3.1). Nothing is formatted or parsed here on the usual paths.

use std::sync::OnceLock;

use http::{
    HeaderValue, Method, Request, Uri, Version, header,
    uri::{Authority, PathAndQuery, Scheme},
};

use super::lane::Speaks;

/// The peer as requests name it.
#[derive(Debug)]
pub(super) struct Target {
    scheme: Scheme,
    named: Named,
    /// Whether the name is the configuration's, which goes before the caller's.
    fixed: bool,
    /// The first other name that a caller used: they use the same one every time.
    other: OnceLock<Named>,
}

/// An authority, also as a header.
#[derive(Debug)]
struct Named {
    authority: Authority,
    host: HeaderValue,
}

// ===== impl Target =====

impl Target {
    /// A peer called `authority`; `None` if that is no authority.
    pub(super) fn new(scheme: Scheme, authority: &str, fixed: bool) -> Option<Self> {
        let named = Named::new(authority.parse().ok()?)?;
        Some(Self {
            scheme,
            named,
            fixed,
            other: OnceLock::new(),
        })
    }

    /// Makes the request's head fit to be sent.
    pub(super) fn prepare<B>(&self, request: &mut Request<B>, speaks: Speaks) {
        match speaks {
            Speaks::Http1 => self.prepare_http1(request),
            Speaks::Http2 => self.prepare_http2(request),
        }
    }

    fn prepare_http1<B>(&self, request: &mut Request<B>) {
        *request.version_mut() = Version::HTTP_11;
        if self.fixed || !request.headers().contains_key(header::HOST) {
            let host = self.host(request.uri());
            request.headers_mut().insert(header::HOST, host);
        }
        let uri = request.uri();
        if uri.authority().is_some() && request.method() != Method::CONNECT {
            let uri = request.uri_mut();
            *uri = origin_form(std::mem::take(uri));
        }
    }

    fn prepare_http2<B>(&self, request: &mut Request<B>) {
        *request.version_mut() = Version::HTTP_2;
        // One name only: RFC 9113 §8.3.1 forbids `Host` to differ from `:authority`.
        let host = request.headers_mut().remove(header::HOST);
        let authority = match (self.fixed, host) {
            (true, _) => Some(self.named.authority.clone()),
            (false, Some(host)) => Authority::try_from(host.as_bytes()).ok(),
            (false, None) => request.uri().authority().cloned(),
        };
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.authority = authority.or_else(|| Some(self.named.authority.clone()));
        if request.method() != Method::CONNECT {
            parts.scheme = Some(self.scheme.clone());
            parts
                .path_and_query
                .get_or_insert_with(|| PathAndQuery::from_static("/"));
        }
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }

    /// The `Host` header for a request that has none.
    fn host(&self, uri: &Uri) -> HeaderValue {
        let named = &self.named;
        match uri.authority() {
            Some(authority) if !self.fixed && *authority != named.authority => {
                self.other_host(authority)
            }
            _ => named.host.clone(),
        }
    }

    fn other_host(&self, authority: &Authority) -> HeaderValue {
        if let Some(other) = self.other.get()
            && other.authority == *authority
        {
            return other.host.clone();
        }
        let Some(named) = Named::new(authority.clone()) else {
            return self.named.host.clone();
        };
        let host = named.host.clone();
        let _ = self.other.set(named);
        host
    }
}

// ===== impl Named =====

impl Named {
    fn new(authority: Authority) -> Option<Self> {
        // A user name is not part of `Host`.
        let (_, text) = authority
            .as_str()
            .rsplit_once('@')
            .unwrap_or(("", authority.as_str()));
        let host = HeaderValue::from_str(text).ok()?;
        Some(Self { authority, host })
    }
}

/// The path and query alone.
fn origin_form(uri: Uri) -> Uri {
    let path = uri.into_parts().path_and_query;
    path.map_or_else(|| Uri::from_static("/"), Uri::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, host: Option<&str>) -> Request<()> {
        let mut request = Request::get(uri);
        if let Some(host) = host {
            request = request.header(header::HOST, host);
        }
        request.body(()).unwrap()
    }

    fn http1(target: &Target, uri: &str, host: Option<&str>) -> (String, String) {
        let mut request = request(uri, host);
        target.prepare(&mut request, Speaks::Http1);
        assert_eq!(request.version(), Version::HTTP_11);
        let host = request.headers()[header::HOST].to_str().unwrap().to_owned();
        (request.uri().to_string(), host)
    }

    fn http2(target: &Target, uri: &str, host: Option<&str>) -> String {
        let mut request = request(uri, host);
        target.prepare(&mut request, Speaks::Http2);
        assert_eq!(request.version(), Version::HTTP_2);
        assert!(!request.headers().contains_key(header::HOST));
        request.uri().to_string()
    }

    #[test]
    fn the_callers_name_goes_before_the_endpoints() {
        let target = Target::new(Scheme::HTTP, "10.0.0.1:80", false).unwrap();
        for (uri, host, name) in [
            ("/a?b=c", None, "10.0.0.1:80"),
            ("http://orders/a?b=c", None, "orders"),
            ("http://other:1/a?b=c", None, "other:1"),
            ("http://orders/a?b=c", None, "orders"),
            ("http://10.0.0.1:80/a?b=c", None, "10.0.0.1:80"),
            ("/a?b=c", Some("shop"), "shop"),
            ("http://orders/a?b=c", Some("shop"), "shop"),
        ] {
            assert_eq!(
                http1(&target, uri, host),
                ("/a?b=c".into(), name.into()),
                "{uri}"
            );
            assert_eq!(
                http2(&target, uri, host),
                format!("http://{name}/a?b=c"),
                "{uri}"
            );
        }
    }

    #[test]
    fn a_configured_name_goes_before_every_other() {
        let target = Target::new(Scheme::HTTPS, "fixed", true).unwrap();
        for (uri, host) in [("/", None), ("http://orders", None), ("/", Some("shop"))] {
            assert_eq!(http1(&target, uri, host), ("/".into(), "fixed".into()));
            assert_eq!(http2(&target, uri, host), "https://fixed/");
        }
    }

    #[test]
    fn a_prepared_request_can_be_prepared_again_for_the_other_protocol() {
        let target = Target::new(Scheme::HTTP, "10.0.0.1", false).unwrap();
        let mut request = request("http://orders/a", None);
        for _ in 0..2 {
            target.prepare(&mut request, Speaks::Http2);
            assert_eq!(request.uri(), "http://orders/a");
            target.prepare(&mut request, Speaks::Http1);
            assert_eq!(
                (request.uri().to_string(), &request.headers()["host"]),
                ("/a".into(), &"orders".parse().unwrap())
            );
        }
    }

    #[test]
    fn a_user_name_stays_out_of_the_host_header() {
        let target = Target::new(Scheme::HTTP, "10.0.0.1", false).unwrap();
        assert_eq!(http1(&target, "http://me@orders/", None).1, "orders");
    }
}
