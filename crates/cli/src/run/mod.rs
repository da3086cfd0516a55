//! `nexus run`: one task for an agent, followed to its end.
//!
//! ```text
//!   task ──▶ session (new, or --session) ──▶ files of --workspace, by a container of the session ──▶ one turn, as in chat
//!                                                                                                       │
//!   exit code, --output-last, the files with --in-place ◀── how it ended ◀──────────────────────────────┘
//! ```

mod agent;
mod args;
mod changes;
mod copy;
mod workspace;

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use nexus_proto::orchestrator::v1::{RunEnd, SessionConfig};
use nexus_walk::write_file;

pub use args::RunArgs;

use crate::{
    chat::{
        self,
        consent::Consent,
        limits::Limits,
        screen::Screen,
        session::{self, go_on},
        talk::{End, Style, Talk, Turned, new_id},
    },
    commands::sessions::find,
    context::Context,
    failure::{Exit, Failure},
    output::Output,
};

/// A session that was begun for a run is idle after this time, and is not counted as active any more.
const IDLE_NS: i64 = 600_000_000_000;
/// How long the container that received the files may take to go.
const REMOVAL: Duration = Duration::from_secs(5);
/// Mode of the file with the last message: it may hold whatever the agent read.
const PRIVATE: u32 = 0o600;

pub async fn run(context: &Context, args: RunArgs, output: &Output) -> Result<Exit, Failure> {
    let task = task(&args)?;
    if args.in_place && !args.yes && !changes::somebody() {
        return Err(
            Failure::usage("--in-place asks before it changes files, and nobody is here to ask").hint("add --yes"),
        );
    }
    let tree = args
        .workspace
        .as_deref()
        .map(|dir| workspace::Tree::open(dir, &args.exclude))
        .transpose()?;
    let connection = context.connection();
    let found = match &args.session {
        Some(given) => Some(go_on(&connection, find(&connection, given).await?).await?),
        None => None,
    };
    if let Some(name) = &args.agent {
        agent::check(&connection, name).await?;
    }
    let style = Style {
        client: session::RUN,
        config: Some(SessionConfig {
            idle_timeout_ns: IDLE_NS,
            ..SessionConfig::default()
        }),
        consent: Consent::new(args.approve(), args.allow.clone(), "cli"),
        limits: Limits {
            steps: args.max_steps,
            tokens: args.budget,
        },
        news_text: true,
    };
    let mut talk = Talk::new(connection, found, args.model.clone(), args.timeout, style)?;
    let mut screen = Screen::new(output);
    let (copied, removal) = match tree {
        Some(tree) => {
            let session_id = talk.begin(&task, &new_id()?).await?;
            let (copied, removal) = copy::send(tree, talk.connection(), &session_id, &mut screen).await?;
            (Some(copied), Some(removal))
        }
        None => (None, None),
    };
    let turned = match talk.turn(task, &mut screen).await {
        Ok(turned) => turned,
        Err(failure) => {
            screen.broken(&failure)?;
            return Err(failure);
        }
    };
    if let Some(path) = &args.output_last {
        write_file(path, turned.answer.as_bytes(), PRIVATE).map_err(|error| Failure::file("write", path, &error))?;
    }
    let session_id = talk.session_id().unwrap_or_default().to_owned();
    let exit = finish(&turned, &session_id, &mut screen, output)?;
    if let Some(copied) = copied {
        let files = context.root.state().join("workspaces").join(&session_id);
        if args.in_place {
            changes::take(&copied, &files, args.yes, &mut screen)?;
        } else if !output.json && context.orchestrator_socket().is_some() {
            output.note(&output.dim(&format!("its files: {}", files.display())));
        }
    }
    if let Some(removal) = removal {
        // It is killed and not asked, so this takes no time.
        let _late = tokio::time::timeout(REMOVAL, removal).await;
    }
    if output.terminal && !output.json {
        output.note(&output.dim(&format!("go on with: nexus run --session {session_id} \"...\"")));
    }
    match exit {
        Ok(exit) => Ok(exit),
        // As JSON it was told by the last line.
        Err(failure) if output.json => Ok(failure.exit),
        Err(failure) => Err(failure),
    }
}

/// The task, and below it what standard input brings where that is no terminal.
fn task(args: &RunArgs) -> Result<String, Failure> {
    let mut task = args.task.join(" ");
    let from_input = task.trim() == "-" || (task.is_empty() && !io::stdin().is_terminal());
    if from_input {
        task = chat::input()?;
    } else if args.stdin {
        let more = chat::input()?;
        task = format!("{task}\n\n{more}");
    }
    if task.trim().is_empty() {
        return Err(Failure::usage("there is no task").hint("give one: nexus run \"list the files here\""));
    }
    Ok(task)
}

/// Says how it ended: the exit code, or what went wrong.
fn finish(
    turned: &Turned,
    session_id: &str,
    screen: &mut Screen<'_>,
    output: &Output,
) -> Result<Result<Exit, Failure>, Failure> {
    if !output.json {
        screen.used(&turned.following)?;
    }
    let (word, error, exit) = match &turned.end {
        End::Answered => ("done", None, Ok(Exit::Ok)),
        End::Cancelled => ("cancelled", None, Ok(Exit::Interrupted)),
        End::Stopped => {
            let failure = Failure::new(Exit::Stopped, "the run was stopped");
            let failure = failure.hint("after nexus stop --agent or --all, agents go on with: nexus resume");
            ("stopped", None, Err(failure))
        }
        End::Limit(limit) => {
            let failure = Failure::new(Exit::Limit, limit.clone());
            let failure = failure.hint(format!("go on with: nexus run --session {session_id} \"go on\""));
            ("limit", Some(limit.clone()), Err(failure))
        }
        End::Failed(error) | End::BrokeOff(error) => {
            let what = match turned.end {
                End::BrokeOff(_) => chat::BROKE_OFF,
                _ => "the run failed",
            };
            // The run says it with its code; the message in the words of its stream.
            let told = match turned.following.end() {
                Some((RunEnd::Failed, told)) if !told.is_empty() => told,
                _ => error,
            };
            let mut failure = chat::explain(what, told);
            if told.contains("nexus resume") {
                failure.exit = Exit::Stopped;
                failure.hint = None;
            } else if told.split(": ").any(|part| part == "budget") {
                failure.exit = Exit::Limit;
                failure = failure.hint("see what was used, and by whom: nexus usage");
            }
            ("failed", Some(told.to_owned()), Err(failure))
        }
    };
    if output.json {
        let code = match &exit {
            Ok(exit) => *exit,
            Err(failure) => failure.exit,
        };
        screen.end(session_id, &turned.following, word, error.as_deref(), code as u8)?;
    }
    Ok(exit)
}
