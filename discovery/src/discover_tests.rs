use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio_test::{assert_pending, task};
use tower::{
    Service, ServiceExt,
    balance::p2c::Balance,
    load::{CompleteOnResponse, PendingRequestsDiscover},
    service_fn,
};

use super::*;
use crate::{
    endpoint,
    registry::resolver,
    resolve::{Resolver, Watch},
};

fn at(id: &str, url: &str) -> Instance {
    Instance::new("orders", id).with_endpoint(url.parse().unwrap())
}

/// A service that knows where it would call.
#[derive(Debug, Clone)]
struct Made(#[allow(dead_code)] String);

fn made() -> impl MakeEndpoint<Service = Made> {
    endpoint::from_fn(|instance, url| {
        if instance.id == "broken" {
            return Err("no name for TLS");
        }
        Ok(Made(url.to_string()))
    })
}

/// All changes that are there, as text.
fn taken<M: MakeEndpoint>(changes: &mut Changes<M>) -> Vec<String> {
    let mut changes = task::spawn(changes);
    let mut all = Vec::new();
    while let Poll::Ready(change) = changes.poll_next() {
        all.push(match change.expect("it never ends").unwrap() {
            Change::Insert(key, _) => format!("+{} {}", key.id(), key.url()),
            Change::Remove(key) => format!("-{} {}", key.id(), key.url()),
        });
    }
    all
}

#[test]
fn only_what_differs_by_id_or_url_is_a_change() {
    let (publisher, watch) = Watch::channel("orders");
    let mut changes = Changes::new(watch, made());
    assert!(taken(&mut changes).is_empty(), "nothing is known yet");

    let first = snapshot([at("a", "http://h:1"), at("b", "http://h:2")]);
    publisher.publish(first.clone());
    assert_eq!(taken(&mut changes), ["+a http://h:1", "+b http://h:2"]);

    // The same instances in another set, and one of them with another weight.
    publisher.publish(snapshot(first.iter().cloned()));
    assert!(taken(&mut changes).is_empty());
    publisher.publish(snapshot([
        at("a", "http://h:1").with_weight(7),
        at("b", "http://h:2"),
    ]));
    assert!(taken(&mut changes).is_empty());

    publisher.publish(snapshot([at("b", "http://h:2")]));
    assert_eq!(taken(&mut changes), ["-a http://h:1"]);
    publisher.publish(snapshot([at("b", "http://h:3")]));
    assert_eq!(taken(&mut changes), ["+b http://h:3", "-b http://h:2"]);
    publisher.publish(snapshot::<[Instance; 0]>([]));
    assert_eq!(taken(&mut changes), ["-b http://h:3"]);
}

#[test]
fn a_consumer_that_is_slow_gets_the_difference_to_the_latest_set() {
    let (publisher, watch) = Watch::channel("orders");
    let mut changes = Changes::new(watch, made());
    publisher.publish(snapshot([at("a", "http://h:1"), at("b", "http://h:2")]));
    let first = task::spawn(&mut changes).poll_next();
    assert!(matches!(first, Poll::Ready(Some(Ok(Change::Insert(..))))));
    // Its queue still has `b` from the set before.
    publisher.publish(snapshot([at("c", "http://h:3")]));
    publisher.publish(snapshot([at("a", "http://h:1")]));
    assert_eq!(taken(&mut changes), ["+b http://h:2", "-b http://h:2"]);
}

#[test]
fn who_drains_goes_unless_nobody_else_is_up_and_who_is_down_always_goes() {
    let (publisher, watch) = Watch::channel("orders");
    let mut changes = Changes::new(watch, made());
    let draining = at("a", "http://h:1").with_status(Status::Draining);
    publisher.publish(snapshot([draining.clone(), at("b", "http://h:2")]));
    assert_eq!(taken(&mut changes), ["+b http://h:2"]);
    let down = at("b", "http://h:2").with_status(Status::Down);
    publisher.publish(snapshot([draining, down]));
    assert_eq!(taken(&mut changes), ["+a http://h:1", "-b http://h:2"]);
}

#[test]
fn what_cannot_be_made_is_left_out_and_tried_again_with_every_set() {
    let (publisher, watch) = Watch::channel("orders");
    let mut changes = Changes::new(watch, made());
    publisher.publish(snapshot([
        at("a", "http://h:1"),
        at("broken", "http://h:2"),
    ]));
    assert_eq!(taken(&mut changes), ["+a http://h:1"]);
    assert_eq!(changes.unmade.len(), 1);
    publisher.publish(snapshot([at("a", "http://h:1")]));
    assert!(
        taken(&mut changes).is_empty(),
        "what was never inserted is not removed"
    );
    assert!(changes.unmade.is_empty());
}

#[test]
fn the_address_is_the_first_that_speaks_the_protocol() {
    let (publisher, watch) = Watch::channel("orders");
    let mut changes = Changes::new(watch, made()).protocol(Protocol::Grpc);
    let both = at("a", "http://h:1").with_endpoint("grpc://h:2".parse().unwrap());
    publisher.publish(snapshot([both, at("b", "http://h:3")]));
    assert_eq!(taken(&mut changes), ["+a grpc://h:2"]);
}

#[tokio::test(start_paused = true)]
async fn a_change_wakes_the_consumer_and_dropping_it_stops_the_registry() {
    let (sender, source) = channel();
    let mut changes = Changes::new(Resolver::new(source, "orders"), made());
    let source = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        sender.send(Ok(Change::Insert("a", 1))).unwrap();
        sender.closed().await;
    });
    let change = changes.next().await.unwrap().unwrap();
    assert!(matches!(change, Change::Insert(key, _) if key.id() == "a"));
    let rest = tokio::time::timeout(Duration::from_secs(3_600), changes.next()).await;
    assert!(rest.is_err(), "it waits, and does not end");
    assert!(!source.is_finished());
    drop(changes);
    source.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn towers_balancer_over_a_static_registry_calls_every_endpoint() {
    let orders = resolver("static:http://a:1,http://b:2,http://c:3", "orders").unwrap();
    let endpoints = Changes::new(orders, |instance: &Instance| {
        let id = instance.id.clone();
        service_fn(move |(): ()| std::future::ready(Ok::<_, Infallible>(id.clone())))
    });
    let loaded = PendingRequestsDiscover::new(endpoints, CompleteOnResponse::default());
    let mut balance = Balance::new(loaded);
    let mut answers = BTreeMap::<String, usize>::new();
    for _ in 0..300 {
        let answer = balance.ready().await.unwrap().call(()).await.unwrap();
        *answers.entry(answer).or_default() += 1;
    }
    assert_eq!(balance.len(), 3);
    let ids: Vec<_> = answers.keys().map(String::as_str).collect();
    assert_eq!(ids, ["http://a:1", "http://b:2", "http://c:3"]);
}

type Told = Result<Change<&'static str, u16>, &'static str>;

/// A registry over a `Discover` that says what the test sends; its services are port numbers.
fn channel() -> (mpsc::UnboundedSender<Told>, impl Resolve) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let receiver = parking_lot::Mutex::new(Some(receiver));
    let source = FromDiscover::new(
        move |_| told(receiver.lock().take().expect("opened once")),
        |service, key, port| {
            let url = format!("http://h:{port}").parse().unwrap();
            Instance::new(service, *key).with_endpoint(url)
        },
    );
    (sender, source)
}

fn told(receiver: mpsc::UnboundedReceiver<Told>) -> impl Stream<Item = Told> + Send {
    stream::unfold(receiver, async |mut receiver| {
        receiver.recv().await.map(|told| (told, receiver))
    })
}

fn ids(answer: Option<Result<Snapshot, ResolveError>>) -> Vec<String> {
    let set = answer.expect("it goes on").unwrap();
    set.iter().map(|instance| instance.id.clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn changes_that_are_there_at_once_are_one_answer() {
    let (sender, source) = channel();
    let mut answers = source.resolve("orders");
    assert_pending!(task::spawn(answers.next()).poll(), "nothing is known yet");
    for (key, port) in [("b", 2), ("a", 1)] {
        sender.send(Ok(Change::Insert(key, port))).unwrap();
    }
    assert_eq!(ids(answers.next().await), ["a", "b"]);
    assert_pending!(task::spawn(answers.next()).poll());
    // A service that moves is never seen missing.
    sender.send(Ok(Change::Remove("a"))).unwrap();
    sender.send(Ok(Change::Insert("a", 9))).unwrap();
    let set = answers.next().await.unwrap().unwrap();
    assert_eq!(set[0].endpoints[0].to_string(), "http://h:9");
    assert_eq!((set.len(), &*set[0].service), (2, "orders"));
    sender.send(Ok(Change::Remove("b"))).unwrap();
    assert_eq!(ids(answers.next().await), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn instances_that_stay_keep_their_arc() {
    let (sender, source) = channel();
    let mut answers = source.resolve("orders");
    sender.send(Ok(Change::Insert("a", 1))).unwrap();
    let first = answers.next().await.unwrap().unwrap();
    sender.send(Ok(Change::Insert("b", 2))).unwrap();
    let second = answers.next().await.unwrap().unwrap();
    assert!(Arc::ptr_eq(&first[0], &second[0]));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_ends_leaves_its_set_and_an_empty_one_is_known_to_be_empty() {
    let (sender, source) = channel();
    sender.send(Ok(Change::Insert("a", 1))).unwrap();
    drop(sender);
    let mut answers = source.resolve("orders");
    assert_eq!(ids(answers.next().await), ["a"]);
    assert_pending!(task::spawn(answers.next()).poll());

    let (sender, source) = channel();
    drop(sender);
    assert!(ids(source.resolve("orders").next().await).is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_error_takes_no_instance_with_it_and_the_source_is_opened_anew() {
    let opened = Arc::new(AtomicUsize::new(0));
    let count = opened.clone();
    let source = FromDiscover::new(
        move |_| {
            let nth = count.fetch_add(1, Ordering::Relaxed);
            let insert: Told = Ok(Change::Insert(["a", "b"][nth.min(1)], 1));
            let end: Vec<Told> = if nth == 0 {
                vec![insert, Err("gone")]
            } else {
                vec![insert]
            };
            // One at a time: the first is an answer before the error comes.
            stream::iter(end).then(async |told| {
                tokio::time::sleep(Duration::from_millis(1)).await;
                told
            })
        },
        |service, key, _| Instance::new(service, *key),
    );
    let mut watch = Resolver::new(source, "orders").watch();
    assert_eq!(watch.changed().await[0].id, "a");
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert!(watch.health().last_error.is_some());
    assert_eq!(watch.snapshot().unwrap()[0].id, "a");
    let next = watch.changed().await;
    assert!(next.iter().any(|instance| instance.id == "b"));
    assert_eq!(opened.load(Ordering::Relaxed), 2);
}
