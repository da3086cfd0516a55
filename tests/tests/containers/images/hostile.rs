//! Registries and images that attack, by way of a user of another uid and of the sandbox's own pulls.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use nexus_proto::orchestrator::v1::*;
use nexus_runtime::{ContainerSpec, Error, LogOptions, Mount, MountKind, PullPolicy};
use nexus_tests::hostile::{Answer, Content, Hostile, architecture, archive, layer};
use nexus_tests::{Daemon, NOBODY, Site, as_nobody, skipped};
use prost::Message;
use serde_json::json;

use super::sandbox;
use crate::conformance::written;

const CREATE_SESSION: &str = "/orchestrator.v1.OrchestratorService/CreateSession";
const CREATE_CONTAINER: &str = "/orchestrator.v1.OrchestratorService/CreateContainer";
const PULL_IMAGE: &str = "/orchestrator.v1.ContainerService/PullImage";

/// A site with an ordinary user of another uid.
struct Users {
    site: Site,
    place: tempfile::TempDir,
    command: PathBuf,
    session: String,
}

impl Users {
    /// `None` where no second user can be had, which is said.
    async fn new(test: &str, settings: &str) -> Option<Users> {
        let place = tempfile::Builder::new().prefix("nexus-other-").tempdir().unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let command = place.path().join("call");
        fs::copy(env!("CARGO_BIN_EXE_nexus-tests-call"), &command).unwrap();
        as_nobody(&command).map_err(|missing| skipped(test, &missing)).ok()?;
        let own = Site::new();
        let settings = format!(
            "[common]\nroles = {{ \"uid:{NOBODY}\" = \"user\" }}\n[orchestrator]\nsocket_mode = \"0666\"\n{settings}"
        );
        let site = Site::at(own.folder().clone(), own.root().path(), &place.path().join("s")).settings(&settings);
        let mut users = Users {
            site,
            place,
            command,
            session: String::new(),
        };
        users.site.up(&[Daemon::Orchestrator]).await;
        let (code, words, made) = users.call(CREATE_SESSION, &CreateSessionRequest::default());
        assert_eq!(code, "Ok", "{words}");
        users.session = CreateSessionResponse::decode(&*made).unwrap().session_id;
        Some(users)
    }

    /// What the user gets for a call: the code, the words, and the first message.
    fn call(&self, path: &str, message: &impl Message) -> (String, String, Vec<u8>) {
        let hex = hex::encode(message.encode_to_vec());
        let mut command = as_nobody(&self.command).unwrap();
        command.arg(self.place.path().join("s")).args([path, &hex]);
        let out = command.output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let text = String::from_utf8(out.stdout).unwrap();
        let mut lines = text.lines();
        let (code, words) = lines.next().unwrap().split_once(' ').unwrap();
        let first = lines.next().unwrap_or_default();
        (code.into(), words.into(), hex::decode(first).unwrap())
    }

    fn create(&self, image: &str) -> (String, String) {
        let request = CreateContainerRequest {
            session_id: self.session.clone(),
            config: Some(ContainerConfig {
                image: image.into(),
                command: vec!["/bin/true".into()],
                ..ContainerConfig::default()
            }),
        };
        let (code, words, _) = self.call(CREATE_CONTAINER, &request);
        (code, words)
    }

    /// What the images of the sandbox hold: nothing that is being made or removed is left.
    async fn nothing_unfinished(&self) {
        let images = self.site.root().state().join("containers/images");
        crate::orchestrated::until("the end of what was begun", async || {
            let names = fs::read_dir(&images).into_iter().flatten().flatten();
            let begun = names.filter(|entry| entry.file_name().to_string_lossy().starts_with("new-"));
            begun.count() == 0 && fs::read_dir(images.with_file_name("removed-images")).map_or(0, Iterator::count) == 0
        })
        .await;
    }
}

/// A small image whose one file has so many bytes that do not shrink.
fn noise(content: &mut Content, repository: &str, bytes: usize) {
    let mut state = 1u64;
    let noise: Vec<u8> = (0..bytes)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect();
    content.image(
        repository,
        architecture(),
        &[layer(&archive([(repository.to_owned(), &noise[..])]))],
    );
}

/// A user names an image at a registry of their own choice, to have this host speak to it, and asks for it by each way
/// that there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_has_nothing_fetched_that_no_setting_names() {
    let registry = Hostile::start(|_, _| Answer::Endless);
    let Some(users) = Users::new("a_user_has_nothing_fetched_that_no_setting_names", "").await else {
        return;
    };
    let image = format!("{}/tool:1", registry.address());
    let (code, words) = users.create(&image);
    assert_eq!(code, "PermissionDenied", "{words}");
    assert!(
        words.contains("container_images") && words.contains("images pull"),
        "{words}"
    );
    let pull = PullImageRequest {
        reference: image,
        policy: "always".into(),
    };
    let (code, words, _) = users.call(PULL_IMAGE, &pull);
    assert_eq!(code, "PermissionDenied", "{words}");
    assert_eq!(registry.asked(), Vec::<String>::new(), "nobody asked the registry");
}

/// A user has an allowed registry send a manifest without end, a layer that fills the disk, and more than their share.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_is_held_to_the_bounds_of_images() {
    let mut content = Content::default();
    let zeros = vec![0; 64 << 20];
    let bomb = layer(&archive([("zeros".to_owned(), &zeros[..])]));
    assert!(bomb.0.len() < 100 << 10);
    content.image("bomb", architecture(), &[bomb]);
    for name in ["first", "second"] {
        noise(&mut content, name, 700 << 10);
    }
    let registry = Hostile::with(content, |head, _| {
        head.contains("/v2/endless/").then_some(Answer::Endless)
    });
    let settings = format!(
        "container_images = [\"{}/*\"]\ncontainer_user_image_size = \"1MiB\"\n",
        registry.address()
    );
    let Some(users) = Users::new("a_user_is_held_to_the_bounds_of_images", &settings).await else {
        return;
    };
    let of = |name: &str| format!("{}/{name}:{}", registry.address(), architecture());

    let before = resident(users.site.pid(Daemon::Orchestrator));
    let (code, words) = users.create(&of("endless"));
    assert!(
        code == "FailedPrecondition" && words.contains("4194304"),
        "{code}: {words}"
    );
    let grown = resident(users.site.pid(Daemon::Orchestrator)).saturating_sub(before);
    assert!(grown < 64 << 20, "it grew by {grown} bytes");

    let (code, words) = users.create(&of("bomb"));
    assert!(code == "FailedPrecondition", "{code}: {words}");
    assert!(words.contains("container_image_max"), "{words}");
    users.nothing_unfinished().await;

    // It is here, though it holds no program to run.
    let (code, words) = users.create(&of("first"));
    assert!(
        code != "PermissionDenied" && !words.contains("container_image"),
        "{code}: {words}"
    );
    let (code, words) = users.create(&of("second"));
    assert!(
        code == "FailedPrecondition" && words.contains("container_user_image_size"),
        "{code}: {words}"
    );
    users.nothing_unfinished().await;
    let images = users.site.root().state().join("containers/images");
    let kept = fs::read_dir(images)
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().len() == 64);
    assert_eq!(kept.count(), 1, "only the first is here");
}

/// Bytes of memory that a process holds.
fn resident(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_found_however_its_indexes_lie() {
    let mut content = Content::default();
    let small = layer(&archive([("file".to_owned(), &b"x"[..])]));
    let own = content.image("tool", architecture(), std::slice::from_ref(&small));
    let other = content.image("tool", "riscv64", std::slice::from_ref(&small));
    let inner =
        json!({ "schemaVersion": 2, "manifests": [{ "digest": other, "size": 1 }, { "digest": own, "size": 1 }] });
    let inner = content.document("tool", "inner", &inner);
    let outer = json!({ "schemaVersion": 2, "manifests": [
        { "digest": other, "size": 1, "platform": { "os": "linux", "architecture": "riscv64" } },
        { "digest": inner, "size": 1 },
    ] });
    content.document("tool", "outer", &outer);
    let wrong = json!({ "schemaVersion": 2, "manifests": [
        { "digest": other, "size": 1, "platform": { "os": "linux", "architecture": "s390x" } },
        { "digest": other, "size": 1 },
    ] });
    content.document("tool", "wrong", &wrong);
    // It refers to itself without end.
    let circle =
        json!({ "schemaVersion": 2, "manifests": (0..5).map(|_| json!({ "digest": inner })).collect::<Vec<_>>() });
    let circle = content.document("tool", "circle0", &circle);
    let mut last = circle;
    for step in 1..6 {
        let next = json!({ "schemaVersion": 2, "manifests": [{ "digest": last }] });
        last = content.document("tool", &format!("circle{step}"), &next);
    }
    let registry = Hostile::with(content, |_, _| None);
    let directory = tempfile::tempdir().unwrap();
    let found = sandbox(directory.path()).await;
    let pull = async |tag: &str| {
        let name = format!("{}/tool:{tag}", registry.address());
        found.engine.pull(&name, PullPolicy::Missing, None, None).await
    };
    assert!(pull("outer").await.unwrap().fetched);
    let Err(Error::Pull { why, .. }) = pull("wrong").await else {
        panic!("it is made for others")
    };
    assert!(
        why.contains("linux/riscv64, linux/s390x") && why.contains(architecture()),
        "{why}"
    );
    let Err(Error::Pull { why, .. }) = pull("circle5").await else {
        panic!("it is nested too deep")
    };
    assert!(why.contains("too deep"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_that_breaks_off_is_resumed() {
    let mut content = Content::default();
    noise(&mut content, "tool", 600 << 10);
    let part = std::sync::Mutex::new(0);
    let whole = content.clone();
    let registry = Hostile::with(content, move |head, _| {
        // Configs are small, and layers are not.
        let Answer::Whole(_, _, bytes) = whole.reply_to(head) else {
            return None;
        };
        if !head.contains("/blobs/") || bytes.len() < 1 << 16 {
            return None;
        }
        let mut part = part.lock().unwrap();
        *part += 1;
        let half = bytes.len() / 2;
        match *part {
            1 => Some(Answer::Whole(502, String::new(), b"busy".to_vec())),
            2 => Some(Answer::Broken(bytes.len(), bytes[..half].to_vec())),
            _ => {
                assert!(head.contains(&format!("range: bytes={half}-")), "{head}");
                let range = format!("content-range: bytes {half}-{}/{}\r\n", bytes.len() - 1, bytes.len());
                Some(Answer::Whole(206, range, bytes[half..].to_vec()))
            }
        }
    });
    let directory = tempfile::tempdir().unwrap();
    let found = sandbox(directory.path()).await;
    let name = format!("{}/tool:{}", registry.address(), architecture());
    assert!(
        found
            .engine
            .pull(&name, PullPolicy::Missing, None, None)
            .await
            .unwrap()
            .fetched
    );
    let layers = registry.asked().iter().filter(|head| head.contains("range: ")).count();
    assert_eq!(layers, 1, "{:?}", registry.asked());
}

/// An image with very many files in its root, which runs with few descriptors, in a read-only root and in a writable one.
/// What it has where a sandbox puts its own things is not seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_with_60_000_entries_is_pulled_runs_and_is_removed() {
    let Some(busybox) = nexus_tests::engines::which("busybox") else {
        return skipped(
            "a_root_with_60_000_entries_is_pulled_runs_and_is_removed",
            "needs busybox-static; tests/engines/setup.sh installs it",
        );
    };
    let busybox = fs::read(busybox).unwrap();
    let mut content = Content::default();
    let many = (0..60_000).map(|index| (format!("file{index}"), &b""[..]));
    let own = [
        ("bin/busybox", &busybox[..]),
        ("dev/own", b"x"),
        ("sys/own", b"x"),
        ("tmp/own", b"x"),
        ("proc", b"x"),
    ];
    let all = many.chain(own.map(|(name, bytes)| (name.to_owned(), bytes)));
    content.image("many", architecture(), &[layer(&archive(all))]);
    let registry = Hostile::with(content, |_, _| None);
    let directory = tempfile::tempdir().unwrap();
    let found = sandbox(directory.path()).await;
    let name = format!("{}/many:{}", registry.address(), architecture());
    let pulled = found.engine.pull(&name, PullPolicy::Missing, None, None).await.unwrap();
    let root = directory
        .path()
        .join("state/images")
        .join(pulled.image.id.trim_start_matches("sha256:"));
    assert_eq!(fs::read_dir(root.join("rootfs")).unwrap().count(), 60_005);
    for writable_rootfs in [false, true] {
        let script = "B=/bin/busybox; $B ls / | $B grep -c '^file'; $B ls /dev/own /sys/own /tmp/own 2>/dev/null; \
                      $B cat /dev/null /proc/self/comm && echo t > /tmp/t && $B cat /tmp/t /data/t; $B ls /proc/self/fd | $B wc -l; \
                      echo w > /file7 && echo written; echo w > /new && echo made; echo w > /dev/x && echo no; exit 3";
        let spec = ContainerSpec {
            name: format!("many-{writable_rootfs}"),
            image: name.clone(),
            entrypoint: ["/bin/busybox", "sh", "-c"].map(String::from).into(),
            args: vec![script.into()],
            mounts: vec![Mount {
                kind: MountKind::Tmpfs { bytes: 1 << 20 },
                target: "/data/deep".into(),
                read_only: false,
            }],
            writable_rootfs,
            ..ContainerSpec::default()
        };
        let begun = std::time::Instant::now();
        let id = found.engine.create(&spec).await.unwrap();
        found.engine.start(&id).await.unwrap();
        let exit = found.engine.wait(&id).await.unwrap();
        println!("a container of it took {:?}", begun.elapsed());
        let (out, err) = written(&*found.engine, &id, LogOptions::default()).await;
        let changed = if writable_rootfs { "written\nmade\nno\n" } else { "" };
        assert_eq!(out, format!("60000\nbusybox\nt\n4\n{changed}"), "{err}");
        assert_eq!(exit.code, 3);
        found.engine.remove(&id, true).await.unwrap();
    }
    found.engine.remove_image(&name, false).await.unwrap();
    assert!(!root.exists());
    crate::orchestrated::until("the end of its files", async || {
        fs::read_dir(directory.path().join("state/removed-images"))
            .unwrap()
            .count()
            == 0
    })
    .await;
}
