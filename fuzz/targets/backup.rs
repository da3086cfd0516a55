//! A backup of anyone: what is refused leaves nothing outside its directory, and what is accepted is what its manifest names.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let directory = nexus_fuzz::directory();
    let archive = directory.path().join("backup.tar.gz");
    std::fs::write(&archive, data).expect("a file of our own");
    let verified = nexus_cli::read_backup(&archive, None);
    let into = directory.path().join("into");
    std::fs::create_dir(&into).expect("a directory of our own");
    let unpacked = nexus_cli::read_backup(&archive, Some(&into));
    assert_eq!(verified.is_ok(), unpacked.is_ok(), "{verified:?} {unpacked:?}");
    let names: Vec<_> = std::fs::read_dir(directory.path())
        .expect("a directory of our own")
        .map(|entry| entry.expect("readable").file_name())
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
});
