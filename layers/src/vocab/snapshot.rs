//! What is kept of a request's head for another attempt, in storage that is used again.
//!
//! Nearly every call succeeds at once, and then nothing of what was kept was wanted. So it is kept as
//! cheaply as can be: the headers as a list, since a map would have to be allocated and filled; the
//! [extensions by value](carried); and all of it in a box from a pool of the thread. Only when
//! an attempt has failed is it made into a head again.

mod carried;

use std::cell::RefCell;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, request::Parts};

use self::carried::Carried;
use super::context::{CallContext, Tried};

/// How many boxes a thread holds for calls to come.
const MOST_POOLED: usize = 64;
/// A list with room for more headers is not used again, so that one great request does not take up
/// memory for good. Seventy-two bytes each.
const MOST_HEADERS: usize = 64;

thread_local! {
    #[allow(clippy::vec_box, reason = "the boxes are what is used again")]
    static POOL: RefCell<Vec<Box<Storage>>> = const { RefCell::new(Vec::new()) };
}

/// A request's head. In the pool of its thread from the moment it is dropped, and empty there.
pub(crate) struct Snapshot(Option<Box<Storage>>);

#[derive(Default)]
struct Storage {
    line: Option<Line>,
    headers: Vec<(HeaderName, HeaderValue)>,
    carried: Carried,
    /// Instead of all of the above, once an attempt has failed.
    parts: Option<Box<Parts>>,
    /// The endpoints that were tried; here since it is large.
    tried: Tried,
}

struct Line {
    method: Method,
    uri: Uri,
    version: Version,
}

// ===== impl Snapshot =====

impl Snapshot {
    /// Keeps the head of a request; `context` is its own.
    #[inline(always)] // every call pays for it; two layers that use it would each call it otherwise
    pub(crate) fn of<B>(request: &Request<B>, context: Option<&CallContext>) -> Self {
        let mut storage = Storage::pooled();
        storage.carried.keep(request.extensions(), context);
        storage.line = Some(Line {
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
        });
        storage.keep_headers(request.headers());
        // A call may itself be an attempt of an outer layer's.
        if let Some(context) = context
            && !context.attempt.tried.is_empty()
        {
            storage.tried = context.attempt.tried;
        }
        Self(Some(storage))
    }

    fn storage(&self) -> &Storage {
        self.0.as_ref().expect("taken by nothing but drop")
    }

    fn storage_mut(&mut self) -> &mut Storage {
        self.0.as_mut().expect("taken by nothing but drop")
    }

    pub(crate) fn tried(&self) -> Tried {
        self.storage().tried
    }

    pub(crate) fn tried_mut(&mut self) -> &mut Tried {
        &mut self.storage_mut().tried
    }

    /// The context that the request came with.
    pub(crate) fn context(&self) -> Option<&CallContext> {
        let storage = self.storage();
        match &storage.parts {
            Some(parts) => CallContext::get(&parts.extensions),
            None => storage.carried.context(),
        }
    }

    /// The head, as it came.
    pub(crate) fn parts(&mut self) -> &Parts {
        self.storage_mut().parts()
    }

    /// The same, for the last time.
    #[cfg(feature = "retry")] // a hedge may still note an endpoint in it
    pub(crate) fn into_parts(mut self) -> Parts {
        let storage = self.storage_mut();
        storage.parts();
        *storage.parts.take().expect("just made")
    }
}

impl Drop for Snapshot {
    #[inline]
    fn drop(&mut self) {
        if let Some(storage) = self.0.take() {
            storage.recycle();
        }
    }
}

// ===== impl Storage =====

impl Storage {
    #[inline]
    fn pooled() -> Box<Self> {
        // NOTE: no pool while the thread ends.
        match POOL.try_with(|pool| pool.borrow_mut().pop()) {
            Ok(Some(storage)) => storage,
            _ => Self::fresh(),
        }
    }

    #[cold]
    fn fresh() -> Box<Self> {
        Box::default()
    }

    #[inline(always)] // as above
    fn keep_headers(&mut self, headers: &HeaderMap) {
        self.headers.reserve(headers.len());
        for (name, value) in headers {
            self.headers.push((name.clone(), value.clone()));
        }
    }

    fn parts(&mut self) -> &Parts {
        if self.parts.is_none() {
            self.parts = Some(Box::new(self.make_parts()));
        }
        self.parts.as_ref().expect("just made")
    }

    #[cold]
    fn make_parts(&mut self) -> Parts {
        let mut parts = Request::new(()).into_parts().0;
        if let Some(Line {
            method,
            uri,
            version,
        }) = self.line.take()
        {
            (parts.method, parts.uri, parts.version) = (method, uri, version);
        }
        // Room for what an attempt is told.
        parts.headers = HeaderMap::with_capacity(self.headers.len() + 1);
        for (name, value) in self.headers.drain(..) {
            parts.headers.append(name, value);
        }
        parts.extensions = self.carried.take();
        parts
    }

    /// Drops all that was kept, at once: no secret and no body may stay alive in the pool.
    #[inline]
    fn recycle(mut self: Box<Self>) {
        self.line = None;
        self.headers.clear();
        self.carried.clear();
        self.parts = None;
        if !self.tried.is_empty() {
            self.tried = Tried::default();
        }
        if self.headers.capacity() > MOST_HEADERS {
            self.headers = Vec::new();
        }
        // Empty by now, or dropping a value of the caller's could want the pool as well.
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            if pool.len() < MOST_POOLED {
                pool.push(self);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;

    fn pooled() -> usize {
        POOL.with_borrow(Vec::len)
    }

    fn most_room() -> usize {
        POOL.with_borrow(|pool| pool.iter().map(|one| one.headers.capacity()).max())
            .unwrap_or(0)
    }

    fn with_headers(count: usize) -> Request<()> {
        let mut request = Request::new(());
        for nth in 0..count {
            let name: HeaderName = format!("x-{nth}").parse().unwrap();
            request.headers_mut().insert(name, nth.into());
        }
        request
    }

    #[test]
    fn what_was_kept_is_dropped_at_once() {
        let secret: Arc<[u8]> = Arc::from(*b"secret");
        let held = || Arc::strong_count(&secret) - 1;
        for has_failed in [false, true] {
            let value = HeaderValue::from_maybe_shared(Bytes::from_owner(secret.clone()));
            let mut request = Request::get("/").body(()).unwrap();
            request
                .headers_mut()
                .insert("authorization", value.unwrap());
            request.extensions_mut().insert(secret.clone());
            let mut head = Snapshot::of(&request, None);
            if has_failed {
                assert_eq!(head.parts().headers.len(), 1);
            }
            drop(request);
            assert_eq!(held(), 2, "by the header and by the extension");
            drop(head);
            assert_eq!((held(), pooled()), (0, 1));
        }
    }

    #[test]
    fn storage_is_used_again_and_starts_empty() {
        let mut first = Snapshot::of(&with_headers(9), None);
        first.tried_mut().push(crate::EndpointId::new());
        let address = std::ptr::from_ref(first.storage());
        drop(first);
        let mut second = Snapshot::of(&with_headers(2), None);
        assert!(std::ptr::eq(address, second.storage()));
        assert!(second.tried().is_empty());
        assert_eq!(second.parts().headers.len(), 2);
        assert_eq!(pooled(), 0);
    }

    #[test]
    fn many_or_great_requests_take_up_no_memory_for_good() {
        let heads: Vec<_> = (0..2 * MOST_POOLED)
            .map(|_| Snapshot::of(&with_headers(3), None))
            .collect();
        drop(heads);
        assert_eq!(pooled(), MOST_POOLED);

        drop(Snapshot::of(&with_headers(10 * MOST_HEADERS), None));
        assert!(most_room() <= MOST_HEADERS);
    }

    #[test]
    fn a_head_may_be_dropped_on_another_thread() {
        let head = Snapshot::of(&with_headers(3), None);
        std::thread::spawn(move || {
            drop(head);
            assert_eq!(pooled(), 1);
        })
        .join()
        .unwrap();
        assert_eq!(pooled(), 0);
    }

    #[test]
    fn an_extension_may_make_a_call_when_it_is_dropped() {
        #[derive(Clone)]
        struct Nested;
        impl Drop for Nested {
            fn drop(&mut self) {
                drop(Snapshot::of(&Request::new(()), None));
            }
        }
        let mut request = Request::new(());
        request.extensions_mut().insert(Nested);
        drop(Snapshot::of(&request, None));
        assert_eq!(pooled(), 2);
    }
}
