//! Executes calls of tools: files beneath directory handles, commands in containers.

mod exec;
mod place;
mod process;
mod read;
mod record;
mod search;
mod seen;
mod session;
pub mod workbench;
mod write;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nexus_proto::agent::v1::Task;
use nexus_tools::output::{Collector, Keep, Reading, Spill};
use nexus_tools::{Call as Asked, Code, Error, builtin, unknown_tool};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};

use super::cancel::Cancel;
use super::outcome::{Outcome, Told, key};
use super::output::Output;
use crate::domain::worker::call::{Call, is_plain};
use exec::Context;
use place::{Directories, Files};
use process::Process;
use record::Record;
use session::Session;
use workbench::Workbench;

/// The tools whose calls a worker executes.
pub const NAMES: &[&str] = &[
    "apply_patch",
    CUSTOM,
    "edit_file",
    "exec",
    "find",
    "grep",
    "list_dir",
    "process",
    "read_file",
    "write_file",
];
/// Under this name a user's own program is run.
const CUSTOM: &str = "custom";
/// File work at once: each is on a thread that may block.
const AT_ONCE: usize = 8;
/// Notices that nobody has taken yet.
const NOTICES: usize = 256;
/// How long a session's network is kept that nobody uses.
const IDLE: Duration = Duration::from_secs(600);
/// How often is looked for sessions that are idle or gone.
pub const TIDY_EVERY: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the worker keeps what is its own.
    pub state: PathBuf,
    /// Each session's own directory, by its id.
    pub workspaces: PathBuf,
    pub skills: PathBuf,
    pub workbench: workbench::Settings,
}

/// A process ended that no call waits for.
#[derive(Clone, Debug)]
pub struct Notice {
    pub session_id: String,
    pub process_id: String,
    pub call_id: String,
    pub command: String,
    pub exit_code: i32,
}

#[derive(Clone)]
pub struct Tools(Arc<Inner>);

struct Inner {
    sessions_dir: PathBuf,
    here: Directories,
    workbench: Workbench,
    sessions: Mutex<BTreeMap<String, Arc<Session>>>,
    blocking: Arc<Semaphore>,
    notices: mpsc::Sender<Notice>,
}

impl Tools {
    /// Blocks: it makes its directory.
    pub fn open(settings: Settings) -> io::Result<(Tools, mpsc::Receiver<Notice>)> {
        use std::os::unix::fs::DirBuilderExt;
        let sessions_dir = settings.state.join("sessions");
        // Commands of a backend without namespaces of users have to pass.
        for dir in [&settings.state, &sessions_dir] {
            std::fs::DirBuilder::new().recursive(true).mode(0o711).create(dir)?;
        }
        let (notices, receiver) = mpsc::channel(NOTICES);
        let tools = Tools(Arc::new(Inner {
            sessions_dir,
            here: Directories {
                workspaces: settings.workspaces,
                skills: settings.skills,
            },
            workbench: Workbench::new(settings.workbench),
            sessions: Mutex::default(),
            blocking: Arc::new(Semaphore::new(AT_ONCE)),
            notices,
        }));
        Ok((tools, receiver))
    }

    fn workbench(&self) -> &Workbench {
        &self.0.workbench
    }

    /// Takes over what an earlier worker left. Tasks whose result was not told are returned, to be gone on with.
    pub async fn resume(&self) -> Vec<Task> {
        let mut tasks = Vec::new();
        let mut engines = std::collections::BTreeSet::new();
        for id in self.on_disk() {
            let Ok(session) = self.session(&id).await else { continue };
            for record in record::load(&session.records()) {
                engines.insert(record.engine.clone());
                let task = record.task();
                if let Some(process) = self.adopt(&session, record).await {
                    session.add(process);
                    tasks.extend(task);
                }
            }
        }
        for name in engines {
            let known: Vec<String> = {
                let sessions = self.0.sessions.lock();
                let all = sessions.values().flat_map(|session| session.all());
                all.map(|process| process.record().container).collect()
            };
            if let Err(error) = self
                .workbench()
                .take_over(&name, |id| known.iter().any(|known| known == id))
                .await
            {
                tracing::warn!(engine = name, %error, "what an earlier worker left cannot be looked at");
            }
        }
        tasks
    }

    fn on_disk(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0.sessions_dir).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| is_plain(name)).collect()
    }

    async fn session(&self, id: &str) -> Result<Arc<Session>, Error> {
        if let Some(session) = self.0.sessions.lock().get(id) {
            session.touch();
            return Ok(session.clone());
        }
        let (dir, name) = (self.0.sessions_dir.clone(), id.to_owned());
        let opened = tokio::task::spawn_blocking(move || Session::open(&dir, &name)).await;
        let opened = opened
            .map_err(io::Error::other)
            .and_then(|opened| opened)
            .map_err(|error| {
                Error::new(
                    Code::Unavailable,
                    format!("the worker's directory cannot be used: {error}"),
                )
            })?;
        // Whoever was first.
        let mut sessions = self.0.sessions.lock();
        let session = sessions.entry(id.to_owned()).or_insert_with(|| Arc::new(opened));
        session.touch();
        Ok(session.clone())
    }

    /// One call, to its end or until it is cancelled.
    pub async fn execute(&self, call: Call, task: &Task, output: Output, cancel: Cancel) -> Outcome {
        let begun = Instant::now();
        let told = self.run(call, task, output, cancel).await;
        Outcome::of(told, begun.elapsed())
    }

    async fn run(&self, call: Call, task: &Task, output: Output, cancel: Cancel) -> Result<Told, Error> {
        if call.tool == CUSTOM {
            return self.run_custom(call, task, output, cancel).await;
        }
        let definition = builtin(&call.tool).filter(|_| NAMES.contains(&call.tool.as_str()));
        let definition = definition.ok_or_else(|| unknown_tool(&call.tool, NAMES.iter().copied()))?;
        let checked = definition.check(&call.arguments)?;
        let asked = Asked::new(&call.tool, checked.arguments)?;
        let session = self.session(&call.session_id).await?;
        let files = self.files(&call, &session).await?;
        if let Some(workspace) = &call.place.workspace {
            session.remember(workspace);
        }
        let context = Context {
            session,
            files,
            task: Record::encoded(task),
            call,
            output,
            cancel,
        };
        let mut told = match asked {
            Asked::Exec(exec) => self.exec(&context, exec).await?,
            Asked::Process(process) => self.process(&context, process).await?,
            asked => {
                let read_only = definition.read_only();
                tokio::select! {
                    told = self.on_files(&context, asked) => told?,
                    // What writes is let finish: it is over in a moment, and known.
                    () = context.cancel.wanted(), if read_only => {
                        return Err(Error::new(Code::Cancelled, "the call was cancelled"));
                    }
                }
            }
        };
        for note in checked.notes {
            told.text += &format!("\n[note: {note}]");
        }
        Ok(told)
    }

    /// A program that a user defined as a tool: it reads its arguments as JSON.
    async fn run_custom(&self, call: Call, task: &Task, output: Output, cancel: Cancel) -> Result<Told, Error> {
        if call.program.is_empty() {
            return Err(Error::new(Code::InvalidArguments, "the tool has no command"));
        }
        let session = self.session(&call.session_id).await?;
        let files = self.files(&call, &session).await?;
        let context = Context {
            session,
            files,
            task: Record::encoded(task),
            call,
            output,
            cancel,
        };
        self.custom(&context).await
    }

    async fn files(&self, call: &Call, session: &Session) -> Result<Arc<Files>, Error> {
        let (place, id, here, results) = (
            call.place.clone(),
            call.session_id.clone(),
            self.0.here.clone(),
            session.results(),
        );
        self.blocking(move || Files::open(&place, &id, &here, &results).map(Arc::new))
            .await
    }

    /// On a thread that may wait for a disk, of which there are a few.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let failed =
            |error: &dyn std::fmt::Display| Error::new(Code::Unavailable, format!("the worker failed: {error}"));
        let permit = self
            .0
            .blocking
            .clone()
            .acquire_owned()
            .await
            .map_err(|error| failed(&error))?;
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        done.await.map_err(|error| failed(&error))?
    }

    async fn on_files(&self, context: &Context, asked: Asked) -> Result<Told, Error> {
        let (files, session) = (context.files.clone(), context.session.clone());
        let (call_id, overwrites) = (context.call.call_id.clone(), context.call.overwrites);
        let output = context.output.clone();
        self.blocking(move || match asked {
            Asked::ReadFile(asked) => {
                let opened = files.open_to_read(&asked.path, |call| session.live(call))?;
                let inside = opened.inside.clone();
                let content = read::read(opened, asked.offset, asked.limit)?;
                if let (Some(inside), Some(hash)) = (inside, &content.hash) {
                    session.seen.note(&inside, hash);
                }
                Ok(content.told)
            }
            Asked::WriteFile(asked) => write::write_file(&files, &session.seen, &output, &asked, overwrites),
            Asked::EditFile(asked) => write::edit_file(&files, &session.seen, &output, &asked),
            Asked::ApplyPatch(asked) => write::apply_patch(&files, &session.seen, &output, &asked),
            Asked::ListDir(asked) => search::list(&files, &asked).map(|text| bounded(&session, &call_id, &text)),
            Asked::Find(asked) => search::find(&files, &asked).map(|text| bounded(&session, &call_id, &text)),
            Asked::Grep(asked) => {
                search::grep(&files, &asked, |call| session.live(call)).map(|text| bounded(&session, &call_id, &text))
            }
            _ => Err(Error::new(Code::UnknownTool, "the tool is not one of a worker")),
        })
        .await
    }

    /// The result of a call was told: what was kept to tell it once more can go.
    pub async fn delivered(&self, process: Option<(String, u64)>) {
        let Some((session_id, number)) = process else { return };
        let Some(session) = self.0.sessions.lock().get(&session_id).cloned() else {
            return;
        };
        let Some(process) = session.by_number(number) else {
            return;
        };
        if process.is_running() {
            if let Err(error) = process.note(|record| record.task.clear()) {
                tracing::warn!(%error, "the record of a process cannot be written");
            }
            // It may have ended in between, when its end seemed to be somebody's to tell.
            if !process.is_running() && !process.is_waited_for() {
                self.notify(&session, &process);
            }
        } else if process.record().told_bytes >= process.progress().bytes {
            session.forget(number);
        } else {
            let _ = process.note(|record| record.task.clear());
            self.notify(&session, &process);
        }
    }

    fn notify(&self, session: &Session, process: &Process) {
        let record = process.record();
        let notice = Notice {
            session_id: session.id.clone(),
            process_id: process.id(),
            call_id: record.call_id,
            command: record.command,
            exit_code: record.end.map_or(0, |end| end.code),
        };
        if self.0.notices.try_send(notice).is_err() {
            tracing::warn!(session = session.id, "too many ends of processes wait to be told");
        }
    }

    /// Everything of a session ends, and is forgotten.
    pub async fn end_session(&self, session_id: &str) {
        if !is_plain(session_id) {
            return;
        }
        if let Ok(session) = self.session(session_id).await {
            self.end_processes(&session).await;
        }
        self.workbench().end_session(session_id).await;
        self.0.sessions.lock().remove(session_id);
        let (sessions, name) = (self.0.sessions_dir.clone(), session_id.to_owned());
        let removed = tokio::task::spawn_blocking(move || {
            let parent = nexus_walk::Dir::open(&sessions)?;
            match parent.exists(&name)? {
                true => nexus_walk::remove_now(&parent, &name, ".removed").map(drop),
                false => Ok(()),
            }
        });
        if let Ok(Err(error)) = removed.await {
            tracing::warn!(session_id, %error, "what is left of a session cannot be removed");
        }
    }

    /// Sessions in which nothing runs lose their network; the next command makes another.
    pub async fn rest(&self) {
        let sessions: Vec<Arc<Session>> = self.0.sessions.lock().values().cloned().collect();
        for session in sessions.iter().filter(|session| session.running().is_empty()) {
            self.workbench().end_session(&session.id).await;
        }
    }

    /// Sessions that nobody uses lose their network, and those that are gone lose everything.
    pub async fn tidy(&self) {
        let sessions: Vec<Arc<Session>> = self.0.sessions.lock().values().cloned().collect();
        for session in sessions {
            if session.running().is_empty() && session.used().elapsed() > IDLE {
                self.workbench().end_session(&session.id).await;
            }
        }
        for id in self.on_disk() {
            let idle = self
                .0
                .sessions
                .lock()
                .get(&id)
                .is_none_or(|session| session.running().is_empty() && session.used().elapsed() > IDLE);
            let elsewhere = std::fs::read_to_string(self.0.sessions_dir.join(&id).join(session::WORKSPACE));
            let workspace = elsewhere.map_or_else(|_| self.0.here.workspaces.join(&id), PathBuf::from);
            if idle && !workspace.exists() {
                self.end_session(&id).await;
            }
        }
    }
}

/// A text as the model is told; what is too long can be read under its name.
fn bounded(session: &Session, call_id: &str, text: &str) -> Told {
    let mut collector = Collector::new(Keep::Start, Reading::Plain);
    collector.push(text.as_bytes());
    let shown = collector.finish();
    if !shown.is_cut() {
        return Told::text(shown.render(None));
    }
    let name = format!("result:{call_id}");
    match session.spill(call_id, text) {
        Ok(()) => Told::text(shown.render(Some(Spill {
            name: &name,
            kept_bytes: text.len() as u64,
        })))
        .with(key::SPILL, &name),
        Err(error) => {
            tracing::warn!(%error, "a result cannot be kept");
            Told::text(shown.render(None))
        }
    }
}
