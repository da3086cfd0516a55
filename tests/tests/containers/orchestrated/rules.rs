//! What a session may, decided before any backend is asked; and what an empty request means.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nexus_proto::orchestrator::v1::*;
use nexus_tests::ask;
use nexus_tests::ask::refused;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use tonic::Code;

use super::{Backend, IMAGE, Stage, close, create, ended, session_with, shell, with, written};

#[tokio::test]
async fn without_an_image_it_is_the_hosts_own_programs() {
    let Some(stage) = Stage::set("without_an_image_it_is_the_hosts_own_programs", Backend::Sandbox).await else {
        return;
    };
    let connection = stage.site.connect();
    let session = ask::create(&connection, "work").await;
    let script = "pwd; echo mine > kept; touch /usr/x 2>&1 | grep -c -i read-only; id -u; ls / | grep -c workspace";
    let request = with(shell(&session, script), |config| config.image.clear());
    let made = create(&connection, request).await.unwrap();
    assert_eq!((&*made.image, &*made.backend), ("nexus/host", "sandbox"));
    let (out, err) = written(&connection, &made.id).await;
    let user = nix::unistd::geteuid();
    let user = if user.is_root() { 65534 } else { user.as_raw() };
    assert_eq!(out, format!("/workspace\n1\n{user}\n1\n"), "{err}");
    // The next one finds what this one left.
    ended(&connection, &made.id).await;
    let next = with(shell(&session, "cat /workspace/kept"), |config| config.image.clear());
    let next = create(&connection, next).await.unwrap();
    assert_eq!(written(&connection, &next.id).await.0, "mine\n");
    close(&connection, &session).await;
    stage.nothing_left().await;
}

fn bind(source: &str, target: &str) -> Mount {
    Mount {
        r#type: MountType::Bind.into(),
        source: source.into(),
        target: target.into(),
        read_only: true,
    }
}

/// A place that a session may mount from, and one beside it.
struct Places {
    _directory: tempfile::TempDir,
    open: PathBuf,
    shut: PathBuf,
}

impl Places {
    fn new() -> Places {
        let directory = tempfile::tempdir().unwrap();
        // Containers of root's sessions have the rights of nobody.
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let place = directory.path().canonicalize().unwrap();
        let places = Places {
            open: place.join("open"),
            shut: place.join("shut"),
            _directory: directory,
        };
        fill(&places.open, "words\n");
        fill(&places.shut, "words\n");
        places
    }

    fn allowed(&self) -> SessionConfig {
        SessionConfig {
            policy: Some(SessionPolicy {
                allowed_paths: vec![self.open.to_string_lossy().into_owned()],
                ..SessionPolicy::default()
            }),
            ..SessionConfig::default()
        }
    }
}

/// A directory for everybody, with a file of these words.
fn fill(path: &Path, words: &str) {
    std::fs::create_dir(path).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(path.join("words"), words).unwrap();
}

#[tokio::test]
async fn a_link_leads_nowhere_else() {
    let Some(stage) = Stage::set("a_link_leads_nowhere_else", Backend::Sandbox).await else {
        return;
    };
    let connection = stage.site.connect();
    let places = Places::new();
    let (open, shut) = (&places.open, &places.shut);
    std::fs::create_dir(open.join("deep")).unwrap();
    symlink(shut, open.join("out")).unwrap();
    symlink("../../shut", open.join("deep/up")).unwrap();
    symlink("words", open.join("fine")).unwrap();
    let session = session_with(&connection, places.allowed()).await;
    let of = |source: &str| {
        let source = open.join(source).to_string_lossy().into_owned();
        with(shell(&session, "cat /in/words /in 2>/dev/null; true"), |config| {
            config.mounts = vec![bind(&source, "/in")];
        })
    };
    for source in ["out", "out/words", "deep/up", "deep/up/words"] {
        refused(create(&connection, of(source)).await, Code::PermissionDenied);
    }
    refused(create(&connection, of("../shut")).await, Code::InvalidArgument);
    let told = stage.event("policy.violation", &session).await;
    assert_eq!(told.r#type(), EventType::PolicyViolation);
    assert!(told.data["reason"].contains("allowed_paths"), "{told:?}");
    // A link that stays within is what it names.
    for source in ["", "fine"] {
        let made = create(&connection, of(source)).await.unwrap();
        assert_eq!(written(&connection, &made.id).await.0, "words\n", "{source}");
    }
    // What is the orchestrator's own is nobody's, whatever is allowed.
    let state = stage.site.root().state();
    let config = SessionConfig {
        policy: Some(SessionPolicy {
            allowed_paths: vec!["/".into()],
            ..SessionPolicy::default()
        }),
        ..SessionConfig::default()
    };
    let all = session_with(&connection, config).await;
    for source in [state.to_str().unwrap(), "/"] {
        let request = with(shell(&all, "true"), |config| config.mounts = vec![bind(source, "/in")]);
        refused(create(&connection, request).await, Code::PermissionDenied);
    }
}

/// Somebody who may write next to what is mounted swaps it for a link all the time, also after it was allowed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_comes_and_goes_leads_nowhere_else() {
    let Some(stage) = Stage::set("a_link_that_comes_and_goes_leads_nowhere_else", Backend::Sandbox).await else {
        return;
    };
    let connection = stage.site.connect();
    let places = Places::new();
    let open = &places.open;
    fill(&open.join("in"), "open");
    symlink(&places.shut, open.join("link")).unwrap();
    let session = session_with(&connection, places.allowed()).await;
    let (real, link) = (open.join("in"), open.join("link"));
    let swapping = Arc::new(AtomicBool::new(true));
    let swapper = std::thread::spawn({
        let (swapping, real, link) = (Arc::clone(&swapping), real.clone(), link);
        move || {
            while swapping.load(Ordering::Relaxed) {
                // Each is there under both names in turn, at no time under none.
                let exchanged = renameat2(AT_FDCWD, &real, AT_FDCWD, &link, RenameFlags::RENAME_EXCHANGE);
                exchanged.expect("the file system exchanges names");
                std::thread::sleep(std::time::Duration::from_micros(300));
            }
        }
    });
    let (mut made, mut kept_out) = (0, 0);
    for _ in 0..60 {
        let request = with(shell(&session, "cat /in/words"), |config| {
            config.mounts = vec![bind(real.to_str().unwrap(), "/in")];
        });
        match create(&connection, request).await {
            Ok(container) => {
                assert_eq!(written(&connection, &container.id).await.0, "open");
                made += 1;
            }
            Err(status) => {
                let code = status.code();
                assert!(
                    matches!(code, Code::PermissionDenied | Code::InvalidArgument),
                    "{status:?}"
                );
                kept_out += 1;
            }
        }
    }
    swapping.store(false, Ordering::Relaxed);
    swapper.join().unwrap();
    println!("{made} were made, {kept_out} refused");
    assert!(kept_out > 0, "the link was never there when it was looked at");
    close(&connection, &session).await;
    stage.nothing_left().await;
}

#[tokio::test]
async fn images_and_numbers_are_limited() {
    let Some(stage) = Stage::set("images_and_numbers_are_limited", Backend::Sandbox).await else {
        return;
    };
    let connection = stage.site.connect();
    let config = SessionConfig {
        allowed_images: vec!["localhost/*".into()],
        max_containers: 1,
        ..SessionConfig::default()
    };
    let session = session_with(&connection, config).await;
    let other = |image: &str| with(shell(&session, "true"), |config| config.image = image.into());
    for image in ["", "nexus/host", "alpine"] {
        refused(create(&connection, other(image)).await, Code::PermissionDenied);
    }
    let told = stage.event("policy.violation", &session).await;
    assert!(told.data["reason"].contains("allowed_images"), "{told:?}");
    let first = create(&connection, shell(&session, "sleep 600")).await.unwrap();
    assert_eq!(first.image, IMAGE);
    let status = refused(
        create(&connection, shell(&session, "true")).await,
        Code::ResourceExhausted,
    );
    assert!(status.message().contains("max_containers"), "{status:?}");
    let too_many = stage.event("policy.violation", "max_containers").await;
    assert_eq!(too_many.data["session_id"], session);
    for (user, writable) in [("0:0", None), ("", Some(true))] {
        let request = with(shell(&session, "true"), |config| {
            config.user = user.into();
            config.writable_rootfs = writable;
        });
        refused(create(&connection, request).await, Code::PermissionDenied);
    }
    // Place is made by what ends.
    let stop = StopContainerRequest {
        container_id: first.id,
        timeout_ns: 1,
    };
    connection.orchestrator().stop_container(stop).await.unwrap();
    create(&connection, shell(&session, "true")).await.unwrap();
    close(&connection, &session).await;
    stage.nothing_left().await;
}

#[tokio::test]
async fn a_limit_that_does_not_hold_is_told_or_refused() {
    let test = "a_limit_that_does_not_hold_is_told_or_refused";
    let Some(lenient) = Stage::set(test, Backend::Sandbox).await else {
        return;
    };
    let required = [("container_require_limits", "true")];
    let Some(strict) = Stage::set_with(test, Backend::Sandbox, &required).await else {
        return;
    };
    let (lenient, strict) = (lenient.site.connect(), strict.site.connect());
    let session = ask::create(&lenient, "work").await;
    let made = create(&lenient, shell(&session, "true")).await.unwrap();
    let session = ask::create(&strict, "work").await;
    let again = create(&strict, shell(&session, "true")).await;
    println!("not enforced here: {:?}", made.unenforced_limits);
    if made.unenforced_limits.is_empty() {
        assert_eq!(again.unwrap().unenforced_limits, Vec::<String>::new());
    } else {
        assert!(!nix::unistd::geteuid().is_root(), "root can limit: {made:?}");
        let status = refused(again, Code::FailedPrecondition);
        for limit in &made.unenforced_limits {
            assert!(status.message().contains(limit), "{status:?}");
        }
        assert!(status.message().contains("container_require_limits"), "{status:?}");
    }
}
