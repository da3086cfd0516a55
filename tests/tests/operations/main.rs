//! The command that looks after a tree, with the real daemons in it: settings, backups, the doctor.

#![expect(clippy::unwrap_used, reason = "what fails here fails its test")]

mod backup;
mod doctor;
mod settings;

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use nexus_tests::{Daemon, Site, binary};

/// Runs `nexus` in a site to its end, while the daemons go on.
pub async fn nexus(site: &Site, args: &[&str]) -> Output {
    let program = binary("nexus");
    let folder = program.parent().unwrap().to_path_buf();
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", site.folder().path())
        .env("NEXUS_ROOT", site.root().path())
        .env("GRPC_SOCKET_PATH", site.socket(Daemon::Orchestrator))
        .env("NEXUS_BIN_DIR", folder)
        .args(args)
        .stdin(Stdio::null());
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

/// As [`nexus`], with what it has to exit with; its output and what it said beside it.
pub async fn ends(site: &Site, args: &[&str], code: i32) -> (String, String) {
    let done = nexus(site, args).await;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, beside) = (text(&done.stdout), text(&done.stderr));
    assert_eq!(done.status.code(), Some(code), "nexus {args:?}\n{out}\n{beside}");
    (out, beside)
}

pub fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
