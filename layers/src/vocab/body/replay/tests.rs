use std::{
    convert::Infallible,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    task::{Context, Waker},
};

use http_body_util::{BodyExt, Collected, Empty, Full, combinators::UnsyncBoxBody};
use proptest::prelude::*;

use super::*;

const KIB: usize = 1024;

type Boxed = UnsyncBoxBody<Bytes, &'static str>;

/// Frames, then trailers or an error; knows its length if told so.
#[derive(Default)]
struct Script {
    frames: Vec<Bytes>,
    next: usize,
    trailers: Option<HeaderMap>,
    fails: bool,
    exact: bool,
    polled: Arc<AtomicUsize>,
}

impl Script {
    fn new(frames: impl IntoIterator<Item = usize>) -> Self {
        let mut byte = 0_u8;
        let frames = frames.into_iter().map(|length| {
            let frame = (0..length).map(|_| {
                byte = byte.wrapping_add(1);
                byte
            });
            frame.collect::<Vec<_>>().into()
        });
        Self {
            frames: frames.collect(),
            ..Self::default()
        }
    }

    fn trailers(mut self) -> Self {
        self.trailers = Some(trailers());
        self
    }

    fn data(&self) -> Vec<u8> {
        self.frames.concat()
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        self.polled.fetch_add(1, SeqCst);
        let frame = self.frames.get(self.next).cloned();
        Poll::Ready(match frame {
            Some(data) => {
                self.next += 1;
                Some(Ok(Frame::data(data)))
            }
            None if self.fails => Some(Err("the source failed")),
            None => self.trailers.take().map(|map| Ok(Frame::trailers(map))),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.next == self.frames.len() && self.trailers.is_none() && !self.fails
    }

    fn size_hint(&self) -> SizeHint {
        let left = self.frames[self.next..]
            .iter()
            .map(Bytes::len)
            .sum::<usize>();
        if self.exact {
            SizeHint::with_exact(left as u64)
        } else {
            SizeHint::default()
        }
    }
}

fn trailers() -> HeaderMap {
    let checksum = http::HeaderName::from_static("x-checksum");
    HeaderMap::from_iter([(checksum, http::HeaderValue::from_static("7"))])
}

fn save(script: Script, limits: &ReplayLimits) -> (Boxed, Saved<Boxed>) {
    script.boxed_unsync().save(limits)
}

fn again(saved: &Saved<Boxed>) -> Boxed {
    match Boxed::again(saved) {
        Again::Body(body) => body,
        other => panic!("{other:?}"),
    }
}

fn poll(body: &mut Boxed) -> Option<Result<Frame<Bytes>, &'static str>> {
    let mut cx = Context::from_waker(Waker::noop());
    match Pin::new(body).poll_frame(&mut cx) {
        Poll::Ready(frame) => frame,
        Poll::Pending => panic!("the script is never pending"),
    }
}

async fn collect(body: Boxed) -> (Vec<u8>, Option<HeaderMap>) {
    let all: Collected<Bytes> = body.collect().await.unwrap();
    let trailers = all.trailers().cloned();
    (all.to_bytes().to_vec(), trailers)
}

#[tokio::test]
async fn sixty_kib_and_trailers_are_sent_again_byte_for_byte() {
    let limits = ReplayLimits::default();
    let script = Script::new([KIB; 60]).trailers();
    let data = script.data();
    let (first, saved) = save(script, &limits);
    assert_eq!(collect(first).await.0, data);
    for _ in 0..3 {
        let body = again(&saved);
        assert!(!body.is_end_stream());
        assert_eq!(collect(body).await, (data.clone(), Some(trailers())));
        assert_eq!(limits.kept(), 60 * KIB);
    }
    drop(saved);
    assert_eq!(limits.kept(), 0);
}

#[tokio::test]
async fn a_body_above_the_cap_streams_on_and_is_lost() {
    let limits = ReplayLimits::default();
    let script = Script::new([16 * KIB; 64]).trailers();
    let data = script.data();
    let (mut first, saved) = save(script, &limits);
    let mut sent = Vec::new();
    while let Some(frame) = poll(&mut first).transpose().unwrap() {
        sent.extend(frame.into_data().unwrap_or_default());
        assert!(limits.kept() <= 64 * KIB);
    }
    assert!(sent == data);
    assert_eq!(limits.kept(), 0);
    assert!(matches!(Boxed::again(&saved), Again::Lost));
}

#[test]
fn a_body_that_announces_too_much_or_is_at_its_end_is_not_wrapped() {
    let limits = ReplayLimits::default();
    let mut long = Script::new([64 * KIB + 1]);
    long.exact = true;
    let (mut body, saved) = save(long, &limits);
    assert_eq!(body.size_hint().exact(), Some(64 * KIB as u64 + 1));
    assert!(poll(&mut body).is_some());
    assert_eq!(limits.kept(), 0);
    assert!(matches!(Boxed::again(&saved), Again::Lost));

    let (body, saved) = save(Script::new([]), &limits);
    assert!(body.is_end_stream());
    assert!(matches!(saved.0, Kept::Ended));
    assert!(again(&saved).is_end_stream());
    assert_eq!(again(&saved).size_hint().exact(), Some(0));
}

#[test]
fn all_bodies_together_stay_below_the_total() {
    let limits = ReplayLimits::new(64 * KIB, 640 * KIB);
    let mut saved: Vec<_> = (0..100)
        .map(|_| save(Script::new([KIB; 32]), &limits))
        .collect();
    for (body, _) in &mut saved {
        while poll(body).is_some() {
            assert!(limits.kept() <= 640 * KIB);
        }
    }
    let kept = saved
        .iter()
        .filter(|(_, saved)| matches!(Boxed::again(saved), Again::Body(_)))
        .count();
    assert_eq!(kept, 20);
    drop(saved);
    assert_eq!(limits.kept(), 0);
}

#[test]
fn a_body_that_is_still_held_is_in_use_until_it_is_dropped() {
    let limits = ReplayLimits::default();
    let (mut first, saved) = save(Script::new([1, 2]), &limits);
    assert!(matches!(Boxed::again(&saved), Again::InUse));
    poll(&mut first);
    assert!(matches!(Boxed::again(&saved), Again::InUse));
    drop(first);
    let mut second = again(&saved);
    assert!(matches!(Boxed::again(&saved), Again::InUse));
    poll(&mut second);
    poll(&mut second);
    // At its end the body is free, although it is not dropped.
    assert!(second.is_end_stream());
    assert!(matches!(Boxed::again(&saved), Again::Body(_)));
    assert!(poll(&mut second).is_none());
}

#[test]
fn nothing_is_read_ahead() {
    let script = Script::new([1, 1, 1]);
    let polled = script.polled.clone();
    let (mut first, saved) = save(script, &ReplayLimits::default());
    assert_eq!(polled.load(SeqCst), 0);
    poll(&mut first);
    drop(first);
    let mut second = again(&saved);
    poll(&mut second);
    assert_eq!(
        polled.load(SeqCst),
        1,
        "the second attempt got the kept frame"
    );
    poll(&mut second);
    assert_eq!(polled.load(SeqCst), 2);
}

#[test]
fn a_source_that_failed_or_panicked_is_lost() {
    let mut script = Script::new([1]);
    script.fails = true;
    let (mut first, saved) = save(script, &ReplayLimits::default());
    assert!(poll(&mut first).unwrap().is_ok());
    assert_eq!(poll(&mut first).unwrap().unwrap_err(), "the source failed");
    assert!(matches!(Boxed::again(&saved), Again::Lost));

    /// Panics when it is polled.
    struct Bomb;
    impl Body for Bomb {
        type Data = Bytes;
        type Error = &'static str;
        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
            std::panic::resume_unwind(Box::new("injected"))
        }
    }
    let (mut first, saved) = Bomb.boxed_unsync().save(&ReplayLimits::default());
    let polled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| poll(&mut first)));
    assert!(polled.is_err());
    drop(first);
    assert!(matches!(Boxed::again(&saved), Again::Lost));
}

#[test]
fn keeping_ends_when_nobody_can_ask_for_the_body_any_more() {
    let limits = ReplayLimits::default();
    let (mut first, saved) = save(Script::new([KIB; 8]), &limits);
    poll(&mut first);
    assert_eq!(limits.kept(), KIB);
    drop(saved);
    poll(&mut first);
    assert_eq!(limits.kept(), 0);
}

#[tokio::test]
async fn tiny_frames_are_merged() {
    let limits = ReplayLimits::default();
    let script = Script::new([1; 10_000]).trailers();
    let data = script.data();
    let (first, saved) = save(script, &limits);
    assert_eq!(collect(first).await.0, data);
    let Kept::Wrapped(slot) = &saved.0 else {
        panic!("wrapped")
    };
    let frames = slot.state.lock().as_ref().unwrap().frames.len();
    assert!(frames <= MOST_FRAMES, "{frames}");
    assert_eq!(collect(again(&saved)).await, (data, Some(trailers())));
}

#[tokio::test]
async fn full_and_empty_bodies_are_cloned_within_the_same_limits() {
    let limits = ReplayLimits::new(8, 12);
    let (first, saved) = Full::new(Bytes::from_static(b"12345678")).save(&limits);
    assert_eq!(limits.kept(), 8);
    drop(first);
    let Again::Body(second) = <Full<Bytes>>::again(&saved) else {
        panic!("kept")
    };
    assert_eq!(second.collect().await.unwrap().to_bytes(), "12345678");

    let (_, too_long) = Full::new(Bytes::from_static(b"123456789")).save(&limits);
    assert!(matches!(<Full<Bytes>>::again(&too_long), Again::Lost));
    let (_, too_much) = Full::new(Bytes::from_static(b"12345")).save(&limits);
    assert!(matches!(<Full<Bytes>>::again(&too_much), Again::Lost));
    drop((saved, too_long, too_much));
    assert_eq!(limits.kept(), 0);

    let (_, ()) = Empty::<Bytes>::new().save(&limits);
    assert!(matches!(<Empty<Bytes>>::again(&()), Again::Body(_)));
}

/// Every body type that a client of the works-with table sends, and the traits that its host wants.
#[test]
fn bodies_of_all_clients_can_be_sent_again() {
    fn replays<B: Replay + Send + 'static>() {}
    fn is_send<B: Send>() {}
    replays::<Full<Bytes>>();
    replays::<Empty<Bytes>>();
    replays::<UnsyncBoxBody<Bytes, Infallible>>();
    replays::<http_body_util::combinators::BoxBody<Bytes, Infallible>>();
    is_send::<Saved<Boxed>>();
    #[cfg(feature = "axum")]
    replays::<axum::body::Body>();
    #[cfg(feature = "tonic")]
    replays::<tonic::body::Body>();
    #[cfg(feature = "reqwest")]
    replays::<reqwest::Body>();
}

#[cfg(feature = "tonic")]
#[tokio::test]
async fn tonics_body_keeps_the_trailers_of_an_empty_body() {
    // `tonic::body::Body::new` swaps a body that says it is at its end for an empty one.
    let body = tonic::body::Body::new(Script::new([]).trailers().map_err(std::io::Error::other));
    let (first, saved) = body.save(&ReplayLimits::default());
    let sent = first.collect().await.unwrap();
    assert_eq!(sent.trailers(), Some(&trailers()));
    let Again::Body(second) = tonic::body::Body::again(&saved) else {
        panic!("kept")
    };
    assert_eq!(
        second.collect().await.unwrap().trailers(),
        Some(&trailers())
    );
}

proptest! {
    #[test]
    fn whatever_was_sent_before_the_whole_body_is_sent_again(
        frames in proptest::collection::vec(0..600_usize, 0..40),
        with_trailers: bool,
        exact: bool,
        stops in proptest::collection::vec(0..45_usize, 0..5),
    ) {
        let limits = ReplayLimits::new(64 * KIB, 64 * KIB);
        let mut script = Script::new(frames);
        script.exact = exact;
        let script = if with_trailers { script.trailers() } else { script };
        let data = script.data();
        let ended = script.is_end_stream();
        let (mut body, saved) = save(script, &limits);

        for stop in stops {
            let mut sent = Vec::new();
            for _ in 0..stop {
                let Some(frame) = poll(&mut body) else { break };
                sent.extend(frame.unwrap().into_data().unwrap_or_default());
            }
            prop_assert_eq!(&sent[..], &data[..sent.len()]);
            drop(body);
            body = again(&saved);
        }

        // The way hyper reads: it asks before each poll whether there is more.
        let (mut sent, mut seen) = (Vec::new(), None);
        while !body.is_end_stream() {
            let left = (data.len() - sent.len()) as u64;
            let hint = body.size_hint();
            prop_assert!(hint.lower() <= left);
            prop_assert!(hint.upper().is_none_or(|upper| upper >= left));
            if exact {
                prop_assert_eq!(hint.exact(), Some(left));
            }
            let Some(frame) = poll(&mut body) else { break };
            match frame.unwrap().into_data() {
                Ok(data) => sent.extend(data),
                Err(frame) => seen = frame.into_trailers().ok(),
            }
        }
        prop_assert_eq!(sent, data);
        prop_assert_eq!(seen.is_some(), with_trailers && !ended);
        drop((body, saved));
        prop_assert_eq!(limits.kept(), 0);
    }
}
