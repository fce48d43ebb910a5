//! A flood of baggage: it takes no memory, also where calls last.
//!
//! Not over sockets, of which the parser of a debug build would take a minute; but every head is memory of
//! its own, of which the values are slices, as when a connection has read it.

use std::{collections::VecDeque, convert::Infallible, process::Command, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::Empty;
use tower::{Layer, Service, service_fn};
use tower_mesh::layers::{
    Role, Trust,
    metadata::{self, Metadata, MetadataLayer},
};

/// Tells the child of the test what it is to hold.
const CHILD: &str = "TOWER_MESH_METADATA_FLOOD";
const CALLS: usize = 10_000;
/// Calls whose work goes on after them, as in tasks that they spawned.
const HELD: usize = 256;
const MOST_KIB: usize = 4 * 1_024;

/// What is held of the last calls.
#[derive(Default)]
struct Held {
    metadata: VecDeque<Option<Arc<Metadata>>>,
    headers: VecDeque<HeaderMap>,
}

// ===== impl Held =====

impl Held {
    fn push(&mut self, what: &str, headers: &HeaderMap) {
        if what == "metadata" {
            push(&mut self.metadata, metadata::current());
        } else {
            push(&mut self.headers, headers.clone());
        }
    }
}

fn push<T>(held: &mut VecDeque<T>, new: T) {
    held.push_back(new);
    if held.len() > HELD {
        held.pop_front();
    }
}

/// In a process of its own: the other tests of this one need memory too.
fn growth_in_child(what: &str) -> usize {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "metadata::memory::child"])
        .args(["--nocapture", "--test-threads=1"])
        .env(CHILD, what)
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&child.stdout);
    let (_, found) = printed.split_once("grew by KiB: ").unwrap_or_else(|| {
        panic!("{printed}{}", String::from_utf8_lossy(&child.stderr));
    });
    found.lines().next().unwrap().parse().unwrap()
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "it reads /proc")]
fn a_flood_of_baggage_takes_no_memory() {
    let grew = growth_in_child("metadata");
    println!("{CALLS} calls with 84 kB of baggage, the last {HELD} held: {grew} KiB more");
    assert!(grew < MOST_KIB, "{grew} KiB");
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "it reads /proc")]
fn what_is_not_cut_does_take_it() {
    // What is held of the same calls is as it came: else the test above shows nothing.
    let grew = growth_in_child("headers");
    assert!(grew > MOST_KIB, "{grew} KiB");
}

#[tokio::test]
async fn child() {
    let Ok(what) = std::env::var(CHILD) else {
        return;
    };
    let members: Vec<_> = (0..5_000)
        .map(|n| format!("key{n:05}=value{n:05}"))
        .collect();
    let flood = members.join(",");
    assert!(flood.len() >= 84_000);

    let mut held = Held::default();
    let calls = if what == "metadata" { CALLS } else { 2 * HELD };
    let cuts = what == "metadata";
    let handler = service_fn(move |request: Request<()>| {
        held.push(&what, request.headers());
        std::future::ready(Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())))
    });
    let trusting = MetadataLayer::builder()
        .trust(Trust::All)
        .role(Role::Server);
    let layer = trusting.trace_context(cuts).build().unwrap();
    let mut service = layer.layer(handler);
    let mut call = async |baggage: &str| {
        let head = Bytes::copy_from_slice(baggage.as_bytes());
        let mut request = Request::new(());
        let value = HeaderValue::from_maybe_shared(head).unwrap();
        request.headers_mut().insert("baggage", value);
        // Something small beside it, which is kept.
        request
            .headers_mut()
            .insert("x-md-global-tenant", HeaderValue::from_static("a"));
        service.call(request).await.unwrap();
    };
    for _ in 0..2 * HELD {
        call("k=v").await;
    }
    let before = resident_kib();
    for _ in 0..calls {
        call(&flood).await;
    }
    println!("grew by KiB: {}", resident_kib().saturating_sub(before));
}

fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.unwrap().trim().trim_end_matches(" kB");
    number.parse().unwrap()
}
