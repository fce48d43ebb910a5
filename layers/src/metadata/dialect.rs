//! How metadata is spelt on the wire.
//!
//! | dialect | headers |
//! |---|---|
//! | `kratos` | `x-md-global-<key>`, `x-md-local-<key>`, one line for each value |
//! | `go-micro` | `Micro-<Key>`, one line for each value; `Micro-From-Service` is the calling service |
//! | `go-chassis` | `x-cse-context`: a JSON object of strings; in it, and as a header, `x-cse-src-microservice` is the calling service |
//!
//! The other two know no scopes. So what they send is global, save for the calling service, which is
//! the local entry `caller`; and what is sent to them, global or local, they may pass on.
//!
//! Headers of go-micro's that steer its own transport (`Micro-Service`, `Micro-Topic`, ..) are no
//! metadata. What its handlers add under names of their own, without `Micro-`, is read with `propagate`.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use super::json;
use crate::vocab::context::{Entry, GLOBAL_PREFIX, MetadataError, Scope};

/// A way to spell metadata on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Dialect {
    /// `x-md-global-<key>` and `x-md-local-<key>`, as go-kratos has them; our own spelling.
    #[default]
    Kratos,
    /// `Micro-<Key>`, as go-micro has it.
    GoMicro,
    /// `x-cse-context`, a JSON object of strings, as go-chassis and Java chassis have it.
    GoChassis,
}

static CSE_CONTEXT: HeaderName = HeaderName::from_static("x-cse-context");
static CSE_CALLER: HeaderName = HeaderName::from_static("x-cse-src-microservice");
/// The key of the calling service.
pub(super) const CALLER: &str = "caller";

const MICRO_PREFIX: &str = "micro-";
const MICRO_CALLER: &str = "from-service";
/// Keys by which go-micro's transports, brokers and networks are steered: passed on, they would make a
/// call into something else (a call with `Micro-Topic` is an event).
const MICRO_TRANSPORT: &[&str] = &[
    "id", "service", "method", "endpoint", "error", "stream", "topic", "router", "network",
    "gateway", "peer", "link",
];
const MICRO_TUNNEL: &str = "tunnel";

/// What one header says, or one entry of it.
pub(super) enum Said {
    /// An entry of the metadata.
    Entry(Entry),
    /// It cannot be read, or is never propagated.
    Refused(MetadataError),
    /// A header of this dialect is not as it has to be.
    Malformed,
}

// ===== impl Dialect =====

impl Dialect {
    /// Reads what headers say in this dialect. No header is read that is longer than `most` bytes.
    pub(super) fn read(
        self,
        headers: &HeaderMap,
        most: usize,
        mut say: impl FnMut(&HeaderName, Said),
    ) {
        match self {
            Self::Kratos => {
                for (name, value) in headers {
                    if let Some(entry) = kratos(name, value) {
                        say(name, Said::Entry(entry));
                    }
                }
            }
            Self::GoMicro => {
                for (name, value) in headers {
                    if let Some(entry) = micro(name, value) {
                        say(name, entry.map_or_else(Said::Refused, Said::Entry));
                    }
                }
            }
            Self::GoChassis => chassis(headers, most, say),
        }
    }

    /// Writes entries into headers in this dialect. A header that is there already stays as it is.
    /// Gives the entries that it has no way to write.
    pub(super) fn write(
        self,
        entries: &mut dyn Iterator<Item = &Entry>,
        headers: &mut HeaderMap,
    ) -> usize {
        match self {
            Self::Kratos => append_each(
                entries.map(|entry| Some((entry.name.clone(), &entry.value))),
                headers,
            ),
            Self::GoMicro => append_each(
                entries.map(|entry| Some((micro_name(entry)?, &entry.value))),
                headers,
            ),
            Self::GoChassis => write_chassis(entries, headers),
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kratos => "kratos",
            Self::GoMicro => "go-micro",
            Self::GoChassis => "go-chassis",
        })
    }
}

/// Appends what comes, unless a header of that name was there before. Values of one name come together.
fn append_each<'a>(
    lines: impl Iterator<Item = Option<(HeaderName, &'a HeaderValue)>>,
    headers: &mut HeaderMap,
) -> usize {
    let mut unwritten = 0;
    let mut previous: Option<(HeaderName, bool)> = None;
    for line in lines {
        let Some((name, value)) = line else {
            unwritten += 1;
            continue;
        };
        let was_there = match previous {
            Some((of, was_there)) if of == name => was_there,
            _ => headers.contains_key(&name),
        };
        if !was_there {
            headers.append(&name, value.clone());
        }
        previous = Some((name, was_there));
    }
    unwritten
}

/// Whether a header is for one hop, in any dialect.
pub(super) fn is_local(name: &HeaderName) -> bool {
    let text = name.as_str();
    let is_md = text.starts_with("x-md-") && !text.starts_with(GLOBAL_PREFIX);
    is_md || *name == CSE_CALLER || text.strip_prefix(MICRO_PREFIX) == Some(MICRO_CALLER)
}

// ===== kratos =====

fn kratos(name: &HeaderName, value: &HeaderValue) -> Option<Entry> {
    let text = name.as_str();
    // kratos' servers read all that begins like this; its clients pass on what is global.
    let rest = text.strip_prefix("x-md-")?;
    let scope = if text.starts_with(GLOBAL_PREFIX) {
        Scope::Global
    } else {
        Scope::Received
    };
    let is_empty = matches!(rest, "" | "global-" | "local-");
    (!is_empty).then(|| Entry {
        scope,
        name: name.clone(),
        value: value.clone(),
    })
}

// ===== go-micro =====

fn micro(name: &HeaderName, value: &HeaderValue) -> Option<Result<Entry, MetadataError>> {
    let key = name.as_str().strip_prefix(MICRO_PREFIX)?;
    if key.is_empty() || MICRO_TRANSPORT.contains(&key) || key.starts_with(MICRO_TUNNEL) {
        return None;
    }
    Some(match key {
        MICRO_CALLER => Entry::new(Scope::Received, CALLER, value.as_bytes()),
        key => Entry::new(Scope::Global, key, value.as_bytes()),
    })
}

/// `None` for a key that would steer a transport.
fn micro_name(entry: &Entry) -> Option<HeaderName> {
    let key = match entry.key() {
        CALLER if entry.scope == Scope::Local => MICRO_CALLER,
        key if MICRO_TRANSPORT.contains(&key) || key.starts_with(MICRO_TUNNEL) => return None,
        key => key,
    };
    HeaderName::try_from([MICRO_PREFIX, key].concat()).ok()
}

// ===== go-chassis =====

fn chassis(headers: &HeaderMap, most: usize, mut say: impl FnMut(&HeaderName, Said)) {
    let mut caller = false;
    for line in headers.get_all(&CSE_CONTEXT) {
        let Some(entries) = (line.len() <= most)
            .then(|| json::read(line.as_bytes()))
            .flatten()
        else {
            say(&CSE_CONTEXT, Said::Malformed);
            continue;
        };
        for (key, value) in entries {
            let entry = if key.eq_ignore_ascii_case(CSE_CALLER.as_str()) {
                caller = true;
                Entry::new(Scope::Received, CALLER, value.as_bytes())
            } else {
                Entry::new(Scope::Global, &key, value.as_bytes())
            };
            say(&CSE_CONTEXT, entry.map_or_else(Said::Refused, Said::Entry));
        }
    }
    if let (false, Some(name)) = (caller, headers.get(&CSE_CALLER)) {
        let entry = Entry::new(Scope::Received, CALLER, name.as_bytes());
        say(&CSE_CALLER, entry.map_or_else(Said::Refused, Said::Entry));
    }
}

fn write_chassis(entries: &mut dyn Iterator<Item = &Entry>, headers: &mut HeaderMap) -> usize {
    if headers.contains_key(&CSE_CONTEXT) {
        return 0;
    }
    let mut unwritten = 0;
    let mut object = json::Writer::new();
    let mut keys: Vec<&str> = Vec::new();
    for entry in entries {
        let is_caller = entry.scope == Scope::Local && entry.key() == CALLER;
        let key = if is_caller {
            CSE_CALLER.as_str()
        } else {
            entry.key()
        };
        // Of several values they read one; of ours it is the first.
        let value = std::str::from_utf8(entry.value.as_bytes());
        match value {
            Ok(value) if !keys.contains(&key) => {
                object.entry(key, value);
                keys.push(key);
            }
            _ => unwritten += 1,
        }
        if is_caller && !headers.contains_key(&CSE_CALLER) {
            headers.insert(&CSE_CALLER, entry.value.clone());
        }
    }
    if let Some(text) = object.finish() {
        let value = HeaderValue::try_from(text);
        let value = value.expect("all but printable ASCII was escaped");
        headers.insert(&CSE_CONTEXT, value);
    }
    unwritten
}
