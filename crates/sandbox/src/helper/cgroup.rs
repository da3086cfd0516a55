//! The control groups of one sandbox: found, created, used and removed.
//!
//! Each controller is looked for by itself, as in hybrid set-ups some belong to version 1 and some to version 2.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use crate::report::Started;
use crate::spec::{Cgroup, Isolation, Run};

use super::cgroup_files::{Hierarchies, Version};
use super::step::{Result, Step, failed};

pub const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];
/// Used where it is there, for telling how much time was used.
const ACCOUNTING: &str = "cpuacct";

/// Whether this host has version 2 alone, which takes a process as it is made. Version 1 takes one that comes by itself.
pub fn is_unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// Dropped, they are removed.
#[derive(Default)]
pub struct Groups {
    /// By controller.
    dirs: BTreeMap<&'static str, (Version, PathBuf)>,
}

impl Drop for Groups {
    fn drop(&mut self) {
        self.remove();
    }
}

impl Groups {
    /// Those that this user can make; none is no failure: who asked for limits is told.
    pub fn make(run: &Run) -> Result<Groups> {
        let (wanted, below) = match &run.cgroup {
            Cgroup::None => (Vec::new(), None),
            Cgroup::Auto => (wanted(run), None),
            Cgroup::Below(path) => (wanted(run), Some(path.as_str())),
        };
        let groups = Groups::find(&wanted, below);
        groups.limit(run)?;
        let unenforced = groups.unenforced(run);
        if run.limits.required && !unenforced.is_empty() {
            let why = format!("{} cannot be limited here", unenforced.join(", "));
            let hint = "delegate control groups to this user, or run as root";
            return Err(failed("limits", why, hint));
        }
        Ok(groups)
    }

    /// Of any limits.
    pub fn probe() -> Groups {
        Groups::find(&CONTROLLERS, None)
    }

    fn find(controllers: &[&'static str], below: Option<&str>) -> Groups {
        let mut groups = Groups::default();
        if controllers.is_empty() {
            return groups;
        }
        let Ok(hierarchies) = Hierarchies::read() else {
            return groups;
        };
        let name = format!("nexus-{}-{:x}", std::process::id(), super::proc::now_ms());
        for controller in controllers {
            if let Some(place) = hierarchies.make(controller, below, &name) {
                groups.dirs.insert(controller, place);
            }
        }
        groups
    }

    pub fn versions(&self) -> BTreeMap<String, String> {
        let name = |version: &Version| if *version == Version::One { "v1" } else { "v2" };
        self.dirs
            .iter()
            .map(|(controller, (version, _))| (controller.to_string(), name(version).to_string()))
            .collect()
    }

    fn limit(&self, run: &Run) -> Result<()> {
        let limits = &run.limits;
        if let (Some((version, dir)), Some(memory)) = (self.dirs.get("memory"), limits.memory) {
            let both = limits.memory_swap.unwrap_or(memory).max(memory);
            match version {
                Version::One => {
                    put(dir, "memory.limit_in_bytes", memory)?;
                    put_if_there(dir, "memory.memsw.limit_in_bytes", both)?;
                }
                Version::Two => {
                    put(dir, "memory.max", memory)?;
                    put_if_there(dir, "memory.swap.max", both - memory)?;
                }
            }
        }
        if let (Some((_, dir)), Some(pids)) = (self.dirs.get("pids"), limits.pids) {
            put(dir, "pids.max", pids)?;
        }
        if let (Some((version, dir)), Some(nano_cpus)) = (self.dirs.get("cpu"), limits.nano_cpus) {
            const PERIOD_US: u64 = 100_000;
            let quota = (nano_cpus / (1_000_000_000 / PERIOD_US)).max(1000);
            match version {
                Version::One => {
                    put(dir, "cpu.cfs_period_us", PERIOD_US)?;
                    put(dir, "cpu.cfs_quota_us", quota)?;
                }
                Version::Two => put(dir, "cpu.max", format!("{quota} {PERIOD_US}"))?,
            }
        }
        Ok(())
    }

    /// The limits that were asked for and do not hold. That of processes holds in a sandbox without a control group too.
    pub fn unenforced(&self, run: &Run) -> Vec<String> {
        let limits = &run.limits;
        let bare = run.isolation == Isolation::HostUnsafe;
        let asked = [
            ("memory", limits.memory.is_some()),
            ("cpu", limits.nano_cpus.is_some()),
            ("pids", limits.pids.is_some() && bare),
        ];
        let missing = asked
            .into_iter()
            .filter(|(name, asked)| *asked && !self.dirs.contains_key(name));
        missing.map(|(name, _)| name.to_string()).collect()
    }

    /// Where a process can be made as a member. Moving one there would make the kernel wait for all others (a grace
    /// period of RCU, which takes longer than all the rest).
    pub fn birthplace(&self) -> Option<OwnedFd> {
        let (_, dir) = self.dirs.values().next()?;
        let is_all = self
            .dirs
            .values()
            .all(|(version, other)| *version == Version::Two && other == dir);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        is_all
            .then(|| rustix::fs::open(dir, flags, Mode::empty()).ok())
            .flatten()
    }

    /// What a process with one thread writes a zero to, to become a member without that wait: only version 1 has it.
    pub fn doors(&self) -> Result<Vec<OwnedFd>> {
        let ones = self.dirs.values().filter(|(version, _)| *version == Version::One);
        let open = |(_, dir): &(Version, PathBuf)| {
            let path = dir.join("tasks");
            let file = fs::OpenOptions::new().write(true).open(&path);
            Ok(file.on("cgroup", path.display(), "")?.into())
        };
        ones.map(open).collect()
    }

    /// Moves a process from outside; of version 2 only, or of all.
    pub fn add(&self, pid: i32, all: bool) -> Result<()> {
        let mut done: Vec<&Path> = Vec::new();
        for (version, dir) in self.dirs.values() {
            if (all || *version == Version::Two) && !done.contains(&dir.as_path()) {
                put(dir, "cgroup.procs", pid)?;
                done.push(dir);
            }
        }
        Ok(())
    }

    pub fn has(&self, controller: &str) -> bool {
        self.dirs.contains_key(controller)
    }

    pub fn paths(&self) -> BTreeMap<String, String> {
        let path = |dir: &PathBuf| dir.display().to_string();
        self.dirs
            .iter()
            .map(|(controller, (_, dir))| (controller.to_string(), path(dir)))
            .collect()
    }

    /// Whether the kernel killed something in it.
    pub fn oom(&self) -> bool {
        let Some((version, dir)) = self.dirs.get("memory") else {
            return false;
        };
        let file = if *version == Version::One {
            "memory.oom_control"
        } else {
            "memory.events"
        };
        let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count
            .and_then(|count| count.trim().parse::<u64>().ok())
            .is_some_and(|count| count > 0)
    }

    /// They can be removed once the last process is gone, which takes the kernel a moment.
    fn remove(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(2);
        for (_, (_, dir)) in std::mem::take(&mut self.dirs) {
            while let Err(error) = fs::remove_dir(&dir) {
                remove_own(&dir);
                let busy = error.kind() == io::ErrorKind::ResourceBusy;
                if !busy || Instant::now() > deadline {
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// A group of its own for one more command, below that of its sandbox, so that all of it can be ended at once.
///
/// Everything in it is held by handle: this process leaves the host's view before it is used.
pub struct Own {
    version: Version,
    dir: PathBuf,
    parent: OwnedFd,
    name: String,
    procs: fs::File,
    /// Files that a version of control groups or a controller may lack.
    most: Option<fs::File>,
    all: Option<fs::File>,
    /// Back into the sandbox's own group.
    back: Option<fs::File>,
}

/// Groups of further commands are named so; what is left of them goes with their sandbox.
const OWN: &str = "exec-";

impl Own {
    /// `None` where the sandbox has no group in which this can be.
    pub fn make(started: &Started) -> Option<Own> {
        let above = Path::new(started.cgroups.get("pids").or(started.cgroups.values().next())?);
        let version = if above.join("cgroup.type").exists() {
            Version::Two
        } else {
            Version::One
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = rustix::fs::open(above, flags, Mode::empty()).ok()?;
        let name = format!("{OWN}{}-{:x}", std::process::id(), super::proc::now_ms());
        let dir = above.join(&name);
        fs::create_dir(&dir).ok()?;
        let write = |path: PathBuf| fs::File::options().write(true).open(path).ok();
        let back = (version == Version::One).then(|| write(above.join("tasks"))).flatten();
        let opened = fs::File::open(dir.join("cgroup.procs"));
        let Ok(procs) = opened else {
            let _ = fs::remove_dir(&dir);
            return None;
        };
        Some(Own {
            most: write(dir.join("pids.max")),
            all: write(dir.join("cgroup.kill")),
            version,
            dir,
            parent,
            name,
            procs,
            back,
        })
    }

    /// Which of the sandbox's groups it is below.
    pub fn is_below(&self, dir: &str) -> bool {
        self.dir.parent() == Some(Path::new(dir))
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the command can be made as its member; of version 1 this process becomes one first.
    pub fn birthplace(&self) -> Option<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = || rustix::fs::open(&self.dir, flags, Mode::empty()).ok();
        (self.version == Version::Two).then(open).flatten()
    }

    /// Ends every process in it but this one. Where processes are counted nothing in it can start another meanwhile.
    pub fn kill(&self) {
        let until = Instant::now() + Duration::from_millis(900);
        if let Some(mut most) = self.most.as_ref() {
            let _ = most.write_all(b"0");
        }
        if let Some(mut all) = self.all.as_ref()
            && all.write_all(b"1").is_ok()
        {
            return;
        }
        let this = std::process::id() as i32;
        while Instant::now() < until {
            let others: Vec<i32> = self.members().into_iter().filter(|pid| *pid != this).collect();
            if others.is_empty() {
                return;
            }
            for pid in others {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn members(&self) -> Vec<i32> {
        let mut text = String::new();
        let mut procs = &self.procs;
        let read = procs.rewind().and_then(|()| procs.read_to_string(&mut text));
        let pids = text.lines().filter_map(|line| line.parse::<i32>().ok());
        read.map(|_| pids.filter(|pid| *pid > 0).collect()).unwrap_or_default()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // This process leaves it first. What the command left running keeps it until the sandbox ends.
        if let Some(mut back) = self.back.as_ref() {
            let _ = back.write_all(b"0");
        }
        let _ = rustix::fs::unlinkat(&self.parent, self.name.as_str(), rustix::fs::AtFlags::REMOVEDIR);
    }
}

/// Removes the empty groups of commands that have ended.
fn remove_own(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(OWN) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Goes through a door. On an older kernel only who may write to it himself can.
pub fn enter(door: impl AsFd) -> rustix::io::Result<()> {
    rustix::io::write(door, b"0").map(drop)
}

/// This process itself becomes a member.
pub fn join(dir: &Path) -> Result<()> {
    if dir.join("tasks").exists() {
        return put(dir, "tasks", 0);
    }
    put(dir, "cgroup.procs", 0)
}

/// Controllers for the limits that are asked for.
fn wanted(run: &Run) -> Vec<&'static str> {
    let limits = &run.limits;
    let asked = [
        ("memory", limits.memory.is_some()),
        ("pids", limits.pids.is_some()),
        ("cpu", limits.nano_cpus.is_some()),
        (ACCOUNTING, limits.nano_cpus.is_some()),
    ];
    asked
        .into_iter()
        .filter(|(_, asked)| *asked)
        .map(|(name, _)| name)
        .collect()
}

fn put(dir: &Path, file: &str, value: impl ToString) -> Result<()> {
    fs::write(dir.join(file), value.to_string()).on("cgroup", dir.join(file).display(), "")
}

fn put_if_there(dir: &Path, file: &str, value: impl ToString) -> Result<()> {
    if dir.join(file).exists() {
        put(dir, file, value)
    } else {
        Ok(())
    }
}
