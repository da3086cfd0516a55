//! Runs a spec without isolation: a command on the host, in the directory that would have been mounted.
//! What would need a mount is refused, as it cannot be had.

use std::path::{Path, PathBuf};

use nexus_sandbox::{Isolation, Mount, Run, Source};

use crate::{ContainerSpec, Error, NetworkMode, Result};

fn unsupported(what: String) -> Error {
    Error::Unsupported {
        engine: "host-unsafe",
        what,
    }
}

pub fn run(spec: &ContainerSpec, mut run: Run) -> Result<Run> {
    if let NetworkMode::Named(name) = &spec.network {
        return Err(unsupported(format!(
            "join the network {name}: commands have that of the host"
        )));
    }
    if run.collect.is_some_and(|collect| collect.tty.is_some()) {
        return Err(unsupported("give a command a terminal".into()));
    }
    let workdir = run.workdir.clone();
    for mount in &run.mounts {
        // One is what the command works in; another is where it says anyway.
        let fine = match &mount.source {
            Source::Path(source) | Source::Owned(source) => {
                workdir.starts_with(&mount.target) || (*source == mount.target && !mount.read_only)
            }
            Source::Tmpfs(_) => false,
        };
        if !fine {
            let target = mount.target.display();
            return Err(unsupported(format!(
                "mount anything at {target}: commands see the host's own files"
            )));
        }
    }
    if let Some(place) = place(&run.mounts, &workdir) {
        run.workdir = place;
    }
    if let Some(owner) = &spec.owner {
        owner.check("host-unsafe", spec, &owner.numbers())?;
        if spec.user.is_empty() {
            (run.user.uid, run.user.gid) = (owner.uid, owner.gid);
        }
    }
    run.isolation = Isolation::HostUnsafe;
    Ok(run)
}

/// Where a directory inside is on the host.
pub fn place(mounts: &[Mount], dir: &Path) -> Option<PathBuf> {
    let within = mounts.iter().filter_map(|mount| match &mount.source {
        Source::Path(source) | Source::Owned(source) => Some((dir.strip_prefix(&mount.target).ok()?, source)),
        Source::Tmpfs(_) => None,
    });
    let (rest, source) = within.min_by_key(|(rest, _)| rest.as_os_str().len())?;
    // Joined with nothing it would end in a slash.
    Some(if rest.as_os_str().is_empty() {
        source.clone()
    } else {
        source.join(rest)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace() -> Mount {
        Mount {
            source: Source::Path("/srv/work".into()),
            target: "/workspace".into(),
            read_only: false,
        }
    }

    #[test]
    fn the_working_directory_is_where_its_mount_comes_from() {
        let mut wanted = Run::new(["true"]);
        wanted.workdir = "/workspace/deep".into();
        wanted.mounts = vec![workspace()];
        let made = run(&ContainerSpec::default(), wanted).unwrap();
        assert_eq!(made.workdir, Path::new("/srv/work/deep"));
        assert_eq!(made.isolation, Isolation::HostUnsafe);
        assert_eq!(place(&[workspace()], Path::new("/tmp")), None);
    }

    #[test]
    fn what_needs_a_mount_is_refused() {
        let mut wanted = Run::new(["true"]);
        wanted.workdir = "/workspace".into();
        for (target, read_only) in [("/data", false), ("/srv/data", true)] {
            let data = Mount {
                source: Source::Path("/srv/data".into()),
                target: target.into(),
                read_only,
            };
            wanted.mounts = vec![workspace(), data];
            assert!(run(&ContainerSpec::default(), wanted.clone()).is_err(), "{target}");
        }
    }
}
