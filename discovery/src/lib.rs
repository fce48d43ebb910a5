//! Service discovery and client-side load balancing as tower services.
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod balance;
#[cfg(feature = "discover")]
#[cfg_attr(docsrs, doc(cfg(feature = "discover")))]
pub mod discover;
#[cfg(feature = "file")]
#[cfg_attr(docsrs, doc(cfg(feature = "file")))]
pub mod document;
pub mod endpoint;
pub mod instance;
pub mod register;
pub mod registry;
pub mod resolve;
#[cfg(feature = "sim")]
#[cfg_attr(docsrs, doc(cfg(feature = "sim")))]
pub mod sim;
