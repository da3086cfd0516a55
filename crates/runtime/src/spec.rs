//! The specification of a container. An empty one is the safest: no network, a read-only root, nothing of the host.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::{Error, Result};

/// Every container runs without capabilities, without a way to new privileges, under a system call filter, with a
/// private `/tmp` (tmpfs). There is no switch for these.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerSpec {
    /// Unique in the engine: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// Empty, or `nexus/host`: the host's own system directories, read-only; only the sandbox has it.
    pub image: String,
    /// Empty: that of the image.
    pub entrypoint: Vec<String>,
    /// Empty, and no entrypoint either: those of the image.
    pub args: Vec<String>,
    /// Beside the environment of the image.
    pub env: BTreeMap<String, String>,
    /// Inside; made if it is not there and the root is writable. Empty: that of the image.
    pub working_dir: String,
    /// `uid`, `uid:gid` or a name of the image; empty: that of the image, in the sandbox the own user.
    pub user: String,
    /// Whether that is refused if it is root inside, by whatever name.
    pub deny_root: bool,
    /// Whose rights it has on what is mounted, and who owns on the host what it makes there. `None`: whoever the engine
    /// runs it as.
    pub owner: Option<HostUser>,
    /// By which it is found again.
    pub labels: BTreeMap<String, String>,
    /// What is visible inside beside the image.
    pub mounts: Vec<Mount>,
    /// What it reaches.
    pub network: NetworkMode,
    /// What of it is reached from the host.
    pub ports: Vec<Port>,
    /// What it may use.
    pub limits: Limits,
    /// Whether the files of the image may be changed; the changes go with the container.
    pub writable_rootfs: bool,
    /// How much of what it writes is kept, the newest; zero: 16 MiB.
    pub log_bytes: u64,
    /// How its output is collected, and whether it has a terminal and an input. `None`: a log, and neither.
    pub collect: Option<Collect>,
}

/// What a command is connected to whose output is looked at while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collect {
    /// Bytes of output that are kept, the first ones; what follows is counted.
    pub bytes: u64,
    /// The columns and rows of its terminal; without one, stdout and stderr are one pipe.
    pub tty: Option<(u16, u16)>,
    /// Whether it has an input, for [`Engine::input`](crate::Engine::input).
    pub stdin: bool,
}

const LOG_BYTES: u64 = 16 << 20;

/// A user of the host, with all of its groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostUser {
    /// The number of the user.
    pub uid: u32,
    /// The number of the user's own group.
    pub gid: u32,
    /// The numbers of all other groups.
    pub groups: Vec<u32>,
}

/// What users of the host and of a container are matched by, in messages.
pub(crate) const OWNERS: &str = "orchestrator.container_owners";

impl ContainerSpec {
    /// The most that its log takes on the disk.
    pub(crate) fn log_limit(&self) -> u64 {
        if self.log_bytes == 0 { LOG_BYTES } else { self.log_bytes }
    }
}

impl HostUser {
    /// As engines write it.
    pub fn numbers(&self) -> String {
        format!("{}:{}", self.uid, self.gid)
    }

    /// Where users inside are users of the host: whether a container may run as this one. `inside` is who the owner is
    /// there.
    pub(crate) fn check(&self, engine: &'static str, spec: &ContainerSpec, inside: &str) -> Result<()> {
        let id = |user: &str| user.split(':').next().unwrap_or_default().parse::<u32>().ok();
        let binds = |mount: &Mount| matches!(mount.kind, MountKind::Bind(_) | MountKind::Owned(_));
        let binds = spec.mounts.iter().any(binds);
        if !binds || spec.user.is_empty() || id(&spec.user) == id(inside) {
            return Ok(());
        }
        Err(Error::Unsupported {
            engine,
            what: format!(
                "mount what belongs to user {} of this host into a container that runs as {}: what it writes would be \
                 another's; leave the user out, use the sandbox, or name the pair in {OWNERS}",
                self.uid, spec.user
            ),
        })
    }
}

/// Limits of a container; zero leaves it unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes.
    pub memory_bytes: u64,
    /// Memory and swap together; zero: as `memory_bytes`, so that nothing is swapped.
    pub memory_swap_bytes: u64,
    /// 1,000,000,000 is one core.
    pub nano_cpus: u64,
    /// Processes and threads.
    pub pids: u64,
}

/// One kind of limit, to say that it is not enforced here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Limit {
    /// Bytes of memory, with swap or without.
    Memory,
    /// Time on cores.
    Cpu,
    /// Processes and threads.
    Pids,
}

impl Limit {
    /// `memory`, `cpu` or `pids`.
    pub fn name(self) -> &'static str {
        match self {
            Limit::Memory => "memory",
            Limit::Cpu => "cpu",
            Limit::Pids => "pids",
        }
    }

    /// Whether these limits ask for one of this kind.
    pub fn is_in(self, limits: &Limits) -> bool {
        match self {
            Limit::Memory => limits.memory_bytes > 0 || limits.memory_swap_bytes > 0,
            Limit::Cpu => limits.nano_cpus > 0,
            Limit::Pids => limits.pids > 0,
        }
    }
}

/// Something visible inside. The caller has resolved the source: it is used as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// What it is.
    pub kind: MountKind,
    /// Absolute, inside.
    pub target: PathBuf,
    /// Whether it cannot be changed inside.
    pub read_only: bool,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountKind {
    /// An absolute path of the host that exists.
    Bind(PathBuf),
    /// A directory of the daemon's own that was made for [`ContainerSpec::owner`]: the way to it need not be the owner's
    /// to go.
    Owned(PathBuf),
    /// An empty tmpfs of at most this many bytes; zero: 64 MiB.
    Tmpfs {
        /// The most that it holds.
        bytes: u64,
    },
}

/// The network of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NetworkMode {
    /// Loopback only.
    #[default]
    None,
    /// The engine's usual network, with a way out.
    Bridge,
    /// A network of the engine by its name.
    Named(String),
    /// That of another container of this engine, by its id. It must run.
    Container(String),
}

/// A port inside made reachable from the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Inside.
    pub container: u16,
    /// Zero: one is chosen.
    pub host: u16,
    /// The address of the host that is listened on.
    pub host_ip: IpAddr,
    /// What is spoken there.
    pub protocol: Protocol,
}

/// The protocol of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// `tcp` or `udp`.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }
}
