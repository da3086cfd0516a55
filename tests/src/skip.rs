//! Tests that need more than a Rust toolchain: a second user, a mount.

use std::{env, ffi::OsStr, fs::File, io::Write, path::Path, process::Command};

/// The user that owns nothing.
pub const NOBODY: u32 = 65534;

/// Says by name that a test could not run, and why. Where everything must run it fails instead.
pub fn skipped(test: &str, missing: &str) {
    let line = format!("{test}: {missing}");
    println!("skipped: {line}");
    assert!(
        env::var("CI").as_deref() != Ok("true"),
        "nothing may be skipped here: {line}"
    );
    if let Some(path) = env::var_os("NEXUS_TESTS_SKIPPED") {
        let file = File::options().create(true).append(true).open(path);
        file.and_then(|mut file| writeln!(file, "{line}"))
            .expect("the list of skipped tests can be written");
    }
}

/// A command that runs `program` as [`NOBODY`], or why there is none.
pub fn as_nobody(program: &Path) -> Result<Command, String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("needs root, to run a second user".into());
    }
    let id = NOBODY.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
    let works = Command::new(command.get_program())
        .args(command.get_args())
        .arg("true")
        .status();
    if !works.is_ok_and(|status| status.success()) {
        return Err("needs setpriv (util-linux), to run a second user".into());
    }
    command.arg::<&OsStr>(program.as_ref());
    Ok(command)
}
