//! What containers and other users put into a tree so that a backup, a restore or a reset by root goes wrong.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt, PermissionsExt, lchown, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use nexus_walk::Dir;
use serde_json::Value;

use crate::{
    fake::nexus,
    keep::{Tree, store},
};

/// Who owns the workspace, and is nobody else.
const OTHER: u32 = 54_321;
const SECRET: &str = "sk-canary-of-root";

/// Gives a path to the other user, where this test may do so.
fn give(path: &Path) {
    if nix::unistd::geteuid().is_root() {
        lchown(path, Some(OTHER), Some(OTHER)).unwrap();
    }
}

/// Takes a backup and unpacks it with `tar`, as anybody could. Everything in it, and what it says it left out.
fn packed(tree: &Tree) -> (PathBuf, Vec<u8>, String) {
    let (file, said) = tree.ends(&["backup", "create"], 0);
    let file = PathBuf::from(file.trim());
    tree.ends(&["backup", "verify", file.to_str().unwrap()], 0);
    let all = std::process::Command::new("tar")
        .arg("-xzOf")
        .arg(&file)
        .output()
        .unwrap();
    assert!(all.status.success());
    (file, all.stdout, said)
}

fn holds(all: &[u8], what: &str) -> bool {
    all.windows(what.len()).any(|part| part == what.as_bytes())
}

/// A container swaps a directory of its workspace for a link to files that only root may read, while root makes a backup.
#[test]
fn links_that_are_swapped_in_during_a_backup_are_not_followed() {
    let tree = Tree::make();
    tree.ends(&["init"], 0);
    let outside = tree.dir.path().join("root-only");
    fs::create_dir(&outside).unwrap();
    for number in 0..200 {
        fs::write(outside.join(format!("{number}")), SECRET).unwrap();
        tree.write(&format!("state/workspaces/s/in/{number}"), "own");
    }
    symlink(&outside, tree.file("state/workspaces/s/trap")).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let swapper = std::thread::spawn({
        let (stop, work) = (stop.clone(), Dir::open(&tree.file("state/workspaces/s")).unwrap());
        move || {
            while !stop.load(Ordering::Relaxed) {
                work.exchange("in", &work, "trap").unwrap();
            }
        }
    });
    for round in 0..5 {
        let (file, all, _) = packed(&tree);
        assert!(!holds(&all, SECRET), "round {round}");
        fs::remove_file(file).unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    swapper.join().unwrap();
}

/// A user gives a stored key, and a file that only root may read, a second name in their workspace, so that a backup by root
/// holds them and a restore hands them over.
#[test]
fn second_names_of_secrets_and_of_files_of_root_are_left_out() {
    let tree = Tree::make();
    tree.ends(&["init"], 0);
    tree.write("state/nexus/keys.toml", SECRET);
    tree.write("root-only", SECRET);
    fs::set_permissions(tree.file("root-only"), fs::Permissions::from_mode(0o600)).unwrap();
    tree.write("state/workspaces/s/own", "their own words");
    tree.write("state/workspaces/s/closed/inner", SECRET);
    fs::set_permissions(
        tree.file("state/workspaces/s/closed"),
        fs::Permissions::from_mode(0o700),
    )
    .unwrap();
    fs::hard_link(
        tree.file("state/nexus/keys.toml"),
        tree.file("state/workspaces/s/notes.txt"),
    )
    .unwrap();
    fs::hard_link(tree.file("root-only"), tree.file("state/workspaces/s/more.txt")).unwrap();
    let root = nix::unistd::geteuid().is_root();
    give(&tree.file("state/workspaces/s"));
    give(&tree.file("state/workspaces/s/own"));
    if !root {
        eprintln!("skipped in part: only root can be asked to read for somebody else");
        fs::remove_file(tree.file("state/workspaces/s/more.txt")).unwrap();
        fs::remove_dir_all(tree.file("state/workspaces/s/closed")).unwrap();
    }
    let (_, all, said) = packed(&tree);
    assert!(!holds(&all, SECRET), "{said}");
    assert!(holds(&all, "their own words"));
    for name in ["notes.txt", "more.txt", "closed"]
        .iter()
        .take(if root { 3 } else { 1 })
    {
        assert!(
            said.contains(&format!("left out: workspaces/s/{name}")),
            "{name}: {said}"
        );
    }
}

/// Root's directory of workspaces, which only root may enter, makes a backup by root leave out what users have in it.
#[test]
fn a_users_workspace_is_taken_though_only_root_may_go_there() {
    let tree = Tree::make();
    tree.ends(&["init"], 0);
    for (name, closed) in [
        ("state/workspaces/s/sub/own", "state/workspaces"),
        ("state/volumes/s/v/own", "state/volumes/s"),
    ] {
        tree.write(name, &format!("words in {name}"));
        let (area, whole) = (Path::new(name).parent().unwrap(), tree.file(name));
        for path in [whole.clone(), tree.file(area.to_str().unwrap())] {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
            give(&path);
        }
        fs::set_permissions(tree.file(closed), fs::Permissions::from_mode(0o700)).unwrap();
    }
    give(&tree.file("state/workspaces/s"));
    let (_, all, said) = packed(&tree);
    assert!(holds(&all, "words in state/workspaces/s/sub/own"), "{said}");
    assert!(holds(&all, "words in state/volumes/s/v/own"), "{said}");
}

/// Whoever wrote a backup has a restore by root put a file of theirs anywhere on the host.
#[test]
fn a_backup_puts_nothing_where_the_settings_do_not_say() {
    let tree = Tree::make();
    tree.ends(&["init"], 0);
    store(&tree.file("state/db/x.db"), 20);
    let (file, _, _) = packed(&tree);
    let (work, target) = (tree.dir.path().join("unpacked"), tree.dir.path().join("cron.d/x"));
    fs::create_dir_all(work.join("elsewhere")).unwrap();
    let tar = |args: &[&OsStr]| {
        let done = std::process::Command::new("tar").current_dir(&work).args(args).output();
        assert!(done.unwrap().status.success());
    };
    tar(&["-xzf".as_ref(), file.as_os_str()]);
    let mut manifest: Value = serde_json::from_slice(&fs::read(work.join("manifest.json")).unwrap()).unwrap();
    fs::rename(work.join("state/db/x.db"), work.join("elsewhere/orchestrator.database")).unwrap();
    let mut names = vec!["manifest.json".to_owned()];
    for entry in manifest["files"].as_array_mut().unwrap() {
        if entry["path"] == "state/db/x.db" {
            entry["path"] = "elsewhere/orchestrator.database".into();
            entry["original"] = target.to_str().into();
        }
        if work.join(entry["path"].as_str().unwrap()).is_file() {
            names.push(entry["path"].as_str().unwrap().to_owned());
        }
    }
    fs::write(work.join("manifest.json"), manifest.to_string()).unwrap();
    let hostile = tree.dir.path().join("hostile.tar.gz");
    let mut args: Vec<&OsStr> = vec!["-czf".as_ref(), hostile.as_os_str()];
    args.extend(names.iter().map(OsStr::new));
    tar(&args);
    tree.ends(&["backup", "verify", hostile.to_str().unwrap()], 0);
    let (_, said) = tree.ends(&["backup", "restore", hostile.to_str().unwrap(), "--force"], 1);
    assert!(said.contains("which the settings of this tree do not name"), "{said}");
    assert!(!target.parent().unwrap().exists());
    assert!(tree.file("state/db/x.db").is_file());
}

/// A container fills its workspace with all that makes a copy fail, hang or grow without end.
#[test]
fn nothing_in_a_workspace_stops_a_backup() {
    let tree = Tree::make();
    tree.ends(&["init"], 0);
    store(&tree.file("state/db/x.db"), 20);
    let work = tree.file("state/workspaces/s");
    tree.write("state/workspaces/s/Cargo.lock", "kept");
    tree.write(
        "state/workspaces/s/fake.db",
        "SQLite format 3\0 and nothing of the kind",
    );
    tree.write("state/workspaces/s/fake.db-wal", "a log of it");
    fs::write(work.join(OsStr::from_bytes(b"\xff\x1b[2J")), "x").unwrap();
    let sparse = fs::File::create(work.join("sparse")).unwrap();
    let terabyte = sparse.set_len(1 << 40).is_ok();
    sparse.write_all_at(b"words", 12_345_678).unwrap();
    drop(sparse);
    let dir = Dir::open(&work).unwrap();
    nix::unistd::mkfifo(&work.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = UnixListener::bind(work.join("socket")).unwrap();
    symlink("/dev/zero", work.join("endless")).unwrap();
    let mut deep = dir.create_dir("deep", 0o755).unwrap();
    for _ in 0..3_000 {
        deep = deep.create_dir("down", 0o755).unwrap();
    }
    deep.create_file("at-the-bottom", 0o644).unwrap();
    give(&work);

    let begin = Instant::now();
    let (file, _, said) = packed(&tree);
    assert!(begin.elapsed() < Duration::from_secs(120));
    assert!(fs::metadata(&file).unwrap().len() < 8 << 20);
    for (what, why) in [
        ("\u{fffd}\\u{1b}[2J", "not text"),
        ("pipe", "pipe"),
        ("endless", "a link"),
        ("deep/", "too long"),
    ] {
        let line = said
            .lines()
            .find(|line| line.contains(&format!("left out: workspaces/s/{what}")));
        assert!(line.is_some_and(|line| line.contains(why)), "{what}: {said}");
    }
    tree.ends(&["backup", "restore", file.to_str().unwrap(), "--force"], 0);
    assert_eq!(fs::read_to_string(work.join("Cargo.lock")).unwrap(), "kept");
    assert!(
        fs::read_to_string(work.join("fake.db"))
            .unwrap()
            .contains("nothing of the kind")
    );
    assert_eq!(fs::read_to_string(work.join("fake.db-wal")).unwrap(), "a log of it");
    let found = fs::metadata(work.join("sparse")).unwrap();
    assert!(found.blocks() * 512 < 1 << 20, "{} blocks", found.blocks());
    if terabyte {
        assert_eq!(found.len(), 1 << 40);
    }
    let mut words = [0; 5];
    fs::File::open(work.join("sparse"))
        .unwrap()
        .read_exact_at(&mut words, 12_345_678)
        .unwrap();
    assert_eq!(&words, b"words");
    assert_eq!(
        nexus_store::copy::inspect(&tree.file("state/db/x.db")).unwrap().newest,
        Some(20)
    );
}

/// A restore by root hands a user's files to root, or opens them to others.
#[test]
fn a_restore_keeps_owners_modes_times_and_attributes() {
    let tree = Tree::make();
    tree.ends(&["init"], 0);
    tree.write("state/workspaces/s/sub/script", "run me");
    fs::create_dir(tree.file("state/workspaces/s/empty")).unwrap();
    let names = [
        "state/workspaces/s",
        "state/workspaces/s/sub",
        "state/workspaces/s/empty",
        "state/workspaces/s/sub/script",
    ];
    for (name, mode) in names.iter().zip([0o700, 0o750, 0o1777, 0o4751]) {
        give(&tree.file(name));
        fs::set_permissions(tree.file(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let script = fs::File::options().write(true).open(tree.file(names[3])).unwrap();
    let attribute = OsStr::new("user.nexus.kind");
    let attributes = nexus_walk::set_xattr(&script, attribute, b"tool\0\xff").is_ok();
    for name in names.iter().rev() {
        let file = fs::File::open(tree.file(name)).unwrap();
        nexus_walk::set_modified(&file, (1_700_000_000, 250_000_000)).unwrap();
    }
    let (file, _, _) = packed(&tree);
    tree.ends(&["backup", "restore", file.to_str().unwrap(), "--force"], 0);
    let owner = if nix::unistd::geteuid().is_root() {
        OTHER
    } else {
        nix::unistd::geteuid().as_raw()
    };
    // A set-uid bit does not come out of an archive.
    for (name, mode) in names.iter().zip([0o700, 0o750, 0o1777, 0o751]) {
        let found = fs::metadata(tree.file(name)).unwrap();
        assert_eq!((found.uid(), found.mode() & 0o7777), (owner, mode), "{name}");
        assert_eq!(
            (found.mtime(), found.mtime_nsec()),
            (1_700_000_000, 250_000_000),
            "{name}"
        );
    }
    if attributes {
        let script = fs::File::open(tree.file(names[3])).unwrap();
        let found = nexus_walk::xattrs(&script, |name| name == attribute).unwrap();
        assert_eq!(found, [(attribute.to_owned(), b"tool\0\xff".to_vec())]);
    }
}

fn begun(tree: &Tree, args: &[&str]) -> Child {
    let mut command = nexus(&tree.root(), &tree.dir.path().join("o.sock"));
    let quiet = command.env("NEXUS_BIN_DIR", tree.dir.path()).args(args);
    quiet.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Stops a process where it is, with all that it holds.
fn freeze(child: &Child) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
}

/// Waits until something with this prefix is in a directory.
fn appears(directory: &Path, prefix: &str) -> Option<PathBuf> {
    let end = Instant::now() + Duration::from_secs(60);
    while Instant::now() < end {
        let names = fs::read_dir(directory).into_iter().flatten().flatten();
        let mut ours = names.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
        if let Some(found) = ours.next() {
            return Some(found.path());
        }
        std::thread::yield_now();
    }
    None
}

fn unfinished(tree: &Tree) -> Value {
    let done = tree.run(&["doctor", "--json"]);
    let said: Value = serde_json::from_slice(&done.stdout).unwrap();
    let checks = said["checks"].as_array().unwrap();
    checks
        .iter()
        .find(|one| one["id"] == "tree.unfinished")
        .unwrap()
        .clone()
}

/// A backup and a restore are killed in the middle: copies of all files stay behind and fill the disk.
#[test]
fn a_backup_or_restore_that_is_killed_is_told_and_swept() {
    let tree = Tree::make();
    tree.ends(&["init"], 0);
    let noise: Vec<u8> = (0_u32..24 << 20)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    fs::create_dir_all(tree.file("state/agents/a")).unwrap();
    fs::write(tree.file("state/agents/a/large"), &noise).unwrap();
    let (file, _) = tree.ends(&["backup", "create"], 0);
    let file = file.trim();
    assert_eq!(unfinished(&tree)["status"], "pass");

    let mut backup = begun(
        &tree,
        &[
            "backup",
            "create",
            "-o",
            tree.file("backups/killed.tar.gz").to_str().unwrap(),
        ],
    );
    appears(&tree.file("backups"), ".nexus-backup-").expect("it is staged");
    freeze(&backup);
    assert_eq!(unfinished(&tree)["status"], "pass", "one that goes on is not told");
    backup.kill().unwrap();
    backup.wait().unwrap();
    if tree.file("backups/killed.tar.gz").exists() {
        panic!("the backup was over before it was killed: it has to be larger");
    }
    let told = unfinished(&tree);
    assert!(
        told["status"] == "warn" && told["message"].as_str().unwrap().contains(".nexus-backup-"),
        "{told}"
    );
    tree.ends(
        &[
            "backup",
            "create",
            "-o",
            tree.file("backups/next.tar.gz").to_str().unwrap(),
        ],
        0,
    );
    assert_eq!(unfinished(&tree)["status"], "pass", "the next one swept it");

    let mut restore = begun(&tree, &["backup", "restore", file, "--force"]);
    appears(&tree.root(), ".nexus-restore-").expect("it is staged");
    freeze(&restore);
    restore.kill().unwrap();
    restore.wait().unwrap();
    assert_eq!(
        fs::read(tree.file("state/agents/a/large")).unwrap(),
        noise,
        "the state is whole"
    );
    assert_eq!(unfinished(&tree)["status"], "warn");
    tree.run(&["doctor", "--fix"]);
    assert_eq!(unfinished(&tree)["status"], "pass");
    let hidden = fs::read_dir(tree.root()).unwrap().flatten();
    let hidden: Vec<_> = hidden
        .filter(|entry| entry.file_name().to_string_lossy().starts_with('.'))
        .collect();
    assert!(hidden.is_empty(), "{hidden:?}");
}

/// A container nests 15,000 directories, so that whoever removes them ends by a stack overflow.
#[test]
fn a_reset_removes_a_tree_of_any_depth() {
    let tree = Tree::make();
    tree.ends(&["init"], 0);
    fs::create_dir_all(tree.file("state/workspaces/s")).unwrap();
    let mut deep = Dir::open(&tree.file("state/workspaces/s")).unwrap();
    for _ in 0..15_000 {
        deep = deep.create_dir("down", 0o755).unwrap();
    }
    drop(deep);
    tree.ends(&["reset", "--state", "--confirm"], 0);
    assert!(!tree.file("state").exists() && tree.file("home").is_dir());
}
