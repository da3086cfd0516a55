//! The containers of calls: the engine that runs them, the pause container that holds a session's network, and the
//! specification of one call.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nexus_runtime::{
    Choice, Collect, Config, ContainerSpec, Engine, Error, Found, HostUser, Limits, Mount, MountKind, NetworkMode,
    State, choose,
};
use tokio::sync::{Mutex, OnceCell};

use super::place::{Files, Root};
use crate::domain::worker::call::WORKSPACE;

/// Whose containers they are: other owners leave them alone.
const OWNER: &str = "nexus.worker";
const SESSION: &str = "nexus.worker.session";
const CALL: &str = "nexus.worker.call";
/// The engine that isolates nothing.
const BARE: &str = "host-unsafe";
/// Names that start all containers of ours.
const NAME: &str = "nexus-call";
/// What a session's commands share.
const TMP: &str = "/tmp";
/// Others execute or obey what stands there.
const PROTECTED: [&str; 3] = [".git/hooks", ".git/config", ".agents"];
/// Until a container may be killed that was asked to end.
pub const GRACE: Duration = Duration::from_millis(300);
const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;
/// The longest that making a container may take.
const MAKE_WITHIN: Duration = Duration::from_secs(60);
const END_WITHIN: Duration = Duration::from_secs(20);

/// How commands are run.
#[derive(Clone, Debug)]
pub struct Settings {
    pub runtime: Config,
    /// The image of commands for which none is named; empty: the host's own programs, in the sandbox.
    pub image: String,
    pub limits: Limits,
    /// Tells our containers from those of other installations.
    pub owner: String,
}

/// The ids of containers, by session and engine; each is made once.
type Pauses = BTreeMap<(String, &'static str), Arc<OnceCell<String>>>;

pub struct Workbench {
    settings: Settings,
    /// What runs the host's own programs.
    host: OnceCell<Found>,
    /// What runs images.
    main: OnceCell<Found>,
    /// One pause container for each session and engine.
    pauses: Mutex<Pauses>,
}

/// What is run.
#[derive(Clone, Copy)]
pub enum Program<'a> {
    /// Text for a shell.
    Shell(&'a str),
    /// A program and its arguments.
    Words(&'a [String]),
}

/// One command.
pub struct Command<'a> {
    pub session_id: &'a str,
    pub call_id: &'a str,
    pub number: u64,
    pub program: Program<'a>,
    /// Inside.
    pub directory: &'a str,
    pub environment: &'a [(String, String)],
    pub image: &'a str,
    pub tty: bool,
    pub stdin: bool,
    /// Shared by the commands of the session.
    pub tmp: &'a Path,
}

impl Workbench {
    pub fn new(settings: Settings) -> Workbench {
        Workbench {
            settings,
            host: OnceCell::new(),
            main: OnceCell::new(),
            pauses: Mutex::default(),
        }
    }

    /// Found when it is first needed; what fails now is tried again with the next call. The host's own programs run in the
    /// sandbox whatever runs images, unless the settings want no isolation.
    async fn engine_for(&self, image: &str) -> Result<Arc<dyn Engine>, Error> {
        let (cell, config) = match image {
            "" if self.settings.runtime.backend != Choice::HostUnsafe => {
                let backend = Choice::Sandbox;
                (
                    &self.host,
                    Config {
                        backend,
                        ..self.settings.runtime.clone()
                    },
                )
            }
            _ => (&self.main, self.settings.runtime.clone()),
        };
        let found = cell
            .get_or_try_init(|| async {
                let found = choose(&config).await?;
                tracing::info!(
                    engine = found.probe.engine,
                    version = found.probe.version,
                    "found a container engine for calls"
                );
                Ok::<Found, Error>(found)
            })
            .await?;
        Ok(found.engine.clone())
    }

    /// The engine that a container was made with.
    pub async fn engine(&self, name: &str) -> Result<Arc<dyn Engine>, Error> {
        // Of the two names that the built-in one has, the settings allow one.
        self.engine_for(if name == "sandbox" || name == BARE { "" } else { "image" })
            .await
    }

    fn labels(&self) -> BTreeMap<String, String> {
        BTreeMap::from([(OWNER.to_owned(), self.settings.owner.clone())])
    }

    /// Takes over what an earlier worker left: the pauses of sessions are used again, and a container that nobody knows is
    /// removed. `known` says whether a container belongs to a process that was recorded.
    pub async fn take_over(&self, name: &str, known: impl Fn(&str) -> bool) -> Result<(), Error> {
        let engine = self.engine(name).await?;
        for info in engine.list(&self.labels()).await? {
            let session = info.labels.get(SESSION).cloned().unwrap_or_default();
            if !info.labels.contains_key(CALL) && info.state == State::Running && !session.is_empty() {
                let cell = OnceCell::new();
                let _ = cell.set(info.id);
                self.pauses
                    .lock()
                    .await
                    .insert((session, engine.name()), Arc::new(cell));
            } else if !known(&info.id) {
                tracing::info!(container = info.id, "removing a container that no call knows");
                if let Err(error) = engine.remove(&info.id, true).await {
                    tracing::warn!(container = info.id, %error, "a container cannot be removed");
                }
            }
        }
        Ok(())
    }

    /// The container that holds a session's network; made if it does not run.
    async fn pause(&self, engine: &Arc<dyn Engine>, files: &Files, command: &Command<'_>) -> Result<String, Error> {
        let key = (command.session_id.to_owned(), engine.name());
        for _ in 0..2 {
            let cell = {
                let mut pauses = self.pauses.lock().await;
                pauses.entry(key.clone()).or_default().clone()
            };
            let id = cell
                .get_or_try_init(|| self.make_pause(engine, files, command))
                .await?
                .clone();
            match engine.inspect(&id).await {
                Ok(info) if info.state == State::Running => return Ok(id),
                Ok(_) => drop(engine.remove(&id, true).await),
                Err(Error::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
            // Somebody ended it. Whoever saw that first makes another one.
            let mut pauses = self.pauses.lock().await;
            if pauses.get(&key).is_some_and(|now| Arc::ptr_eq(now, &cell)) {
                pauses.remove(&key);
            }
        }
        Err(Error::Failed {
            engine: engine.name(),
            why: "what holds the session's network does not stay".into(),
        })
    }

    async fn make_pause(
        &self,
        engine: &Arc<dyn Engine>,
        files: &Files,
        command: &Command<'_>,
    ) -> Result<String, Error> {
        let mut labels = self.labels();
        labels.insert(SESSION.into(), command.session_id.into());
        let spec = ContainerSpec {
            name: format!("{NAME}-{}-{}", command.session_id, now_tag()),
            image: self.image(command.image),
            // A shell that waits for a pipe that nobody writes to would need one; this is there in every image.
            entrypoint: vec![
                "/bin/sh".into(),
                "-c".into(),
                "trap 'exit 0' TERM; while :; do sleep 86400 & wait $!; done".into(),
            ],
            user: self.user(engine.name()),
            deny_root: true,
            owner: Some(owner(files)),
            labels,
            limits: Limits {
                memory_bytes: 32 << 20,
                pids: 8,
                ..Limits::default()
            },
            ..ContainerSpec::default()
        };
        let id = engine.create(&spec).await?;
        if let Err(error) = engine.start(&id).await {
            let _ = engine.remove(&id, true).await;
            return Err(error);
        }
        Ok(id)
    }

    fn image(&self, asked: &str) -> String {
        if asked.is_empty() { &self.settings.image } else { asked }.to_owned()
    }

    fn user(&self, engine: &str) -> String {
        let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        match engine {
            "sandbox" if uid.is_root() => "65534:65534".into(),
            "sandbox" => format!("{uid}:{gid}"),
            // Engines whose users are those of the host take the owner.
            _ => String::new(),
        }
    }

    /// Makes the container of a command, which does not run yet.
    pub async fn make(&self, files: &Files, command: &Command<'_>) -> Result<(Arc<dyn Engine>, String), Error> {
        let engine = self.engine_for(&self.image(command.image)).await?;
        let making = async {
            let network = match engine.name() {
                // Nothing isolates: it has the host's.
                BARE => NetworkMode::None,
                _ => NetworkMode::Container(self.pause(&engine, files, command).await?),
            };
            let spec = self.spec(engine.name(), files, command, network);
            Ok((engine.clone(), engine.create(&spec).await?))
        };
        match tokio::time::timeout(MAKE_WITHIN, making).await {
            Ok(made) => made,
            Err(_) => Err(Error::Timeout {
                engine: engine.name(),
                doing: "make a container",
                after: MAKE_WITHIN,
            }),
        }
    }

    fn spec(&self, engine: &'static str, files: &Files, command: &Command<'_>, network: NetworkMode) -> ContainerSpec {
        let mut labels = self.labels();
        labels.insert(SESSION.into(), command.session_id.into());
        labels.insert(CALL.into(), command.call_id.into());
        let image = self.image(command.image);
        ContainerSpec {
            name: format!("{NAME}-{}-{}-{}", command.session_id, command.number, now_tag()),
            entrypoint: match command.program {
                Program::Shell(text) => shell(text, image.is_empty()),
                Program::Words(words) => words.to_vec(),
            },
            image,
            env: environment(command),
            working_dir: command.directory.into(),
            user: self.user(engine),
            deny_root: true,
            owner: Some(owner(files)),
            labels,
            mounts: mounts(files, command.tmp, engine == BARE),
            network,
            limits: self.settings.limits,
            collect: Some(Collect {
                bytes: nexus_tools::output::MAX_SPILL_BYTES,
                tty: command.tty.then_some((120, 40)),
                stdin: command.stdin,
            }),
            ..ContainerSpec::default()
        }
    }

    /// The container of a session's network goes.
    pub async fn end_session(&self, session_id: &str) {
        let mut ended = Vec::new();
        self.pauses.lock().await.retain(|(session, engine), cell| {
            let keep = session != session_id;
            if !keep && let Some(id) = cell.get() {
                ended.push((*engine, id.clone()));
            }
            keep
        });
        for (name, id) in ended {
            if let Ok(engine) = self.engine(name).await
                && let Err(error) = engine.remove(&id, true).await
            {
                tracing::warn!(container = id, %error, "a session's network cannot be removed");
            }
        }
    }
}

/// Asked first, unless it is forced, then killed: everything in it.
pub async fn end(engine: &Arc<dyn Engine>, container: &str, force: bool) {
    if !force && engine.kill(container, SIGTERM).await.is_ok() {
        let gone = tokio::time::timeout(GRACE, engine.wait(container)).await;
        if gone.is_ok() {
            return;
        }
    }
    if let Err(error) = engine.kill(container, SIGKILL).await
        && !matches!(error, Error::State { .. } | Error::NotFound(_))
    {
        tracing::warn!(container, %error, "a container cannot be killed");
    }
    let _late = tokio::time::timeout(END_WITHIN, engine.wait(container)).await;
}

fn owner(files: &Files) -> HostUser {
    let (uid, gid) = files.owner;
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid))
        .ok()
        .flatten();
    let name = user.and_then(|user| std::ffi::CString::new(user.name).ok());
    let groups = name.and_then(|name| nix::unistd::getgrouplist(&name, nix::unistd::Gid::from_raw(gid)).ok());
    let mut groups: Vec<u32> = groups.unwrap_or_default().iter().map(|group| group.as_raw()).collect();
    groups.retain(|group| *group != gid);
    HostUser { uid, gid, groups }
}

/// No login files. On the host it is known whether there is a bash; an image is asked.
fn shell(command: &str, on_host: bool) -> Vec<String> {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    if on_host {
        return match Path::new("/bin/bash").exists() {
            true => words(&["/bin/bash", "--noprofile", "--norc", "-c", command]),
            false => words(&["/bin/sh", "-c", command]),
        };
    }
    let choose =
        r#"if [ -x /bin/bash ]; then exec /bin/bash --noprofile --norc -c "$1"; else exec /bin/sh -c "$1"; fi"#;
    words(&["/bin/sh", "-c", choose, "sh", command])
}

fn environment(command: &Command<'_>) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> = command.environment.iter().cloned().collect();
    let mut set = |name: &str, value: &str| {
        all.entry(name.to_owned()).or_insert_with(|| value.to_owned());
    };
    set("HOME", TMP);
    set("TMPDIR", TMP);
    set("LANG", "C.UTF-8");
    if let Ok(zone) = std::env::var("TZ") {
        set("TZ", &zone);
    }
    set("NEXUS_SESSION_ID", command.session_id);
    set("NEXUS_CALL_ID", command.call_id);
    if command.tty {
        set("TERM", "xterm-256color");
        set("COLUMNS", "120");
        set("LINES", "40");
    } else {
        set("TERM", "dumb");
        set("NO_COLOR", "1");
        set("PAGER", "cat");
    }
    all
}

fn mounts(files: &Files, tmp: &Path, bare: bool) -> Vec<Mount> {
    let workspace = |root: &&Root| root.target == Path::new(WORKSPACE);
    if bare {
        // The host's own files are all there is.
        let workspace = files.roots().iter().find(workspace);
        return workspace.map(|root| bind(root, MountKind::Owned)).into_iter().collect();
    }
    let mut mounts = vec![Mount {
        kind: MountKind::Owned(tmp.into()),
        target: TMP.into(),
        read_only: false,
    }];
    // The outer ones first.
    let mut roots: Vec<_> = files.roots().iter().collect();
    roots.sort_by_key(|root| root.target.components().count());
    for root in roots {
        let kind = if workspace(&root) {
            MountKind::Owned
        } else {
            MountKind::Bind
        };
        mounts.push(bind(root, kind));
        if !root.read_only {
            mounts.extend(protected(&root.source, &root.target));
        }
    }
    mounts
}

fn bind(root: &Root, kind: fn(PathBuf) -> MountKind) -> Mount {
    Mount {
        kind: kind(root.source.clone()),
        target: root.target.clone(),
        read_only: root.read_only,
    }
}

/// What is read-only in a root. `.git` is a mount of its own, or it could be moved away with what it protects.
fn protected(source: &Path, target: &Path) -> Vec<Mount> {
    let is_plain = |path: &Path| std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir() || meta.is_file());
    let mount = |name: &str, read_only| Mount {
        kind: MountKind::Owned(source.join(name)),
        target: target.join(name),
        read_only,
    };
    let git = is_plain(&source.join(".git"));
    let mut mounts: Vec<Mount> = git.then(|| mount(".git", false)).into_iter().collect();
    for name in PROTECTED {
        if is_plain(&source.join(name)) && (git || !name.starts_with(".git")) {
            mounts.push(mount(name, true));
        }
    }
    mounts
}

/// Names are never used twice, also over restarts.
fn now_tag() -> String {
    let mut bytes = [0; 6];
    // Without it two names of one session may be the same, which the engine refuses.
    let _ = getrandom::fill(&mut bytes);
    hex::encode(bytes)
}

/// For the settings: a backend by its name.
pub fn backend(name: &str) -> Choice {
    match name {
        "docker" => Choice::Docker,
        "podman" => Choice::Podman,
        "sandbox" => Choice::Sandbox,
        "host-unsafe" => Choice::HostUnsafe,
        _ => Choice::Auto,
    }
}

/// The containers of calls are kept in the worker's own directory; the images are the orchestrator's.
pub fn runtime(own: &Path, state: &Path, backend: Choice, host: &str) -> Config {
    Config {
        backend,
        host: host.to_owned(),
        directory: own.into(),
        images: Some(state.join("containers/images")),
        ..Config::default()
    }
}
