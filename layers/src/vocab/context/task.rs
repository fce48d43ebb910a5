//! Taking the context of a call along into another task.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use futures_core::Stream;
use pin_project_lite::pin_project;
use tokio::task::JoinHandle;

use super::{Ambient, CallContext};

/// Makes a context current around a future or a stream.
///
/// What a handler's calls inherit (deadline, metadata, identity) is current in the handler's own task.
/// Another task has none of it, unless it is taken along:
///
/// ```
/// use tower_mesh_layers::context::{self, CallContext, InContext};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let mut handled = CallContext::new();
/// handled.revision = 7;
/// let task = handled.ambient().enter(|| {
///     // In a handler. `context::spawn(..)` is the same.
///     tokio::spawn(async { CallContext::current() }.in_current_context())
/// });
/// assert_eq!(task.await.unwrap().unwrap().revision(), 7);
/// # }
/// ```
///
/// The deadline comes along too. Work that is to outlive the call must leave it:
///
/// ```
/// # use tower_mesh_layers::context::{CallContext, InContext};
/// # async fn send_receipt() {}
/// let ambient = CallContext::current().unwrap_or_default().without_deadline();
/// let task = send_receipt().in_context(ambient); // to be spawned
/// # drop(task);
/// ```
pub trait InContext: Sized {
    /// Polls this in the context that is current now; as it is, where there is none.
    fn in_current_context(self) -> WithContext<Self> {
        let ambient = CallContext::current();
        WithContext {
            inner: self,
            ambient,
        }
    }

    /// Polls this in that context.
    fn in_context(self, ambient: Ambient) -> WithContext<Self> {
        let ambient = Some(ambient);
        WithContext {
            inner: self,
            ambient,
        }
    }
}

impl<T> InContext for T {}

pin_project! {
    /// A future or stream that is polled in a context; made by [`InContext`].
    #[derive(Debug, Clone)]
    #[must_use = "futures and streams do nothing unless polled"]
    pub struct WithContext<T> {
        #[pin]
        inner: T,
        ambient: Option<Ambient>,
    }
}

/// Spawns a task that inherits what the one that spawns it does.
///
/// # Panics
///
/// As [`tokio::spawn`] does: outside of a runtime.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    tokio::spawn(future.in_current_context())
}

// ===== impl WithContext =====

impl<T> WithContext<T> {
    /// The future or stream, without the context.
    pub fn into_inner(self) -> T {
        self.inner
    }
}

impl<F: Future> Future for WithContext<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _entered = this.ambient.as_mut().map(Ambient::entered);
        this.inner.poll(cx)
    }
}

impl<S: Stream> Stream for WithContext<S> {
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let this = self.project();
        let _entered = this.ambient.as_mut().map(Ambient::entered);
        this.inner.poll_next(cx)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::Arc, time::Duration};

    use super::{
        super::{AuthMethod, Identity, Metadata},
        *,
    };

    fn handled() -> CallContext {
        let mut context = CallContext::new();
        context.shorten_deadline(context.start + Duration::from_secs(1));
        let mut metadata = Metadata::new();
        metadata.set_global("tenant", "a").unwrap();
        context.metadata = Some(Arc::new(metadata));
        context.identity = Some(Arc::new(Identity::new("checkout", AuthMethod::Mtls)));
        context
    }

    #[tokio::test]
    async fn a_spawned_task_inherits_all_that_a_call_would() {
        let context = handled();
        let (with, without) = context.ambient().enter(|| {
            (
                spawn(async { CallContext::current() }),
                tokio::spawn(async { CallContext::current() }),
            )
        });
        let inherited = with.await.unwrap().unwrap();
        assert_eq!(inherited.deadline(), context.deadline);
        assert_eq!(inherited.metadata(), context.metadata.as_ref());
        assert_eq!(inherited.identity(), context.identity.as_ref());
        assert!(without.await.unwrap().is_none());
    }

    #[tokio::test]
    async fn work_that_outlives_the_call_can_leave_its_deadline() {
        let ambient = handled().ambient().without_deadline();
        let inherited = async { CallContext::current() }.in_context(ambient).await;
        let inherited = inherited.unwrap();
        assert_eq!(inherited.deadline(), None);
        assert_eq!(inherited.metadata().unwrap().get("tenant"), Some("a"));
    }

    #[tokio::test]
    async fn what_is_set_in_a_task_is_there_at_its_next_poll_and_nowhere_else() {
        let mut first = true;
        let task = poll_fn(move |cx| {
            if std::mem::take(&mut first) {
                let set = CallContext::change_metadata(|own| own.set_local("k", "v"));
                set.unwrap().unwrap();
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(CallContext::current().unwrap().metadata().cloned())
        });
        let context = handled();
        let mut ambient = context.ambient();
        let task = ambient.enter(|| task.in_current_context());
        let seen = task.await.unwrap();
        assert_eq!((seen.get("tenant"), seen.get("k")), (Some("a"), Some("v")));
        assert!(CallContext::current().is_none());
        let own = ambient.enter(CallContext::current).unwrap();
        assert_eq!(own.metadata(), context.metadata.as_ref());
    }
}
