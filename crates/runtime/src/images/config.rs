//! The config of an image: how it is run, and its users.

use std::io::Read;
use std::path::{Path, PathBuf};

use nexus_sandbox::User;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The part of an image's config that is used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    #[serde(deserialize_with = "absent", alias = "Entrypoint")]
    pub entrypoint: Vec<String>,
    #[serde(deserialize_with = "absent", alias = "Cmd")]
    pub command: Vec<String>,
    /// `KEY=value`.
    #[serde(deserialize_with = "absent", alias = "Env")]
    pub env: Vec<String>,
    #[serde(deserialize_with = "absent", alias = "WorkingDir")]
    pub working_dir: String,
    #[serde(deserialize_with = "absent", alias = "User")]
    pub user: String,
}

/// Writers put null where they have nothing.
pub fn absent<'de, D, T>(from: D) -> std::result::Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// The file that a manifest calls its config.
#[derive(Debug, Default, Deserialize)]
pub struct ConfigFile {
    #[serde(default, deserialize_with = "absent")]
    pub config: ImageConfig,
    #[serde(default, deserialize_with = "absent")]
    pub architecture: String,
    #[serde(default, deserialize_with = "absent")]
    pub os: String,
    pub rootfs: Layers,
}

/// Digests of the layers as they are once unpacked, the lowest first.
#[derive(Debug, Default, Deserialize)]
pub struct Layers {
    pub diff_ids: Vec<String>,
}

/// An image ready to be used.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// `sha256:...` of its config; empty for that of the host.
    pub digest: String,
    /// `None`: the host's own system.
    pub rootfs: Option<PathBuf>,
    pub config: ImageConfig,
}

/// The largest list of users that is read.
const MAX_USERS: u64 = 1 << 20;

impl Resolved {
    pub fn host() -> Resolved {
        Resolved {
            digest: String::new(),
            rootfs: None,
            config: ImageConfig::default(),
        }
    }

    /// `uid`, `uid:gid`, `name` or `name:group`, as the image knows them.
    pub fn user(&self, text: &str) -> Result<User> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let unknown = |what: &str| Error::Invalid(format!("there is no {what} in the image"));
        let (uid, own_gid) = match user.parse::<u32>() {
            Ok(uid) => {
                let known = self.lookup("passwd", |fields| fields.get(2).is_some_and(|field| *field == user));
                (uid, known.and_then(|line| line.get(3)?.parse().ok()).unwrap_or(uid))
            }
            Err(_) => {
                let line = self.lookup("passwd", |fields| fields.first().is_some_and(|name| *name == user));
                let line = line.ok_or_else(|| unknown(&format!("user {user}")))?;
                let number = |at: usize| line.get(at).and_then(|field| field.parse::<u32>().ok());
                let both = number(2).zip(number(3));
                both.ok_or_else(|| unknown(&format!("user {user} with numbers")))?
            }
        };
        let gid = match group {
            None => own_gid,
            Some(group) => match group.parse() {
                Ok(gid) => gid,
                Err(_) => {
                    let line = self.lookup("group", |fields| fields.first().is_some_and(|name| *name == group));
                    let gid = line.and_then(|line| line.get(2)?.parse().ok());
                    gid.ok_or_else(|| unknown(&format!("group {group}")))?
                }
            },
        };
        if uid == u32::MAX || gid == u32::MAX {
            return Err(Error::Invalid(format!(
                "{text} is no user: the kernel has no such number"
            )));
        }
        Ok(User { uid, gid })
    }

    fn lookup(&self, file: &str, wanted: impl Fn(&[&str]) -> bool) -> Option<Vec<String>> {
        let text = match &self.rootfs {
            // The host's own list is not shown inside; these two are.
            None => String::from("root:x:0:0\nnobody:x:65534:65534\n"),
            Some(rootfs) => read_inside(rootfs, &Path::new("etc").join(file))?,
        };
        let mut lines = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let found = lines.find(|fields| wanted(fields))?;
        Some(found.into_iter().map(str::to_string).collect())
    }
}

fn read_inside(rootfs: &Path, path: &Path) -> Option<String> {
    use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
    let root = openat(
        CWD,
        rootfs,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .ok()?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = std::fs::File::from(openat2(&root, path, flags, Mode::empty(), resolve).ok()?);
    let mut text = String::new();
    file.take(MAX_USERS).read_to_string(&mut text).ok()?;
    Some(text)
}
