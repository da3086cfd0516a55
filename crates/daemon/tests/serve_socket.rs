//! The socket file: its mode, what is removed and what never is, who is told of whom, and sockets handed over.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod serve_kit;

use std::{
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown},
        net::UnixListener,
    },
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nexus_daemon::{
    Health, Stop,
    listener::{BindError, Listeners, MAX_SOCKET_PATH, bind},
    serve,
};
use serve_kit::{Gate, SOON, connect, listen, options, say, services};

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().permissions().mode() & 0o7777
}

fn own_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

#[tokio::test]
async fn the_socket_is_private_and_so_are_the_directories_made_for_it() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o751)).unwrap();
    let socket = dir.path().join("state/run/x.sock");
    let listeners = bind(&listen(&socket)).await.unwrap();
    assert_eq!(mode(&socket), 0o600);
    assert_eq!(mode(&dir.path().join("state")), 0o700);
    assert_eq!(mode(&dir.path().join("state/run")), 0o700);
    assert_eq!(mode(dir.path()), 0o751, "what was there is not touched");
    drop(listeners);
    let left: Vec<_> = std::fs::read_dir(socket.parent().unwrap()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn there_is_no_moment_when_the_socket_is_open_to_others() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("x.sock");
    let done = Arc::new(AtomicBool::new(false));
    let looker = std::thread::spawn({
        let (socket, done) = (socket.clone(), done.clone());
        move || {
            let mut seen = std::collections::BTreeSet::new();
            while !done.load(Ordering::Relaxed) {
                if let Ok(found) = socket.symlink_metadata() {
                    seen.insert(found.permissions().mode() & 0o777);
                }
            }
            seen
        }
    });
    // Loose on purpose: the mode must not depend on it.
    let before = nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    for _ in 0..300 {
        drop(bind(&listen(&socket)).await.unwrap());
    }
    nix::sys::stat::umask(before);
    done.store(true, Ordering::Relaxed);
    assert_eq!(looker.join().unwrap().into_iter().collect::<Vec<_>>(), [0o600]);
}

#[tokio::test]
async fn a_group_and_a_mode_are_given_when_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut wanted = listen(&dir.path().join("x.sock"));
    wanted.mode = 0o660;
    wanted.group = Some(nix::unistd::getegid().to_string());
    let _listeners = bind(&wanted).await.unwrap();
    assert_eq!(mode(&wanted.socket), 0o660);
    wanted.socket = dir.path().join("y.sock");
    wanted.group = Some("no-such-group-here".into());
    assert!(matches!(bind(&wanted).await, Err(BindError::NoGroup(_))));
    assert!(!wanted.socket.exists());
}

#[tokio::test]
async fn a_stale_socket_of_ours_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("x.sock");
    drop(UnixListener::bind(&socket).unwrap());
    assert!(socket.symlink_metadata().unwrap().file_type().is_socket());
    let _listeners = bind(&listen(&socket)).await.unwrap();
    assert!(std::os::unix::net::UnixStream::connect(&socket).is_ok());
}

#[tokio::test]
async fn what_is_not_a_socket_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let real = dir.path().join("real.sock");
    drop(UnixListener::bind(&real).unwrap());
    for name in ["file", "directory", "link"] {
        let path = dir.path().join(name);
        match name {
            "file" => std::fs::write(&path, "precious").unwrap(),
            "directory" => std::fs::create_dir(&path).unwrap(),
            _ => std::os::unix::fs::symlink(&real, &path).unwrap(),
        }
        assert!(
            matches!(bind(&listen(&path)).await, Err(BindError::NotSocket { .. })),
            "{name}"
        );
        assert!(path.symlink_metadata().is_ok(), "{name}");
    }
    assert_eq!(std::fs::read_to_string(dir.path().join("file")).unwrap(), "precious");
}

#[tokio::test]
async fn a_live_socket_names_its_owner_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("x.sock");
    let foreign = UnixListener::bind(&socket).unwrap();
    let inode = socket.symlink_metadata().unwrap().ino();
    let error = bind(&listen(&socket)).await.err().unwrap();
    let BindError::Taken { uid, pid, hint, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(*uid, Some(own_uid()));
    assert_eq!(*pid, Some(std::process::id().cast_signed()));
    assert!(hint.contains("config.toml"), "{hint}");
    assert_eq!(socket.symlink_metadata().unwrap().ino(), inode);

    // A backlog nobody empties is as alive as one that is.
    let mut waiting = Vec::new();
    let full = loop {
        let socket2 = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        socket2.set_nonblocking(true).unwrap();
        match socket2.connect(&socket2::SockAddr::unix(&socket).unwrap()) {
            Ok(()) => waiting.push(socket2),
            Err(error) => break error,
        }
    };
    assert_eq!(full.kind(), std::io::ErrorKind::WouldBlock);
    assert!(matches!(bind(&listen(&socket)).await, Err(BindError::Taken { .. })));
    drop(foreign);
}

#[tokio::test]
async fn a_second_daemon_of_ours_is_told_of_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("x.sock");
    let first = bind(&listen(&socket)).await.unwrap();
    let error = bind(&listen(&socket)).await.err().unwrap().to_string();
    assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
    assert!(error.contains("NEXUS_ROOT"), "{error}");
    drop(first);
    assert!(bind(&listen(&socket)).await.is_ok());
}

#[tokio::test]
async fn another_users_stale_socket_is_kept() {
    if own_uid() != 0 {
        return serve_kit::skipped("another_users_stale_socket_is_kept", "root, to give a file away");
    }
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("x.sock");
    drop(UnixListener::bind(&socket).unwrap());
    lchown(&socket, Some(65534), Some(65534)).unwrap();
    let error = bind(&listen(&socket)).await.err().unwrap();
    assert!(matches!(error, BindError::NotOurs { uid: 65534, .. }), "{error}");
    assert!(socket.exists());
}

#[tokio::test]
async fn a_path_that_does_not_fit_says_how_much_does() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().as_os_str().len() + 1;
    let fits = dir.path().join("x".repeat(MAX_SOCKET_PATH - base));
    assert!(bind(&listen(&fits)).await.is_ok());
    let long = dir.path().join("x".repeat(MAX_SOCKET_PATH - base + 1));
    let error = bind(&listen(&long)).await.err().unwrap();
    let BindError::TooLong { len, max, .. } = error else {
        panic!("{error}")
    };
    assert_eq!((len, max), (MAX_SOCKET_PATH + 1, MAX_SOCKET_PATH));
}

#[test]
fn of_many_starters_one_gets_the_socket() {
    const STARTERS: usize = 8;
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("x.sock");
    for round in 0..20 {
        if round % 2 == 0 {
            drop(UnixListener::bind(&socket).unwrap());
        }
        let start = Arc::new(Barrier::new(STARTERS));
        let starters: Vec<_> = (0..STARTERS)
            .map(|_| {
                let (socket, start) = (socket.clone(), start.clone());
                std::thread::spawn(move || -> Result<Listeners, BindError> {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()
                        .unwrap();
                    start.wait();
                    let bound = runtime.block_on(bind(&listen(&socket)));
                    // Nobody lets go before all have tried.
                    start.wait();
                    bound
                })
            })
            .collect();
        let bound: Vec<_> = starters.into_iter().map(|starter| starter.join().unwrap()).collect();
        let others: Vec<_> = bound.iter().filter_map(|bound| bound.as_ref().err()).collect();
        assert_eq!(others.len(), STARTERS - 1, "{others:?}");
        assert!(
            others.iter().all(|error| matches!(error, BindError::Taken { .. })),
            "{others:?}"
        );
        assert!(std::os::unix::net::UnixStream::connect(&socket).is_ok());
        drop(bound);
        assert!(!socket.exists());
    }
}

#[tokio::test]
async fn a_socket_that_was_replaced_is_not_ours_to_remove() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("x.sock");
    let listeners = bind(&listen(&socket)).await.unwrap();
    std::fs::remove_file(&socket).unwrap();
    // Between them, so that the file system has no reason to use the same inode again.
    std::fs::write(dir.path().join("other"), "").unwrap();
    let _theirs = UnixListener::bind(&socket).unwrap();
    drop(listeners);
    assert!(socket.exists());
}

#[tokio::test]
async fn tcp_beyond_loopback_is_refused_without_tls() {
    let dir = tempfile::tempdir().unwrap();
    let mut wanted = listen(&dir.path().join("x.sock"));
    wanted.tcp = Some("0.0.0.0:0".parse().unwrap());
    wanted.allow_anonymous_loopback = true;
    assert!(matches!(bind(&wanted).await, Err(BindError::Insecure(_))));
    assert!(!wanted.socket.exists(), "nothing is bound when one is refused");
}

/// Run again by the next test, with a socket handed over.
#[tokio::test]
#[ignore = "a part of sockets_handed_over_are_served"]
async fn handed_over_child() {
    let dir = tempfile::tempdir().unwrap();
    let listeners = bind(&listen(&dir.path().join("configured.sock"))).await.unwrap();
    assert!(
        !dir.path().join("configured.sock").exists(),
        "the one handed over goes first"
    );
    let health = Health::new();
    health.ready();
    serve::serve(
        listeners,
        services(&Gate::default()),
        options(dir.path()),
        health,
        Stop::new(),
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn sockets_handed_over_are_served() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("handed.sock");
    let child = Command::new("systemd-socket-activate")
        .arg("-l")
        .arg(&socket)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "handed_over_child", "--ignored", "--nocapture"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            let missing = format!("systemd-socket-activate ({error})");
            return serve_kit::skipped("sockets_handed_over_are_served", &missing);
        }
    };
    let appears = async {
        while !socket.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let answer = async {
        appears.await;
        let channel = connect(&socket).await;
        say(&channel, "through the handed one").await
    };
    let answer = tokio::time::timeout(SOON, answer).await;
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(answer.expect("in time").unwrap(), "through the handed one");
}
