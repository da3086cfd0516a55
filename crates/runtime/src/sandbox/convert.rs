//! Converts the trait's types to the helper's.

use std::path::{Path, PathBuf};

use nexus_sandbox::{Caller, Mount, Network, Rootfs, Run, Source, Terminal, User};

use crate::images::Resolved;
use crate::{ContainerSpec, Error, HostUser, MountKind, NetworkMode, Result};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const TMPFS: u64 = 64 << 20;

fn unsupported(what: &str) -> Error {
    Error::Unsupported {
        engine: "sandbox",
        what: what.into(),
    }
}

/// `own`: who commands run as where nobody says.
pub fn run(spec: &ContainerSpec, image: &Resolved, own: u32, state: PathBuf) -> Result<Run> {
    if !spec.ports.is_empty() {
        return Err(unsupported("publish ports; use Docker or Podman for that"));
    }
    let config = &image.config;
    let (entrypoint, default_args) = if spec.entrypoint.is_empty() {
        (&config.entrypoint, &config.command)
    } else {
        (&spec.entrypoint, &Vec::new())
    };
    let args = if spec.args.is_empty() { default_args } else { &spec.args };
    let command: Vec<String> = entrypoint.iter().chain(args).cloned().collect();
    if command.is_empty() {
        return Err(Error::Invalid("no command is given, and the image has none".into()));
    }
    let user = if !spec.user.is_empty() {
        image.user(&spec.user)?
    } else if !config.user.is_empty() {
        image.user(&config.user)?
    } else {
        User { uid: own, gid: own }
    };
    if user.uid == 0 && spec.deny_root && !spec.user.is_empty() {
        let why = format!(
            "{:?} is root inside, which is not allowed by orchestrator.container_allow_root",
            spec.user
        );
        return Err(Error::Denied(why));
    }

    let mut run = Run::new(command);
    run.rootfs = match &image.rootfs {
        Some(dir) => Rootfs::Directory(dir.clone()),
        None => Rootfs::Host,
    };
    run.writable_rootfs = spec.writable_rootfs;
    run.env = environment(spec, image);
    run.workdir = [&spec.working_dir, &config.working_dir]
        .into_iter()
        .find(|dir| !dir.is_empty())
        .map_or_else(|| PathBuf::from("/"), PathBuf::from);
    run.user = user;
    run.caller = spec.owner.as_ref().map(caller);
    run.hostname = spec
        .name
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
        .take(63)
        .collect();
    run.mounts = spec.mounts.iter().map(mount).collect();
    run.network = Network::None;
    let limits = &spec.limits;
    let set = |value: u64| (value > 0).then_some(value);
    run.limits.memory = set(limits.memory_bytes);
    run.limits.memory_swap = set(limits.memory_swap_bytes);
    run.limits.nano_cpus = set(limits.nano_cpus);
    run.limits.pids = set(limits.pids);
    run.limits.nofile = 65_536;
    run.state = Some(state);
    run.log_bytes = spec.log_limit();
    run.collect = spec.collect.map(|collect| nexus_sandbox::Collect {
        bytes: collect.bytes,
        tty: collect.tty.map(|(columns, rows)| Terminal { columns, rows }),
        stdin: collect.stdin,
    });
    Ok(run)
}

pub fn caller(owner: &HostUser) -> Caller {
    Caller {
        uid: owner.uid,
        gid: owner.gid,
        groups: owner.groups.clone(),
    }
}

fn environment(spec: &ContainerSpec, image: &Resolved) -> Vec<(String, String)> {
    let mut env: Vec<(String, String)> = vec![("PATH".into(), PATH.into()), ("HOME".into(), "/tmp".into())];
    let image = image.config.env.iter().filter_map(|pair| pair.split_once('='));
    let image = image.map(|(key, value)| (key.to_string(), value.to_string()));
    for (key, value) in image.chain(spec.env.clone()) {
        env.retain(|(known, _)| *known != key);
        env.push((key, value));
    }
    env
}

fn mount(mount: &crate::Mount) -> Mount {
    let source = match &mount.kind {
        MountKind::Bind(path) => Source::Path(path.clone()),
        MountKind::Owned(path) => Source::Owned(path.clone()),
        MountKind::Tmpfs { bytes: 0 } => Source::Tmpfs(TMPFS),
        MountKind::Tmpfs { bytes } => Source::Tmpfs(*bytes),
    };
    Mount {
        source,
        target: mount.target.clone(),
        read_only: mount.read_only,
    }
}

/// What a sandbox cannot have.
pub fn isolated(spec: &ContainerSpec) -> Result<()> {
    match &spec.network {
        NetworkMode::None | NetworkMode::Container(_) => Ok(()),
        NetworkMode::Bridge | NetworkMode::Named(_) => {
            Err(unsupported("give a container a network; use Docker or Podman for that"))
        }
    }
}

/// What a command that joins differs in.
pub fn join(run: &Run, exec: &crate::ExecSpec, image: Option<&Resolved>) -> Result<Run> {
    let mut joined = run.clone();
    if exec.command.first().is_none_or(String::is_empty) {
        return Err(Error::Invalid("no command is given".into()));
    }
    joined.command = exec.command.clone();
    for (key, value) in &exec.env {
        joined.env.retain(|(known, _)| known != key);
        joined.env.push((key.clone(), value.clone()));
    }
    if !exec.working_dir.is_empty() {
        joined.workdir = Path::new(&exec.working_dir).into();
    }
    if !exec.user.is_empty() {
        let user = match image {
            Some(image) => image.user(&exec.user)?,
            None => {
                return Err(Error::Invalid(format!(
                    "user {} is not known: the image is gone",
                    exec.user
                )));
            }
        };
        if user.uid != run.user.uid {
            return Err(unsupported("run a command as another user than its container's"));
        }
    }
    Ok(joined)
}
