//! Any path, metadata and body to a real orchestrator with a gateway behind it: no handler panics, and the next call is
//! answered.
#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use nexus_fuzz::{call::Call, world::FrontDoor};

thread_local! {
    static DOOR: RefCell<FrontDoor> = RefCell::default();
}

fuzz_target!(|data: &[u8]| {
    let Some(call) = Call::read(data) else { return };
    DOOR.with_borrow_mut(|door| door.call(call));
});
