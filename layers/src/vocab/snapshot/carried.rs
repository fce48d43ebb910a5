//! The extensions of a request, carried over to its next attempt without an allocation.
//!
//! A clone of `http::Extensions` allocates a map, and a box for each entry. So what this crate and the
//! usual hosts insert is kept by value. Where there is anything else the whole map is cloned: it
//! cannot be walked, but it tells its length, and so nothing is left behind.

use http::Extensions;

use crate::vocab::{
    client_addr::{ClientAddr, PeerAddr},
    context::CallContext,
    idempotent::Idempotent,
    key::Operation,
};

#[cfg(feature = "tonic")]
type GrpcMethod = tonic::GrpcMethod<'static>;

macro_rules! known {
    ($($(#[$condition:meta])? $name:ident: $type:ty,)+) => {
        /// The extensions of one request.
        #[derive(Default)]
        pub(crate) struct Carried {
            context: Option<CallContext>,
            $($(#[$condition])? $name: Option<$type>,)+
            /// All of them, where not all are known.
            all: Option<Extensions>,
        }

        impl Carried {
            /// Keeps everything that is in `extensions`; `self` must be empty. `context` is theirs.
            #[inline(always)] // every call pays for it
            pub(crate) fn keep(&mut self, extensions: &Extensions, context: Option<&CallContext>) {
                let mut left = extensions.len();
                if let Some(context) = context {
                    self.context = Some(context.clone());
                    left -= 1;
                }
                if left > 0 {
                    self.keep_others(extensions, left);
                }
            }

            fn keep_others(&mut self, extensions: &Extensions, mut left: usize) {
                $($(#[$condition])? {
                    if let Some(found) = extensions.get::<$type>() {
                        self.$name = Some(found.clone());
                        left -= 1;
                        if left == 0 {
                            return;
                        }
                    }
                })+
                self.clear();
                self.all = Some(extensions.clone());
            }

            /// What was kept.
            pub(crate) fn take(&mut self) -> Extensions {
                let mut extensions = self.all.take().unwrap_or_default();
                if let Some(context) = self.context.take() {
                    extensions.insert(context);
                }
                $($(#[$condition])? {
                    if let Some(kept) = self.$name.take() {
                        extensions.insert(kept);
                    }
                })+
                extensions
            }

            #[inline]
            pub(crate) fn clear(&mut self) {
                self.context = None;
                $($(#[$condition])? { self.$name = None; })+
                self.all = None;
            }
        }
    };
}

// The likely ones first: the search ends when all are found.
known! {
    #[cfg(feature = "axum")]
    matched_path: axum::extract::MatchedPath,
    #[cfg(feature = "axum")]
    connect_info: axum::extract::ConnectInfo<std::net::SocketAddr>,
    #[cfg(feature = "tonic")]
    grpc_method: GrpcMethod,
    #[cfg(feature = "tonic")]
    tcp_connect_info: tonic::transport::server::TcpConnectInfo,
    operation: Operation,
    idempotent: Idempotent,
    peer_addr: PeerAddr,
    client_addr: ClientAddr,
}

impl Carried {
    /// The call context, where there is one.
    pub(crate) fn context(&self) -> Option<&CallContext> {
        self.context
            .as_ref()
            .or_else(|| CallContext::get(self.all.as_ref()?))
    }
}
