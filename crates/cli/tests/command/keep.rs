//! Making, saving and clearing a tree, where no daemon runs.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Output,
};

use nexus_store::{Committed, Durability, Op, Options, Receipt, Sqlite, Store, Transaction};
use serde_json::Value;

use crate::fake::{nexus, text};

pub struct Tree {
    pub dir: tempfile::TempDir,
}

impl Tree {
    pub fn make() -> Tree {
        Tree {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("n")
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    pub fn run(&self, args: &[&str]) -> Output {
        let mut command = nexus(&self.root(), &self.dir.path().join("o.sock"));
        command
            .env("NEXUS_BIN_DIR", self.dir.path())
            .args(args)
            .output()
            .unwrap()
    }

    pub fn ends(&self, args: &[&str], code: i32) -> (String, String) {
        let done = self.run(args);
        let (out, beside) = (text(&done.stdout), text(&done.stderr));
        assert_eq!(done.status.code(), Some(code), "{args:?}\n{out}\n{beside}");
        (out, beside)
    }

    pub fn write(&self, name: &str, what: &str) {
        let path = self.file(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, what).unwrap();
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // Some tests make trees that are deeper than the standard library removes.
        let gone = nexus_walk::Dir::open(self.dir.path()).and_then(|dir| nexus_walk::remove_now(&dir, "n", ".gone"));
        if let Err(error) = gone {
            eprintln!("{error}");
        }
    }
}

struct Nothing;

impl Receipt for Nothing {
    fn committed(&mut self, _first_seq: u64) {}
}

/// A store with this many rows.
pub fn store(path: &Path, rows: u64) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let (told, done) = std::sync::mpsc::channel();
    let committed = move |_: Committed<Nothing>| told.send(()).unwrap();
    let backend = std::sync::Arc::new(Sqlite::new(path, Durability::Process));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = Store::open(backend, &Options::default(), committed).unwrap();
        for n in 1..=rows {
            let body = format!("row {n}").into_bytes().into();
            let ops = vec![Op::Append {
                stream: 1,
                n: Some(n),
                time: 1,
                kind: 1,
                body,
            }];
            let permit = store.writer.reserve().await.unwrap();
            permit.send(Transaction {
                epoch: 0,
                grows: true,
                ops,
                receipt: Nothing,
            });
            done.recv().unwrap();
        }
        assert!(store.writer.closed(std::time::Duration::from_secs(10)).await);
    });
}

#[test]
fn init_says_what_it_made_and_changes_nothing_twice() {
    let tree = Tree::make();
    let (out, said) = tree.ends(&["init"], 0);
    assert!(out.contains("created") && !out.contains("present"), "{out}");
    assert!(said.contains("nexus up"), "{said}");
    let config = tree.file("state/nexus/config.toml");
    assert!(fs::read_to_string(&config).unwrap().contains("[orchestrator]"));
    assert_eq!(fs::metadata(&config).unwrap().permissions().mode() & 0o777, 0o600);
    for name in ["", "home", "skills", "state", "state/db", "state/run", "state/logs"] {
        assert_eq!(
            fs::metadata(tree.file(name)).unwrap().permissions().mode() & 0o777,
            0o700,
            "{name}"
        );
    }
    fs::write(&config, "# mine\n").unwrap();
    let (out, _) = tree.ends(&["init"], 0);
    assert!(!out.contains("created"), "{out}");
    assert_eq!(fs::read_to_string(&config).unwrap(), "# mine\n");
    let elsewhere = tree.dir.path().join("else");
    let (out, _) = tree.ends(&["init", "--workspace", elsewhere.to_str().unwrap(), "--json"], 0);
    let said: Value = serde_json::from_str(&out).unwrap();
    assert!(elsewhere.join("home").is_dir() && said["entries"][0]["created"] == true);
}

#[test]
fn a_backup_brings_back_what_was_there_and_no_key() {
    let tree = Tree::make();
    tree.ends(&["init"], 0);
    store(&tree.file("state/db/x.db"), 20);
    tree.write("state/agents/a/SOUL.md", "calm");
    tree.write("state/nexus/keys.toml", "[keys]\nanthropic = \"sk-canary\"\n");
    let (file, said) = tree.ends(&["backup", "create"], 0);
    let file = file.trim();
    assert!(said.contains("keys.toml") && said.contains("--with-keys"), "{said}");
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    tree.ends(&["backup", "verify", file], 0);
    let (listed, _) = tree.ends(&["backup", "list"], 0);
    assert!(listed.contains(file) && listed.contains("no keys"), "{listed}");

    tree.write("state/agents/a/SOUL.md", "upset");
    tree.write("state/agents/b/SOUL.md", "new");
    tree.ends(&["backup", "restore", file], 1);
    let (_, said) = tree.ends(&["backup", "restore", file, "--force"], 0);
    assert!(said.contains("before-restore") && said.contains("nexus up"), "{said}");
    assert_eq!(fs::read_to_string(tree.file("state/agents/a/SOUL.md")).unwrap(), "calm");
    assert!(!tree.file("state/agents/b").exists());
    assert!(
        fs::read_to_string(tree.file("state/nexus/keys.toml"))
            .unwrap()
            .contains("sk-canary"),
        "it is kept from before"
    );
    let found = nexus_store::copy::inspect(&tree.file("state/db/x.db")).unwrap();
    assert_eq!(found.newest, Some(20));
    let aside = fs::read_dir(tree.root()).unwrap().flatten().map(|entry| entry.path());
    let aside: Vec<PathBuf> = aside
        .filter(|path| path.to_string_lossy().contains("before-restore"))
        .collect();
    assert_eq!(fs::read_to_string(aside[0].join("agents/b/SOUL.md")).unwrap(), "new");

    let fresh = Tree::make();
    fresh.ends(&["init"], 0);
    fresh.ends(&["backup", "restore", file], 0);
    assert!(
        !fresh.file("state/nexus/keys.toml").exists(),
        "a backup without keys has none"
    );
    assert_eq!(
        fs::read_to_string(fresh.file("state/agents/a/SOUL.md")).unwrap(),
        "calm"
    );
}

#[test]
fn a_damaged_backup_is_refused_and_nothing_is_touched() {
    let tree = Tree::make();
    tree.ends(&["init"], 0);
    store(&tree.file("state/db/x.db"), 200);
    let file = tree.dir.path().join("b.tar.gz");
    let name = file.to_str().unwrap();
    tree.ends(&["backup", "create", "-o", name, "--with-keys"], 0);
    let (_, said) = tree.ends(&["backup", "create", "-o", name], 1);
    assert!(said.contains("exists already"), "{said}");
    let whole = fs::read(&file).unwrap();
    let mut broken = whole.clone();
    let middle = broken.len() / 2;
    broken[middle] ^= 0x40;
    for damage in [&broken[..], &whole[..whole.len() - 600]] {
        fs::write(&file, damage).unwrap();
        let (_, said) = tree.ends(&["backup", "verify", name], 1);
        assert!(said.contains("damaged") || said.contains("not a backup"), "{said}");
        tree.ends(&["backup", "restore", name, "--force"], 1);
        assert!(tree.file("state/db/x.db").is_file());
    }
    let left: Vec<_> = fs::read_dir(tree.root())
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert!(
        left.iter().all(|name| !name.to_string_lossy().starts_with('.')),
        "nothing is left behind: {left:?}"
    );
    let (_, said) = tree.ends(&["backup", "verify", "/nowhere/b.tar.gz"], 4);
    assert!(said.contains("nexus backup list"), "{said}");
}

#[test]
fn reset_shows_first_and_removes_only_what_it_says() {
    let tree = Tree::make();
    tree.ends(&["init"], 0);
    tree.write("state/logs/llm.log", "a line\n");
    tree.write("home/notes.md", "mine");
    tree.ends(&["reset"], 2);
    let (out, said) = tree.ends(&["reset", "--local"], 0);
    assert!(out.contains("would go") && said.contains("--confirm"), "{out}{said}");
    assert!(tree.file("state/logs/llm.log").exists());
    tree.ends(&["reset", "--local", "--confirm"], 0);
    assert!(!tree.file("state/logs/llm.log").exists() && tree.file("state/nexus/config.toml").exists());
    let lock = fs::File::create(tree.file("state/db/x.lock")).unwrap();
    let held = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusiveNonblock).unwrap();
    let (_, said) = tree.ends(&["reset", "--state", "--confirm"], 1);
    assert!(
        said.contains("while daemons run") && tree.file("state/nexus/config.toml").exists(),
        "{said}"
    );
    drop(held);
    tree.ends(&["reset", "--state", "--confirm"], 0);
    assert!(!tree.file("state").exists() && tree.file("home/notes.md").exists());
    let (out, _) = tree.ends(&["reset", "--all", "--json"], 0);
    let said: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(said["removed"], false);
    assert!(tree.file("home/notes.md").exists());
}
