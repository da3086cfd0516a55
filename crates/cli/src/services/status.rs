//! `nexus services status`: one line for each service, and what stands in the way of those that are not well.
//!
//! Answered from what the supervisor heard last, without a word to the daemons; `--deep` asks them now.

use std::time::{Duration, SystemTime};

use super::{
    control::{Action, Request},
    model::{Desired, Manager, Service, Snapshot, State},
    reach, survey, table,
};
use crate::{
    args::ServiceStatusArgs,
    context::Context,
    failure::{Exit, Failure},
    output::{Output, table::table, time::span},
    units,
};

/// Between two looks where nobody tells of changes.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

pub async fn run(context: &Context, args: &ServiceStatusArgs, output: &Output) -> Result<Exit, Failure> {
    let names = known(&args.services)?;
    if args.watch {
        return watch(context, &names, args.deep, output).await;
    }
    let snapshot = take(context, args.deep).await?;
    show_once(snapshot, &names, output)
}

/// The full names; `agent`, `assistant` and `worker` are understood too.
pub fn known(names: &[String]) -> Result<Vec<String>, Failure> {
    names
        .iter()
        .map(|name| match name.as_str() {
            "agent" | "assistant" => Ok(table::ASSISTANT.to_owned()),
            "worker" => Ok(table::WORKER.to_owned()),
            name => table::find(name)
                .map(|entry| entry.name.to_owned())
                .ok_or_else(|| table::unknown(name)),
        })
        .collect()
}

/// As whoever keeps them knows it; `deep`: as the daemons themselves say now.
pub async fn take(context: &Context, deep: bool) -> Result<Snapshot, Failure> {
    match reach::running(context, &Request::new(Action::Status, &[])).await? {
        Some((_, snapshot)) if deep => survey::deepen(context, snapshot).await,
        Some((_, snapshot)) => Ok(snapshot),
        None => found(context, deep).await,
    }
}

/// Where no supervisor of ours runs the init system is asked, and where none has them, the daemons.
async fn found(context: &Context, deep: bool) -> Result<Snapshot, Failure> {
    match units::manager::of(context) {
        Some(manager) => manager.look(context, deep).await,
        None => survey::all(context).await,
    }
}

fn show_once(snapshot: Snapshot, names: &[String], output: &Output) -> Result<Exit, Failure> {
    let by_name = !names.is_empty();
    let snapshot = if by_name { snapshot.only(names) } else { snapshot };
    if output.json {
        output.value(&snapshot)?;
    } else {
        show(&snapshot, output)?;
    }
    Ok(exit_code(&snapshot, by_name))
}

/// A service that was stopped is as it is wanted to be, unless it was asked for by name.
fn exit_code(snapshot: &Snapshot, by_name: bool) -> Exit {
    if by_name && snapshot.services.iter().any(|service| service.state == State::Stopped) {
        Exit::NotRunning
    } else if snapshot.ok {
        Exit::Ok
    } else {
        Exit::Failed
    }
}

/// Until the reader leaves.
async fn watch(context: &Context, names: &[String], deep: bool, output: &Output) -> Result<Exit, Failure> {
    loop {
        let request = Request::new(Action::Status, &[]).follow();
        let Some((mut conversation, mut snapshot)) = reach::running(context, &request).await? else {
            frame(found(context, deep).await?, names, output)?;
            tokio::time::sleep(LOOK_AGAIN).await;
            continue;
        };
        loop {
            let shown = if deep {
                survey::deepen(context, snapshot).await?
            } else {
                snapshot
            };
            frame(shown, names, output)?;
            match conversation.next().await? {
                Some(next) => snapshot = next,
                None => break,
            }
        }
    }
}

fn frame(snapshot: Snapshot, names: &[String], output: &Output) -> Result<(), Failure> {
    let snapshot = if names.is_empty() {
        snapshot
    } else {
        snapshot.only(names)
    };
    if output.json {
        return Ok(output.record(&snapshot)?);
    }
    if output.terminal {
        // From the top, over what stands there.
        output.piece_raw("\x1b[H\x1b[J")?;
    }
    show(&snapshot, output)?;
    if !output.terminal {
        output.line("")?;
    }
    Ok(())
}

pub fn show(snapshot: &Snapshot, output: &Output) -> Result<(), Failure> {
    let rows = snapshot.services.iter().map(row);
    output.line(table(
        output,
        ["SERVICE", "STATE", "PID", "SINCE", "RESTARTS", "VERSION", "SOCKET"],
        rows,
    ))?;
    for service in snapshot.services.iter().filter(|service| !service.is_as_wanted()) {
        let exit = service.last_exit.as_ref().map(|exit| exit.message.as_str());
        match service.problem() {
            Some((problem, fix)) => {
                output.note(&format!("\n{}: {problem}", service.id));
                if let Some(fix) = fix {
                    output.note(&format!("  {fix}"));
                }
            }
            None => output.note(&format!(
                "\n{}: {}",
                service.id,
                exit.unwrap_or("is not in its desired state")
            )),
        }
    }
    if snapshot.supervisor.is_none() {
        let kept = snapshot
            .services
            .iter()
            .any(|service| service.manager == Manager::Systemd);
        if !kept {
            output.note("\nno supervisor runs; start everything with: nexus up");
        }
    }
    Ok(())
}

fn row(service: &Service) -> [String; 7] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let state = match (service.state, service.desired) {
        (State::Stopped, Desired::Disabled) => "disabled",
        (State::Stopped, Desired::Running) => "STOPPED",
        (State::Ready, _) => "ready",
        (State::Stopped, Desired::Stopped) => "stopped",
        (State::Stopping, _) => "stopping",
        (State::Starting, _) => "starting",
        (State::Degraded, _) => "DEGRADED",
        (State::WaitingForCredential, _) => "WAITING-FOR-CREDENTIAL",
        (State::Unhealthy, _) => "UNHEALTHY",
        (State::Backoff, _) => "BACKOFF",
        (State::Foreign, _) => "FOREIGN",
        (State::Failed, _) => "FAILED",
    };
    let since = service
        .since
        .as_deref()
        .and_then(|text| humantime::parse_rfc3339(text).ok());
    let since = since.map(|since| span(SystemTime::now().duration_since(since).unwrap_or_default()));
    let socket = service.endpoints.first().map(|endpoint| endpoint.addr.clone());
    [
        service.id.clone(),
        state.to_owned(),
        or_dash(service.pid.map(|pid| pid.to_string())),
        or_dash(since),
        service.restarts.to_string(),
        or_dash(service.version.clone()),
        or_dash(socket),
    ]
}
