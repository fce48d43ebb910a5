//! What a registry has to be able to do, so that instances can register with it.

use std::{
    collections::hash_map::RandomState, fmt, future::Future, hash::BuildHasher, pin::Pin,
    sync::Arc, time::Duration,
};

use tower_mesh_layers::transport::BoxError;

use crate::{instance::Instance, resolve::SharedError};

/// The answer to a write: see [`Register`].
pub type Written<'a> = Pin<Box<dyn Future<Output = Result<(), RegisterError>> + Send + 'a>>;

/// A registry that instances register with: three writes, and nothing else.
///
/// Heartbeats, retries, timeouts and re-registration are the work of the
/// [`Registration`](super::Registration) that drives it.
///
/// ```
/// use tower_mesh_discovery::{
///     instance::Instance,
///     register::{Lease, Register, RegisterConfig, RegisterError, Registration, Written},
/// };
///
/// /// Forgets everything.
/// struct Nowhere;
///
/// impl Register for Nowhere {
///     fn put<'a>(&'a self, lease: &'a Lease) -> Written<'a> {
///         Box::pin(async move {
///             println!("{} is here for {:?}", lease.instance.id, lease.ttl);
///             Ok(())
///         })
///     }
///
///     fn renew<'a>(&'a self, _lease: &'a Lease) -> Written<'a> {
///         Box::pin(std::future::ready(Err(RegisterError::Lapsed)))
///     }
///
///     fn remove<'a>(&'a self, _lease: &'a Lease) -> Written<'a> {
///         Box::pin(std::future::ready(Ok(())))
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let orders = Instance::at("orders", "http://10.0.0.1:8080".parse()?);
/// let registration = Registration::start(Nowhere, orders, RegisterConfig::default())?;
/// registration.registered().await;
/// # Ok(())
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "instances cannot register with `{Self}`",
    note = "`MemoryRegistry` and `FileRegistry` can be registered with"
)]
pub trait Register: Send + Sync + 'static {
    /// Writes the instance's record. It is there for the TTL from now on.
    ///
    /// A record with the same service and id is replaced, whoever owns it: it belongs to an earlier
    /// run that had no time to leave.
    fn put<'a>(&'a self, lease: &'a Lease) -> Written<'a>;

    /// Keeps the record for the TTL from now on, and makes it say what the lease's instance says.
    ///
    /// [`RegisterError::Lapsed`] when it is not there any more, [`RegisterError::Taken`] when it
    /// belongs to another owner; nothing is written then.
    fn renew<'a>(&'a self, lease: &'a Lease) -> Written<'a>;

    /// Takes the record out, so that a reader can tell that the instance left and is not just
    /// missing (with [`Status::Down`](crate::instance::Status::Down) where nothing else says so).
    ///
    /// Nothing happens, and that is a success, when it is not there or belongs to another owner.
    fn remove<'a>(&'a self, lease: &'a Lease) -> Written<'a>;
}

impl<R: Register + ?Sized> Register for Arc<R> {
    fn put<'a>(&'a self, lease: &'a Lease) -> Written<'a> {
        (**self).put(lease)
    }

    fn renew<'a>(&'a self, lease: &'a Lease) -> Written<'a> {
        (**self).renew(lease)
    }

    fn remove<'a>(&'a self, lease: &'a Lease) -> Written<'a> {
        (**self).remove(lease)
    }
}

/// The record of an instance, which is there for as long as its owner renews it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lease {
    /// What the record says.
    pub instance: Arc<Instance>,
    /// How long it says so without being renewed.
    pub ttl: Duration,
    /// Who renews it.
    pub owner: Owner,
}

/// Tells the record of one registration from that of another with the same service and id, such as
/// that of the process before the last restart. Written as 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner(u64);

// ===== impl Lease =====

impl Lease {
    /// A lease with an owner of its own.
    pub fn new(instance: impl Into<Arc<Instance>>, ttl: Duration) -> Self {
        Self {
            instance: instance.into(),
            ttl,
            owner: Owner::random(),
        }
    }
}

// ===== impl Owner =====

impl Owner {
    fn random() -> Self {
        // Keyed by the operating system's randomness: processes that start at one moment differ.
        Self(RandomState::new().hash_one(std::process::id()))
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Why a registry did not write.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// The registry cannot be reached or written, or did not answer in time.
    #[error("the registry is unavailable: {0}")]
    Unavailable(#[source] SharedError),
    /// The registry answered that it will not write this.
    #[error("the registry refused: {0}")]
    Refused(#[source] SharedError),
    /// The record was not renewed in time, and is gone.
    #[error("the lease has lapsed")]
    Lapsed,
    /// The record belongs to another registration with the same service and id.
    #[error("another registration has taken the same service and id")]
    Taken,
}

// ===== impl RegisterError =====

impl RegisterError {
    /// The registry cannot be reached or written, because of `error`.
    pub fn unavailable(error: impl Into<BoxError>) -> Self {
        Self::Unavailable(SharedError::new(error))
    }

    /// The registry will not write this, because of `error`.
    pub fn refused(error: impl Into<BoxError>) -> Self {
        Self::Refused(SharedError::new(error))
    }
}
