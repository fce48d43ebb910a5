//! Where a layer stands: around a handler or around a client.

/// Where a layer stands that does one thing on the server side and another on the client side.
///
/// Each role does all that is needed there and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Role {
    /// Anywhere: does what either of the others does.
    #[default]
    Both,
    /// Around a handler: what came with the call is made known to the client calls in it.
    Server,
    /// Around a client: the request tells the next hop.
    Client,
}

// ===== impl Role =====

#[allow(dead_code, reason = "for the layers that have roles")]
impl Role {
    /// Whether what came with the call is made known to the calls that the inner service makes.
    #[inline]
    pub(crate) fn enters(self) -> bool {
        matches!(self, Self::Both | Self::Server)
    }

    /// Whether the request tells the next hop.
    #[inline]
    pub(crate) fn tells(self) -> bool {
        matches!(self, Self::Both | Self::Client)
    }
}
