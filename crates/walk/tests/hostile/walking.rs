use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nexus_walk::{Dir, Kind, Step, Walk};
use proptest::prelude::*;

use crate::{Site, handles_open, nest, touch};

fn paths(dir: &Dir) -> Vec<PathBuf> {
    let mut walk = Walk::new(dir).unwrap();
    let mut found = Vec::new();
    while let Some(step) = walk.step() {
        match step {
            Step::Entry(_) => found.push(walk.path().to_owned()),
            Step::Problem(problem) => panic!("{problem:?}"),
        }
    }
    found
}

/// A container nests 20,000 directories so that whoever walks them runs out of stack, handles or `PATH_MAX`.
#[test]
fn twenty_thousand_nested_directories_are_walked() {
    let site = Site::make();
    let innermost = nest(&site.dir(), "directory", 20_000);
    touch(&innermost, "file");
    touch(site.dir().open_dir("directory").unwrap(), "zz");
    let before = handles_open();
    let mut walk = Walk::new(&site.dir()).unwrap();
    let (mut entries, mut longest, mut opened) = (0, 0, 0);
    let mut names = BTreeSet::new();
    while let Some(step) = walk.step() {
        let Step::Entry(entry) = step else { panic!("{step:?}") };
        entries += 1;
        longest = longest.max(walk.path().as_os_str().len());
        if entry.meta.kind == Kind::File {
            // The way up has to end in the right directory.
            names.insert((walk.depth(), entry.name));
            walk.dir().open_file(walk.path().file_name().unwrap()).unwrap();
        }
        opened = opened.max(handles_open() - before);
    }
    assert_eq!(entries, 20_002);
    assert_eq!(
        names,
        BTreeSet::from([(1, OsString::from("zz")), (20_000, OsString::from("file"))])
    );
    assert!(longest > 190_000, "{longest}");
    // Other tests of this process open some too.
    assert!(opened < 1_000, "{opened} handles");
    // A whole path beyond PATH_MAX opens too.
    let mut path = PathBuf::new();
    (0..20_000).for_each(|_| path.push("directory"));
    path.push("file");
    site.dir().open_file(&path).unwrap();
}

/// A container swaps a directory of its workspace for a link to a root-only directory while the host reads it.
#[test]
fn a_directory_swapped_for_a_link_never_leads_out() {
    let (site, outside) = (Site::make(), Site::make());
    let root = site.0.path().to_owned();
    fs::create_dir_all(root.join("work/here")).unwrap();
    fs::write(root.join("work/here/key"), "own").unwrap();
    fs::write(outside.0.path().join("key"), "secret").unwrap();
    symlink(outside.0.path(), root.join("work/trap")).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let swapper = std::thread::spawn({
        let (stop, work) = (stop.clone(), Dir::open(&root.join("work")).unwrap());
        move || {
            let mut swaps = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                use rustix::fs::{RenameFlags, renameat_with};
                renameat_with(&work, "here", &work, "trap", RenameFlags::EXCHANGE).unwrap();
                swaps += 1;
            }
            swaps
        }
    });
    let dir = Dir::open(&root).unwrap();
    let (mut read, mut refused) = (0, 0);
    let end = Instant::now() + Duration::from_millis(1_500);
    while Instant::now() < end {
        for path in ["work/here/key", "work/trap/key"] {
            match dir.open_file(path) {
                Ok((file, _)) => {
                    assert_eq!(nexus_walk::read_bounded(&file, 100).unwrap(), b"own", "{path}");
                    read += 1;
                }
                Err(_) => refused += 1,
            }
        }
        let mut walk = Walk::new(&dir).unwrap();
        while let Some(step) = walk.step() {
            if let Step::Entry(entry) = step
                && entry.meta.kind == Kind::File
                && let Ok((file, _)) = walk.dir().open_file(&entry.name)
            {
                assert_eq!(nexus_walk::read_bounded(&file, 100).unwrap(), b"own");
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    assert!(swapper.join().unwrap() > 10);
    assert!(read > 0 && refused > 0, "both happened: {read} {refused}");
}

/// A container moves a directory that is being walked out of the tree, so that the way up leads elsewhere.
#[test]
fn a_directory_moved_away_is_not_followed_up() {
    let (site, outside) = (Site::make(), Site::make());
    fs::write(outside.0.path().join("secret"), "x").unwrap();
    // Deeper than the handles that are held, so that the way up goes by `..`.
    nest(&site.dir(), "d", 120);
    fs::create_dir(outside.0.path().join("catch")).unwrap();
    let mut walk = Walk::new(&site.dir()).unwrap();
    let mut moved = false;
    let (mut seen, mut problems) = (0, 0);
    while let Some(step) = walk.step() {
        match step {
            Step::Entry(entry) => {
                assert_ne!(entry.name, OsStr::new("secret"), "{:?}", walk.path());
                seen += 1;
            }
            Step::Problem(_) => problems += 1,
        }
        if seen == 120 && !moved {
            moved = true;
            let below = ["d"; 30].iter().collect::<PathBuf>();
            fs::rename(site.0.path().join(&below), outside.0.path().join("catch/d")).unwrap();
            fs::rename(site.0.path().join("d"), site.0.path().join("gone")).unwrap();
        }
    }
    assert_eq!((seen, moved), (120, true));
    assert!(problems > 0, "what cannot be reached any more is told");
}

/// A container puts pipes, sockets, devices and links where files are expected, so that the reader hangs or follows.
#[test]
fn nothing_but_a_plain_file_is_opened_and_nothing_hangs() {
    let site = Site::make();
    let at = |name: &str| site.0.path().join(name);
    let dir = site.dir();
    rustix::fs::mknodat(&dir, "fifo", rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    let _socket = UnixListener::bind(at("socket")).unwrap();
    symlink("/etc/passwd", at("link")).unwrap();
    symlink("/dev/null", at("device-link")).unwrap();
    fs::create_dir(at("dir")).unwrap();
    for name in ["fifo", "socket", "link", "device-link", "dir"] {
        assert!(dir.open_file(name).is_err(), "{name}");
    }
    assert!(dir.open_dir("link").is_err() && dir.open_dir("fifo").is_err());
    let device = rustix::fs::mknodat(
        &dir,
        "null",
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::RWXU,
        rustix::fs::makedev(1, 3),
    );
    if device.is_ok() {
        assert!(dir.open_file("null").is_err());
        assert_eq!(dir.meta("null").unwrap().kind, Kind::CharDevice);
    }
    let kinds: Vec<Kind> = ["fifo", "socket", "link", "dir"]
        .map(|name| dir.meta(name).unwrap().kind)
        .into();
    assert_eq!(kinds, [Kind::Fifo, Kind::Socket, Kind::Link, Kind::Dir]);
}

/// A container names files so that a reader that expects text fails.
#[test]
fn names_are_bytes() {
    let site = Site::make();
    let names: [&[u8]; 4] = [b"\xff\xfe", b"\n\x1b[2J", b"a\xc3", &[b'x'; 255]];
    for name in names {
        fs::write(site.0.path().join(OsStr::from_bytes(name)), name).unwrap();
    }
    let dir = site.dir();
    let found: BTreeSet<_> = paths(&dir).into_iter().collect();
    assert_eq!(
        found,
        names
            .iter()
            .map(|name| PathBuf::from(OsStr::from_bytes(name)))
            .collect()
    );
    for name in names {
        let (file, _) = dir.open_file(Path::new(OsStr::from_bytes(name))).unwrap();
        assert_eq!(nexus_walk::read_bounded(&file, 300).unwrap(), name);
    }
}

/// A container fills one directory with names, so that whoever lists it fills its memory.
#[test]
fn a_wide_directory_is_given_in_order() {
    let site = Site::make();
    let dir = site.dir();
    (0..30_000).for_each(|number| touch(&dir, format!("{number:06}")));
    let found = paths(&dir);
    assert_eq!(found.len(), 30_000);
    assert!(found.is_sorted());
}

#[derive(Clone, Debug)]
enum Node {
    File,
    Dir(Vec<(u8, Node)>),
}

fn trees() -> impl Strategy<Value = Node> {
    let leaf = prop_oneof![Just(Node::File), Just(Node::Dir(Vec::new()))];
    leaf.prop_recursive(6, 64, 8, |inner| {
        prop::collection::vec((any::<u8>(), inner), 0..8).prop_map(Node::Dir)
    })
}

fn make(path: &Path, node: &Node, into: &mut Vec<PathBuf>, root: &Path) {
    match node {
        Node::File => fs::write(path, "x").unwrap(),
        Node::Dir(inside) => {
            if path != root {
                fs::create_dir(path).unwrap();
            }
            for (name, node) in inside {
                let path = path.join(format!("n{name}"));
                if !path.exists() {
                    into.push(path.strip_prefix(root).unwrap().to_owned());
                    make(&path, node, into, root);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_entry_is_given_once_and_in_order(tree in trees()) {
        let site = tempfile::tempdir().unwrap();
        let mut expected = Vec::new();
        if let Node::Dir(_) = &tree {
            make(site.path(), &tree, &mut expected, site.path());
        }
        expected.sort();
        let found = paths(&Dir::open(site.path()).unwrap());
        prop_assert_eq!(&found, &expected);
        let dir = Dir::open(site.path()).unwrap();
        fs::create_dir(site.path().join("all")).unwrap();
        for path in expected.iter().filter(|path| path.components().count() == 1) {
            dir.rename(path, &dir.open_dir("all").unwrap(), path).unwrap();
        }
        let removed = nexus_walk::remove_now(&dir, "all", ".trash").unwrap();
        prop_assert_eq!(removed, expected.len() as u64 + 1);
        prop_assert_eq!(fs::read_dir(site.path()).unwrap().count(), 0);
    }
}
