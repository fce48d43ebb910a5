//! Where a panic was: only the panic hook of the process is told.

use std::{any::Any, cell::RefCell, panic, sync::Once};

thread_local! {
    /// The last panic of this thread that nobody has asked about.
    static LAST: RefCell<Option<Noted>> = const { RefCell::new(None) };
}

struct Noted {
    place: String,
    message: Option<String>,
}

/// Puts a hook in front of the one that is there, once for the process.
pub(super) fn install() {
    static INSTALLED: Once = Once::new();
    // To touch the hook while a panic unwinds would be one more.
    if std::thread::panicking() {
        return;
    }
    INSTALLED.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            note(info);
            before(info);
        }));
    });
}

fn note(info: &panic::PanicHookInfo<'_>) {
    let Some(place) = info.location() else {
        return;
    };
    let noted = Noted {
        place: place.to_string(),
        message: text(info.payload()).map(str::to_owned),
    };
    // Gone at the end of its thread, where nobody would ask; busy never.
    let _ = LAST.try_with(|last| {
        if let Ok(mut last) = last.try_borrow_mut() {
            *last = Some(noted);
        }
    });
}

/// Where the panic with this message was, if the hook saw it on this thread.
///
/// NOTE: the message is compared, since a panic that is [resumed](panic::resume_unwind) does not pass the hook, and
/// the last one that did may be another's.
pub(super) fn take_place(message: Option<&str>) -> Option<String> {
    let last = LAST.try_with(|last| last.borrow_mut().take()).ok()??;
    (last.message.as_deref() == message).then_some(last.place)
}

/// What a panic says; `panic!` makes the one or the other of a text.
pub(super) fn text(payload: &(dyn Any + Send)) -> Option<&str> {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
}
