//! What came with a call: read from those who are trusted, removed from all others.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Request, header};

use super::{
    baggage,
    config::Compiled,
    dialect::Said,
    room::Room,
    stats::{Dropped, Stats},
};
use crate::vocab::{
    client_addr::{ClientAddr, keep_forwarded},
    context::{Entry, Metadata, MetadataError, Scope, is_never_propagated},
    trust::strip_untrusted,
};

pub(super) static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(super) static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
pub(super) static BAGGAGE: HeaderName = HeaderName::from_static("baggage");

/// The longest `traceparent` that is passed on. Of version 00 it has 55 bytes; later ones may have more.
const MOST_TRACEPARENT: usize = 256;
/// The most bytes of `tracestate` that are passed on. The
/// [specification](https://www.w3.org/TR/trace-context/#tracestate-limits) asks for at least 512.
const MOST_TRACESTATE: usize = 4_096;
/// Above so many bytes of headers, what is kept of them is copied: values are slices of what the
/// connection read, and a few bytes of them would keep all of it.
const LARGE: usize = 16_384;

/// Who sent a request, and what.
pub(super) enum Received {
    /// Nothing is left of what it must not send.
    Untrusted,
    /// Whatever it sent is believed.
    Trusted(Option<Arc<Metadata>>),
}

/// Reads what came with a call; for one that has headers which matter here.
#[inline(never)]
pub(super) fn receive<B>(config: &Compiled, stats: &Stats, request: &mut Request<B>) -> Received {
    if !config.trust.trusts_request(request, &config.client) {
        strip(config, stats, request);
        return Received::Untrusted;
    }
    let mut reader = Reader {
        config,
        stats,
        headers: request.headers(),
        metadata: Metadata::new(),
        room: config.room,
    };
    reader.read_dialects();
    reader.read_others();
    let cut = config
        .trace_context
        .then(|| reader.read_trace_context())
        .flatten();
    let mut metadata = reader.metadata;
    if let Some(baggage) = cut {
        // Whoever reads it in here shall not have to cope with it either.
        request.headers_mut().insert(&BAGGAGE, baggage);
    }
    if metadata.is_empty() {
        return Received::Trusted(None);
    }
    if request
        .headers()
        .values()
        .map(HeaderValue::len)
        .sum::<usize>()
        > LARGE
    {
        metadata.copy_values();
    }
    Received::Trusted(Some(Arc::new(metadata)))
}

/// Whether a header is one of the W3C's: trace context and baggage.
pub(super) fn is_trace_context(name: &HeaderName) -> bool {
    [&TRACEPARENT, &TRACESTATE, &BAGGAGE].contains(&name)
}

fn strip<B>(config: &Compiled, stats: &Stats, request: &mut Request<B>) {
    // The headers that tell the client's address are about to go.
    if config.client.trusted_hops > 0 {
        if let Some(addr) = config.client.find(request.headers(), request.extensions()) {
            request.extensions_mut().insert(ClientAddr(addr));
        }
    } else {
        let mut extensions = std::mem::take(request.extensions_mut());
        keep_forwarded(request.headers(), &mut extensions);
        *request.extensions_mut() = extensions;
    }
    let stripped = strip_untrusted(request.headers_mut());
    if stripped.dropped > 0 {
        stats.note_stripped(&config.name, stripped.dropped, stripped.first.as_ref());
    }
    if !config.propagate.is_empty() {
        let others = request
            .headers()
            .keys()
            .filter(|name| config.propagates(name));
        for name in others {
            stats.note_dropped(&config.name, Dropped::Untrusted, name);
        }
    }
}

struct Reader<'a> {
    config: &'a Compiled,
    stats: &'a Stats,
    headers: &'a HeaderMap,
    metadata: Metadata,
    room: Room,
}

// ===== impl Reader =====

impl Reader<'_> {
    fn read_dialects(&mut self) {
        let Self {
            config, headers, ..
        } = *self;
        let most = config.room.bytes;
        for dialect in &config.accept {
            let earlier = self.metadata.len();
            dialect.read(headers, most, |name, said| match said {
                Said::Entry(entry) => self.add(name, entry, earlier),
                Said::Refused(MetadataError::NeverPropagated) => self.drop(Dropped::Never, name),
                Said::Refused(_) | Said::Malformed => self.drop(Dropped::Malformed, name),
            });
        }
    }

    /// The headers that the configuration adds.
    fn read_others(&mut self) {
        let Self {
            config, headers, ..
        } = *self;
        if config.propagate.is_empty() {
            return;
        }
        for (name, value) in headers {
            if !is_trace_context(name) && config.propagates(name) {
                let (name, value) = (name.clone(), value.clone());
                let scope = Scope::Header;
                self.add(&name.clone(), Entry { scope, name, value }, 0);
            }
        }
    }

    /// W3C trace context and baggage, as they came, apart from what is too much: then the baggage to go
    /// on with.
    fn read_trace_context(&mut self) -> Option<HeaderValue> {
        let headers = self.headers;
        let mut parents = headers.get_all(&TRACEPARENT).iter();
        match (parents.next(), parents.next()) {
            (Some(parent), None) if parent.len() <= MOST_TRACEPARENT => {
                self.pass_on(&TRACEPARENT, parent);
                self.read_tracestate();
            }
            // Two parents are none, and without a parent there is no state.
            (Some(_), _) => self.drop(Dropped::Malformed, &TRACEPARENT),
            (None, _) => {}
        }
        let lines = headers.get_all(&BAGGAGE);
        let Some(kept) = baggage::cut(|| lines.iter().map(HeaderValue::as_bytes)) else {
            for line in lines {
                self.pass_on(&BAGGAGE, line);
            }
            return None;
        };
        self.drop(Dropped::Baggage, &BAGGAGE);
        let kept = HeaderValue::from_bytes(&kept).expect("it was in a header before");
        if !kept.is_empty() {
            self.pass_on(&BAGGAGE, &kept);
        }
        Some(kept)
    }

    fn read_tracestate(&mut self) {
        let lines = self.headers.get_all(&TRACESTATE);
        if lines.iter().map(HeaderValue::len).sum::<usize>() > MOST_TRACESTATE {
            return self.drop(Dropped::Baggage, &TRACESTATE);
        }
        for line in lines {
            self.pass_on(&TRACESTATE, line);
        }
    }

    fn pass_on(&mut self, name: &HeaderName, value: &HeaderValue) {
        let (name, value) = (name.clone(), value.clone());
        let scope = Scope::Header;
        self.metadata.push(Entry { scope, name, value });
    }

    /// Adds an entry that a header said, unless one of the first `earlier` ones has its key.
    fn add(&mut self, name: &HeaderName, entry: Entry, earlier: usize) {
        let key = entry.key();
        if is_never_propagated(key) || self.is_named_by_connection(name) {
            return self.drop(Dropped::Never, name);
        }
        if self.metadata.entries()[..earlier]
            .iter()
            .any(|other| other.key() == key)
        {
            return;
        }
        match self.room.take(key, &entry.value) {
            Ok(()) => self.metadata.push(entry),
            Err(why) => self.drop(why, name),
        }
    }

    /// Whether a header is about the connection alone, since `Connection` names it.
    fn is_named_by_connection(&self, name: &HeaderName) -> bool {
        let lines = self.headers.get_all(header::CONNECTION);
        let mut named = lines
            .iter()
            .flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
        named.any(|one| {
            one.trim_ascii()
                .eq_ignore_ascii_case(name.as_str().as_bytes())
        })
    }

    fn drop(&self, why: Dropped, what: &HeaderName) {
        self.stats.note_dropped(&self.config.name, why, what);
    }
}
