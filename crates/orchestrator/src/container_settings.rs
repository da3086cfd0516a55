//! The settings of containers.

use std::path::PathBuf;
use std::time::Duration;

use nexus_config::{Kind, Root, Setting};
use nexus_proto::common::v1::ResourceLimits;
use nexus_runtime::{Choice, ImageLimits, PullPolicy};
use serde::Deserialize;

use crate::domain;
use crate::domain::container::{BARE, Policy};
use crate::engine::containers::{Options, Pair};

#[derive(Clone, Debug, Deserialize)]
pub struct ContainerConfig {
    container_backend: String,
    container_host: String,
    container_pull: String,
    container_images: Vec<String>,
    container_registries: Vec<String>,
    container_image_max_size: u64,
    container_image_max_ratio: u64,
    container_user_image_size: u64,
    container_paths: Vec<String>,
    container_memory: u64,
    container_cpus: f64,
    container_pids: i64,
    container_max_memory: u64,
    container_max_cpus: f64,
    container_max_pids: i64,
    container_require_limits: bool,
    container_allow_root: bool,
    container_allow_writable_root: bool,
    container_user: String,
    container_owners: Vec<String>,
    pub container_on_close: String,
    container_stop_timeout: Duration,
    container_pull_timeout: Duration,
    container_engine_timeout: Duration,
    container_thresholds: Vec<String>,
    container_sample_every: Duration,
    container_log_size: u64,
    container_user_bytes: u64,
    container_user_files: u64,
    max_containers: usize,
    max_session_containers: usize,
}

/// A log is kept in pieces, and each has room for the longest write.
const LEAST_LOG: u64 = 1 << 20;
impl ContainerConfig {
    /// The user of this host that commands run as where nothing isolates them; the error is the mistake.
    fn bare_user(&self) -> Result<Option<(u32, Option<u32>)>, String> {
        if self.container_backend != BARE || self.container_user.is_empty() {
            return Ok(None);
        }
        let (uid, gid) = match self.container_user.split_once(':') {
            Some((uid, gid)) => (uid, Some(gid)),
            None => (&*self.container_user, None),
        };
        let number = |text: &str| text.parse::<u32>().map_err(|_| text.to_owned());
        let user = number(uid).and_then(|uid| Ok((uid, gid.map(number).transpose()?)));
        let user = user.map_err(|text| {
            format!("container_user: {text:?} is no number, and on the bare host (host-unsafe) UID[:GID] is needed")
        })?;
        let own = nix::unistd::geteuid();
        if !own.is_root() && user.0 != own.as_raw() {
            return Err(format!(
                "container_user: only root can run commands of the bare host (host-unsafe) as user {}, and this is user {own}",
                user.0
            ));
        }
        if user.0 == 0 && !self.container_allow_root {
            return Err("container_user: root on the bare host (host-unsafe) needs container_allow_root".into());
        }
        Ok(Some(user))
    }
}

const COUNT: Kind = Kind::Int { min: 1, max: 1_000_000 };

pub fn settings() -> Vec<Setting> {
    let bool = |key, help| Setting::new(key, Kind::Bool, "false", help);
    let time = |key, default, help| Setting::new(key, Kind::Duration, default, help);
    vec![
        Setting::new(
            "container_backend",
            Kind::Choice(&["auto", "docker", "podman", "sandbox", "host-unsafe"]),
            "auto",
            "what runs containers; auto takes the first of docker, podman and sandbox that works; host-unsafe isolates \
             nothing",
        ),
        Setting::new(
            "container_host",
            Kind::Text,
            "",
            "unix:///path or tcp://host:port of Docker or Podman; empty: where they usually are",
        ),
        Setting::new(
            "container_pull",
            Kind::Choice(&["missing", "always", "never"]),
            "missing",
            "when images are fetched",
        ),
        Setting::new(
            "container_images",
            Kind::List,
            "",
            "images that may be used, and that users may have fetched, * at the end for all that begin so; empty: all that \
             are here, and only administrators have others fetched",
        ),
        Setting::new(
            "container_registries",
            Kind::List,
            "",
            "registries that images are fetched from, for whomever; empty: those that container_images or an \
             administrator names",
        ),
        Setting::new(
            "container_image_max_size",
            Kind::Size,
            "10GiB",
            "most bytes of an image, unpacked",
        ),
        Setting::new(
            "container_image_max_ratio",
            Kind::Int { min: 1, max: 100_000 },
            "200",
            "how many times its size a layer may unpack to, in the built-in sandbox",
        ),
        Setting::new(
            "container_user_image_size",
            Kind::Size,
            "20GiB",
            "most bytes of all images that one user had fetched, unpacked",
        ),
        Setting::new(
            "container_paths",
            Kind::List,
            "",
            "host paths that sessions may allow; empty: any, for sessions of our own user",
        ),
        Setting::new(
            "container_memory",
            Kind::Size,
            "512MiB",
            "memory of a container that asks for none",
        ),
        Setting::new(
            "container_cpus",
            Kind::Float,
            "1",
            "cores of a container that asks for none",
        ),
        Setting::new(
            "container_pids",
            COUNT,
            "256",
            "processes of a container that asks for none",
        ),
        Setting::new(
            "container_max_memory",
            Kind::Size,
            "8GiB",
            "most memory that a container may ask for",
        ),
        Setting::new(
            "container_max_cpus",
            Kind::Float,
            "4",
            "most cores that a container may ask for",
        ),
        Setting::new(
            "container_max_pids",
            COUNT,
            "1024",
            "most processes that a container may ask for",
        ),
        bool(
            "container_require_limits",
            "refuse containers whose limits this host cannot enforce",
        ),
        bool("container_allow_root", "whether commands inside may run as root"),
        bool(
            "container_allow_writable_root",
            "whether containers may ask for a writable root",
        ),
        Setting::new(
            "container_user",
            Kind::Text,
            "",
            "uid:gid inside of commands that name none; empty: our own, or nobody's where that is root",
        ),
        Setting::new(
            "container_owners",
            Kind::List,
            "",
            "CALLER=UID[:GID]: whose rights the containers of a caller's sessions have on this host's files; a caller is \
             a uid or token:ID; without an entry the caller's own, and nobody's for root and tokens",
        ),
        Setting::new(
            "container_on_close",
            Kind::Choice(&["remove", "stop"]),
            "remove",
            "what happens to the containers of a session that is closed",
        ),
        time(
            "container_stop_timeout",
            "10s",
            "from the request to stop until the kill, unless a call says",
        ),
        time(
            "container_pull_timeout",
            "5m",
            "longest that fetching an image may take",
        ),
        time(
            "container_engine_timeout",
            "30s",
            "longest that a backend may take for anything else",
        ),
        Setting::new(
            "container_thresholds",
            Kind::List,
            "80,95",
            "percents of a container's memory limit at which an event is written",
        ),
        time(
            "container_sample_every",
            "10s",
            "how often is looked at what containers use",
        ),
        Setting::new(
            "container_log_size",
            Kind::Size,
            "16MiB",
            "what is kept of what one container writes, the newest; a user may have that for each of its user_containers",
        ),
        Setting::new(
            "container_user_bytes",
            Kind::Size,
            "50GiB",
            "what one user may have in the workspaces and volumes of all its sessions",
        ),
        Setting::new(
            "container_user_files",
            Kind::Int { min: 1, max: i64::MAX },
            "2000000",
            "files of any kind that one user may have there",
        ),
        Setting::new("max_containers", COUNT, "1000", "containers of all sessions"),
        Setting::new(
            "max_session_containers",
            COUNT,
            "10",
            "containers of a session that sets no number",
        ),
    ]
}

/// Mistakes that a look at one value cannot tell.
pub fn check(config: &ContainerConfig) -> Vec<String> {
    let mut wrong = Vec::new();
    for mark in &config.container_thresholds {
        if !mark.parse::<u32>().is_ok_and(|mark| (1..=100).contains(&mark)) {
            wrong.push(format!(
                "container_thresholds: {mark} is not a percentage from 1 to 100"
            ));
        }
    }
    let own = nix::unistd::geteuid();
    for pair in &config.container_owners {
        match owner(pair) {
            None => wrong.push(format!("container_owners: {pair} is not CALLER=UID[:GID]")),
            Some(pair) if !own.is_root() && pair.uid != own.as_raw() => {
                wrong.push(format!("container_owners: only root can act for user {}", pair.uid));
            }
            Some(_) => {}
        }
    }
    wrong.extend(config.bare_user().err());
    for rule in &config.container_images {
        if let Err(why) = nexus_runtime::images::check_rule(rule) {
            wrong.push(format!("container_images: {why}"));
        }
    }
    for registry in &config.container_registries {
        if !domain::container::is_registry(registry) {
            wrong.push(format!(
                "container_registries: {registry:?} is not a host, or a host and a port"
            ));
        }
    }
    for path in &config.container_paths {
        if !path.starts_with('/') {
            wrong.push(format!("container_paths: {path} is not absolute"));
        }
    }
    if config.container_log_size < LEAST_LOG {
        wrong.push("container_log_size: a log takes 1MiB at least".into());
    }
    if config.container_sample_every.is_zero() || config.container_engine_timeout.is_zero() {
        wrong.push("container_sample_every and container_engine_timeout must be longer than nothing".into());
    }
    for (key, cpus) in [
        ("container_cpus", config.container_cpus),
        ("container_max_cpus", config.container_max_cpus),
    ] {
        if !(0.001..=10_000.0).contains(&cpus) {
            wrong.push(format!("{key}: {cpus} is not a number of cores"));
        }
    }
    wrong
}

/// `1001=1000:1000`, `token:<id>=1000`.
fn owner(pair: &str) -> Option<Pair> {
    let (caller, user) = pair.rsplit_once('=')?;
    let (uid, gid) = match user.split_once(':') {
        Some((uid, gid)) => (uid.parse().ok()?, Some(gid.parse().ok()?)),
        None => (user.parse().ok()?, None),
    };
    let principal = match caller.parse::<u32>() {
        Ok(uid) => format!("uid:{uid}"),
        Err(_) if caller.starts_with("token:") => caller.to_owned(),
        Err(_) => return None,
    };
    Some(Pair { principal, uid, gid })
}

pub fn runtime(config: &ContainerConfig, root: &Root) -> nexus_runtime::Config {
    nexus_runtime::Config {
        backend: match config.container_backend.as_str() {
            "docker" => Choice::Docker,
            "podman" => Choice::Podman,
            "sandbox" => Choice::Sandbox,
            "host-unsafe" => Choice::HostUnsafe,
            _ => Choice::Auto,
        },
        host: config.container_host.clone(),
        directory: root.state().join("containers"),
        images: None,
        helper: None,
        image_limits: ImageLimits {
            max_bytes: config.container_image_max_size,
            max_ratio: config.container_image_max_ratio,
        },
    }
}

pub fn options(config: &ContainerConfig, root: &Root) -> Options {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let limits = |cpus: f64, memory: u64, pids: i64| ResourceLimits {
        nano_cpus: (cpus * 1e9) as i64,
        memory_bytes: number(memory),
        memory_swap: 0,
        pids_limit: pids,
    };
    Options {
        policy: Policy {
            max_containers: config.max_containers,
            max_per_session: config.max_session_containers,
            images: config.container_images.clone(),
            registries: config.container_registries.clone(),
            default_limits: limits(config.container_cpus, config.container_memory, config.container_pids),
            max_limits: limits(
                config.container_max_cpus,
                config.container_max_memory,
                config.container_max_pids,
            ),
            allow_root: config.container_allow_root,
            allow_writable_root: config.container_allow_writable_root,
        },
        workspaces: root.state().join("workspaces"),
        volumes: root.state().join("volumes"),
        state: root.state(),
        user_image_bytes: config.container_user_image_size,
        paths: config.container_paths.iter().map(PathBuf::from).collect(),
        pull: match config.container_pull.as_str() {
            "always" => PullPolicy::Always,
            "never" => PullPolicy::Never,
            _ => PullPolicy::Missing,
        },
        require_limits: config.container_require_limits,
        user: config.container_user.clone(),
        owners: config.container_owners.iter().filter_map(|pair| owner(pair)).collect(),
        stop_timeout: config.container_stop_timeout,
        pull_timeout: config.container_pull_timeout,
        engine_timeout: config.container_engine_timeout,
        marks: config
            .container_thresholds
            .iter()
            .filter_map(|mark| mark.parse().ok())
            .collect(),
        sample_every: config.container_sample_every,
        bare_user: config.bare_user().unwrap_or_default(),
        log_bytes: config.container_log_size,
        user_bytes: config.container_user_bytes,
        user_files: config.container_user_files,
    }
}
