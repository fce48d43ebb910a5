//! What keys and matches read of a request, without its body type.

use http::{Extensions, HeaderMap, Method, Request, Uri, header, request};

use super::context::{CallContext, Metadata};

#[derive(Clone, Copy)]
pub(crate) struct RequestRef<'a> {
    pub(crate) method: &'a Method,
    pub(crate) uri: &'a Uri,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) extensions: &'a Extensions,
    /// Whether it is a gRPC call, where the layer has found out already.
    pub(crate) is_grpc: Option<bool>,
}

// ===== impl RequestRef =====

impl<'a> RequestRef<'a> {
    #[inline]
    pub(crate) fn of<B>(request: &'a Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            headers: request.headers(),
            extensions: request.extensions(),
            is_grpc: None,
        }
    }

    pub(crate) fn of_parts(parts: &'a request::Parts) -> Self {
        Self {
            method: &parts.method,
            uri: &parts.uri,
            headers: &parts.headers,
            extensions: &parts.extensions,
            is_grpc: None,
        }
    }

    /// Host and port that the request is addressed to: the URI's authority, which HTTP/2 and proxy
    /// requests have, goes before `Host` (RFC 9112 section 3.2.2).
    pub(crate) fn authority(&self) -> Option<&'a [u8]> {
        let authority = match self.uri.authority() {
            Some(authority) => authority.as_str().as_bytes(),
            None => self.headers.get(header::HOST)?.as_bytes(),
        };
        // `user:password@` says nothing about the host, and does not belong into a label.
        let host = authority
            .iter()
            .rposition(|byte| *byte == b'@')
            .map_or(0, |at| at + 1);
        Some(&authority[host..])
    }

    /// The authority without its port.
    pub(crate) fn host(&self) -> Option<&'a [u8]> {
        let authority = self.authority()?;
        let digits = authority
            .iter()
            .rev()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        Some(match authority.len().checked_sub(digits + 1) {
            // The colons inside `[2001:db8::7]` are followed by the bracket at the latest.
            Some(colon) if authority[colon] == b':' => &authority[..colon],
            _ => authority,
        })
    }

    /// The authenticated caller.
    pub(crate) fn identity(&self) -> Option<&'a str> {
        Some(
            &CallContext::get(self.extensions)?
                .identity
                .as_ref()?
                .subject,
        )
    }

    /// The propagated metadata.
    pub(crate) fn metadata(&self) -> Option<&'a Metadata> {
        CallContext::get(self.extensions)?.metadata.as_deref()
    }
}
