//! The same tests once more, as a user without any rights.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use nexus_tests::{as_user, binary, skipped};

const ORDINARY: u32 = 1001;

fn open_to_all(path: &Path) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Runs one test of this program as an ordinary user. Where the tests are run by one anyway, it has run.
pub fn runs(test: &str) {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    open_to_all(place.path());
    // Where everybody can execute them.
    let program = place.path().join("tests");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let helper = binary("nexus-sandbox");
    std::fs::copy(helper, place.path().join("nexus-sandbox")).unwrap();
    let own = place.path().join("own");
    std::fs::create_dir(&own).unwrap();
    chown(&own, Some(ORDINARY), Some(ORDINARY)).unwrap();
    let mut command = match as_user(ORDINARY, &program) {
        Ok(command) => command,
        Err(missing) => return skipped(test, &missing),
    };
    command
        .args(["--exact", test, "--nocapture"])
        .current_dir(&own)
        .env("HOME", &own)
        .env("TMPDIR", &own)
        .env("NEXUS_BIN_DIR", place.path())
        .env_remove("XDG_RUNTIME_DIR");
    let done = command.output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    let beside = String::from_utf8_lossy(&done.stderr);
    println!("{said}");
    assert!(done.status.success() && said.contains(" 1 passed"), "{said}\n{beside}");
}
