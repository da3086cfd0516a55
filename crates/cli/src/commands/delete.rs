//! Deletes conversations. Nothing is deleted without `--yes` or a confirmation typed by a person.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, SystemTime},
};

use nexus_client::Connection;
use nexus_proto::orchestrator::v1::{DeleteSessionRequest, Session, SessionFilter};
use serde_json::json;

use super::sessions;
use crate::{
    args::{DeleteArgs, PruneArgs},
    context::Context,
    failure::{Exit, Failure},
    output::{Output, time::since, view},
};

pub async fn delete(context: &Context, args: &DeleteArgs, output: &Output) -> Result<Exit, Failure> {
    let connection = context.connection();
    let mut ids = Vec::new();
    for given in &args.ids {
        ids.push(sessions::find(&connection, given).await?);
    }
    if !args.yes && !agreed(ids.len())? {
        return Err(Failure::new(Exit::Failed, "nothing deleted"));
    }
    for id in ids {
        delete_one(&connection, id, output).await?;
    }
    Ok(Exit::Ok)
}

pub async fn prune(context: &Context, args: &PruneArgs, output: &Output) -> Result<Exit, Failure> {
    let connection = context.connection();
    let filter = SessionFilter {
        state: sessions::state(args.state).into(),
        ..SessionFilter::default()
    };
    let now = SystemTime::now();
    let mut old = sessions::all(&connection, filter).await?;
    old.retain(|session| is_older(session, args.older_than, now));
    if !args.yes {
        if output.json {
            let shown: Vec<_> = old.iter().map(view::session).collect();
            output.value(&json!({ "would_delete": shown }))?;
        } else if old.is_empty() {
            output.note("nothing to delete");
        } else {
            output.line(sessions::show_table(output, &old))?;
            output.note(&format!("\nwould delete {}; do it with: --yes", counted(old.len())));
        }
        return Ok(Exit::Ok);
    }
    let number = old.len();
    for session in old {
        delete_one(&connection, session.id, output).await?;
    }
    output.note(&format!("deleted {}", counted(number)));
    Ok(Exit::Ok)
}

/// Unchanged for that long. One whose last change is unknown is never old.
fn is_older(session: &Session, age: Duration, now: SystemTime) -> bool {
    let last = session.closed_at.as_ref().max_by_time(session.updated_at.as_ref());
    last.and_then(|last| since(last, now)).is_some_and(|since| since >= age)
}

trait Later<'a> {
    fn max_by_time(self, other: Self) -> Self;
}

impl<'a> Later<'a> for Option<&'a nexus_proto::Timestamp> {
    fn max_by_time(self, other: Self) -> Self {
        match (self, other) {
            (Some(a), Some(b)) => Some(if (a.seconds, a.nanos) >= (b.seconds, b.nanos) {
                a
            } else {
                b
            }),
            (one, other) => one.or(other),
        }
    }
}

async fn delete_one(connection: &Connection, session_id: String, output: &Output) -> Result<(), Failure> {
    let request = DeleteSessionRequest {
        session_id: session_id.clone(),
    };
    connection.orchestrator().delete_session(request).await?;
    if output.json {
        output.record(&json!({ "deleted": session_id }))?;
    } else {
        output.line(format!("deleted {session_id}"))?;
    }
    Ok(())
}

fn agreed(number: usize) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage("deleting is for good, and nobody is here to ask").hint("add --yes"));
    }
    let mut error = io::stderr().lock();
    write!(
        error,
        "Delete {} for good, messages and events too? [y/N] ",
        counted(number)
    )?;
    error.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn counted(number: usize) -> String {
    match number {
        1 => "1 conversation".to_owned(),
        number => format!("{number} conversations"),
    }
}

#[cfg(test)]
mod tests {
    use nexus_proto::Timestamp;

    use super::*;

    fn at(seconds: i64) -> Option<Timestamp> {
        Some(Timestamp { seconds, nanos: 0 })
    }

    #[test]
    fn the_later_of_closing_and_change_counts() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let session = Session {
            updated_at: at(100),
            closed_at: at(900),
            ..Session::default()
        };
        assert!(!is_older(&session, Duration::from_secs(500), now));
        assert!(is_older(&session, Duration::from_secs(100), now));
    }

    #[test]
    fn a_session_of_unknown_age_is_never_old() {
        assert!(!is_older(&Session::default(), Duration::ZERO, SystemTime::now()));
    }
}
