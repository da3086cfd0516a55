//! What the helper is asked to do. Everything is decided by the caller: nothing here reads a policy, an image's config,
//! or the caller's environment.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One line of JSON on the helper's spec descriptor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    Run(Box<Run>),
    Join(Box<Join>),
    Access(Access),
}

/// Whether a user of the host may use these paths. Answered with [`Report::Allowed`](crate::Report::Allowed) or a failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Access {
    pub caller: Caller,
    /// Absolute paths that go over no link, and whether each is to be written to.
    pub paths: Vec<(PathBuf, bool)>,
}

/// A user of the host with all of its groups: whose rights a sandbox has on the host's files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    #[serde(default)]
    pub groups: Vec<u32>,
}

impl From<User> for Caller {
    fn from(user: User) -> Caller {
        Caller {
            uid: user.uid,
            gid: user.gid,
            groups: Vec::new(),
        }
    }
}

/// A new sandbox, and the command in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    #[serde(default)]
    pub isolation: Isolation,
    #[serde(default)]
    pub rootfs: Rootfs,
    /// The system directories can be written to, into memory: nothing reaches the image or the host.
    #[serde(default)]
    pub writable_rootfs: bool,
    /// The program and its arguments. A name without a slash is looked up in `PATH` inside.
    pub command: Vec<String>,
    /// The whole environment.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// Absolute, inside, and there.
    #[serde(default = "root_dir")]
    pub workdir: PathBuf,
    #[serde(default)]
    pub user: User,
    /// Who this is on the host, where the helper runs as root. Nothing on the host should belong to it.
    #[serde(default)]
    pub host_user: Option<User>,
    /// Whose rights hold on the sources of mounts, and who owns on the host what is made there. `None`: who this is on
    /// the host. Another user than the helper's own needs root.
    #[serde(default)]
    pub caller: Option<Caller>,
    #[serde(default)]
    pub hostname: String,
    #[serde(default)]
    pub mounts: Vec<Mount>,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub network: Network,
    #[serde(default)]
    pub cgroup: Cgroup,
    #[serde(default)]
    pub landlock: Landlock,
    /// A directory of the caller's in which the helper keeps `status.json`, `exit.json` and the log. With it the
    /// sandbox outlives its caller, and its output goes to the log.
    #[serde(default)]
    pub state: Option<PathBuf>,
    /// Bytes of the log that are kept; the oldest go first.
    #[serde(default = "log_bytes")]
    pub log_bytes: u64,
    /// Its output goes to one file instead of the log; see [`collect`](crate::collect). Needs `state`.
    #[serde(default)]
    pub collect: Option<Collect>,
    /// With [`Network::None`]: the loopback of this sandbox, which must run, instead of one of its own.
    #[serde(default)]
    pub network_of: Option<Box<crate::Started>>,
}

/// How output is collected, and where input comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Collect {
    /// Bytes that are kept, the first ones; what follows is counted.
    pub bytes: u64,
    /// The command has a terminal instead of pipes.
    #[serde(default)]
    pub tty: Option<Terminal>,
    /// Its input stays open for what comes over the FIFO; without, it has none.
    #[serde(default)]
    pub stdin: bool,
}

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terminal {
    pub columns: u16,
    pub rows: u16,
}

fn root_dir() -> PathBuf {
    PathBuf::from("/")
}

fn log_bytes() -> u64 {
    64 << 20
}

impl Run {
    pub fn new<S: Into<String>>(command: impl IntoIterator<Item = S>) -> Run {
        Run {
            isolation: Isolation::Full,
            rootfs: Rootfs::Host,
            writable_rootfs: false,
            command: command.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            workdir: root_dir(),
            user: User::default(),
            host_user: None,
            caller: None,
            hostname: String::new(),
            mounts: Vec::new(),
            limits: Limits::default(),
            network: Network::None,
            cgroup: Cgroup::Auto,
            landlock: Landlock::Required,
            state: None,
            log_bytes: log_bytes(),
            collect: None,
            network_of: None,
        }
    }

    /// Whether set-user-id and set-group-id bits can be set inside: in a writable root, as package managers do, and only
    /// where no path of the host can be written to. There they would give the caller's rights to everybody on the host.
    pub fn may_set_ids(&self) -> bool {
        let host = |mount: &Mount| matches!(mount.source, Source::Path(_)) && !mount.read_only;
        self.writable_rootfs && !self.mounts.iter().any(host)
    }
}

/// One more command in a sandbox that runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// As [`Started`](crate::Started) told it.
    pub started: crate::Started,
    /// What it was started with: command, environment, user and working directory here are those of the new command.
    pub run: Run,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    #[default]
    Full,
    /// None: the command runs on the host as it is. Of the rest here only the command, its environment, working
    /// directory and user hold, the limits that control groups and a process's own can set, and the state directory.
    HostUnsafe,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rootfs {
    /// The host's programs and libraries, and as much of `/etc` as they need.
    #[default]
    Host,
    /// An unpacked image.
    Directory(PathBuf),
}

/// Who a sandbox of root's is on the host: numbers that nobody has.
pub const NOBODY: User = User {
    uid: 2_000_000_000,
    gid: 2_000_000_000,
};

/// Numbers inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
}

impl Default for User {
    fn default() -> User {
        User { uid: 1000, gid: 1000 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    pub source: Source,
    /// Absolute, inside. Made if it is not there and the place can be written to.
    pub target: PathBuf,
    #[serde(default)]
    pub read_only: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// An absolute path of the host that goes over no link: a link is refused, also one put there a moment ago.
    Path(PathBuf),
    /// The same for a directory of the daemon's own that was made for the caller: the way to it is the helper's to go.
    Owned(PathBuf),
    /// An empty tmpfs of at most this many bytes.
    Tmpfs(u64),
}

/// `None` leaves it unlimited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    pub memory: Option<u64>,
    /// With swap; `None`: as `memory`.
    pub memory_swap: Option<u64>,
    /// 1,000,000,000 is one core.
    pub nano_cpus: Option<u64>,
    pub pids: Option<u64>,
    pub nofile: u64,
    /// The largest file.
    pub fsize: Option<u64>,
    /// `/tmp`, `/run`, `/dev/shm` and what is written to a writable root, together.
    pub scratch: u64,
    /// Fail, rather than run without a limit above that cannot be enforced here.
    pub required: bool,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            memory: None,
            memory_swap: None,
            nano_cpus: None,
            pids: None,
            nofile: 1024,
            fsize: None,
            scratch: 256 << 20,
            required: false,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// Its own loopback only.
    #[default]
    None,
    /// The host's network, loopback services and abstract sockets included.
    HostUnsafe,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cgroup {
    /// Below or beside the helper's own, where it may.
    #[default]
    Auto,
    None,
    /// Below this one, a path as in `/proc/self/cgroup`.
    Below(String),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Landlock {
    #[default]
    Required,
    /// Done without where the kernel has none, and told.
    IfPresent,
}
