//! Where Docker and Podman listen.

use std::fmt;
use std::path::{Path, PathBuf};

use bollard::API_DEFAULT_VERSION;

use crate::{Error, Result};

/// The API answers slowly on purpose, to a wait for an exit: the caller has the deadline.
const NEVER_SECONDS: u64 = 10 * 365 * 24 * 3600;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Unix(PathBuf),
    Tcp(String),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix://{}", path.display()),
            Address::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

/// The environment that says where engines are, and where the usual places are.
#[derive(Debug, Default)]
pub(crate) struct Environment {
    pub docker_host: String,
    pub container_host: String,
    pub runtime_dir: Option<PathBuf>,
    pub home: Option<PathBuf>,
}

impl Environment {
    pub fn here() -> Self {
        let text = |name| std::env::var(name).unwrap_or_default();
        Environment {
            docker_host: text("DOCKER_HOST"),
            container_host: text("CONTAINER_HOST"),
            runtime_dir: std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from),
            home: std::env::var_os("HOME").map(PathBuf::from),
        }
    }

    /// Where Docker may be, most wanted first. `host` is the config's, and then the only one.
    pub fn docker(&self, host: &str) -> Result<Vec<Address>> {
        for named in [host, &self.docker_host] {
            if !named.is_empty() {
                return Ok(vec![Address::parse(named)?]);
            }
        }
        let run = self.runtime_dir.as_deref().map(|dir| dir.join("docker.sock"));
        let desktop = self.home.as_deref().map(|dir| dir.join(".docker/run/docker.sock"));
        Ok(unix([Some("/var/run/docker.sock".into()), run, desktop]))
    }

    /// Where Podman may be: its own user's socket before root's.
    pub fn podman(&self, host: &str) -> Result<Vec<Address>> {
        for named in [host, &self.container_host] {
            if !named.is_empty() {
                return Ok(vec![Address::parse(named)?]);
            }
        }
        let own = self.runtime_dir.as_deref().map(|dir| dir.join("podman/podman.sock"));
        Ok(unix([own, Some("/run/podman/podman.sock".into()), None]))
    }
}

fn unix(paths: [Option<PathBuf>; 3]) -> Vec<Address> {
    paths.into_iter().flatten().map(Address::Unix).collect()
}

impl Address {
    pub fn parse(host: &str) -> Result<Address> {
        if let Some(path) = host.strip_prefix("unix://") {
            return Ok(Address::Unix(path.into()));
        }
        if Path::new(host).is_absolute() {
            return Ok(Address::Unix(host.into()));
        }
        if let Some(address) = host.strip_prefix("tcp://").or_else(|| host.strip_prefix("http://")) {
            return Ok(Address::Tcp(address.into()));
        }
        Err(Error::Unusable {
            engine: "docker",
            why: format!("{host} is neither unix:///path nor tcp://host:port; for another host, forward its socket"),
        })
    }

    /// Whether there is anything to dial.
    pub fn exists(&self) -> bool {
        match self {
            Address::Unix(path) => path.exists(),
            Address::Tcp(_) => true,
        }
    }

    /// The user of who listens there.
    pub async fn owner(&self) -> Option<u32> {
        let Address::Unix(path) = self else { return None };
        let line = tokio::net::UnixStream::connect(path).await.ok()?;
        Some(line.peer_cred().ok()?.uid())
    }

    pub fn dial(&self) -> Result<bollard::Docker> {
        let dialled = match self {
            Address::Unix(path) => {
                bollard::Docker::connect_with_unix(&path.to_string_lossy(), NEVER_SECONDS, API_DEFAULT_VERSION)
            }
            Address::Tcp(address) => bollard::Docker::connect_with_http(address, NEVER_SECONDS, API_DEFAULT_VERSION),
        };
        dialled.map_err(|error| Error::Unavailable {
            engine: "docker",
            why: format!("{self}: {error}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_place_is_the_only_one() {
        let around = Environment {
            docker_host: "tcp://127.0.0.1:2375".into(),
            ..Environment::default()
        };
        assert_eq!(around.docker("").unwrap(), [Address::Tcp("127.0.0.1:2375".into())]);
        assert_eq!(
            around.docker("unix:///x.sock").unwrap(),
            [Address::Unix("/x.sock".into())]
        );
        assert_eq!(
            around.podman("").unwrap(),
            [Address::Unix("/run/podman/podman.sock".into())]
        );
        assert!(
            around
                .docker("ssh://elsewhere")
                .unwrap_err()
                .to_string()
                .contains("forward its socket")
        );
    }

    #[test]
    fn the_usual_places_are_tried_in_order() {
        let around = Environment {
            runtime_dir: Some("/run/user/7".into()),
            home: Some("/home/u".into()),
            ..Environment::default()
        };
        let docker = [
            "/var/run/docker.sock",
            "/run/user/7/docker.sock",
            "/home/u/.docker/run/docker.sock",
        ];
        assert_eq!(
            around.docker("").unwrap(),
            docker.map(|path| Address::Unix(path.into()))
        );
        let podman = ["/run/user/7/podman/podman.sock", "/run/podman/podman.sock"];
        assert_eq!(
            around.podman("").unwrap(),
            podman.map(|path| Address::Unix(path.into()))
        );
    }
}
