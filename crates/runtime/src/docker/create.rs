//! Converts a spec to the API's create request.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigLogConfig, Mount as ApiMount, MountBindOptions,
    MountBindOptionsPropagationEnum, MountType, PortBinding, PortMap,
};
use bollard::query_parameters::CreateContainerOptions;

use super::probe::Kind;
use super::{Docker, convert, seccomp};
use crate::{ContainerSpec, Error, HostUser, Limits, Mount, MountKind, NetworkMode, Result};

/// `/tmp` and other memory that says no size.
const TMPFS_BYTES: u64 = 64 << 20;
/// Files that Docker keeps of a log; Podman has one.
const LOG_FILES: u64 = 2;

impl Docker {
    pub(super) async fn create_it(&self, spec: &ContainerSpec) -> Result<String> {
        let mut body = body(spec, self.kind, self.rootless)?;
        let filter = seccomp::option(self.kind, &self.directory).await?;
        let host = body.host_config.get_or_insert_default();
        host.security_opt.get_or_insert_default().push(filter);
        let options = CreateContainerOptions {
            name: Some(spec.name.clone()),
            platform: String::new(),
        };
        let made = self.client.create_container(Some(options), body).await;
        match made {
            Ok(made) => Ok(made.id),
            Err(error) => Err(match convert::answered(&error) {
                Some((404, why)) => Error::ImageNotFound {
                    image: spec.image.clone(),
                    why: why.into(),
                },
                Some((409, _)) => Error::Exists(spec.name.clone()),
                Some((500, why)) if why.contains("already in use") => Error::Exists(spec.name.clone()),
                Some((500, why)) if why.contains("no such image") || why.contains("image not known") => {
                    Error::ImageNotFound {
                        image: spec.image.clone(),
                        why: why.into(),
                    }
                }
                Some((400, why)) => Error::Invalid(why.into()),
                Some((_, why)) => seccomp::unread(why).unwrap_or_else(|| self.failed(error)),
                None => self.failed(error),
            }),
        }
    }
}

/// Who the owner of what is mounted is inside. A rootless Podman keeps the numbers of its user (`keep-id`); in a rootless
/// Docker that user is root, and everybody else somebody whom the host does not know.
fn inside(owner: &HostUser, kind: Kind, rootless: bool) -> String {
    match kind {
        Kind::Docker if rootless => "0:0".into(),
        Kind::Docker | Kind::Podman => owner.numbers(),
    }
}

fn body(spec: &ContainerSpec, kind: Kind, rootless: bool) -> Result<ContainerCreateBody> {
    let user = match &spec.owner {
        Some(owner) => {
            let inside = inside(owner, kind, rootless);
            owner.check(kind.name(), spec, &inside)?;
            if spec.user.is_empty() {
                inside
            } else {
                spec.user.clone()
            }
        }
        None => spec.user.clone(),
    };
    let (exposed, bindings) = ports(spec);
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let list = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    Ok(ContainerCreateBody {
        image: Some(spec.image.clone()),
        entrypoint: list(&spec.entrypoint),
        cmd: list(&spec.args),
        env: Some(spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        working_dir: text(&spec.working_dir),
        user: text(&user),
        labels: Some(convert::map(&spec.labels)),
        tty: spec.collect.map(|collect| collect.tty.is_some()),
        open_stdin: spec.collect.map(|collect| collect.stdin),
        stdin_once: spec.collect.map(|collect| collect.stdin),
        exposed_ports: (!exposed.is_empty()).then_some(exposed),
        host_config: Some(host(spec, bindings, kind, rootless)),
        ..ContainerCreateBody::default()
    })
}

fn host(spec: &ContainerSpec, bindings: PortMap, kind: Kind, rootless: bool) -> HostConfig {
    let limited = |limit: u64| (limit > 0).then(|| i64::try_from(limit).unwrap_or(i64::MAX));
    let Limits {
        memory_bytes,
        memory_swap_bytes,
        nano_cpus,
        pids,
    } = spec.limits;
    let swap = if memory_swap_bytes == 0 {
        memory_bytes
    } else {
        memory_swap_bytes
    };
    let log = match kind {
        Kind::Docker => HashMap::from([
            ("max-size".to_owned(), (spec.log_limit() / LOG_FILES).to_string()),
            ("max-file".to_owned(), LOG_FILES.to_string()),
        ]),
        Kind::Podman => HashMap::from([("max-size".to_owned(), spec.log_limit().to_string())]),
    };
    HostConfig {
        memory: limited(memory_bytes),
        memory_swap: limited(swap),
        nano_cpus: limited(nano_cpus),
        pids_limit: limited(pids),
        network_mode: Some(match &spec.network {
            NetworkMode::None => "none".into(),
            NetworkMode::Bridge => "default".into(),
            NetworkMode::Named(name) => name.clone(),
            NetworkMode::Container(id) => format!("container:{id}"),
        }),
        readonly_rootfs: Some(!spec.writable_rootfs),
        // A rootless engine cannot give groups of the host.
        group_add: spec.owner.as_ref().filter(|_| !rootless).map(groups),
        cap_drop: Some(vec!["ALL".into()]),
        security_opt: Some(vec!["no-new-privileges".into()]),
        port_bindings: (!bindings.is_empty()).then_some(bindings),
        mounts: Some(spec.mounts.iter().filter_map(bind).collect()),
        tmpfs: Some(tmpfs(spec)),
        // Otherwise files of the user's own would be another's inside.
        userns_mode: (rootless && kind == Kind::Podman).then(|| "keep-id".into()),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".into()),
            config: Some(log),
        }),
        ..HostConfig::default()
    }
}

fn groups(owner: &HostUser) -> Vec<String> {
    owner.groups.iter().map(u32::to_string).collect()
}

fn bind(mount: &Mount) -> Option<ApiMount> {
    let (MountKind::Bind(source) | MountKind::Owned(source)) = &mount.kind else {
        return None;
    };
    Some(ApiMount {
        target: Some(mount.target.to_string_lossy().into_owned()),
        source: Some(source.to_string_lossy().into_owned()),
        typ: Some(MountType::BIND),
        read_only: Some(mount.read_only),
        bind_options: Some(MountBindOptions {
            propagation: Some(MountBindOptionsPropagationEnum::RPRIVATE),
            ..MountBindOptions::default()
        }),
        ..ApiMount::default()
    })
}

fn tmpfs(spec: &ContainerSpec) -> HashMap<String, String> {
    let options = |bytes: u64| format!("rw,nosuid,nodev,size={bytes},mode=1777");
    let mut all = HashMap::new();
    if !spec.mounts.iter().any(|mount| mount.target.as_os_str() == "/tmp") {
        all.insert("/tmp".to_owned(), options(TMPFS_BYTES));
    }
    for mount in &spec.mounts {
        if let MountKind::Tmpfs { bytes } = mount.kind {
            let bytes = if bytes == 0 { TMPFS_BYTES } else { bytes };
            all.insert(mount.target.to_string_lossy().into_owned(), options(bytes));
        }
    }
    all
}

fn ports(spec: &ContainerSpec) -> (Vec<String>, PortMap) {
    let mut bindings = PortMap::new();
    for port in &spec.ports {
        let inside = format!("{}/{}", port.container, port.protocol.name());
        let binding = PortBinding {
            host_ip: Some(port.host_ip.to_string()),
            host_port: Some(if port.host == 0 {
                String::new()
            } else {
                port.host.to_string()
            }),
        };
        bindings
            .entry(inside)
            .or_default()
            .get_or_insert_default()
            .push(binding);
    }
    (bindings.keys().cloned().collect(), bindings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_spec_is_the_safest() {
        let body = body(&ContainerSpec::default(), Kind::Docker, false).unwrap();
        let host = body.host_config.unwrap();
        assert_eq!(host.network_mode.as_deref(), Some("none"));
        assert_eq!(host.readonly_rootfs, Some(true));
        assert_eq!(host.cap_drop.unwrap(), ["ALL"]);
        assert_eq!(host.security_opt.unwrap(), ["no-new-privileges"]);
        assert_eq!(host.privileged, None);
        assert!(host.mounts.unwrap().is_empty());
        assert!(host.tmpfs.unwrap().contains_key("/tmp"));
    }

    #[test]
    fn memory_without_a_word_on_swap_swaps_nothing() {
        let spec = ContainerSpec {
            limits: Limits {
                memory_bytes: 64 << 20,
                ..Limits::default()
            },
            ..ContainerSpec::default()
        };
        let host = body(&spec, Kind::Podman, true).unwrap().host_config.unwrap();
        assert_eq!((host.memory, host.memory_swap), (Some(64 << 20), Some(64 << 20)));
        assert_eq!(host.userns_mode.as_deref(), Some("keep-id"));
    }

    /// A container as another user than the session's would leave files of that user (of root, at worst) on the host.
    #[test]
    fn what_is_mounted_is_written_as_its_owner_alone() {
        let mut spec = ContainerSpec {
            owner: Some(HostUser {
                uid: 1001,
                gid: 1002,
                groups: vec![7],
            }),
            mounts: vec![Mount {
                kind: MountKind::Bind("/srv".into()),
                target: "/workspace".into(),
                read_only: false,
            }],
            ..ContainerSpec::default()
        };
        let made = body(&spec, Kind::Docker, false).unwrap();
        assert_eq!(made.user.as_deref(), Some("1001:1002"));
        assert_eq!(made.host_config.unwrap().group_add.unwrap(), ["7"]);
        let made = body(&spec, Kind::Docker, true).unwrap();
        assert_eq!(made.user.as_deref(), Some("0:0"));
        for user in ["0", "0:0", "root", "65534:65534", "postgres"] {
            spec.user = user.into();
            let told = body(&spec, Kind::Podman, false).unwrap_err().to_string();
            assert!(told.contains("orchestrator.container_owners"), "{told}");
        }
        spec.user = "1001".into();
        assert!(body(&spec, Kind::Podman, false).is_ok());
    }
}
