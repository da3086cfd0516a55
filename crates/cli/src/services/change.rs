//! `nexus services start|stop|restart|enable|disable`: sets the desired state, and waits until it is reached.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

pub use super::model::Change;
use super::{
    control::{Action, Request},
    model::{Desired, Manager, Service, Snapshot, State},
    reach, status, survey,
    table::TABLE,
};
use crate::{
    args::ServiceChangeArgs,
    context::Context,
    failure::{Exit, Failure},
    output::Output,
    units,
};

impl Change {
    fn action(self, args: &ServiceChangeArgs) -> Action {
        match self {
            Change::Start => Action::Start,
            Change::Stop => Action::Stop {
                budget_ms: args.timeout.and_then(|time| u64::try_from(time.as_millis()).ok()),
            },
            Change::Restart => Action::Restart,
            Change::Enable => Action::Enable,
            Change::Disable => Action::Disable,
        }
    }

    /// A stop is waited for, and so is the stop that disabling is.
    fn is_done(self, service: &Service) -> bool {
        match self {
            Change::Start | Change::Restart => service.state == State::Ready || service.desired == Desired::Disabled,
            Change::Stop | Change::Disable => service.state == State::Stopped,
            Change::Enable => true,
        }
    }

    /// Waiting changes nothing any more.
    fn is_lost(self, service: &Service) -> bool {
        match self {
            Change::Start | Change::Restart => {
                // Somebody else stopped it meanwhile.
                let stopped = service.state == State::Stopped && service.desired == Desired::Stopped;
                matches!(service.state, State::Failed | State::Backoff) || stopped || service.lacks_a_secret()
            }
            // Somebody else started it meanwhile.
            Change::Stop => service.desired == Desired::Running && service.manager == Manager::Supervisor,
            Change::Disable | Change::Enable => false,
        }
    }
}

pub async fn run(
    context: &Context,
    change: Change,
    args: &ServiceChangeArgs,
    output: &Output,
) -> Result<Exit, Failure> {
    let names = status::known(&args.services)?;
    context.local()?;
    if matches!(change, Change::Enable | Change::Disable) && names.is_empty() {
        return Err(Failure::usage("which service? name one or more"));
    }
    if let Some(manager) = units::manager::of(context) {
        return managed(context, manager, change, &names, output).await;
    }
    let request = Request::new(change.action(args), &names).follow();
    let reached = match reach::running(context, &request).await? {
        Some(reached) => Some(reached),
        // Nobody is started only to be told to stop.
        None if change == Change::Stop && !survey::is_anything_there(context)? => None,
        None => Some(reach::or_start(context, &request).await?),
    };
    let Some((mut conversation, mut snapshot)) = reached else {
        return finish(survey::all(context).await?, &names, change, output);
    };
    let chosen = or_all(&names);
    let begin = Instant::now();
    let give_up = sleep_until(begin + args.wait.unwrap_or(WAIT));
    tokio::pin!(give_up);
    let mut said: Vec<Option<State>> = vec![None; chosen.len()];
    let mut late = false;
    loop {
        tell(&snapshot, &chosen, &mut said, output);
        let mut waiting = chosen.iter().filter_map(|name| snapshot.find(name));
        if late || waiting.all(|service| change.is_done(service) || change.is_lost(service)) {
            break;
        }
        tokio::select! {
            next = conversation.next() => match next? {
                Some(next) => snapshot = next,
                None => return Err(Failure::new(Exit::Failed, "the supervisor ended meanwhile")),
            },
            () = &mut give_up => late = true,
        }
    }
    let done = |name: &String| snapshot.find(name).is_some_and(|service| change.is_done(service));
    if late && !chosen.iter().all(done) {
        let waiting: Vec<&str> = chosen.iter().filter(|name| !done(name)).map(String::as_str).collect();
        status::show(&snapshot.only(&chosen), output)?;
        let said = format!("waited in vain for {}", waiting.join(", "));
        return Err(Failure::new(Exit::TimedOut, said).hint("it goes on trying; see: nexus services status"));
    }
    finish(snapshot, &names, change, output)
}

/// The same where the init system keeps the services.
pub async fn managed(
    context: &Context,
    manager: units::manager::Manager,
    change: Change,
    names: &[String],
    output: &Output,
) -> Result<Exit, Failure> {
    let chosen = or_all(names);
    manager.change(change, &chosen).await?;
    // It is ready for the init system as soon as it serves, and of use once it is known to the others.
    let give_up = Instant::now() + WAIT;
    loop {
        let snapshot = manager.look(context, true).await?;
        let mut waiting = chosen.iter().filter_map(|name| snapshot.find(name));
        if waiting.all(|service| change.is_done(service) || change.is_lost(service)) || Instant::now() >= give_up {
            return finish(snapshot, names, change, output);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Between two looks where nobody tells of changes.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// In the order in which they start.
fn or_all(names: &[String]) -> Vec<String> {
    let asked = |name: &str| names.is_empty() || names.iter().any(|asked| asked == name);
    TABLE
        .iter()
        .map(|entry| entry.name)
        .filter(|name| asked(name))
        .map(str::to_owned)
        .collect()
}

/// How long a change is waited for unless told.
const WAIT: Duration = Duration::from_secs(60);

/// What became of each, as it does.
fn tell(snapshot: &Snapshot, chosen: &[String], said: &mut [Option<State>], output: &Output) {
    for (name, said) in chosen.iter().zip(said) {
        let Some(service) = snapshot.find(name) else { continue };
        let before = said.replace(service.state);
        if before.is_none_or(|before| before == service.state) {
            continue;
        }
        let word = serde_json::to_value(service.state).expect("a state is a word");
        output.note(&format!("{name}: {}", word.as_str().unwrap_or_default()));
    }
}

fn finish(snapshot: Snapshot, names: &[String], change: Change, output: &Output) -> Result<Exit, Failure> {
    let snapshot = if names.is_empty() {
        snapshot
    } else {
        snapshot.only(names)
    };
    if output.json {
        output.value(&snapshot)?;
    } else {
        status::show(&snapshot, output)?;
    }
    let done = snapshot.services.iter().all(|service| change.is_done(service));
    Ok(if done { Exit::Ok } else { Exit::Failed })
}
