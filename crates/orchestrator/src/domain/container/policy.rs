//! The policy of containers: the session's rules within the operator's.
//!
//! Checked before any engine is asked. What is malformed is INVALID_ARGUMENT; what is forbidden is PERMISSION_DENIED and
//! says which rule forbids it.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use nexus_proto::common::v1::ResourceLimits;
use nexus_proto::orchestrator::v1::{ContainerConfig, Mount, MountType, SessionConfig, SessionPolicy};
use nexus_runtime::images::{covers, registry_of};
use prost::Message as _;

use crate::domain::Error;

/// Where the session's own directory is, inside.
pub const WORKSPACE: &str = "/workspace";
/// What is always the built-in sandbox.
pub const HOST_IMAGE: &str = "nexus/host";
/// Labels that are ours.
const OWN_LABELS: &str = "nexus.";

/// The operator's rules, from the config.
#[derive(Clone, Debug)]
pub struct Policy {
    pub max_containers: usize,
    pub max_per_session: usize,
    /// Images that may be used and fetched for users, `*` at the end for all that begin so; empty: all that are here may
    /// be used, and none is fetched for users.
    pub images: Vec<String>,
    /// Registries that images are fetched from; empty: whichever an image names.
    pub registries: Vec<String>,
    pub default_limits: ResourceLimits,
    pub max_limits: ResourceLimits,
    pub allow_root: bool,
    pub allow_writable_root: bool,
}

impl Policy {
    pub fn max_of_session(&self, session: &SessionConfig) -> usize {
        match usize::try_from(session.max_containers) {
            Ok(0) | Err(_) => self.max_per_session,
            Ok(max) => max,
        }
    }

    /// The config as it will be carried out. `trusted`: whoever asks may approve, too.
    pub fn apply(
        &self,
        session: &SessionConfig,
        mut config: ContainerConfig,
        trusted: bool,
    ) -> Result<ContainerConfig, Error> {
        let policy = session.policy.clone().unwrap_or_default();
        if policy.require_approval && !trusted {
            return denied("the session wants an administrator's approval for each container");
        }
        if config.image.is_empty() {
            config.image = HOST_IMAGE.into();
        }
        self.image(session, &config.image)?;
        well_formed(&config)?;
        self.user(&config)?;
        network(&policy, &mut config)?;
        for mount in &config.mounts {
            check_mount(&policy, mount)?;
        }
        config.resources = Some(self.limits(session, config.resources.unwrap_or_default())?);
        if config.writable_rootfs == Some(true) && !self.allow_writable_root {
            return denied("a writable root is not allowed by orchestrator.container_allow_writable_root");
        }
        config.read_only_rootfs = config.writable_rootfs != Some(true);
        if config.working_dir.is_empty() {
            config.working_dir = WORKSPACE.into();
        }
        Ok(config)
    }

    fn image(&self, session: &SessionConfig, image: &str) -> Result<(), Error> {
        check_reference("config.image", image)?;
        let rules = [
            (&self.images, "orchestrator.container_images"),
            (&session.allowed_images, "allowed_images of the session"),
        ];
        match rules
            .iter()
            .find(|(list, _)| !list.is_empty() && !list.iter().any(|one| covers(one, image)))
        {
            Some((_, rule)) => denied(format!("image {image} is not among {rule}")),
            None => Ok(()),
        }
    }

    /// Whether an image may be fetched. `trusted`: for an administrator, who may name any image of the registries.
    pub fn may_fetch(&self, image: &str, trusted: bool) -> Result<(), Error> {
        if !trusted && !self.images.iter().any(|rule| covers(rule, image)) {
            return denied(format!(
                "image {image} is not fetched for users, as orchestrator.container_images does not name it; an \
                 administrator can have it fetched: nexus images pull {image}"
            ));
        }
        let registry = registry_of(image).map_err(Error::Runtime)?;
        if !self.registries.is_empty() && !self.registries.contains(&registry) {
            return denied(format!(
                "registry {registry} is not among orchestrator.container_registries"
            ));
        }
        Ok(())
    }

    fn user(&self, config: &ContainerConfig) -> Result<(), Error> {
        let user = config.user.split(':').next().unwrap_or_default();
        // Engines read numbers with a sign too. Other names of root are for those to find who read the image.
        let root = user == "root" || user.parse::<i64>() == Ok(0);
        if root && !self.allow_root {
            return denied("the user root is not allowed by orchestrator.container_allow_root");
        }
        Ok(())
    }

    fn limits(&self, session: &SessionConfig, asked: ResourceLimits) -> Result<ResourceLimits, Error> {
        let (own, default, most) = (
            session.resource_limits.unwrap_or_default(),
            self.default_limits,
            self.max_limits,
        );
        let pick = |name: &str, asked: i64, own: i64, default: i64, most: i64| {
            if asked < 0 {
                return Err(Error::Invalid(format!("config.resources.{name} must not be negative")));
            }
            // The session's limit is for each of its containers, within the operator's.
            let most = [own, most]
                .into_iter()
                .filter(|limit| *limit > 0)
                .min()
                .unwrap_or(i64::MAX);
            if asked > most {
                return denied(format!("{name} of {asked} is more than the {most} that are allowed"));
            }
            Ok(if asked > 0 { asked } else { default.min(most) })
        };
        let memory = pick(
            "memory_bytes",
            asked.memory_bytes,
            own.memory_bytes,
            default.memory_bytes,
            most.memory_bytes,
        )?;
        let swap = pick("memory_swap", asked.memory_swap, own.memory_swap, 0, 0)?;
        if swap > 0 && swap < memory {
            return Err(Error::Invalid(
                "config.resources.memory_swap is memory and swap together: it is less than memory_bytes".into(),
            ));
        }
        Ok(ResourceLimits {
            nano_cpus: pick(
                "nano_cpus",
                asked.nano_cpus,
                own.nano_cpus,
                default.nano_cpus,
                most.nano_cpus,
            )?,
            memory_bytes: memory,
            memory_swap: swap,
            pids_limit: pick(
                "pids_limit",
                asked.pids_limit,
                own.pids_limit,
                default.pids_limit,
                most.pids_limit,
            )?,
        })
    }
}

fn denied<T>(what: impl Into<String>) -> Result<T, Error> {
    Err(Error::Forbidden(what.into()))
}

fn invalid<T>(what: impl Into<String>) -> Result<T, Error> {
    Err(Error::Invalid(what.into()))
}

/// Longest name of an image: a host, a path of 255, a tag of 128 and a digest.
const LONGEST_REFERENCE: usize = 512;

/// Whether this is a registry as the name of an image begins with it.
pub fn is_registry(text: &str) -> bool {
    registry_of(&format!("{text}/image")).is_ok_and(|registry| registry == text)
}

/// Whether it can be an image's name at all. Asked before any engine is: their readers take their time with what is not.
pub fn check_reference(field: &str, reference: &str) -> Result<(), Error> {
    let odd = |byte: u8| byte.is_ascii_whitespace() || byte.is_ascii_control();
    if reference.len() > LONGEST_REFERENCE || reference.bytes().any(odd) {
        return Err(Error::Invalid(format!("{field} is not an image name")));
    }
    Ok(())
}

/// The most that a container's config takes: it is kept and listed as long as the container is.
const MOST_CONFIG: usize = 2 << 20;
/// The most that the kernel takes of one argument or variable, with the zero at its end.
const MOST_ARGUMENT: usize = 128 << 10;

/// Refuses what no engine could carry out.
fn bounded(config: &ContainerConfig) -> Result<(), Error> {
    let bytes = config.encoded_len();
    if bytes > MOST_CONFIG {
        return invalid(format!("config has {bytes} bytes, and at most {MOST_CONFIG} are taken"));
    }
    let variables = config.env.iter().map(|(name, value)| name.len() + 1 + value.len());
    let arguments = config.command.iter().chain(&config.args).map(String::len);
    match variables.chain(arguments).find(|bytes| *bytes >= MOST_ARGUMENT) {
        Some(bytes) => invalid(format!(
            "config.env, config.command or config.args: one of {bytes} bytes, and at most {} are taken",
            MOST_ARGUMENT - 1
        )),
        None => Ok(()),
    }
}

fn well_formed(config: &ContainerConfig) -> Result<(), Error> {
    bounded(config)?;
    let nul = |text: &String| text.contains('\0');
    if config.command.iter().chain(&config.args).any(nul) {
        return invalid("config.command and config.args must not hold a NUL");
    }
    for (name, value) in &config.env {
        if name.is_empty() || name.contains(['=', '\0']) || nul(value) {
            return invalid(format!("config.env: {name:?} is not a variable name"));
        }
    }
    if let Some(name) = config.labels.keys().find(|name| name.starts_with(OWN_LABELS)) {
        return invalid(format!(
            "config.labels: {name} is a name that only the orchestrator gives"
        ));
    }
    if !config.working_dir.is_empty() && !is_plain(&config.working_dir) {
        return invalid("config.working_dir must be absolute, without `..`");
    }
    let mut targets = BTreeSet::new();
    for mount in &config.mounts {
        let target = mount.target.trim_end_matches('/');
        let own = ["/proc", "/sys", "/dev"]
            .iter()
            .any(|dir| Path::new(target).starts_with(dir));
        if !is_plain(&mount.target) || target.is_empty() || own {
            return invalid(format!("config.mounts: {:?} is no place for a mount", mount.target));
        }
        if target == WORKSPACE || !targets.insert(target) {
            return invalid(format!("config.mounts: {target} is mounted twice"));
        }
    }
    if let Some(policy) = &config.restart_policy {
        if !["", "no", "on-failure", "always", "unless-stopped"].contains(&policy.name.as_str()) {
            let known = "no, on-failure, always, unless-stopped";
            return invalid(format!("config.restart_policy.name must be one of {known}"));
        }
        if policy.maximum_retry_count < 0 || policy.timeout_ns < 0 {
            return invalid("config.restart_policy must not have negative numbers");
        }
        if config.remove_on_stop && !["", "no"].contains(&policy.name.as_str()) {
            return invalid("config.remove_on_stop and config.restart_policy exclude each other");
        }
    }
    Ok(())
}

/// Absolute, without a way up.
fn is_plain(path: &str) -> bool {
    let path = Path::new(path);
    path.is_absolute()
        && !path.as_os_str().as_encoded_bytes().contains(&0)
        && path.components().all(|part| !matches!(part, Component::ParentDir))
}

fn network(policy: &SessionPolicy, config: &mut ContainerConfig) -> Result<(), Error> {
    let mut named: Vec<&str> = [config.network_mode.as_str()]
        .into_iter()
        .chain(config.networks.iter().map(String::as_str))
        .collect();
    named.retain(|name| !name.is_empty());
    named.dedup();
    let mode = match named[..] {
        [] => "none",
        [one] => one,
        _ => return invalid("config.networks: a container has one network"),
    }
    .to_owned();
    if mode != "none" {
        if mode == "host" || mode.starts_with("container:") || mode.starts_with("ns:") {
            return denied(format!("network {mode} would be no isolation"));
        }
        if !policy.allow_network {
            return denied("the session's policy has no allow_network");
        }
        let usual = mode == "bridge" || mode == "default";
        let listed = policy.allowed_networks.contains(&mode);
        if !listed && (!usual || !policy.allowed_networks.is_empty()) {
            return denied(format!("network {mode} is not among allowed_networks of the session"));
        }
    }
    for port in &config.ports {
        let number = |n: i32| u16::try_from(n).is_ok();
        if port.container_port == 0 || !number(port.container_port) || !number(port.host_port) {
            return invalid("config.ports: a port is a number from 1 to 65535");
        }
        if !["", "tcp", "udp"].contains(&port.protocol.as_str()) {
            return invalid("config.ports: protocol must be tcp or udp");
        }
        if mode == "none" {
            return invalid("config.ports need a network");
        }
        match port.host_ip.parse::<std::net::IpAddr>() {
            Ok(ip) if !ip.is_loopback() => return denied("ports are only bound on loopback"),
            Err(_) if !port.host_ip.is_empty() => return invalid("config.ports: host_ip is not an address"),
            _ => {}
        }
    }
    (config.network_mode, config.networks) = (mode, Vec::new());
    Ok(())
}

fn check_mount(policy: &SessionPolicy, mount: &Mount) -> Result<(), Error> {
    match MountType::try_from(mount.r#type) {
        Ok(MountType::Tmpfs) => Ok(()),
        Ok(MountType::Volume) => {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            if mount.source.is_empty() || mount.source.len() > 64 || !mount.source.bytes().all(plain) {
                return invalid("config.mounts: a volume's name has letters, digits, `-` and `_`, at most 64");
            }
            if !policy.allow_volume_mount {
                return denied("the session's policy has no allow_volume_mount");
            }
            Ok(())
        }
        Ok(MountType::Bind) => {
            if !is_plain(&mount.source) {
                return invalid("config.mounts: the source of a bind mount is an absolute path without `..`");
            }
            let below = |root: &String| Path::new(&mount.source).starts_with(root);
            if !policy.allowed_paths.iter().any(below) {
                return denied(format!("{} is not below allowed_paths of the session", mount.source));
            }
            Ok(())
        }
        Ok(MountType::Unspecified) | Err(_) => invalid("config.mounts: type is required"),
    }
}

#[cfg(test)]
pub(in crate::domain) mod tests;
