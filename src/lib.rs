//! A service mesh as a library.
#![cfg_attr(docsrs, feature(doc_cfg))]

pub use tower_mesh_discovery as discovery;
pub use tower_mesh_layers as layers;
