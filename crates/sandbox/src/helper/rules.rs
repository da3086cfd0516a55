//! Landlock: enforces the same boundaries by a second mechanism, so that one mistake is not enough.

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};

use crate::spec::{Landlock, Network, Run};
use crate::sys;

use super::step::{Result, failed};

/// The newest version that is used. What an older kernel does not know is left out, and the version is told.
const NEWEST: ABI = ABI::V6;

pub fn restrict(run: &Run) -> Result<u32> {
    let version = sys::landlock_version();
    if version == 0 {
        return match run.landlock {
            Landlock::IfPresent => Ok(0),
            Landlock::Required => Err(failed(
                "landlock",
                "this kernel has none",
                "Linux 5.13 or later with CONFIG_SECURITY_LANDLOCK, and landlock in the boot parameter lsm=; or \
                 allow to do without it",
            )),
        };
    }
    let status = apply(run).map_err(|error| failed("landlock", error.to_string(), ""))?;
    if status == RulesetStatus::NotEnforced {
        return Err(failed("landlock", "the kernel did not take the rules", ""));
    }
    Ok(version)
}

fn apply(run: &Run) -> std::result::Result<RulesetStatus, Box<dyn std::error::Error>> {
    let everything = AccessFs::from_all(NEWEST);
    let read = AccessFs::from_read(NEWEST);
    let devices = AccessFs::MakeChar | AccessFs::MakeBlock;
    let write: BitFlags<AccessFs> = everything & !devices;
    let in_place = read | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev;

    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(everything)?;
    if run.network == Network::HostUnsafe {
        rules = rules.scope(Scope::AbstractUnixSocket)?;
    }
    let mut rules = rules.create()?;
    rules = rules.add_rule(PathBeneath::new(
        PathFd::new("/")?,
        if run.writable_rootfs { write } else { read },
    ))?;
    for path in ["/dev", "/proc"] {
        rules = rules.add_rule(PathBeneath::new(PathFd::new(path)?, in_place))?;
    }
    for path in ["/tmp", "/var/tmp", "/run", "/dev/shm"] {
        if let Ok(place) = PathFd::new(path) {
            rules = rules.add_rule(PathBeneath::new(place, write))?;
        }
    }
    for mount in run.mounts.iter().filter(|mount| !mount.read_only) {
        let place = PathFd::new(&mount.target)?;
        let access = if mount.target.is_dir() {
            write
        } else {
            write & AccessFs::from_file(NEWEST)
        };
        rules = rules.add_rule(PathBeneath::new(place, access))?;
    }
    Ok(rules.restrict_self()?.ruleset)
}
