//! Probes an engine's address: its name, its version, and what it cannot do.

use std::collections::BTreeSet;

use bollard::models::{SystemInfo, SystemInfoCgroupVersionEnum, SystemVersion};

use super::{Address, convert};
use crate::{Error, Limit, Probe, Result};

/// Docker 20.10 and Podman 4 speak it; below it statistics block for a second and mounts are half there.
const OLDEST_API: (u32, u32) = (1, 40);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Docker,
    Podman,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Docker => "docker",
            Kind::Podman => "podman",
        }
    }
}

pub(super) struct Seen {
    pub client: bollard::Docker,
    pub kind: Kind,
    pub rootless: bool,
    /// Whether what a container uses is counted: for an ordinary user only version 2 of control groups does.
    pub counts: bool,
    pub probe: Probe,
}

pub(super) async fn look(client: &bollard::Docker, place: &Address) -> Result<Seen> {
    let away = |error| Error::Unavailable {
        engine: "docker",
        why: format!("{place}: {error}"),
    };
    let client = client.clone().negotiate_version().await.map_err(away)?;
    let version = client.version().await.map_err(away)?;
    let kind = kind_of(&version);
    let info = client.info().await.map_err(|e| convert::failed(kind.name(), e))?;
    check(kind, &version)?;
    let security = info.security_options.as_deref().unwrap_or_default();
    if !security.iter().any(|option| option.contains("seccomp")) {
        return Err(Error::Unusable {
            engine: kind.name(),
            why: "it filters no system calls; it has to be built with seccomp, and so has the kernel".into(),
        });
    }
    // Podman says it where clients of Docker do not look; whose process it is says the same.
    let owner = place.owner().await;
    let rootless = security.iter().any(|option| option.contains("name=rootless"))
        || kind == Kind::Podman && owner.is_some_and(|owner| owner != 0);
    let mut notes: Vec<String> = Vec::new();
    let tells_oom = tells_oom(kind, version.version.as_deref().unwrap_or_default());
    if !tells_oom {
        notes.push("Podman before 5.0 does not report that memory ran out: such a container ends with 137".into());
    }
    let probe = Probe {
        engine: kind.name(),
        version: version.version.unwrap_or_default(),
        place: place.to_string(),
        unenforced: unenforced(kind, rootless.then_some(owner), &info),
        rootless,
        isolates: true,
        network: true,
        tells_oom,
        notes,
    };
    Ok(Seen {
        client,
        kind,
        rootless,
        counts: !rootless || info.cgroup_version != Some(SystemInfoCgroupVersionEnum::_1),
        probe,
    })
}

fn kind_of(version: &SystemVersion) -> Kind {
    let parts = version.components.as_deref().unwrap_or_default();
    if parts.iter().any(|part| part.name.contains("Podman")) {
        Kind::Podman
    } else {
        Kind::Docker
    }
}

/// Podman looks for its monitor's word on that at the wrong place until 5.0 (containers/podman, 21523).
fn tells_oom(kind: Kind, version: &str) -> bool {
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    kind == Kind::Docker || major.is_some_and(|major| major >= 5)
}

fn check(kind: Kind, version: &SystemVersion) -> Result<()> {
    let unusable = |why: String| {
        Err(Error::Unusable {
            engine: kind.name(),
            why,
        })
    };
    let api = version.api_version.as_deref().unwrap_or_default();
    let numbers = api
        .split_once('.')
        .and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    let named = version.version.as_deref().unwrap_or("unknown");
    match numbers {
        Some(numbers) if numbers >= OLDEST_API => {}
        _ => {
            let (major, minor) = OLDEST_API;
            let newer = "install Docker 20.10 or Podman 4, or newer";
            return unusable(format!(
                "version {named} has API {api}, and {major}.{minor} is needed; {newer}"
            ));
        }
    }
    match version.os.as_deref() {
        Some("linux") | None => Ok(()),
        Some(os) => unusable(format!("it runs {os} containers, and linux ones are needed")),
    }
}

/// `rootless`: with its user, where that is known.
fn unenforced(kind: Kind, rootless: Option<Option<u32>>, info: &SystemInfo) -> BTreeSet<Limit> {
    let said = [
        (Limit::Memory, info.memory_limit),
        (Limit::Cpu, info.cpu_cfs_quota),
        (Limit::Pids, info.pids_limit),
    ];
    let mut missing: BTreeSet<Limit> = said
        .into_iter()
        .filter(|(_, has)| *has == Some(false))
        .map(|(limit, _)| limit)
        .collect();
    let Some(owner) = rootless else { return missing };
    if info.cgroup_version == Some(SystemInfoCgroupVersionEnum::_1) {
        missing.extend([Limit::Memory, Limit::Cpu, Limit::Pids]);
    } else if let (Kind::Podman, Some(uid)) = (kind, owner) {
        // It tells what the host has, not what was handed down to its user.
        let path = format!("/sys/fs/cgroup/user.slice/user-{uid}.slice/user@{uid}.service/cgroup.controllers");
        if let Ok(handed) = std::fs::read_to_string(path) {
            let lacks = |name: &str| !handed.split_whitespace().any(|one| one == name);
            let all = [Limit::Memory, Limit::Cpu, Limit::Pids];
            missing.extend(all.into_iter().filter(|limit| lacks(limit.name())));
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(api: &str, os: &str) -> SystemVersion {
        SystemVersion {
            version: Some("9.9".into()),
            api_version: Some(api.into()),
            os: Some(os.into()),
            ..SystemVersion::default()
        }
    }

    #[test]
    fn an_old_podman_is_known_not_to_tell_of_memory() {
        assert!(tells_oom(Kind::Docker, "20.10.24+dfsg1"));
        assert!(!tells_oom(Kind::Podman, "4.3.1") && !tells_oom(Kind::Podman, "4.9.5"));
        assert!(tells_oom(Kind::Podman, "5.0.0") && tells_oom(Kind::Podman, "5.4.2-dev"));
    }

    #[test]
    fn what_is_too_old_is_refused_with_what_to_install() {
        let error = check(Kind::Docker, &version("1.24", "linux")).unwrap_err().to_string();
        assert!(
            error.contains("9.9") && error.contains("install Docker 20.10"),
            "{error}"
        );
        check(Kind::Docker, &version("1.41", "linux")).unwrap();
        assert!(check(Kind::Docker, &version("1.41", "windows")).is_err());
    }

    #[test]
    fn an_ordinary_users_engine_on_the_old_cgroups_limits_nothing() {
        let info = SystemInfo {
            memory_limit: Some(true),
            cpu_cfs_quota: Some(true),
            pids_limit: Some(true),
            cgroup_version: Some(SystemInfoCgroupVersionEnum::_1),
            ..SystemInfo::default()
        };
        assert_eq!(unenforced(Kind::Podman, Some(Some(1001)), &info).len(), 3);
        assert!(unenforced(Kind::Podman, None, &info).is_empty());
        let without = SystemInfo {
            pids_limit: Some(false),
            ..info
        };
        assert_eq!(unenforced(Kind::Docker, None, &without), BTreeSet::from([Limit::Pids]));
    }
}
