//! A layer of an image, packed or not: no file leads out of its directory, and none of the bounds is passed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nexus_runtime::images::{LayerBounds, unpack_layer};

const BYTES: u64 = 4 << 20;

fuzz_target!(|data: &[u8]| {
    let directory = nexus_fuzz::directory();
    let canary = directory.path().join("canary");
    std::fs::write(&canary, "untouched").expect("a file of our own");
    let place = directory.path().join("place");
    std::fs::create_dir(&place).expect("a directory of our own");
    let bounds = LayerBounds {
        bytes: BYTES,
        entries: 1_000,
        ..LayerBounds::default()
    };
    let handle = nexus_walk::Dir::open(&place).expect("a directory of our own");
    if let Ok(bytes) = unpack_layer(data, &handle, bounds) {
        assert!(bytes <= BYTES);
    }
    assert_eq!(std::fs::read_to_string(&canary).expect("it is there"), "untouched");
    let names = std::fs::read_dir(directory.path())
        .expect("a directory of our own")
        .count();
    assert_eq!(names, 2);
});
