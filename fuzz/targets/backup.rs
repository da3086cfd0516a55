//! A backup of anyone: what is unpacked was also verified, and nothing is written outside its directory.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nexus_walk::Dir;

fuzz_target!(|data: &[u8]| {
    let directory = nexus_fuzz::directory();
    let into = directory.path().join("into");
    std::fs::create_dir(&into).expect("a directory of our own");
    let handle = Dir::open(&into).expect("a directory of our own");
    let verified = nexus_backup::read(data, None, |_| false, |_| Ok(()));
    let unpacked = nexus_backup::read(data, Some(&handle), |_| true, |_| Ok(()));
    // A name that this file system does not take is no fault of the archive.
    assert!(verified.is_ok() || unpacked.is_err(), "{verified:?}");
    let names = std::fs::read_dir(directory.path())
        .expect("a directory of our own")
        .count();
    assert_eq!(names, 1);
});
