//! What goes with a call: the metadata of its context, and the constants of the configuration.

use http::{HeaderMap, HeaderName};

use super::{
    config::Compiled,
    dialect::Dialect,
    receive::{TRACEPARENT, TRACESTATE, is_trace_context},
    stats::{Dropped, Stats},
};
use crate::vocab::{
    context::{Entry, Metadata, Scope},
    headers::find,
};

/// Writes metadata into the headers of a request. What is there already stays as it is: whoever made
/// the request meant it.
///
/// `is_written` tells of a header of the trace context whether it was seen to.
#[inline(never)]
pub(super) fn send(
    config: &Compiled,
    stats: &Stats,
    metadata: Option<&Metadata>,
    headers: &mut HeaderMap,
    is_written: impl Fn(&HeaderName) -> bool,
) {
    let inherited = metadata.map_or(&[][..], Metadata::entries);
    let mut room = config.room;
    let mut fits = |entry: &&Entry| match room.take(entry.key(), &entry.value) {
        Ok(()) => true,
        Err(why) => {
            stats.note_dropped(&config.name, why, entry.key());
            false
        }
    };
    let constants = config.constants.iter().filter(|constant| {
        !inherited
            .iter()
            .any(|entry| entry.scope == constant.scope && entry.name == constant.name)
    });
    let goes_on = |entry: &&Entry| matches!(entry.scope, Scope::Global | Scope::Local);
    let entries: Entries<'_> = inherited
        .iter()
        .filter(goes_on)
        .chain(constants)
        .filter(&mut fits)
        .collect();
    for dialect in &config.send {
        let unwritten = dialect.write(&mut entries.iter().copied(), headers);
        for _ in 0..unwritten {
            stats.note_dropped(&config.name, Dropped::Malformed, dialect);
        }
    }

    let others = inherited.iter().filter(|entry| {
        let is_off = !config.trace_context && is_trace_context(&entry.name);
        entry.scope == Scope::Header && !is_off && !is_written(&entry.name)
    });
    if others.clone().next().is_none() {
        return;
    }
    // A trace state belongs to its parent: with another one it would be somebody else's.
    let has_parent = find(headers, &TRACEPARENT).is_some();
    let mut others = others.filter(|entry| !(has_parent && entry.name == TRACESTATE));
    Dialect::Kratos.write(&mut others, headers);
}

/// Most calls have a few.
type Entries<'a> = smallvec::SmallVec<[&'a Entry; 8]>;
