//! Endpoints: the services that the balancer picks among.

mod body;

pub use self::body::Body;
