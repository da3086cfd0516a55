//! The tarball and its script.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::{made::package, program::run};

/// It unpacked, and a home to install to.
struct Unpacked {
    folder: TempDir,
    content: PathBuf,
}

fn unpack() -> Unpacked {
    let folder = tempfile::Builder::new().prefix("nexus-").tempdir().unwrap();
    run(Command::new("tar")
        .arg("xzf")
        .arg(package(".tar.gz"))
        .current_dir(folder.path()));
    let content = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    fs::create_dir(folder.path().join("home")).unwrap();
    Unpacked { folder, content }
}

impl Unpacked {
    fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    fn install(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.content.join("install.sh"));
        command.args(args).env("HOME", self.home());
        command
    }

    /// The command as it is installed, with a place of its own.
    fn nexus(&self, prefix: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(prefix.join("bin/nexus"));
        command
            .args(args)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.home())
            .env("GRPC_SOCKET_PATH", self.folder.path().join("grpc.sock"))
            .env("NEXUS_GATEWAY__TCP_LISTEN", "");
        command
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().unwrap().is_dir() {
            all.extend(files(&entry.path()));
        } else {
            all.push(entry.path());
        }
    }
    all
}

#[test]
fn it_installs_runs_and_is_removed() {
    let unpacked = unpack();
    let prefix = unpacked.folder.path().join("my prefix");
    let said = run(unpacked.install(&["--prefix"]).arg(&prefix));
    assert!(
        said.contains("next: ") && said.contains("nexus up"),
        "the next step is named: {said}"
    );

    assert!(run(&mut unpacked.nexus(&prefix, &["--version"])).starts_with("nexus "));
    for path in [
        "share/man/man1/nexus.1.gz",
        "share/man/man1/nexus-orchestrator.1.gz",
        "share/bash-completion/completions/nexus",
        "share/doc/nexus/LICENSE-MIT",
    ] {
        assert!(prefix.join(path).is_file(), "{path}");
    }
    let page = run(Command::new("gzip")
        .arg("-dc")
        .arg(prefix.join("share/man/man1/nexus.1.gz")));
    assert!(page.contains(".TH nexus") && page.contains("services"), "{page}");

    run(&mut unpacked.nexus(&prefix, &["up"]));
    let answer = run(&mut unpacked.nexus(&prefix, &["chat", "hello"]));
    run(&mut unpacked.nexus(&prefix, &["down"]));
    assert!(!answer.is_empty());

    run(unpacked.install(&["--uninstall", "--prefix"]).arg(&prefix));
    assert_eq!(files(&prefix), Vec::<PathBuf>::new());
}

#[test]
fn a_file_that_was_changed_is_not_installed() {
    let unpacked = unpack();
    let program = unpacked.content.join("bin/nexus-llm");
    let mut bytes = fs::read(&program).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&program, bytes).unwrap();
    let prefix = unpacked.folder.path().join("prefix");
    let output = unpacked.install(&["--prefix"]).arg(&prefix).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("nothing was installed"));
    assert!(!prefix.exists());
}
