use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nexus_walk::{Dir, Fresh, Removal, Trash, UNFINISHED};

use crate::{Site, handles_open, nest, touch};

fn finish(removal: &mut Removal, at_once: u32) -> u64 {
    let mut removed = 0;
    loop {
        let step = removal.step(at_once);
        assert!(step.removed <= u64::from(at_once), "a step is bounded");
        removed += step.removed;
        if step.done {
            return removed;
        }
    }
}

/// 15,000 nested directories in a workspace ended the process that removed them by recursion.
#[test]
fn a_deep_tree_goes_in_bounded_steps_with_few_handles() {
    let site = Site::make();
    let dir = site.dir();
    dir.create_dir("workspace", 0o700).unwrap();
    let innermost = nest(&dir.open_dir("workspace").unwrap(), "d", 20_000);
    touch(&innermost, OsStr::from_bytes(b"\xff"));
    drop(innermost);
    let before = handles_open();
    let trash = Trash::open(&dir, ".trash").unwrap();
    assert!(trash.take(&dir, "workspace").unwrap());
    assert!(!dir.exists("workspace").unwrap(), "out of sight at once");
    let mut removal = trash.removal().unwrap();
    let mut removed = 0;
    loop {
        let step = removal.step(100);
        removed += step.removed;
        // Other tests of this process open some too.
        assert!(handles_open() - before < 1_000);
        if step.done {
            break;
        }
    }
    assert_eq!(removed, 20_002);
    assert!(
        trash.is_empty().unwrap() && removal.failed() == 0,
        "{:?}",
        removal.problems()
    );
}

/// The process is killed in the middle of a removal: the next one finds the rest in the trash.
#[test]
fn a_removal_that_was_cut_off_is_gone_on_with() {
    let site = Site::make();
    let dir = site.dir();
    for one in 0..40 {
        fs::create_dir_all(site.0.path().join(format!("tree/{one}/a/b/c"))).unwrap();
        fs::write(site.0.path().join(format!("tree/{one}/a/file")), "x").unwrap();
    }
    let trash = Trash::open(&dir, ".trash").unwrap();
    trash.take(&dir, "tree").unwrap();
    for steps in 0..50 {
        // Each is dropped where it stands, like that of a process that was killed.
        let mut removal = Trash::open(&dir, ".trash").unwrap().removal().unwrap();
        removal.step(steps);
    }
    let mut last = Trash::open(&dir, ".trash").unwrap().removal().unwrap();
    finish(&mut last, 1_000);
    assert!(trash.is_empty().unwrap());
}

/// A container swaps directories for links to the host's files while its workspace is removed.
#[test]
fn what_a_link_points_to_is_never_removed() {
    let (site, outside) = (Site::make(), Site::make());
    fs::create_dir(outside.0.path().join("precious")).unwrap();
    fs::write(outside.0.path().join("precious/file"), "x").unwrap();
    let dir = site.dir();
    for round in 0..60 {
        let work = site.0.path().join("work");
        fs::create_dir_all(work.join("in/a/b")).unwrap();
        for name in 0..20 {
            fs::write(work.join(format!("in/a/{name}")), "x").unwrap();
        }
        symlink(outside.0.path(), work.join("trap")).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let swapper = std::thread::spawn({
            let (stop, work) = (stop.clone(), Dir::open(&work).unwrap());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    use rustix::fs::{RenameFlags, renameat_with};
                    let _gone = renameat_with(&work, "in", &work, "trap", RenameFlags::EXCHANGE);
                }
            }
        });
        let trash = Trash::open(&dir, ".trash").unwrap();
        trash.take(&dir, "work").unwrap();
        let mut removal = trash.removal().unwrap();
        finish(&mut removal, 7);
        stop.store(true, Ordering::Relaxed);
        swapper.join().unwrap();
        finish(&mut trash.removal().unwrap(), 7);
        assert!(trash.is_empty().unwrap(), "round {round}: {:?}", removal.problems());
        assert!(outside.0.path().join("precious/file").exists(), "round {round}");
    }
}

/// A user takes the rights of their own directories away, so that an ordinary daemon cannot remove them.
#[test]
fn modes_of_ones_own_directories_do_not_stop_a_removal() {
    let site = Site::make();
    fs::create_dir_all(site.0.path().join("tree/closed/inner")).unwrap();
    fs::write(site.0.path().join("tree/closed/inner/file"), "x").unwrap();
    for path in ["tree/closed/inner", "tree/closed", "tree"] {
        fs::set_permissions(site.0.path().join(path), fs::Permissions::from_mode(0o000)).unwrap();
    }
    fs::set_permissions(site.0.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let script = |dir: &std::path::Path| {
        let dir = Dir::open(dir).unwrap();
        nexus_walk::remove_now(&dir, "tree", ".trash").unwrap()
    };
    if rustix::process::geteuid().is_root() {
        // Root ignores modes: the same as an ordinary user, in a thread with that user's identity.
        let path = site.0.path().to_owned();
        for below in ["", "tree", "tree/closed", "tree/closed/inner", "tree/closed/inner/file"] {
            std::os::unix::fs::lchown(path.join(below), Some(54_321), Some(54_321)).unwrap();
        }
        let removed = std::thread::spawn(move || {
            let (uid, gid) = (rustix::fs::Uid::from_raw(54_321), rustix::fs::Gid::from_raw(54_321));
            rustix::thread::set_thread_groups(&[]).unwrap();
            rustix::thread::set_thread_gid(gid).unwrap();
            rustix::thread::set_thread_uid(uid).unwrap();
            script(&path)
        });
        assert_eq!(removed.join().unwrap(), 4);
    } else {
        assert_eq!(script(site.0.path()), 4);
    }
}

/// What cannot go is told with its place, and the rest goes.
#[test]
fn a_file_that_stays_is_told_and_stops_nothing() {
    let site = Site::make();
    if !rustix::process::geteuid().is_root() {
        return; // only root can mount
    }
    fs::create_dir_all(site.0.path().join("tree/mounted")).unwrap();
    fs::create_dir_all(site.0.path().join("tree/other/x")).unwrap();
    let mounted = site.0.path().join("tree/mounted");
    let mount = |args: &[&str]| {
        let done = std::process::Command::new(args[0])
            .args(&args[1..])
            .arg(&mounted)
            .output();
        done.is_ok_and(|done| done.status.success())
    };
    if !mount(&["mount", "-t", "tmpfs", "tmpfs"]) {
        eprintln!("skipped: nothing can be mounted here");
        return;
    }
    fs::write(mounted.join("kept"), "x").unwrap();
    let dir = site.dir();
    let trash = Trash::open(&dir, ".trash").unwrap();
    trash.take(&dir, "tree").unwrap();
    let mut removal = trash.removal().unwrap();
    finish(&mut removal, 10);
    let found = (removal.failed(), format!("{:?}", removal.problems()));
    let in_trash = fs::read_dir(site.0.path().join(".trash"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let kept = in_trash.join("mounted/kept").exists();
    let rest = in_trash.join("other").exists();
    let away = std::process::Command::new("umount")
        .arg(in_trash.join("mounted"))
        .status();
    assert!(away.unwrap().success());
    assert!(kept && !rest, "{found:?}");
    assert!(found.0 >= 1 && found.1.contains("mounted"), "{found:?}");
    finish(&mut trash.removal().unwrap(), 10);
    assert!(trash.is_empty().unwrap(), "the next removal finishes it");
}

/// Another user makes the trash first, to keep what is thrown away.
#[test]
fn a_trash_of_another_user_is_refused() {
    if !rustix::process::geteuid().is_root() {
        return; // only root can give a directory away
    }
    let site = Site::make();
    fs::create_dir(site.0.path().join(".trash")).unwrap();
    std::os::unix::fs::lchown(site.0.path().join(".trash"), Some(54_321), None).unwrap();
    let refused = Trash::open(&site.dir(), ".trash").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
    fs::remove_dir(site.0.path().join(".trash")).unwrap();
    symlink("/tmp", site.0.path().join(".trash")).unwrap();
    assert!(Trash::open(&site.dir(), ".trash").is_err(), "a link is none");
}

#[test]
fn a_file_is_replaced_whole_or_not_at_all() {
    let site = Site::make();
    let dir = site.dir();
    dir.write("settings", b"one", 0o640).unwrap();
    symlink("settings", site.0.path().join("link")).unwrap();
    dir.write("link", b"two", 0o600).unwrap();
    assert_eq!(
        fs::read(site.0.path().join("settings")).unwrap(),
        b"one",
        "a link is replaced, not followed"
    );
    let mode = fs::metadata(site.0.path().join("settings"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o640);
    drop(Fresh::new(&dir, 0o600).unwrap());
    let taken = Fresh::new(&dir, 0o600).unwrap().place("settings").unwrap_err();
    assert_eq!(taken.kind(), std::io::ErrorKind::AlreadyExists);
    let left: Vec<_> = dir.entries().unwrap().map(|entry| entry.unwrap().name).collect();
    assert_eq!(left.len(), 2, "nothing unfinished stays: {left:?}");
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with(UNFINISHED)));
}
