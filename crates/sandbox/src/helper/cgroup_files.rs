//! The hierarchies of control groups that this host has, and where in them this user may make one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    One,
    Two,
}

#[derive(Debug)]
pub struct Hierarchies {
    mounts: Vec<Hierarchy>,
}

#[derive(Debug)]
struct Hierarchy {
    version: Version,
    /// Of version 1; version 2 says by directory what it has.
    controllers: Vec<String>,
    mount: PathBuf,
    /// The group that the mount shows as its root.
    root: PathBuf,
    /// Ours.
    own: PathBuf,
}

impl Hierarchies {
    pub fn read() -> io::Result<Hierarchies> {
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        Ok(Hierarchies {
            mounts: parse(&own, &mounts),
        })
    }

    /// A new group with this controller, below or beside our own, or below the one that is named.
    pub fn make(&self, controller: &str, below: Option<&str>, name: &str) -> Option<(Version, PathBuf)> {
        let one = self
            .mounts
            .iter()
            .find(|h| h.controllers.iter().any(|has| has == controller));
        if let Some(hierarchy) = one {
            let dir = hierarchy
                .dir(below.map_or(hierarchy.own.as_path(), Path::new))?
                .join(name);
            fs::create_dir(&dir).ok()?;
            return Some((Version::One, dir));
        }
        if controller == "cpuacct" {
            return None;
        }
        let two = self.mounts.iter().find(|h| h.version == Version::Two)?;
        let start = below.map_or(two.own.as_path(), Path::new);
        let most = if below.is_some() { 1 } else { usize::MAX };
        start
            .ancestors()
            .take(most)
            .find_map(|parent| {
                let parent = two.dir(parent)?;
                make_two(&parent, controller, name)
            })
            .map(|dir| (Version::Two, dir))
    }
}

/// A group of version 2 has a controller only if its parent passes it on.
fn make_two(parent: &Path, controller: &str, name: &str) -> Option<PathBuf> {
    let has = |file: PathBuf| {
        fs::read_to_string(file).is_ok_and(|text| text.split_whitespace().any(|word| word == controller))
    };
    if !has(parent.join("cgroup.controllers")) {
        return None;
    }
    let passed_on = parent.join("cgroup.subtree_control");
    if !has(passed_on.clone()) && fs::write(&passed_on, format!("+{controller}")).is_err() {
        return None;
    }
    // To move a process, its old and new group must have a parent that this user may write to.
    if !writable(&parent.join("cgroup.procs")) {
        return None;
    }
    let dir = parent.join(name);
    match fs::create_dir(&dir) {
        Ok(()) => Some(dir),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Some(dir),
        Err(_) => None,
    }
}

fn writable(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok()
}

impl Hierarchy {
    /// Where a group is in the file system, if this mount shows it.
    fn dir(&self, group: &Path) -> Option<PathBuf> {
        let rest = group.strip_prefix(&self.root).ok()?;
        Some(self.mount.join(rest))
    }
}

fn parse(own: &str, mounts: &str) -> Vec<Hierarchy> {
    let own_of = |wanted: &dyn Fn(&str) -> bool| {
        own.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            wanted(controllers).then(|| PathBuf::from(path))
        })
    };
    let mut found = Vec::new();
    for line in mounts.lines() {
        let Some((before, after)) = line.split_once(" - ") else {
            continue;
        };
        let before: Vec<&str> = before.split(' ').collect();
        let after: Vec<&str> = after.split(' ').collect();
        let ([_, _, _, root, mount, ..], [kind, _, options, ..]) = (&before[..], &after[..]) else {
            continue;
        };
        let controllers: Vec<String> = match *kind {
            "cgroup" => options.split(',').map(str::to_string).collect(),
            "cgroup2" => Vec::new(),
            _ => continue,
        };
        let own = match *kind {
            "cgroup2" => own_of(&str::is_empty),
            _ => own_of(&|names: &str| names.split(',').any(|name| controllers.iter().any(|has| has == name))),
        };
        found.push(Hierarchy {
            version: if *kind == "cgroup2" { Version::Two } else { Version::One },
            controllers,
            mount: PathBuf::from(mount),
            root: PathBuf::from(root),
            own: own.unwrap_or_else(|| PathBuf::from("/")),
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_hosts_are_understood() {
        let own = "9:name=systemd:/\n5:devices:/\n4:memory:/a/b\n2:cpu,cpuacct:/c\n0::/d\n";
        let mounts = "\
            30 29 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
            31 30 0:27 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
            32 30 0:28 /c /sys/fs/cgroup/cpu,cpuacct rw shared:1 - cgroup cgroup rw,cpu,cpuacct\n\
            33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let found = parse(own, mounts);
        assert_eq!(found.len(), 3);
        assert_eq!(found[0].dir(&found[0].own), Some("/sys/fs/cgroup/memory/a/b".into()));
        assert_eq!(found[1].dir(&found[1].own), Some("/sys/fs/cgroup/cpu,cpuacct".into()));
        assert_eq!(
            found[1].dir(Path::new("/elsewhere")),
            None,
            "the mount does not show it"
        );
        assert_eq!((found[2].version, found[2].own.clone()), (Version::Two, "/d".into()));
    }
}
