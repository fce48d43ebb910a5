//! Service discovery and client-side load balancing as tower services.
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod balance;
pub mod endpoint;
pub mod instance;
pub mod registry;
pub mod resolve;
