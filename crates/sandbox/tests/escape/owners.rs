//! Whose rights a sandbox of root's has on the host's files, and whose the files are that it makes.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use nexus_sandbox::{Access, Caller, Report, Request, Run};

use crate::helper::{As, Done, everybody, mount, own, own_dir, place, python, request, run, shell, skipped};

/// Somebody else than root, in a group.
const CALLER: u32 = 1001;
const GROUP: u32 = 7_777;

fn caller() -> Caller {
    Caller {
        uid: CALLER,
        gid: CALLER,
        groups: vec![GROUP],
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn for_caller(mut wanted: Run, path: &Path) -> Run {
    wanted.caller = Some(caller());
    wanted.mounts = vec![mount(path, "/data", false)];
    wanted
}

/// The attack: a program that becomes root, left in root's directory by a sandbox that may write there.
#[test]
fn a_program_left_in_a_mount_belongs_to_the_caller_and_has_no_set_user_id() {
    if !is_root() {
        return;
    }
    let dir = place();
    mode(dir.path(), 0o777);
    for inside in [0, 1000] {
        let mut wanted = for_caller(
            shell("cp /bin/true /data/p && chmod 755 /data/p; chmod 4755 /data/p && echo set; stat -c %u /data/p"),
            dir.path(),
        );
        (wanted.user.uid, wanted.user.gid) = (inside, inside);
        run(As::Root, wanted).ran().prints(&inside.to_string());
        let left = fs::metadata(dir.path().join("p")).unwrap();
        assert_eq!((left.uid(), left.gid(), left.mode() & 0o7777), (CALLER, CALLER, 0o755));
        fs::remove_file(dir.path().join("p")).unwrap();
    }
}

/// The attack: every call that can set a mode or an attribute, to leave a set-user-id program, a device or rights that a
/// file gives, in a mount and in memory.
#[test]
fn no_call_sets_rights_on_a_file() {
    const SCRIPT: &str = r#"
import ctypes, os, stat
libc = ctypes.CDLL(None, use_errno=True)
SET = 0o4755
for d in ('/data', '/tmp'):
    f = d + '/f'
    open(f, 'w').close()
    fd = os.open(f, os.O_RDONLY)
    dd = os.open(d, os.O_RDONLY)
    how = (ctypes.c_uint64 * 3)(os.O_CREAT | os.O_WRONLY, SET, 0)
    ways = {
        'chmod': lambda: os.chmod(f, SET), 'fchmod': lambda: os.fchmod(fd, SET),
        'fchmodat': lambda: os.chmod('f', SET, dir_fd=dd), 'setgid': lambda: os.chmod(f, 0o2755),
        'fchmodat2': lambda: libc.syscall(452, dd, b'f', SET, 0),
        'open': lambda: os.open(d + '/o', os.O_CREAT | os.O_WRONLY, SET),
        'tmpfile': lambda: os.open(d, os.O_TMPFILE | os.O_WRONLY, SET),
        'openat2': lambda: libc.syscall(437, dd, b'two', how, 24),
        'creat': lambda: libc.creat((d + '/c').encode(), SET),
        'mknod': lambda: os.mknod(d + '/n', stat.S_IFREG | SET),
        'char': lambda: os.mknod(d + '/ch', stat.S_IFCHR | 0o666, os.makedev(1, 1)),
        'block': lambda: os.mknod(d + '/bl', stat.S_IFBLK | 0o666, os.makedev(8, 0)),
        'caps': lambda: os.setxattr(f, 'security.capability', bytes.fromhex('0100000200000000000000000000000000000000')),
        'security': lambda: os.setxattr(f, 'security.nexus', b'x'),
    }
    for name, way in ways.items():
        try:
            way()
        except OSError:
            pass
    for name in os.listdir(d):
        st = os.lstat(d + '/' + name)
        if st.st_mode & 0o6000 or not stat.S_ISREG(st.st_mode):
            print('left', d, name, oct(st.st_mode))
        if any(x.startswith('security.') for x in os.listxattr(d + '/' + name)):
            print('attribute', d, name)
print('done')
"#;
    for user in everybody() {
        let (_dir, path) = own_dir(user);
        let mut wanted = python(SCRIPT);
        wanted.caller = Some(own(user));
        wanted.mounts = vec![mount(&path, "/data", false)];
        run(user, wanted).ran().prints("done");
        for entry in fs::read_dir(&path).unwrap() {
            let mode = entry.unwrap().metadata().unwrap().mode();
            assert_eq!(mode & 0o17_6000, 0o10_0000, "{mode:o}");
        }
    }
}

/// A package manager sets them in its own root, where nobody outside ever sees them.
#[test]
fn a_writable_root_may_have_set_user_id_programs() {
    for user in everybody() {
        let mut wanted = shell("cp /bin/true /usr/p && chmod 4755 /usr/p && stat -c %a /usr/p");
        wanted.writable_rootfs = true;
        run(user, wanted).ran().prints("4755");
    }
}

/// The attack: with a writable root, where the bits can be set, leave a program that gives everybody the caller's rights.
#[test]
fn a_writable_root_sets_no_rights_on_files_of_the_host() {
    for user in everybody() {
        let (_dir, path) = own_dir(user);
        for (read_only, expected) in [(false, ""), (true, "set")] {
            let mut wanted = shell("cp /bin/true /tmp/p && chmod 4755 /tmp/p && echo set; chmod 6755 /data/mine");
            wanted.writable_rootfs = true;
            wanted.caller = Some(own(user));
            wanted.mounts = vec![mount(&path, "/data", read_only)];
            run(user, wanted).ran().prints(expected);
            assert_eq!(fs::metadata(path.join("mine")).unwrap().mode() & 0o6000, 0);
        }
    }
}

/// The attack: a mount of what only root, or only others' groups, may read.
#[test]
fn what_the_caller_may_not_read_is_not_read_inside() {
    if !is_root() {
        return;
    }
    let dir = place();
    let path = dir.path().canonicalize().unwrap();
    for (name, gid, bits) in [
        ("root", 0, 0o600),
        ("against", GROUP, 0o604),
        ("group", GROUP, 0o640),
        ("all", 0, 0o644),
    ] {
        let file = path.join(name);
        fs::write(&file, format!("{name}\n")).unwrap();
        chown(&file, Some(0), Some(gid)).unwrap();
        mode(&file, bits);
    }
    let script = "cd /data; cat root against group all 2>/dev/null; echo x > root; echo x > all; rm -f all; ls | wc -l";
    let mut wanted = shell(script);
    wanted.caller = Some(caller());
    wanted.mounts = vec![mount(&path, "/data", true)];
    run(As::Root, wanted).ran().prints("group\nall\n4");
}

/// The attack: a mount of an open directory that lies in one which the caller may not enter.
#[test]
fn a_way_that_the_caller_may_not_go_is_shut() {
    if !is_root() {
        return;
    }
    let dir = place();
    let (shut, open) = (dir.path().join("shut"), dir.path().join("shut/open"));
    fs::create_dir_all(&open).unwrap();
    mode(&open, 0o777);
    mode(&shut, 0o700);
    let open = open.canonicalize().unwrap();
    assert_eq!(run(As::Root, for_caller(shell("true"), &open)).failed(), "access");
    let ask = |uid: u32, write: bool| -> Done {
        let caller = Caller { uid, ..caller() };
        let access = Access {
            caller,
            paths: vec![(open.clone(), write)],
        };
        request(As::Root, &Request::Access(access))
    };
    assert_eq!(ask(CALLER, false).failed(), "access");
    assert_eq!(ask(0, true).reports, [Report::Allowed]);
    mode(&shut, 0o755);
    assert_eq!(ask(CALLER, true).reports, [Report::Allowed]);
    mode(&open, 0o755);
    assert_eq!(ask(CALLER, false).reports, [Report::Allowed]);
    assert_eq!(ask(CALLER, true).failed(), "access");
}

/// The attack: root's own sandbox, for which nobody named a user, writes where root may.
#[test]
fn a_sandbox_of_root_without_a_caller_is_nobody() {
    if !is_root() {
        return;
    }
    let (_dir, path) = own_dir(As::Root);
    let mut wanted = shell("true");
    wanted.mounts = vec![mount(&path, "/data", false)];
    assert_eq!(run(As::Root, wanted).failed(), "access");
    let mut wanted = shell("cat /data/mine; echo no > /data/mine");
    wanted.mounts = vec![mount(&path, "/data", true)];
    run(As::Root, wanted).ran().prints("mine");
}

/// The attack: a sandbox takes every inotify instance there is, so that no program of root's, and no other user's sandbox,
/// can watch a file.
#[test]
fn what_the_kernel_counts_for_users_is_not_counted_for_root() {
    const TAKE: &str = r#"
import ctypes, os, time
libc = ctypes.CDLL(None)
n = 0
while n < 60000 and libc.inotify_init1(0) >= 0: n += 1
print(n > 0, flush=True)
open('/data/taken', 'w').close()
while not os.path.exists('/data/go'): time.sleep(0.02)
"#;
    if !is_root() {
        return;
    }
    let most = fs::read_to_string("/proc/sys/fs/inotify/max_user_instances").unwrap();
    if most.trim().parse::<u64>().unwrap() > 60_000 {
        return skipped("inotify instances: this host has more than one sandbox can open");
    }
    let (_dir, path) = own_dir(As::Ordinary);
    let mut greedy = python(TAKE);
    greedy.caller = Some(own(As::Ordinary));
    greedy.mounts = vec![mount(&path, "/data", false)];
    let taking = std::thread::spawn(move || run(As::Root, greedy));
    let taken = path.join("taken");
    while !taken.exists() {
        assert!(!taking.is_finished(), "{:#?}", taking.join());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    const ONE: &str = "import ctypes; print(ctypes.CDLL(None).inotify_init1(0) >= 0)";
    let of_root = std::process::Command::new("python3").args(["-c", ONE]).output();
    let mut other = python(ONE);
    other.caller = Some(Caller { uid: 1234, ..caller() });
    let of_other = run(As::Root, other);
    fs::write(path.join("go"), "").unwrap();
    taking.join().unwrap().ran().prints("True");
    assert_eq!(String::from_utf8_lossy(&of_root.unwrap().stdout).trim(), "True");
    of_other.ran().prints("True");
}

/// The attack: an ordinary user's helper, asked to act as another user.
#[test]
fn only_root_acts_for_others() {
    if !everybody().contains(&As::Ordinary) {
        return;
    }
    let (_dir, path) = own_dir(As::Ordinary);
    for uid in [0, 1234] {
        let mut wanted = shell("true");
        wanted.caller = Some(Caller { uid, ..caller() });
        wanted.mounts = vec![mount(&path, "/data", true)];
        assert_eq!(run(As::Ordinary, wanted).failed(), "spec");
    }
}
