//! `exec` and `process`: commands in containers of their own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nexus_runtime::{Engine, Error as Failure, Input, State};
use nexus_tools::{Code, Error, Exec, Process as Asked, ProcessAction, Until};
use tokio::time::{sleep, timeout};

use super::Tools;
use super::place::Files;
use super::process::Process;
use super::record::{End, Record, now_ms};
use super::session::Session;
use super::workbench::{Command, Program};
use crate::domain::worker::call::{Call, WORKSPACE};
use crate::engine::worker::cancel::Cancel;
use crate::engine::worker::outcome::{Told, key};
use crate::engine::worker::output::Output;

/// How long an engine may be away that runs processes of ours, and how often it is tried.
const ENGINE_BACK_WITHIN: Duration = Duration::from_secs(600);
const ENGINE_AGAIN: Duration = Duration::from_secs(2);
/// What a list shows of a command.
const COMMAND_CHARS: usize = 120;
/// How soon input is tried again that the command does not read.
const INPUT_AGAIN: Duration = Duration::from_millis(10);
/// Bytes of input at once.
const INPUT_PIECE: usize = 2 << 10;
/// What a command may write in answer to what was typed, before the tool returns.
const ANSWER: Duration = Duration::from_millis(300);
/// The end of an output that is told where how it ended is not known.
const LAST_BYTES: usize = 2 << 10;

/// The longest that a user's own program may take that says nothing else.
const CUSTOM_WITHIN: Duration = Duration::from_secs(600);

/// What is to be run, and how.
struct Wanted<'a> {
    program: Program<'a>,
    workdir: Option<&'a str>,
    stdin: Option<&'a str>,
    tty: bool,
    timeout_s: f64,
}

/// The surroundings of a call.
pub struct Context {
    pub session: Arc<Session>,
    pub files: Arc<Files>,
    pub call: Call,
    /// The task, encoded.
    pub task: String,
    pub output: Output,
    pub cancel: Cancel,
}

impl Tools {
    pub async fn exec(&self, context: &Context, asked: Exec) -> Result<Told, Error> {
        // After a restart the process is there already.
        let wanted = Wanted {
            program: Program::Shell(&asked.command),
            workdir: asked.workdir.as_deref(),
            stdin: asked.stdin.as_deref().filter(|text| !text.is_empty()),
            tty: asked.tty,
            timeout_s: asked.timeout_s,
        };
        let process = match context.session.of_task(&context.call.task_id) {
            Some(process) => process,
            None => self.start(context, wanted).await?,
        };
        process.show(Some(context.output.clone()));
        let wait = if asked.background { 0.0 } else { asked.wait_s };
        let waiting = process.waited_for();
        tokio::select! {
            biased;
            _ended = process.ended() => {}
            () = context.cancel.wanted() => {
                process.kill(context.cancel.is_forced());
                process.ended().await;
            }
            () = sleep(Duration::from_secs_f64(wait)) => {}
        }
        drop(waiting);
        process.show(None);
        self.tell(context, &process, true).await
    }

    /// A program of a user's own: its arguments come as JSON, and it is waited for to its end.
    pub async fn custom(&self, context: &Context) -> Result<Told, Error> {
        let call = &context.call;
        let wanted = Wanted {
            program: Program::Words(&call.program),
            workdir: None,
            stdin: Some(&call.arguments)
                .filter(|text| !text.is_empty())
                .map(String::as_str),
            tty: false,
            timeout_s: call.timeout.unwrap_or(CUSTOM_WITHIN).as_secs_f64(),
        };
        let process = match context.session.of_task(&call.task_id) {
            Some(process) => process,
            None => self.start(context, wanted).await?,
        };
        process.show(Some(context.output.clone()));
        let waiting = process.waited_for();
        tokio::select! {
            biased;
            _ended = process.ended() => {}
            () = context.cancel.wanted() => {
                process.kill(context.cancel.is_forced());
                process.ended().await;
            }
        }
        drop(waiting);
        self.tell(context, &process, true).await
    }

    async fn start(&self, context: &Context, asked: Wanted<'_>) -> Result<Arc<Process>, Error> {
        let Context {
            session, files, call, ..
        } = context;
        let reserved = session.reserve()?;
        let directory = directory(files, asked.workdir.unwrap_or(&call.place.directory))?;
        let tmp = session.tmp(files.owner).map_err(|error| {
            Error::new(
                Code::Unavailable,
                format!("/tmp of the session cannot be made: {error}"),
            )
        })?;
        let stdin = asked.stdin;
        let command = Command {
            session_id: &session.id,
            call_id: &call.call_id,
            number: reserved.number,
            program: asked.program,
            directory: &directory,
            environment: &call.place.environment,
            image: &call.place.image,
            tty: asked.tty,
            stdin: asked.tty || stdin.is_some(),
            tmp: &tmp,
        };
        let (engine, container) = self.workbench().make(files, &command).await.map_err(failed)?;
        let started_ms = now_ms();
        let record = Record {
            number: reserved.number,
            call_id: call.call_id.clone(),
            task_id: call.task_id.clone(),
            task: context.task.clone(),
            engine: engine.name().to_owned(),
            container: container.clone(),
            command: match asked.program {
                Program::Shell(text) => text.chars().take(COMMAND_CHARS).collect(),
                Program::Words(words) => words.join(" ").chars().take(COMMAND_CHARS).collect(),
            },
            started_ms,
            deadline_ms: started_ms + (asked.timeout_s * 1e3) as u64,
            tty: asked.tty,
            stdin: command.stdin,
            told_bytes: 0,
            end: None,
        };
        let process = Process::new(&session.records(), &session.results(), record);
        // Written down before it runs, so that it never runs twice.
        let started = match process.note(|_| ()) {
            Ok(()) => engine.start(&container).await.map_err(failed),
            Err(error) => Err(Error::new(
                Code::Unavailable,
                format!("the worker's directory cannot be written: {error}"),
            )),
        };
        if let Err(error) = started {
            session.forget(reserved.number);
            let _ = engine.remove(&container, true).await;
            return Err(error);
        }
        session.add(process.clone());
        self.follow(session, &process, engine.clone());
        if let Some(text) = stdin {
            let input = Bytes::from(text.to_owned().into_bytes());
            tokio::spawn(feed(engine, process.clone(), container, input, !asked.tty));
        }
        Ok(process)
    }

    /// Watches over a process to its end, and tells of an end that nobody waits for.
    pub fn follow(&self, session: &Arc<Session>, process: &Arc<Process>, engine: Arc<dyn Engine>) {
        let (this, session, process) = (self.clone(), session.clone(), process.clone());
        tokio::spawn(async move {
            process.clone().supervise(engine).await;
            if !process.is_waited_for() && process.record().task.is_empty() {
                this.notify(&session, &process);
            }
            let trimmed = tokio::task::spawn_blocking(move || session.trim());
            let _ = trimmed.await;
        });
    }

    pub async fn process(&self, context: &Context, asked: Asked) -> Result<Told, Error> {
        let process = context.session.named(&asked.id)?;
        let waiting = process.waited_for();
        match asked.action {
            ProcessAction::Wait => {
                process.show(Some(context.output.clone()));
                let told = process.record().told_bytes;
                let mut progress = process.watch();
                let until_output = asked.until == Until::Output;
                let enough =
                    progress.wait_for(|progress| progress.end.is_some() || (until_output && progress.bytes > told));
                tokio::select! {
                    _enough = enough => {}
                    () = sleep(Duration::from_secs_f64(asked.wait_s)) => {}
                    () = context.cancel.wanted() => {}
                }
                process.show(None);
            }
            ProcessAction::Write => {
                let record = process.record();
                if !record.stdin {
                    return Err(Error::new(
                        Code::InvalidArguments,
                        format!("process {} has no open input", process.id()),
                    )
                    .with_next("Start it with tty, or give all of its input as stdin."));
                }
                let engine = self.workbench().engine(&record.engine).await.map_err(failed)?;
                let input = Bytes::from(asked.input.unwrap_or_default().into_bytes());
                engine
                    .input(&record.container, Input::Data(input))
                    .await
                    .map_err(|error| match error {
                        Failure::State { why, .. } => {
                            Error::new(Code::InvalidArguments, format!("process {} {why}", process.id()))
                        }
                        error => failed(error),
                    })?;
                let before = process.progress().bytes;
                let mut progress = process.watch();
                let answered = progress.wait_for(|progress| progress.end.is_some() || progress.bytes > before);
                let _silent = timeout(ANSWER, answered).await;
            }
            ProcessAction::Kill => {
                process.kill(false);
                process.ended().await;
            }
        }
        drop(waiting);
        self.tell(context, &process, false).await
    }

    /// What was written since the last look, and how the process is. `call`: it is told to whoever started it.
    async fn tell(&self, context: &Context, process: &Arc<Process>, call: bool) -> Result<Told, Error> {
        let unreadable = |error| Error::new(Code::Unavailable, format!("the output cannot be read: {error}"));
        let record = process.record();
        let end = process.progress().end;
        if let Some(end) = end.filter(|end| end.lost) {
            return Err(lost(process, &record, &end));
        }
        let mut text = process.look(call).await.map_err(unreadable)?;
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        let seconds = |until: u64| until.saturating_sub(record.started_ms) as f64 / 1e3;
        text += &match &end {
            None => format!(
                "[still running after {:.1} s as process {}; wait for it, or end it, with the tool process]",
                seconds(now_ms()),
                process.id()
            ),
            Some(end) => format!("[{} after {:.2} s]", how(end, &record), seconds(end.at_ms)),
        };
        let mut told = Told::text(text)
            .with(key::SPILL, format!("result:{}", record.call_id))
            .with(
                key::OUTPUT_BYTES,
                end.map_or(process.progress().bytes, |end| end.bytes).to_string(),
            );
        match end {
            None => told = told.with(key::PROCESS_ID, process.id()),
            Some(end) => {
                told.exit_code = end.code;
                if end.timed_out {
                    told = told.with(key::CODE, Code::Timeout.as_str());
                } else if end.killed && call && context.cancel.is_wanted() {
                    told = told.with(key::CODE, Code::Cancelled.as_str());
                }
                if !call {
                    context.session.forget(record.number);
                }
            }
        }
        if call {
            told.delivered = Some((context.session.id.clone(), record.number));
        }
        Ok(told)
    }

    /// Ends what runs of a session, all at once.
    pub async fn end_processes(&self, session: &Session) {
        let running = session.running();
        running.iter().for_each(|process| process.kill(false));
        for process in running {
            process.ended().await;
        }
    }

    /// A process that an earlier worker started. `None`: it never ran.
    pub async fn adopt(&self, session: &Arc<Session>, record: Record) -> Option<Arc<Process>> {
        let process = Process::new(&session.records(), &session.results(), record.clone());
        if record.end.is_some() {
            return Some(process);
        }
        match self.attach(session, &process, &record).await {
            Attached::Followed => {}
            Attached::NeverRan => {
                session.forget(record.number);
                return None;
            }
            Attached::Gone => process.end_unseen(lost_now()),
            // The engine may be back in a moment.
            Attached::Unknown => {
                let (this, session, process) = (self.clone(), session.clone(), process.clone());
                tokio::spawn(async move {
                    let until = tokio::time::Instant::now() + ENGINE_BACK_WITHIN;
                    loop {
                        sleep(ENGINE_AGAIN).await;
                        match this.attach(&session, &process, &record).await {
                            Attached::Followed => return,
                            Attached::Unknown if tokio::time::Instant::now() < until => {}
                            Attached::Unknown | Attached::NeverRan | Attached::Gone => {
                                return process.end_unseen(lost_now());
                            }
                        }
                    }
                });
            }
        }
        Some(process)
    }

    async fn attach(&self, session: &Arc<Session>, process: &Arc<Process>, record: &Record) -> Attached {
        let engine = match self.workbench().engine(&record.engine).await {
            Ok(engine) => engine,
            Err(error) => {
                tracing::warn!(engine = record.engine, %error, "the engine of a process does not work");
                return Attached::Unknown;
            }
        };
        match engine.inspect(&record.container).await {
            // It was made and never started: the next attempt makes another one.
            Ok(info) if info.state == State::Created => {
                let _ = engine.remove(&record.container, true).await;
                Attached::NeverRan
            }
            Ok(_) => {
                self.follow(session, process, engine);
                Attached::Followed
            }
            Err(Failure::NotFound(_)) => Attached::Gone,
            Err(error) => {
                tracing::warn!(container = record.container, %error, "a process cannot be looked at");
                Attached::Unknown
            }
        }
    }
}

/// What became of a process of an earlier worker.
enum Attached {
    /// It runs, or has ended: its output and its end are known.
    Followed,
    NeverRan,
    Gone,
    /// Its engine does not answer.
    Unknown,
}

fn lost_now() -> End {
    End {
        code: 137,
        lost: true,
        at_ms: now_ms(),
        ..End::default()
    }
}

/// Input goes as fast as the command reads it.
async fn feed(engine: Arc<dyn Engine>, process: Arc<Process>, container: String, input: Bytes, close: bool) {
    let pieces = input
        .chunks(INPUT_PIECE)
        .map(|piece| Input::Data(Bytes::copy_from_slice(piece)));
    for piece in pieces.chain(close.then_some(Input::Close)) {
        while let Err(error) = engine.input(&container, piece.clone()).await {
            if !process.is_running() || !matches!(error, Failure::State { .. }) {
                return;
            }
            sleep(INPUT_AGAIN).await;
        }
    }
}

/// Where a command starts, inside. What can be seen from here has to be a directory.
fn directory(files: &Files, asked: &str) -> Result<String, Error> {
    if asked.is_empty() {
        return Ok(WORKSPACE.into());
    }
    let path = nexus_tools::path::file(asked)?;
    let at = match files.inside(&path) {
        Ok(at) => at,
        // Of the image.
        Err(_) if path.starts_with('/') => return Ok(path),
        Err(error) => return Err(error),
    };
    let _rights = files.rights()?;
    at.dir.open_dir(&at.path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::new(Code::NotFound, format!("there is no directory {:?}", at.shown)),
        _ => at.failed(&error),
    })?;
    Ok(at.inside)
}

fn how(end: &End, record: &Record) -> String {
    let limit = Duration::from_millis(record.deadline_ms - record.started_ms).as_secs();
    match end {
        End { timed_out: true, .. } => format!("killed by timeout_s of {limit} s, exit code 124,"),
        End { oom: true, code, .. } => format!("killed because it ran out of memory, exit code {code},"),
        End { killed: true, code, .. } => format!("killed, exit code {code},"),
        End { code, .. } => format!("exit code {code}"),
    }
}

fn lost(process: &Process, record: &Record, end: &End) -> Error {
    let bytes = std::fs::read(process.output_file()).unwrap_or_default();
    let last = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(LAST_BYTES)..]).into_owned();
    let since = end.at_ms.saturating_sub(record.started_ms) / 1000;
    let started = humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + Duration::from_millis(record.started_ms));
    Error::new(
        Code::Interrupted,
        format!("the command was started at {started} and lost {since} s later; its outcome is unknown"),
    )
    .with_next(format!("Look before repeating it. The last of its output:\n{last}"))
}

/// What an engine says, for a model: what the caller can change, and what nobody can here.
pub fn failed(error: Failure) -> Error {
    let code = match &error {
        Failure::Invalid(_) => Code::InvalidArguments,
        Failure::Denied(_) => Code::NotAllowed,
        Failure::Unavailable { .. }
        | Failure::Timeout { .. }
        | Failure::ImageNotFound { .. }
        | Failure::Pull { .. } => Code::Unavailable,
        Failure::NotFound(_)
        | Failure::Exists(_)
        | Failure::State { .. }
        | Failure::Unsupported { .. }
        | Failure::Unusable { .. }
        | Failure::NoBackend { .. }
        | Failure::Failed { .. } => Code::SandboxUnavailable,
    };
    Error::new(code, error.to_string())
}
