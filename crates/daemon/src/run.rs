//! The life of a daemon's process, in order.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use nexus_config::Root;
use nix::sys::stat::{Mode, umask};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;

use crate::args::{self, Args};
use crate::boot;
use crate::daemon::{BootError, Daemon, chain};
use crate::exit::Exit;
use crate::explain;
#[cfg(target_os = "linux")]
use crate::memory;
use crate::reload::{on_hangup, sources};
use crate::settings::{self, Plan};
use crate::trace::{self, Level};
use crate::wake::SystemClock;
use crate::{Health, Stop, ready, signals, spans, status_file, status_file::StatusFile};

/// How long threads that block may go on after everything is flushed.
const STRAGGLERS: Duration = Duration::from_millis(500);
/// How long a stop waits for the collector of traces.
const LAST_SPANS: Duration = Duration::from_millis(500);

/// Everything a daemon's `main` does.
pub fn main<D: Daemon>() -> ExitCode {
    umask(Mode::from_bits_truncate(0o077));
    let args = match args::parse::<D>(std::env::args_os()) {
        Ok(args) => args,
        Err(answer) => return usage(&answer).into(),
    };
    if let Some((text, exit)) = explain::answer::<D>(&args) {
        return printed(std::io::stdout().write_all(text.as_bytes()), exit).into();
    }
    let mut plan = match plan::<D>(&args) {
        Ok(plan) => plan,
        Err(mistakes) => return wrong(D::NAME, &mistakes).into(),
    };
    if args.dump_config {
        return printed(std::io::stdout().write_all(plan.shown.dump().as_bytes()), Exit::Ok).into();
    }
    if args.check_config {
        return printed(std::io::stdout().write_all(b"ok\n"), Exit::Ok).into();
    }
    match run(&mut plan, &args) {
        Ok(()) => Exit::Ok.into(),
        Err(error) => error.exit().into(),
    }
}

fn usage(answer: &clap::Error) -> Exit {
    printed(answer.print(), if answer.use_stderr() { Exit::Usage } else { Exit::Ok })
}

fn printed(done: std::io::Result<()>, exit: Exit) -> Exit {
    match done {
        Ok(()) => exit,
        // A reader that closed its end has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => exit,
        Err(_) => Exit::Failed,
    }
}

fn wrong(name: &str, mistakes: &[String]) -> Exit {
    let count = match mistakes.len() {
        1 => "1 mistake".to_owned(),
        many => format!("{many} mistakes"),
    };
    eprintln!("nexus-{name}: {count} in the settings:");
    for mistake in mistakes {
        eprintln!("  {mistake}");
    }
    Exit::Config
}

fn plan<D: Daemon>(args: &Args) -> Result<Plan<D>, Vec<String>> {
    let root = Root::resolve(args.root.as_deref()).map_err(|error| vec![chain(&error)])?;
    let loaded = settings::load::<D>(&sources(args, &root));
    match (loaded, trace::check()) {
        (Ok(plan), Ok(())) => Ok(plan),
        (Ok(_), Err(mistake)) => Err(vec![mistake]),
        (Err(mistakes), Ok(())) => Err(mistakes),
        (Err(mistakes), Err(mistake)) => Err(mistakes.into_iter().chain([mistake]).collect()),
    }
}

fn run<D: Daemon>(plan: &mut Plan<D>, args: &Args) -> Result<(), BootError> {
    let before_the_log = |error: BootError| {
        eprintln!("nexus-{}: {error}", D::NAME);
        error
    };
    plan.root
        .create()
        .map_err(|error| before_the_log(BootError::Failed(chain(&error))))?;
    let common = &plan.common;
    let level = trace::init(&common.log_level, &common.log_format, &plan.root, &plan.service)
        .map_err(|error| before_the_log(BootError::Failed(error)))?;
    let (stop, hangup) = (Stop::new(), Arc::new(Notify::new()));
    let failed = |action: &str, error: std::io::Error| BootError::Failed(format!("failed to {action}: {error}"));
    let ended = signals::listen(stop.clone(), hangup.clone())
        .map_err(|error| failed("listen for signals", error))
        .and_then(|()| runtime(common.worker_threads).map_err(|error| failed("start the runtime", error)))
        .and_then(|runtime| {
            let ended = runtime.block_on(live(plan, args, &level, &stop, &hangup));
            runtime.shutdown_timeout(STRAGGLERS);
            ended
        });
    match &ended {
        Ok(()) => tracing::info!("stopped"),
        Err(BootError::Config(mistakes)) => mistakes.iter().for_each(|mistake| tracing::error!("{mistake}")),
        Err(error) => tracing::error!("{error}"),
    }
    ended
}

/// One thread answers quickest on a small host; more are a setting.
fn runtime(threads: usize) -> std::io::Result<Runtime> {
    let mut builder = if threads == 1 {
        Builder::new_current_thread()
    } else {
        Builder::new_multi_thread()
    };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    builder.enable_all().thread_name("worker").build()
}

async fn live<D: Daemon>(
    plan: &mut Plan<D>,
    args: &Args,
    level: &Level,
    stop: &Stop,
    hangup: &Notify,
) -> Result<(), BootError> {
    if let Some(target) = plan.traces.as_ref().filter(|_| !otel_disabled()) {
        spans::start(target, &plan.service).map_err(|error| BootError::Config(vec![error]))?;
        tracing::info!(endpoint = target.endpoint, sampling = target.ratio, "exporting traces");
    }
    let health = Health::new();
    let clock = SystemClock::new(plan.common.wake_check)
        .map_err(|error| BootError::Failed(format!("failed to make a timer: {error}")))?;
    let Some(mut started) = boot::start(plan, &health, stop, Arc::new(clock)).await? else {
        tracing::info!("stopped before it was ready");
        return Ok(());
    };
    let status_file = StatusFile::file(&plan.root, &plan.service);
    let changed = health.changed();
    let status = status_file::write(&status_file, &health);
    ready::ready(&status);
    let telling = status_file::keep(status_file.clone(), health.clone(), changed, status, stop.clone());
    let telling = tokio::spawn(telling);
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(service = plan.service, version, socket = %started.socket.display(), tcp = ?started.tcp, "ready");
    tokio::spawn(ready::watchdog(started.socket.clone(), health.clone(), stop.clone()));
    #[cfg(target_os = "linux")]
    tokio::spawn(memory::forget_start());
    tokio::spawn(memory::give_back());
    let stopping = stop.requested();
    tokio::pin!(stopping);
    let mut told = false;
    let reload = started.reload.take();
    loop {
        tokio::select! {
            // In this order: an idle daemon has drained by the time the request to stop is seen here.
            biased;
            () = &mut stopping, if !told => {
                told = true;
                ready::stopping();
            }
            served = started.served() => {
                served?;
                break;
            }
            () = hangup.notified() => {
                ready::reloading();
                on_hangup(plan, args, reload.as_ref(), level);
                ready::ready(&status_file::write(&status_file, &health));
            }
        }
    }
    let flushed = started.flushed().await;
    stop.trigger();
    if let Err(error) = telling.await {
        tracing::error!(%error, "the task that writes the status file panicked");
    }
    spans::flush(LAST_SPANS).await;
    flushed?;
    match stop.failure() {
        Some(reason) => Err(BootError::Failed(reason.to_owned())),
        None => Ok(()),
    }
}

/// The field's own switch for everything of OpenTelemetry.
fn otel_disabled() -> bool {
    std::env::var("OTEL_SDK_DISABLED").is_ok_and(|value| value.eq_ignore_ascii_case("true"))
}
