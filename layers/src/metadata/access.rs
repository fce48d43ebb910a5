//! Metadata in handlers and around calls.

use std::{ops::Deref, sync::Arc};

use http::{Extensions, Request, request};

use crate::vocab::context::{CallContext, InContext, Metadata, MetadataError, WithContext};

/// The metadata of the call that is handled here, and of the calls that are made from here; `None`
/// where there is no call, or it has none.
pub fn current() -> Option<Arc<Metadata>> {
    CallContext::current()?.metadata().cloned()
}

/// Sets the only value of a key for the calls that are made from here on, and those that they cause.
///
/// # Errors
///
/// When no server layer is around this code, or the key or the value does not fit into a header.
pub fn set_global(key: &str, value: &str) -> Result<(), MetadataError> {
    change(|metadata| metadata.set_global(key, value))
}

/// Adds a value of a key for the calls that are made from here on, and those that they cause.
///
/// # Errors
///
/// As [`set_global`].
pub fn append_global(key: &str, value: &str) -> Result<(), MetadataError> {
    change(|metadata| metadata.append_global(key, value))
}

/// Sets the only value of a key for the calls that are made from here on, and no further.
///
/// # Errors
///
/// As [`set_global`].
pub fn set_local(key: &str, value: &str) -> Result<(), MetadataError> {
    change(|metadata| metadata.set_local(key, value))
}

/// Adds a value of a key for the calls that are made from here on, and no further.
///
/// # Errors
///
/// As [`set_global`].
pub fn append_local(key: &str, value: &str) -> Result<(), MetadataError> {
    change(|metadata| metadata.append_local(key, value))
}

/// Takes all values of a key out, for the calls that are made from here on. Says whether there were
/// any.
pub fn remove(key: &str) -> bool {
    CallContext::change_metadata(|metadata| metadata.remove(key)).unwrap_or(false)
}

fn change(
    set: impl FnOnce(&mut Metadata) -> Result<(), MetadataError>,
) -> Result<(), MetadataError> {
    CallContext::change_metadata(set).unwrap_or(Err(MetadataError::NoContext))
}

/// Adds metadata to what a future or stream inherits here: for the calls that are made in it, and
/// nowhere else.
///
/// It needs no server layer, so a job that nobody called can begin with it.
///
/// ```
/// use tower_mesh_layers::metadata::{self, Metadata};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), metadata::MetadataError> {
/// let mut nightly = Metadata::new();
/// nightly.set_global("criticality", "sheddable")?;
/// metadata::scope(nightly, async {
///     let current = metadata::current().unwrap();
///     assert_eq!(current.get("criticality"), Some("sheddable"));
/// })
/// .await;
/// assert!(metadata::current().is_none());
/// # Ok(())
/// # }
/// ```
pub fn scope<T>(metadata: Metadata, inner: T) -> WithContext<T> {
    let mut ambient = CallContext::current().unwrap_or_default();
    let mut inherited = ambient.metadata().cloned().unwrap_or_default();
    Arc::make_mut(&mut inherited).extend(metadata);
    ambient.set_metadata(Some(inherited));
    inner.in_context(ambient)
}

/// Metadata of one request: of one that is handled, and of one that is about to be made.
///
/// For requests of `http`, their parts, and requests of tonic.
///
/// ```
/// use tower_mesh_layers::metadata::RequestMetadata;
///
/// let mut request = http::Request::new(());
/// request.set_local("caller", "checkout")?;
/// assert_eq!(request.call_metadata().get("caller"), Some("checkout"));
/// # Ok::<(), tower_mesh_layers::metadata::MetadataError>(())
/// ```
pub trait RequestMetadata: sealed::HasExtensions {
    /// What came with the request, or is to go with it.
    fn call_metadata(&self) -> CallMetadata {
        let context = CallContext::get(self.get_extensions());
        CallMetadata(context.and_then(|context| context.metadata.clone()))
    }

    /// Sets the only value of a key for this call, and those that it causes.
    ///
    /// # Errors
    ///
    /// When the key or the value does not fit into a header, or is never propagated.
    fn set_global(&mut self, key: &str, value: &str) -> Result<(), MetadataError> {
        of_call(self.get_extensions_mut()).set_global(key, value)
    }

    /// Adds a value of a key for this call, and those that it causes.
    ///
    /// # Errors
    ///
    /// When the key or the value does not fit into a header, or is never propagated.
    fn append_global(&mut self, key: &str, value: &str) -> Result<(), MetadataError> {
        of_call(self.get_extensions_mut()).append_global(key, value)
    }

    /// Sets the only value of a key for this call, and no further.
    ///
    /// # Errors
    ///
    /// When the key or the value does not fit into a header, or is never propagated.
    fn set_local(&mut self, key: &str, value: &str) -> Result<(), MetadataError> {
        of_call(self.get_extensions_mut()).set_local(key, value)
    }

    /// Adds a value of a key for this call, and no further.
    ///
    /// # Errors
    ///
    /// When the key or the value does not fit into a header, or is never propagated.
    fn append_local(&mut self, key: &str, value: &str) -> Result<(), MetadataError> {
        of_call(self.get_extensions_mut()).append_local(key, value)
    }
}

impl<T: sealed::HasExtensions> RequestMetadata for T {}

fn of_call(extensions: &mut Extensions) -> &mut Metadata {
    let context = CallContext::get_or_insert(extensions);
    Arc::make_mut(context.metadata.get_or_insert_default())
}

/// The metadata of a call; empty where it has none.
///
/// With the feature `axum` it is an extractor, which never fails:
///
/// ```
/// # #[cfg(feature = "axum")]
/// # fn router() -> axum::Router {
/// use axum::{Router, routing::get};
/// use tower_mesh_layers::metadata::CallMetadata;
///
/// async fn greet(metadata: CallMetadata) -> String {
///     format!("hello, {}", metadata.get("tenant").unwrap_or("stranger"))
/// }
///
/// Router::new().route("/greet", get(greet))
/// # }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallMetadata(Option<Arc<Metadata>>);

// ===== impl CallMetadata =====

impl Deref for CallMetadata {
    type Target = Metadata;

    fn deref(&self) -> &Metadata {
        static EMPTY: Metadata = Metadata::new();
        self.0.as_deref().unwrap_or(&EMPTY)
    }
}

#[cfg(feature = "axum")]
impl<S: Send + Sync> axum::extract::FromRequestParts<S> for CallMetadata {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(
        parts: &mut request::Parts,
        _: &S,
    ) -> Result<Self, std::convert::Infallible> {
        Ok(parts.call_metadata())
    }
}

mod sealed {
    use super::{Extensions, Request, request};

    pub trait HasExtensions {
        fn get_extensions(&self) -> &Extensions;
        fn get_extensions_mut(&mut self) -> &mut Extensions;
    }

    macro_rules! has_extensions {
        ($type:ty, $($generic:ident)?) => {
            impl$(<$generic>)? HasExtensions for $type {
                fn get_extensions(&self) -> &Extensions {
                    self.extensions()
                }

                fn get_extensions_mut(&mut self) -> &mut Extensions {
                    self.extensions_mut()
                }
            }
        };
    }

    has_extensions!(Request<B>, B);
    #[cfg(feature = "tonic")]
    has_extensions!(tonic::Request<T>, T);

    impl HasExtensions for request::Parts {
        fn get_extensions(&self) -> &Extensions {
            &self.extensions
        }

        fn get_extensions_mut(&mut self) -> &mut Extensions {
            &mut self.extensions
        }
    }
}
