//! What the layer counts, and what it says about it once. A call without metadata costs no count.

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
};

use http::HeaderName;

use crate::vocab::{metrics::Sink, shard::Counter};

/// Why something that came, or was to be sent, is not metadata of the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dropped {
    /// More entries than `maxEntries`.
    Count,
    /// More bytes than `maxBytes`.
    Size,
    /// A key longer than `maxKeyLength`.
    Key,
    /// Credentials, or about one connection.
    Never,
    /// A header of `propagate` from a caller who is not trusted.
    Untrusted,
    /// Baggage, or a trace state, above its own limits.
    Baggage,
    /// It could not be read, or not be written.
    Malformed,
}

const REASONS: [(Dropped, &str); 7] = [
    (Dropped::Count, "count"),
    (Dropped::Size, "size"),
    (Dropped::Key, "key"),
    (Dropped::Never, "never"),
    (Dropped::Untrusted, "untrusted"),
    (Dropped::Baggage, "baggage"),
    (Dropped::Malformed, "malformed"),
];

/// What a metadata layer has counted since it was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct MetadataStats {
    /// Header lines of callers who are not trusted that were removed, since only the mesh may set them.
    pub stripped: u64,
    /// Entries that were dropped as there were too many of them.
    pub dropped_for_count: u64,
    /// Entries that were dropped as they were too long altogether.
    pub dropped_for_size: u64,
    /// Entries that were dropped as their key was too long.
    pub dropped_for_key: u64,
    /// Entries that are never propagated: credentials, and what is about one connection.
    pub never_propagated: u64,
    /// Headers of `propagate` that were not passed on, as the caller is not trusted.
    pub untrusted: u64,
    /// Requests whose baggage or trace state was cut to its limits.
    pub baggage_cut: u64,
    /// Entries and whole headers that could not be read or written.
    pub malformed: u64,
}

#[derive(Debug, Default)]
pub(super) struct Stats {
    stripped: Counter,
    dropped: [Counter; REASONS.len()],
    said_stripped: AtomicBool,
    said_dropped: [AtomicBool; REASONS.len()],
}

// ===== impl Stats =====

impl Stats {
    /// Counts header lines that were removed, and says so the first time.
    #[cold]
    pub(super) fn note_stripped(&self, policy: &str, lines: usize, first: Option<&HeaderName>) {
        self.stripped.add(lines as u64);
        if !self.said_stripped.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                policy,
                header = first.map(HeaderName::as_str),
                "removed a header that only the mesh may set, since its sender is not trusted: if it \
                 is one of your services or proxies, name it in `trust`, such as \
                 `trust: {{ cidrs: [10.0.0.0/8] }}`, and count the proxies in front in \
                 `client: {{ trustedHops: 1 }}`; this is said once and counted in \
                 mesh_metadata_stripped_total"
            );
        }
    }

    /// Counts an entry that is not propagated, and says so the first time for each reason.
    #[cold]
    pub(super) fn note_dropped(&self, policy: &str, why: Dropped, what: impl fmt::Display) {
        self.dropped[why as usize].add(1);
        if !self.said_dropped[why as usize].swap(true, Ordering::Relaxed) {
            let (_, reason) = REASONS[why as usize];
            tracing::warn!(
                policy,
                reason,
                entry = %what,
                "metadata was not propagated: {}; this is said once for each reason and counted in \
                 mesh_metadata_dropped_total",
                why.fix(),
            );
        }
    }

    pub(super) fn read(&self) -> MetadataStats {
        let of = |why: Dropped| self.dropped[why as usize].sum();
        MetadataStats {
            stripped: self.stripped.sum(),
            dropped_for_count: of(Dropped::Count),
            dropped_for_size: of(Dropped::Size),
            dropped_for_key: of(Dropped::Key),
            never_propagated: of(Dropped::Never),
            untrusted: of(Dropped::Untrusted),
            baggage_cut: of(Dropped::Baggage),
            malformed: of(Dropped::Malformed),
        }
    }

    pub(super) fn collect(&self, policy: &str, out: &mut dyn Sink) {
        let help = "Header lines of untrusted callers that were removed";
        let labels = [("policy", policy)];
        let total = self.stripped.sum();
        out.counter("mesh_metadata_stripped_total", help, &labels, total);
        for (why, reason) in REASONS {
            let help = "Metadata that was not propagated, by why";
            let labels = [("policy", policy), ("reason", reason)];
            let total = self.dropped[why as usize].sum();
            out.counter("mesh_metadata_dropped_total", help, &labels, total);
        }
    }
}

// ===== impl Dropped =====

impl Dropped {
    fn fix(self) -> &'static str {
        match self {
            Self::Count => "there are more entries than `maxEntries`",
            Self::Size => "there are more bytes than `maxBytes`",
            Self::Key => "its key is longer than `maxKeyLength`",
            Self::Never => "credentials, and what is about one connection, never are",
            Self::Untrusted => "the header is in `propagate`, and its sender not in `trust`",
            Self::Baggage => "baggage is cut to 64 entries and 8192 bytes, a trace state to 4096",
            Self::Malformed => "it does not fit into a header, or was not as its dialect has it",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_counted_by_itself() {
        let stats = Stats::default();
        for (at, (why, _)) in REASONS.into_iter().enumerate() {
            assert_eq!(why as usize, at);
            for _ in 0..=at {
                stats.note_dropped("test", why, "x");
            }
        }
        stats.note_stripped("test", 9, None);
        let read = stats.read();
        assert_eq!(
            read,
            MetadataStats {
                stripped: 9,
                dropped_for_count: 1,
                dropped_for_size: 2,
                dropped_for_key: 3,
                never_propagated: 4,
                untrusted: 5,
                baggage_cut: 6,
                malformed: 7,
            }
        );
    }
}
