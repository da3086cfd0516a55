//! What a model provider answers, as server-sent events or as one JSON document, in two dialects, over HTTP: the turn ends,
//! and nothing panics.
//!
//! The first byte says which provider, and what it calls its answer.
#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use nexus_fuzz::world::Models;

thread_local! {
    static MODELS: RefCell<Models> = RefCell::default();
}

fuzz_target!(|data: &[u8]| {
    let [kind, body @ ..] = data else { return };
    let model = if kind & 1 == 0 {
        "anthropic/claude-x"
    } else {
        "ollama/llama"
    };
    let media_type = if kind & 2 == 0 {
        "text/event-stream"
    } else {
        "application/json"
    };
    MODELS.with_borrow_mut(|models| models.ask(model, media_type, body));
});
