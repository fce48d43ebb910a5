//! A key applied to a request: the hash on the hot path, the label when a state is made.
//!
//! Both walk over the same parts, and neither keeps anything: a label is read off the request again.

use std::{
    fmt::{self, Write},
    hash::{BuildHasher, Hasher, RandomState},
    net::IpAddr,
    sync::LazyLock,
};

use http::{HeaderName, HeaderValue, Method, Uri, header};

use super::{
    super::{
        client_addr::{self, ClientIp},
        grpc,
        request_ref::RequestRef,
    },
    Name, Operation, Part,
};

/// What a caller or a router cannot name, in labels.
const OTHER: &str = "_OTHER";

/// A label is kept for as long as its state and may come from a header: 64 bytes tell people apart.
const LONGEST_LABEL: usize = 64;

/// Longer gRPC paths are made up.
const LONGEST_GRPC_PATH: usize = 128;

/// A [`Key`](super::Key) applied to a request.
#[derive(Clone, Copy)]
pub struct Extracted<'a> {
    hash: u64,
    parts: &'a [Part],
    request: RequestRef<'a>,
}

/// An operation, in pieces that need not be put together to be hashed.
enum OperationOf<'a> {
    Named(&'a str),
    /// A path as it came. Whether it can be a method's is only asked when a state would be made for
    /// it, since that takes longer than all else.
    Grpc(&'a str),
    Http(&'a Method, &'a str),
}

// ===== impl Extracted =====

impl<'a> Extracted<'a> {
    #[inline]
    pub(super) fn new(parts: &'a [Part], request: RequestRef<'a>) -> Self {
        Self {
            hash: hash(parts, request),
            parts,
            request,
        }
    }

    /// Where the state is kept. Differs from process to process, so that nobody can aim at a state.
    pub fn hash(&self) -> u64 {
        if self.parts.contains(&Part::Operation) && self.request.has_made_up_path() {
            return hash(self.parts, self.request.with_path_of_others());
        }
        self.hash
    }

    /// The same without asking whether a gRPC path can be a method's, which takes longer than all
    /// else. A path that cannot has no state under this hash, so a hit is right and a miss must ask.
    #[inline]
    pub(crate) fn quick_hash(&self) -> u64 {
        self.hash
    }

    /// Writes what tells this state from all others, to whom 64 bits are too few. Values that callers make
    /// up cannot run into what is written next.
    #[allow(dead_code, reason = "for the layers that keep answers")]
    pub(crate) fn write_to(&self, hasher: &mut impl Hasher) {
        for part in self.parts {
            self.request.hash_part(part, hasher);
        }
    }

    /// The key's name, for metrics and logs. Allocates: for when a new state is made.
    ///
    /// A part longer than 64 bytes is cut off, with `…` to show it.
    pub fn label(&self) -> String {
        if self.parts.is_empty() {
            return "global".to_owned();
        }
        let mut label = String::new();
        for part in self.parts {
            if !label.is_empty() {
                label.push_str(", ");
            }
            let start = label.len();
            self.request.write_label(part, &mut label);
            truncate(&mut label, start);
        }
        label
    }
}

impl fmt::Debug for Extracted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Extracted")
            .field("hash", &self.hash)
            .field("label", &self.label())
            .finish()
    }
}

/// Cuts what was written since `start` off at the longest label.
fn truncate(label: &mut String, start: usize) {
    if label.len() - start > LONGEST_LABEL {
        let end = (0..=start + LONGEST_LABEL)
            .rev()
            .find(|at| label.is_char_boundary(*at));
        label.truncate(end.unwrap_or(start));
        label.push('…');
    }
}

// ===== hashing =====

/// SipHash, for what callers make up: nobody is known to find colliding values without the seed, so
/// nobody can spend another caller's quota.
static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// For operations, a fifth of the instructions. Nothing is gained by colliding with an operation that
/// calling it would not give.
static OPERATION_SEED: LazyLock<foldhash::quality::RandomState> =
    LazyLock::new(foldhash::quality::RandomState::default);

fn hash(parts: &[Part], request: RequestRef<'_>) -> u64 {
    match parts {
        [] => 0,
        [Part::Operation] => hash_operation(request),
        _ => hash_with(SEED.build_hasher(), parts, request),
    }
}

/// The most frequent key by far, and so the shortest way.
fn hash_operation(request: RequestRef<'_>) -> u64 {
    /// Odd, with as many ones as zeros: 2^64 over the golden ratio.
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    match request.operation() {
        OperationOf::Named(name) | OperationOf::Grpc(name) => {
            OPERATION_SEED.hash_one(name.as_bytes())
        }
        OperationOf::Http(method, path) => {
            // Different for each method of a path, and random for different paths.
            let method = 1 + method_number(method) as u64;
            OPERATION_SEED.hash_one(path.as_bytes()) ^ method.wrapping_mul(SPREAD)
        }
    }
}

fn hash_with(mut hasher: impl Hasher, parts: &[Part], request: RequestRef<'_>) -> u64 {
    for part in parts {
        request.hash_part(part, &mut hasher);
    }
    hasher.finish()
}

/// Length first, so that no two lists of values run together to the same bytes.
fn write_bytes(hasher: &mut impl Hasher, bytes: &[u8]) {
    hasher.write_usize(bytes.len());
    hasher.write(bytes);
}

fn write_lower_case(hasher: &mut impl Hasher, bytes: &[u8]) {
    hasher.write_usize(bytes.len());
    for chunk in bytes.chunks(64) {
        let mut lower = [0; 64];
        let lower = &mut lower[..chunk.len()];
        lower.copy_from_slice(chunk);
        lower.make_ascii_lowercase();
        hasher.write(lower);
    }
}

/// Stands for a part that the request lacks: no value is that long.
const ABSENT: usize = usize::MAX;

// ===== parts of a request =====

impl<'a> RequestRef<'a> {
    fn hash_part(&self, part: &Part, hasher: &mut impl Hasher) {
        match part {
            Part::Operation => match self.operation() {
                OperationOf::Named(name) | OperationOf::Grpc(name) => {
                    write_bytes(hasher, name.as_bytes());
                }
                OperationOf::Http(method, path) => {
                    hasher.write_usize(ABSENT); // no name, but the two that follow
                    hasher.write_usize(method_number(method));
                    write_bytes(hasher, path.as_bytes());
                }
            },
            Part::Authority => match self.authority() {
                Some(authority) => write_lower_case(hasher, authority),
                None => hasher.write_usize(ABSENT),
            },
            Part::Header(name) => {
                for value in self.headers.get_all(name) {
                    write_bytes(hasher, value.as_bytes());
                }
                hasher.write_usize(ABSENT);
            }
            Part::Identity => match self.identity() {
                Some(identity) => write_bytes(hasher, identity.as_bytes()),
                None => hasher.write_usize(ABSENT),
            },
            Part::ClientIp(client) => match self.client(client) {
                Some(IpAddr::V4(addr)) => write_bytes(hasher, &addr.octets()),
                Some(IpAddr::V6(addr)) => write_bytes(hasher, &addr.octets()[..8]),
                None => {
                    client_addr::note_missing();
                    hasher.write_usize(ABSENT);
                }
            },
        }
    }

    fn write_label(&self, part: &Part, label: &mut String) {
        match part {
            Part::Operation => match self.operation() {
                OperationOf::Named(name) => label.push_str(name),
                OperationOf::Grpc(path) => {
                    label.push_str(if is_grpc_path(path) { path } else { OTHER });
                }
                OperationOf::Http(method, path) => {
                    label.extend([METHODS[method_number(method)], " ", path]);
                }
            },
            Part::Authority => match self.authority() {
                Some(authority) => {
                    label.push_str(&String::from_utf8_lossy(authority).to_ascii_lowercase());
                }
                None => label.push_str("no authority"),
            },
            Part::Header(name) => self.write_header_label(name, label),
            Part::Identity => label.push_str(self.identity().unwrap_or("no identity")),
            Part::ClientIp(client) => match self.client(client) {
                Some(IpAddr::V4(addr)) => write_all(label, format_args!("{addr}")),
                Some(IpAddr::V6(addr)) => write_all(label, format_args!("{addr}/64")),
                None => label.push_str("no address"),
            },
        }
    }

    fn write_header_label(&self, name: &HeaderName, label: &mut String) {
        let mut values = self.headers.get_all(name).iter().peekable();
        if values.peek().is_none() {
            return write_all(label, format_args!("no {name}"));
        }
        write_all(label, format_args!("{name}="));
        if values.any(|value| is_secret(name, value)) {
            let part = [Part::Header(name.clone())];
            return write_all(label, format_args!("#{:016x}", hash(&part, *self)));
        }
        for (at, value) in self.headers.get_all(name).iter().enumerate() {
            label.push_str(if at == 0 { "" } else { "," });
            label.push_str(&String::from_utf8_lossy(value.as_bytes()));
        }
    }

    /// Whether this is a gRPC call of something that cannot be a method.
    fn has_made_up_path(&self) -> bool {
        matches!(self.operation(), OperationOf::Grpc(path) if !is_grpc_path(path))
    }

    /// The same request with the path that all made-up ones share.
    fn with_path_of_others(self) -> Self {
        static OTHERS: LazyLock<Uri> = LazyLock::new(|| Uri::from_static("/_OTHER"));
        Self {
            uri: &OTHERS,
            ..self
        }
    }

    /// The name that an [`Operation`] gives the call.
    pub(crate) fn operation_name(&self) -> Option<&'a str> {
        self.extensions.get().map(|Operation(name)| match name {
            Name::Static(name) => *name,
            Name::Shared(name) => name,
        })
    }

    /// The route that axum matched.
    #[allow(dead_code, reason = "for the layers that name calls")]
    pub(crate) fn route(&self) -> Option<&'a str> {
        #[cfg(feature = "axum")]
        if let Some(path) = self.extensions.get::<axum::extract::MatchedPath>() {
            return Some(path.as_str());
        }
        None
    }

    fn operation(&self) -> OperationOf<'a> {
        if let Some(name) = self.operation_name() {
            return OperationOf::Named(name);
        }
        let is_grpc = self.is_grpc;
        if is_grpc.unwrap_or_else(|| grpc::is_call(self.method, self.headers)) {
            return OperationOf::Grpc(self.uri.path());
        }
        #[cfg(feature = "axum")]
        if let Some(path) = self.extensions.get::<axum::extract::MatchedPath>() {
            return OperationOf::Http(self.method, path.as_str());
        }
        OperationOf::Http(self.method, OTHER)
    }

    fn client(&self, client: &ClientIp) -> Option<IpAddr> {
        client
            .find(self.headers, self.extensions)
            .map(client_addr::subscriber)
    }
}

fn write_all(label: &mut String, text: fmt::Arguments<'_>) {
    label
        .write_fmt(text)
        .expect("writing to a string cannot fail");
}

fn is_secret(name: &HeaderName, value: &HeaderValue) -> bool {
    value.is_sensitive()
        || [
            header::AUTHORIZATION,
            header::COOKIE,
            header::PROXY_AUTHORIZATION,
        ]
        .contains(name)
}

fn is_grpc_path(path: &str) -> bool {
    grpc_method(path).is_some()
}

/// The service and the method of a path that is `/package.Service/Method`, of the letters that protobuf
/// names are made of.
pub(crate) fn grpc_method(path: &str) -> Option<(&str, &str)> {
    let is_name = |name: &str| {
        !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.'))
    };
    if path.len() > LONGEST_GRPC_PATH {
        return None;
    }
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    (is_name(service) && is_name(method)).then_some((service, method))
}

/// The name of a method, `_OTHER` for all that are not standard.
#[allow(dead_code, reason = "for the layers that name calls")]
pub(crate) fn method_name(method: &Method) -> &'static str {
    METHODS[method_number(method)]
}

/// Labels of methods, each at its [number](method_number).
const METHODS: [&str; 10] = [
    OTHER, "GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "CONNECT", "TRACE",
];

/// 0 for all that are not standard: a caller can make up methods too.
fn method_number(method: &Method) -> usize {
    match *method {
        Method::GET => 1,
        Method::POST => 2,
        Method::PUT => 3,
        Method::DELETE => 4,
        Method::PATCH => 5,
        Method::HEAD => 6,
        Method::OPTIONS => 7,
        Method::CONNECT => 8,
        Method::TRACE => 9,
        _ => 0,
    }
}
