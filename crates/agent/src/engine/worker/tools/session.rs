//! What the worker keeps of a session: its processes, their output, its `/tmp`, and what it has seen.
//!
//! ```text
//!   <session>/processes/N.json   a process, until its end was told
//!   <session>/results/<call>     the whole output of a call, and what was too long for a model
//!   <session>/tmp/               /tmp of its commands
//!   <session>/seen, next         hashes of files that were read; the number of the next process
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use nexus_tools::output::MAX_SESSION_SPILL_BYTES;
use nexus_tools::{Code, Error};
use nexus_walk::{Dir, is_root, restore_owner};
use parking_lot::Mutex;

use super::process::Process;
use super::record;
use super::seen::Seen;

/// Where the files of a session are, if that is somewhere else.
pub const WORKSPACE: &str = "workspace";
/// Processes of a session at once.
const PROCESSES: usize = 16;
/// Ended ones that are remembered until somebody asks.
const ENDED: usize = 64;

pub struct Session {
    pub id: String,
    pub dir: PathBuf,
    pub seen: Seen,
    processes: Mutex<BTreeMap<u64, Arc<Process>>>,
    numbers: Mutex<Numbers>,
    used: Mutex<Instant>,
}

#[derive(Default)]
struct Numbers {
    next: u64,
    /// Being started just now.
    starting: usize,
}

/// The number of a process that is being started; it counts until this is dropped.
pub struct Reserved {
    session: Arc<Session>,
    pub number: u64,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.session.numbers.lock().starting -= 1;
    }
}

impl Session {
    /// Blocks.
    pub fn open(sessions: &Path, id: &str) -> io::Result<Session> {
        let dir = sessions.join(id);
        for part in ["processes", "results"] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir.join(part))?;
        }
        let next = fs::read_to_string(dir.join("next")).ok();
        let next = next.and_then(|text| text.trim().parse().ok()).unwrap_or(1);
        Ok(Session {
            id: id.to_owned(),
            seen: Seen::open(&dir.join("seen")),
            dir,
            processes: Mutex::default(),
            numbers: Mutex::new(Numbers { next, starting: 0 }),
            used: Mutex::new(Instant::now()),
        })
    }

    pub fn results(&self) -> PathBuf {
        self.dir.join("results")
    }

    pub fn records(&self) -> PathBuf {
        self.dir.join("processes")
    }

    /// `/tmp` of its commands, which belongs to the owner of its files.
    pub fn tmp(&self, owner: (u32, u32)) -> io::Result<PathBuf> {
        let path = self.dir.join("tmp");
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) if is_root() => restore_owner(Dir::open(&path)?, owner.0, owner.1)?,
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        path.canonicalize()
    }

    /// Its files are not below the workspaces of this installation.
    pub fn remember(&self, workspace: &Path) {
        let file = self.dir.join(WORKSPACE);
        if !file.exists()
            && let Err(error) = fs::write(file, workspace.as_os_str().as_encoded_bytes())
        {
            tracing::warn!(session = self.id, %error, "the place of a session's files cannot be kept");
        }
    }

    pub fn touch(&self) {
        *self.used.lock() = Instant::now();
    }

    pub fn used(&self) -> Instant {
        *self.used.lock()
    }

    /// A number for one more process, if there is room for it.
    pub fn reserve(self: &Arc<Self>) -> Result<Reserved, Error> {
        let mut numbers = self.numbers.lock();
        let running: Vec<Arc<Process>> = self.running();
        if running.len() + numbers.starting >= PROCESSES {
            let list: Vec<String> = running
                .iter()
                .map(|process| format!("{} ({})", process.id(), process.record().command))
                .collect();
            return Err(Error::new(
                Code::Unavailable,
                format!("{PROCESSES} processes of this session run already"),
            )
            .with_next(format!("End one with process kill: {}", list.join(", "))));
        }
        let number = numbers.next;
        numbers.next += 1;
        let kept = fs::write(self.dir.join("next"), numbers.next.to_string());
        kept.map_err(|error| {
            Error::new(
                Code::Unavailable,
                format!("the worker's directory cannot be written: {error}"),
            )
        })?;
        numbers.starting += 1;
        Ok(Reserved {
            session: self.clone(),
            number,
        })
    }

    pub fn add(&self, process: Arc<Process>) {
        let mut processes = self.processes.lock();
        processes.insert(process.number(), process);
        let ended: Vec<u64> = processes
            .values()
            .filter(|process| !process.is_running())
            .map(|process| process.number())
            .collect();
        for number in ended.iter().take(ended.len().saturating_sub(ENDED)) {
            processes.remove(number);
            record::remove(&self.records(), *number);
        }
    }

    /// Its end was told, and its output is in the results.
    pub fn forget(&self, number: u64) {
        self.processes.lock().remove(&number);
        record::remove(&self.records(), number);
    }

    pub fn all(&self) -> Vec<Arc<Process>> {
        self.processes.lock().values().cloned().collect()
    }

    pub fn running(&self) -> Vec<Arc<Process>> {
        let mut all = self.all();
        all.retain(|process| process.is_running());
        all
    }

    pub fn by_number(&self, number: u64) -> Option<Arc<Process>> {
        self.processes.lock().get(&number).cloned()
    }

    /// The process that a model names.
    pub fn named(&self, id: &str) -> Result<Arc<Process>, Error> {
        let number = id.strip_prefix('p').unwrap_or(id).parse().ok();
        number.and_then(|number| self.by_number(number)).ok_or_else(|| {
            let running: Vec<String> = self.running().iter().map(|process| process.id()).collect();
            let known = match running.is_empty() {
                true => "None runs.".to_owned(),
                false => format!("These run: {}.", running.join(", ")),
            };
            Error::new(
                Code::NotFound,
                format!("there is no process {id:?}, or its end was told already"),
            )
            .with_next(known)
        })
    }

    /// The process that a task started.
    pub fn of_task(&self, task_id: &str) -> Option<Arc<Process>> {
        self.all()
            .into_iter()
            .find(|process| process.record().task_id == task_id)
    }

    /// Where the output of a call that runs can be read.
    pub fn live(&self, call_id: &str) -> Option<PathBuf> {
        let process = self
            .all()
            .into_iter()
            .find(|process| process.record().call_id == call_id)?;
        Some(process.output_file())
    }

    /// Keeps a text that is too long for a model.
    pub fn spill(&self, call_id: &str, text: &str) -> io::Result<()> {
        fs::write(self.results().join(call_id), text)?;
        self.trim();
        Ok(())
    }

    /// The oldest results go when there is too much of them. Blocks.
    pub fn trim(&self) {
        let entries = fs::read_dir(self.results()).into_iter().flatten().flatten();
        let mut files: Vec<_> = entries
            .filter_map(|entry| {
                let meta = entry.metadata().ok()?;
                Some((meta.modified().ok()?, meta.len(), entry.path()))
            })
            .collect();
        files.sort();
        let mut all: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in files {
            if all <= MAX_SESSION_SPILL_BYTES {
                return;
            }
            tracing::info!(session = self.id, path = %path.display(), "dropping the oldest result of a session");
            if fs::remove_file(path).is_ok() {
                all -= bytes;
            }
        }
    }
}
