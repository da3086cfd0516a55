use nexus_proto::orchestrator::v1::{PortBinding, RestartPolicy};

use super::*;

pub(in crate::domain) fn policy() -> Policy {
    let limits = |nano_cpus, memory_bytes, pids_limit| ResourceLimits {
        nano_cpus,
        memory_bytes,
        memory_swap: 0,
        pids_limit,
    };
    Policy {
        max_containers: 100,
        max_per_session: 10,
        images: Vec::new(),
        registries: Vec::new(),
        default_limits: limits(1_000_000_000, 512 << 20, 256),
        max_limits: limits(4_000_000_000, 8 << 30, 1024),
        allow_root: false,
        allow_writable_root: false,
    }
}

fn session(policy: SessionPolicy) -> SessionConfig {
    SessionConfig {
        policy: Some(policy),
        ..SessionConfig::default()
    }
}

fn apply(rules: SessionPolicy, config: ContainerConfig) -> Result<ContainerConfig, Error> {
    policy().apply(&session(rules), config, true)
}

#[test]
fn what_says_nothing_gets_the_safe_defaults() {
    let made = apply(SessionPolicy::default(), ContainerConfig::default()).unwrap();
    assert_eq!(
        (made.image.as_str(), made.working_dir.as_str()),
        ("nexus/host", "/workspace")
    );
    assert_eq!(made.network_mode, "none");
    assert!(made.read_only_rootfs);
    let limits = made.resources.unwrap();
    assert_eq!(
        (limits.nano_cpus, limits.memory_bytes, limits.pids_limit),
        (1_000_000_000, 512 << 20, 256)
    );
}

fn refused(rules: SessionPolicy, config: ContainerConfig, forbidden: bool, says: &str) {
    let error = apply(rules, config).unwrap_err();
    let kind = if forbidden {
        matches!(error, Error::Forbidden(_))
    } else {
        matches!(error, Error::Invalid(_))
    };
    assert!(kind && error.to_string().contains(says), "{error:?} should say {says}");
}

#[test]
fn the_network_is_what_the_session_allows() {
    let with = |mode: &str| ContainerConfig {
        network_mode: mode.into(),
        ..ContainerConfig::default()
    };
    refused(SessionPolicy::default(), with("bridge"), true, "allow_network");
    let open = SessionPolicy {
        allow_network: true,
        ..SessionPolicy::default()
    };
    apply(open.clone(), with("bridge")).unwrap();
    refused(open.clone(), with("host"), true, "no isolation");
    refused(open.clone(), with("container:abc"), true, "no isolation");
    refused(open.clone(), with("other"), true, "allowed_networks");
    let other = SessionPolicy {
        allowed_networks: vec!["other".into()],
        ..open
    };
    apply(other.clone(), with("other")).unwrap();
    refused(other.clone(), with("bridge"), true, "allowed_networks");
    let port = PortBinding {
        container_port: 80,
        host_ip: "0.0.0.0".into(),
        ..PortBinding::default()
    };
    let ports = ContainerConfig {
        ports: vec![port],
        ..with("other")
    };
    refused(other, ports, true, "loopback");
}

#[test]
fn mounts_stay_where_they_may() {
    let mount = |kind: MountType, source: &str, target: &str| ContainerConfig {
        mounts: vec![Mount {
            r#type: kind.into(),
            source: source.into(),
            target: target.into(),
            read_only: false,
        }],
        ..ContainerConfig::default()
    };
    let rules = SessionPolicy {
        allowed_paths: vec!["/srv/data".into()],
        ..SessionPolicy::default()
    };
    apply(rules.clone(), mount(MountType::Bind, "/srv/data/x", "/x")).unwrap();
    refused(
        rules.clone(),
        mount(MountType::Bind, "/srv/database", "/x"),
        true,
        "allowed_paths",
    );
    refused(
        rules.clone(),
        mount(MountType::Bind, "/srv/data/../../etc", "/x"),
        false,
        "..",
    );
    refused(
        rules.clone(),
        mount(MountType::Bind, "/srv/data", "/proc/x"),
        false,
        "no place",
    );
    refused(
        rules.clone(),
        mount(MountType::Bind, "/srv/data", "/workspace"),
        false,
        "twice",
    );
    refused(
        rules.clone(),
        mount(MountType::Volume, "v", "/v"),
        true,
        "allow_volume_mount",
    );
    refused(rules, mount(MountType::Volume, "../v", "/v"), false, "name");
}

#[test]
fn limits_of_the_session_and_the_operator_hold() {
    let asks = |memory_bytes| ContainerConfig {
        resources: Some(ResourceLimits {
            memory_bytes,
            ..ResourceLimits::default()
        }),
        ..ContainerConfig::default()
    };
    refused(SessionPolicy::default(), asks(9 << 30), true, "memory_bytes");
    refused(SessionPolicy::default(), asks(-1), false, "negative");
    let small = SessionConfig {
        resource_limits: Some(ResourceLimits {
            memory_bytes: 64 << 20,
            ..ResourceLimits::default()
        }),
        ..SessionConfig::default()
    };
    assert!(policy().apply(&small, asks(65 << 20), true).is_err());
    let made = policy().apply(&small, asks(0), true).unwrap();
    assert_eq!(
        made.resources.unwrap().memory_bytes,
        64 << 20,
        "the default is cut to the session's"
    );
}

#[test]
fn images_users_labels_and_policies_are_checked() {
    let of = |image: &str| ContainerConfig {
        image: image.into(),
        ..ContainerConfig::default()
    };
    let listed = SessionConfig {
        allowed_images: vec!["alpine".into(), "ghcr.io/us/*".into()],
        ..SessionConfig::default()
    };
    for fine in ["alpine", "alpine:3.20", "ghcr.io/us/tool:1"] {
        policy().apply(&listed, of(fine), true).unwrap();
    }
    for wrong in ["alpine-evil", "ghcr.io/them/tool", ""] {
        let error = policy().apply(&listed, of(wrong), true).unwrap_err();
        assert!(matches!(error, Error::Forbidden(_)), "{wrong}");
    }
    for user in ["0", "root", "00:5", "+0", "-0:5"] {
        let config = ContainerConfig {
            user: user.into(),
            ..ContainerConfig::default()
        };
        refused(SessionPolicy::default(), config, true, "container_allow_root");
    }
    let writable = ContainerConfig {
        writable_rootfs: Some(true),
        ..ContainerConfig::default()
    };
    refused(SessionPolicy::default(), writable, true, "writable");
    let labelled = ContainerConfig {
        labels: [("nexus.session".to_owned(), "other".to_owned())].into(),
        ..ContainerConfig::default()
    };
    refused(SessionPolicy::default(), labelled, false, "nexus.session");
    let often = ContainerConfig {
        restart_policy: Some(RestartPolicy {
            name: "sometimes".into(),
            ..RestartPolicy::default()
        }),
        ..ContainerConfig::default()
    };
    refused(SessionPolicy::default(), often, false, "restart_policy");
    let rules = SessionPolicy {
        require_approval: true,
        ..SessionPolicy::default()
    };
    assert!(
        policy()
            .apply(&session(rules.clone()), ContainerConfig::default(), false)
            .is_err()
    );
    policy()
        .apply(&session(rules), ContainerConfig::default(), true)
        .unwrap();
}

/// A user names an image at a registry of their own: it is not fetched, whatever that registry would answer.
#[test]
fn users_have_only_what_is_named_fetched() {
    let denied = |policy: &Policy, image: &str, trusted: bool, what: &str| {
        let error = policy.may_fetch(image, trusted).unwrap_err();
        assert!(
            matches!(&error, Error::Forbidden(text) if text.contains(what)),
            "{image}: {error}"
        );
    };
    let plain = policy();
    plain.may_fetch("anything.example/tool", true).unwrap();
    for image in ["alpine", "evil.example/tool", "127.0.0.1:5000/tool"] {
        denied(&plain, image, false, "container_images");
    }
    let named = Policy {
        images: vec!["alpine".into(), "ghcr.io/us/*".into()],
        registries: vec!["docker.io".into(), "ghcr.io".into()],
        ..policy()
    };
    for image in ["alpine", "docker.io/library/alpine:3", "ghcr.io/us/tool"] {
        named.may_fetch(image, false).unwrap();
    }
    for image in ["alpine.evil.example/tool", "evil.example/alpine", "ghcr.io/them/tool"] {
        denied(&named, image, false, "container_images");
    }
    denied(&named, "evil.example/tool", true, "container_registries");
    let all = Policy {
        images: vec!["*".into()],
        ..named
    };
    denied(&all, "evil.example/tool", false, "container_registries");
    all.may_fetch("someone/tool", false).unwrap();
}

#[test]
fn a_registry_is_a_host_and_a_port() {
    for fine in ["docker.io", "ghcr.io", "127.0.0.1:5000", "localhost", "localhost:5000"] {
        assert!(is_registry(fine), "{fine}");
    }
    for odd in ["", "https://ghcr.io", "ghcr.io/us", "ghcr", "*", "ghcr.io/"] {
        assert!(!is_registry(odd), "{odd}");
    }
}

/// The attack: twenty megabytes of environment, that no engine takes, and that everybody who lists containers would get.
#[test]
fn a_config_is_bounded_and_told_the_bound() {
    let with = |bytes: usize| ContainerConfig {
        env: [("A".to_owned(), "x".repeat(bytes))].into(),
        ..ContainerConfig::default()
    };
    let none = SessionPolicy::default;
    apply(none(), with(MOST_ARGUMENT - 3)).unwrap();
    refused(none(), with(MOST_ARGUMENT - 2), false, "at most 131071 are taken");
    refused(none(), with(20 << 20), false, "at most 2097152 are taken");
    let args = ContainerConfig {
        args: vec!["x".repeat(MOST_ARGUMENT)],
        ..ContainerConfig::default()
    };
    refused(none(), args, false, "config.args");
}
