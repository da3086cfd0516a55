//! The same tests once more, as a user without any rights.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use nexus_tests::{as_user, binary, skipped};

const ORDINARY: u32 = 1001;

fn open_to_all(path: &Path) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Where everybody can execute it.
fn bring(program: &Path, to: &Path) {
    if std::fs::hard_link(program, to).is_err() {
        std::fs::copy(program, to).unwrap();
    }
}

/// Runs these tests of this program, each named in full, as an ordinary user. Where the tests are run by one anyway, they
/// have run.
pub fn runs(name: &str, tests: &[&str]) {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    open_to_all(place.path());
    let program = place.path().join("tests");
    bring(&std::env::current_exe().unwrap(), &program);
    for needed in ["nexus", "nexus-orchestrator", "nexus-sandbox"] {
        bring(&binary(needed), &place.path().join(needed));
    }
    let own = place.path().join("own");
    std::fs::create_dir(&own).unwrap();
    chown(&own, Some(ORDINARY), Some(ORDINARY)).unwrap();
    let mut command = match as_user(ORDINARY, &program) {
        Ok(command) => command,
        Err(missing) => return skipped(name, &missing),
    };
    command
        .args(tests)
        .args(["--exact", "--nocapture"])
        .current_dir(&own)
        .env("HOME", &own)
        .env("TMPDIR", &own)
        .env("NEXUS_BIN_DIR", place.path())
        .env_remove("XDG_RUNTIME_DIR")
        // Not this user's to write: what it says is told again below.
        .env_remove("NEXUS_TESTS_SKIPPED");
    let done = command.output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    let beside = String::from_utf8_lossy(&done.stderr);
    println!("{said}");
    for line in said.lines() {
        if let Some((_, missing)) = line.strip_prefix("skipped: ").and_then(|line| line.split_once(": ")) {
            return skipped(name, missing);
        }
    }
    let all = format!("{} passed; 0 failed", tests.len());
    assert!(done.status.success() && said.contains(&all), "{said}\n{beside}");
}
