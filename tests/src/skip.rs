//! Tests that need more than a Rust toolchain: a second user, a mount.

use std::{ffi::OsStr, path::Path, process::Command};

pub use crate::skipped::skipped;

/// The user that owns nothing.
pub const NOBODY: u32 = 65534;

/// A command that runs `program` as [`NOBODY`], or why there is none.
pub fn as_nobody(program: &Path) -> Result<Command, String> {
    as_user(NOBODY, program)
}

/// A command that runs `program` as this user, who is in no other group, or why there is none.
pub fn as_user(user: u32, program: &Path) -> Result<Command, String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("needs root, to run a second user".into());
    }
    let id = user.to_string();
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
