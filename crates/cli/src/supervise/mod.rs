//! `nexus supervise`: keeps the daemons of one tree running where no init system does it.
//!
//! ```text
//!   control socket ─▶ server ─┐                 ┌─▶ view ─▶ snapshots ─▶ server
//!   health checks ─▶ prober ──┼─▶ dispatcher ───┤
//!   ended processes ─▶ child ─┘    │     ▲      └─▶ memory: what a successor must know
//!                                  ▼     │
//!                               machine (pure) ─▶ effects ─▶ executor: sockets, processes, signals
//! ```
//!
//! One thread. The sockets are made here and handed to each daemon as systemd does it, so that whoever connects while a
//! daemon is restarted waits instead of being refused. There is one supervisor for a tree, by a lock of the kernel on
//! its control socket. When it is killed the daemons go on; the next one finds them by process id and start time, or by
//! who holds their sockets. It signals nothing that it does not hold by a pidfd. An upgrade replaces it in place: it
//! becomes the new program, as the same process with the same sockets and children ([`handover`]).

pub mod ask;
pub mod channel;
mod child;
mod control;
pub mod detach;
mod dispatcher;
mod executor;
mod handover;
mod machine;
mod memory;
pub mod model;
mod policy;
mod prober;
pub mod process;
pub mod programs;
mod pump;
mod server;
pub mod table;
mod view;

use std::{sync::Arc, time::Duration};

use nexus_daemon::listener::Kept;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Semaphore, mpsc},
    time::timeout,
};

use crate::{
    context::Context,
    environment::Environment,
    failure::{Exit, Failure},
};
pub use memory::{Disabled, Memory};
pub use policy::Policy;
pub use process::own_program;

/// Messages that wait for the dispatcher; who sends more waits.
const INBOX: usize = 256;
/// How long who follows may take for the last snapshot.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// `environment` holds what the daemons are given; nothing of it is in the environment of this process.
pub async fn run(mut context: Context, environment: Environment) -> Result<Exit, Failure> {
    context.local()?;
    // It asks its own daemons, in its own name.
    context.options.token = None;
    context
        .root
        .create()
        .map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    let policy = Policy::load(&context.root)?;
    let disabled = Disabled::read(&context.root)
        .map_err(|error| Failure::file("read", &memory::disabled_file(&context.root), &error))?;
    let sockets = table::sockets(&context)?;
    let mut handed = handover::Handed::take();
    // From here on we are the only one.
    let path = table::control_socket(&context.root);
    let control = match handed.listener(handover::CONTROL, &path) {
        Some(kept) => Ok(kept),
        None => Kept::bind(&path, 0o600, None),
    };
    let control =
        control.map_err(|error| Failure::new(Exit::Refused, format!("another supervisor runs here: {error}")))?;
    let failed =
        |action: &str, error: std::io::Error| Failure::new(Exit::Failed, format!("failed to {action}: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| failed("listen for signals", error))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| failed("listen for signals", error))?;
    // The end of a terminal is no reason to end.
    let _hangup = signal(SignalKind::hangup()).map_err(|error| failed("listen for signals", error))?;

    let (heard, mut inbox) = mpsc::channel(INBOX);
    let context = Arc::new(context);
    let executor = executor::Executor::new(context.clone(), environment, policy.clone(), sockets, heard.clone());
    let machine = machine::Machine::new(policy.machine(), table::needs());
    let mut dispatcher = dispatcher::Dispatcher::new(machine, executor);
    dispatcher.adopt(&Memory::read(&context.root), &disabled, &mut handed);
    drop(handed);
    let room = Arc::new(Semaphore::new(server::MOST_AT_ONCE));
    let control = control::Control::new(path, control, heard.clone(), dispatcher.snapshots(), room.clone());
    let mut control = control.map_err(|error| failed("listen", error))?;
    tokio::spawn(async move {
        let mut asked = false;
        loop {
            let code = tokio::select! {
                _ = terminate.recv() => 143,
                _ = interrupt.recv() => 130,
            };
            // A second request leaves at once; the daemons go on, and the next supervisor finds them.
            if heard.try_send(dispatcher::Input::Stop).is_err() || asked {
                std::process::exit(code);
            }
            asked = true;
        }
    });
    if dispatcher.run(&mut inbox, &mut control).await == dispatcher::StopReason::Replaced {
        // Nothing is taken down on the way: the daemons and their sockets are another supervisor's now.
        eprintln!("another supervisor keeps this tree");
        std::process::exit(Exit::Refused as i32);
    }
    // Nobody new is heard, and the place is free, before those who follow are told that it is over.
    control.close();
    Memory::forget(&context.root);
    drop(dispatcher);
    let everybody = u32::try_from(server::MOST_AT_ONCE).expect("it is small");
    let _late = timeout(LAST_WORDS, room.acquire_many(everybody)).await;
    Ok(Exit::Ok)
}
