//! Whose rights the containers of a second user's sessions have on this host, and whose files they leave.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nexus_client::Connection;
use nexus_proto::orchestrator::v1::*;
use nexus_tests::ask::refused;
use nexus_tests::{PATIENCE, ask, skipped};
use rustix::process::{Gid, Uid};
use rustix::thread as own;
use tonic::Code;

use super::{Backend, Stage, create, ended, session_with, shell, until_within, with, written};

const USER: u32 = 1001;

/// A connection of this second user: the kernel says who connects, and this thread alone is that user meanwhile.
async fn connect_as(stage: &Stage, uid: u32) -> Connection {
    let (root, id) = ((Uid::ROOT, Gid::ROOT), (Uid::from_raw(uid), Gid::from_raw(uid)));
    let connection = stage.site.connect();
    own::set_thread_res_gid(root.1, id.1, root.1).unwrap();
    own::set_thread_res_uid(root.0, id.0, root.0).unwrap();
    let asked = connection
        .orchestrator()
        .list_sessions(ListSessionsRequest::default())
        .await;
    own::set_thread_res_uid(root.0, root.0, root.0).unwrap();
    own::set_thread_res_gid(root.1, root.1, root.1).unwrap();
    asked.unwrap();
    connection
}

struct SharedDirectory {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

/// A directory of root's, that everybody may write to.
fn shared_directory() -> SharedDirectory {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().canonicalize().unwrap();
    mode(&path, 0o777);
    SharedDirectory {
        _directory: directory,
        path,
    }
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

async fn stage(test: &str, backend: Backend, place: &Path) -> Option<Stage> {
    stage_with(test, backend, place, &[]).await
}

async fn stage_with(test: &str, backend: Backend, place: &Path, more: &[(&str, &str)]) -> Option<Stage> {
    if !nix::unistd::geteuid().is_root() {
        skipped(test, "needs root, to be a second user");
        return None;
    }
    let mut settings = vec![
        ("socket_mode", "0666"),
        ("container_paths", place.to_str().unwrap()),
        ("container_allow_root", "true"),
    ];
    settings.extend(more);
    let roles = format!("uid:{USER}=user");
    // Where a second user can reach the socket.
    let stage = Stage::set_in(test, backend, &settings, &[("NEXUS_COMMON__ROLES", &roles)]).await?;
    let folder = stage.site.folder().path().to_owned();
    mode(&folder, 0o755);
    Some(stage)
}

fn allowed(path: &Path) -> SessionConfig {
    SessionConfig {
        policy: Some(SessionPolicy {
            allowed_paths: vec![path.to_string_lossy().into_owned()],
            ..SessionPolicy::default()
        }),
        ..SessionConfig::default()
    }
}

fn mounted(session: &str, script: &str, source: &Path, read_only: bool) -> CreateContainerRequest {
    with(shell(session, script), |config| {
        config.mounts = vec![Mount {
            r#type: MountType::Bind.into(),
            source: source.to_string_lossy().into_owned(),
            target: "/data".into(),
            read_only,
        }];
    })
}

/// The attack: a user mounts a directory of root's that everybody may write to, and leaves a set-user-id program there, a
/// set-group-id one, and a device, and the same in the workspace.
async fn leaves(test: &str, backend: Backend) {
    let place = shared_directory();
    let Some(stage) = stage(test, backend, &place.path).await else {
        return;
    };
    let connection = connect_as(&stage, USER).await;
    let session = session_with(&connection, allowed(&place.path)).await;
    let script = "cd /workspace; cp /bin/busybox /data/p; chmod 755 /data/p; chmod 4755 /data/p; chmod 2755 /data/p; \
                  touch w; chmod 6755 w; mknod zero c 0 0; mknod /data/zero c 0 0; ls /data";
    let made = create(&connection, mounted(&session, script, &place.path, false))
        .await
        .unwrap();
    let (out, err) = written(&connection, &made.id).await;
    assert_eq!(out, "p\n", "{err}");
    let left = std::fs::metadata(place.path.join("p")).unwrap();
    assert_eq!(left.uid(), USER);
    assert_eq!(left.mode() & 0o7777, 0o755, "{err}");
    let workspace = stage.site.root().state().join("workspaces").join(&session);
    let names: Vec<_> = std::fs::read_dir(&workspace)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["w"], "{err}");
    assert_eq!(
        std::fs::metadata(workspace.join("w")).unwrap().mode() & 0o6000,
        0,
        "{err}"
    );
    for path in [workspace.join("w"), workspace] {
        assert_eq!(std::fs::metadata(&path).unwrap().uid(), USER, "{}", path.display());
    }
    // As root inside.
    let as_root = with(mounted(&session, "touch /data/r", &place.path, false), |config| {
        config.user = "0:0".into();
    });
    match create(&connection, as_root).await {
        Ok(made) => {
            written(&connection, &made.id).await;
            assert_eq!(std::fs::metadata(place.path.join("r")).unwrap().uid(), USER);
        }
        Err(status) => assert!(status.message().contains("orchestrator.container_owners"), "{status:?}"),
    }
}

#[tokio::test]
async fn sandbox_leaves_files_of_its_user() {
    leaves("sandbox_leaves_files_of_its_user", Backend::Sandbox).await;
}

#[tokio::test]
async fn docker_leaves_files_of_its_user() {
    leaves("docker_leaves_files_of_its_user", Backend::Docker).await;
}

#[tokio::test]
async fn podman_leaves_files_of_its_user() {
    leaves("podman_leaves_files_of_its_user", Backend::Podman).await;
}

/// The attack: a user makes containers that end at once until nobody can make any more, and says megabytes of one.
#[tokio::test]
async fn a_users_containers_leave_room_for_others() {
    let test = "a_users_containers_leave_room_for_others";
    let shared = shared_directory();
    let limited = [("max_containers", "4"), ("user_containers", "2")];
    let Some(stage) = stage_with(test, Backend::Sandbox, &shared.path, &limited).await else {
        return;
    };
    let connection = connect_as(&stage, USER).await;
    let session = ask::create(&connection, "greedy").await;
    let mut large = shell(&session, "true");
    let labels = &mut large.config.as_mut().unwrap().labels;
    labels.insert("label".into(), "x".repeat(1 << 20));
    let status = refused(create(&connection, large).await, Code::ResourceExhausted);
    assert!(status.message().contains("user_metadata_bytes"), "{status:?}");
    for _ in 0..2 {
        let made = create(&connection, shell(&session, "true")).await.unwrap();
        ended(&connection, &made.id).await;
    }
    let status = refused(
        create(&connection, shell(&session, "true")).await,
        Code::ResourceExhausted,
    );
    assert!(status.message().contains("user_containers"), "{status:?}");
    let own = stage.site.connect();
    let session = ask::create(&own, "root").await;
    for _ in 0..2 {
        create(&own, shell(&session, "true")).await.unwrap();
    }
}

/// The attack: a user mounts what only root may reach or read.
#[tokio::test]
async fn what_a_user_may_not_read_is_not_mounted() {
    let place = shared_directory();
    let test = "what_a_user_may_not_read_is_not_mounted";
    let Some(stage) = stage(test, Backend::Sandbox, &place.path).await else {
        return;
    };
    let (shut, open) = (place.path.join("shut"), place.path.join("shut/open"));
    std::fs::create_dir_all(&open).unwrap();
    std::fs::write(open.join("words"), "words").unwrap();
    mode(&open, 0o755);
    mode(&shut, 0o700);
    let connection = connect_as(&stage, USER).await;
    let session = session_with(&connection, allowed(&place.path)).await;
    for source in [&shut, &open, &open.join("words")] {
        let status = refused(
            create(&connection, mounted(&session, "true", source, true)).await,
            Code::PermissionDenied,
        );
        assert!(status.message().contains(&USER.to_string()), "{status:?}");
    }
    mode(&shut, 0o755);
    let made = create(
        &connection,
        mounted(&session, "cat /data/words; echo x > /data/words", &open, true),
    )
    .await
    .unwrap();
    assert_eq!(written(&connection, &made.id).await.0, "words");
    refused(
        create(&connection, mounted(&session, "true", &open, false)).await,
        Code::PermissionDenied,
    );
}

/// The attack: 15,000 directories, each in the one before, in a workspace, whose removal would end the orchestrator; and
/// with it each start that tries again.
#[tokio::test]
async fn a_deep_workspace_is_removed_and_ends_nothing() {
    let Some(mut stage) = Stage::set("a_deep_workspace_is_removed_and_ends_nothing", Backend::Sandbox).await else {
        return;
    };
    let connection = stage.site.connect();
    let session = ask::create(&connection, "deep").await;
    let made = create(&connection, shell(&session, "touch /workspace/w"))
        .await
        .unwrap();
    ended(&connection, &made.id).await;
    let workspaces = stage.site.root().state().join("workspaces");
    let dig = |name: &str, depth: usize| {
        use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut here = openat(CWD, workspaces.join(name), flags, Mode::empty()).unwrap();
        for _ in 0..depth {
            mkdirat(&here, "d", Mode::from_raw_mode(0o755)).unwrap();
            here = openat(&here, "d", flags, Mode::empty()).unwrap();
        }
    };
    dig(&session, 15_000);
    // And one that a killed run left, which the next start finds.
    let old = "00000000000000000000000000000001";
    std::fs::create_dir(workspaces.join(old)).unwrap();
    dig(old, 2_000);
    ask::delete(&connection, &session).await;
    stage.site.kill(nexus_tests::Daemon::Orchestrator);
    stage.site.up(&[nexus_tests::Daemon::Orchestrator]).await;
    let trash = workspaces.join(".trash");
    let is_empty = |path: &Path| std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    // Each level is a change of its own in the file system's journal, which other tests write to as well.
    until_within(4 * PATIENCE, "the end of the deep directories", async || {
        [&*session, old].iter().all(|name| !workspaces.join(name).exists()) && is_empty(&trash)
    })
    .await;
    ask::create(&stage.site.connect(), "on it goes").await;
}
