//! Keeps a panic to the call it happened in, and in the log exactly once.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Once,
};

use tonic::{Code, Status};

use crate::{services::Method, status::status};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs a part of a handler. Its panic is logged once, with the place, and becomes the status of its own call.
pub(crate) fn guarded<R>(method: &Method, part: impl FnOnce() -> R) -> Result<R, Status> {
    let outer = GUARDED.replace(true);
    // What a panic leaves half done belongs to this call alone and is dropped with it.
    let result = catch_unwind(AssertUnwindSafe(part));
    GUARDED.set(outer);
    result.map_err(|payload| {
        let place = PLACE.take().unwrap_or_default();
        tracing::error!(
            method = &*method.path,
            place,
            panic = words(&*payload),
            "a handler panicked"
        );
        status(Code::Internal, "internal error; see the log", "PANIC")
    })
}

fn words(payload: &(dyn Any + Send)) -> &str {
    match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        (None, None) => "(no words)",
    }
}

/// A panic inside the guard is only remembered by the hook, since the guard logs it; others go where they went before.
pub(crate) fn log_panics_once() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if GUARDED.get() {
                PLACE.set(info.location().map(ToString::to_string));
            } else {
                before(info);
            }
        }));
    });
}
