use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};

use nexus_walk::{Rights, copy_sparse, restore_owner, set_modified, set_xattr, xattrs};

use crate::Site;

/// A user links a file that only root may read into their workspace, so that root copies it for them.
#[test]
fn what_the_owner_may_not_read_is_not_read_for_them() {
    if !rustix::process::geteuid().is_root() {
        return; // only root can take another user's rights
    }
    const OTHER: u32 = 54_321;
    let site = Site::make();
    let write = |name: &str, mode: u32, uid: u32| {
        let path = site.0.path().join(name);
        fs::write(&path, name).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        lchown(&path, Some(uid), Some(0)).unwrap();
    };
    fs::set_permissions(site.0.path(), fs::Permissions::from_mode(0o755)).unwrap();
    write("own", 0o600, OTHER);
    write("for-all", 0o644, 0);
    write("for-the-group-of-root", 0o640, 0);
    write("of-root", 0o600, 0);
    let dir = site.dir();
    {
        let _rights = Rights::assume(OTHER).unwrap();
        assert!(dir.open_file("own").is_ok() && dir.open_file("for-all").is_ok());
        for name in ["of-root", "for-the-group-of-root"] {
            let refused = dir.open_file(name).unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied, "{name}");
        }
        let elsewhere = std::thread::spawn({
            let dir = dir.try_clone().unwrap();
            move || dir.open_file("of-root").is_ok()
        });
        // A new thread has the rights of the one that started it; one that was there keeps its own.
        assert!(!elsewhere.join().unwrap());
    }
    assert!(dir.open_file("of-root").is_ok(), "given back");
    assert!(Rights::assume(0).is_ok());
}

/// A container makes a file of a terabyte that holds four kilobytes, so that a copy fills the disk.
#[test]
fn a_sparse_terabyte_stays_sparse() {
    let site = Site::make();
    let from = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(site.0.path().join("from"))
        .unwrap();
    if from.set_len(1 << 40).is_err() {
        eprintln!("skipped: this file system has no files of a terabyte");
        return;
    }
    use std::os::unix::fs::FileExt;
    from.write_all_at(b"middle", 1 << 39).unwrap();
    let to = site.dir().create_file("to", 0o600).unwrap();
    let mut heard = 0;
    let copied = copy_sparse(&from, &to, |bytes| {
        heard += bytes;
        Ok(())
    })
    .unwrap();
    let made = to.metadata().unwrap();
    assert_eq!(made.len(), 1 << 40);
    assert!(made.blocks() * 512 < 1 << 20 && copied < 1 << 20, "{copied}");
    assert_eq!(heard, copied);
    let mut middle = [0; 6];
    to.read_exact_at(&mut middle, 1 << 39).unwrap();
    assert_eq!(&middle, b"middle");
}

#[test]
fn attributes_come_back() {
    let site = Site::make();
    let file = site.dir().create_file("file", 0o600).unwrap();
    set_modified(&file, (1_700_000_000, 123_000_000)).unwrap();
    let found = file.metadata().unwrap();
    assert_eq!((found.mtime(), found.mtime_nsec()), (1_700_000_000, 123_000_000));
    restore_owner(&file, found.uid(), found.gid()).unwrap();
    let name = std::ffi::OsStr::new("user.nexus.kind");
    if set_xattr(&file, name, b"log").is_err() {
        eprintln!("skipped: this file system has no extended attributes");
        return;
    }
    set_xattr(&file, std::ffi::OsStr::new("user.other"), b"x").unwrap();
    let ours = xattrs(&file, |name| name.to_string_lossy().starts_with("user.nexus")).unwrap();
    assert_eq!(ours, [(name.to_owned(), b"log".to_vec())]);
}
