//! The states of a breaker.

/// The state of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum BreakerState {
    /// Calls pass.
    Closed = 0,
    /// Calls are refused until the open time is over.
    Open = 1,
    /// A few calls pass, as probes.
    HalfOpen = 2,
    /// Calls are refused until an operator says otherwise.
    ForcedOpen = 3,
    /// Calls pass until an operator says otherwise.
    ForcedClosed = 4,
}

// ===== impl BreakerState =====

impl BreakerState {
    /// All states, each at the place of its number.
    pub const ALL: [Self; 5] = [
        Self::Closed,
        Self::Open,
        Self::HalfOpen,
        Self::ForcedOpen,
        Self::ForcedClosed,
    ];

    /// Of a word of the gate, whose lowest three bits it is.
    #[inline]
    pub(super) fn of(word: u64) -> Self {
        match word & 7 {
            0 => Self::Closed,
            1 => Self::Open,
            2 => Self::HalfOpen,
            3 => Self::ForcedOpen,
            _ => Self::ForcedClosed,
        }
    }

    /// A short, fixed label for metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::ForcedOpen => "forced_open",
            Self::ForcedClosed => "forced_closed",
        }
    }
}
