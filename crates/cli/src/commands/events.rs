//! `nexus events`: stored events or events as they happen, one per line.

use std::time::SystemTime;

use nexus_client::Events;
use nexus_proto::{
    Timestamp,
    orchestrator::v1::{Event, EventFilter, SubscribeEventsRequest},
};

use super::sessions::find;
use crate::{
    args::EventsArgs,
    context::Context,
    failure::{Exit, Failure},
    output::{Output, table::one_line, time::exact, view},
};

pub async fn run(context: &Context, args: &EventsArgs, output: &Output) -> Result<Exit, Failure> {
    let connection = context.connection();
    let session_id = match &args.session {
        Some(given) => find(&connection, given).await?,
        None => String::new(),
    };
    // Without --follow the log is read up to now, and then the server ends the stream.
    let end_time = (!args.follow).then(|| Timestamp::from(SystemTime::now()));
    let filter = EventFilter {
        session_id,
        end_time,
        names: args.names.clone(),
        ..EventFilter::default()
    };
    let after_sequence = args.after.or((!args.follow).then_some(0));
    // A daemon that is not there is said at once; one that goes away later is waited for.
    connection.connect().await?;
    let mut events = Events::new(
        connection,
        SubscribeEventsRequest {
            filter: Some(filter),
            after_sequence,
        },
    );
    let mut left = args.limit.unwrap_or(u64::MAX);
    while left > 0 {
        let Some(event) = events.next().await else { break };
        show(&event?, output)?;
        left -= 1;
    }
    Ok(Exit::Ok)
}

fn show(event: &Event, output: &Output) -> Result<(), Failure> {
    if output.json {
        output.record(&view::event(event))?;
        return Ok(());
    }
    if let Some(gap) = event.gap {
        output.line(output.bold(&format!("{} to {}: lost to this reader", gap.first, gap.last)))?;
        return Ok(());
    }
    let when = exact(event.timestamp.as_ref()).unwrap_or_default();
    let session = event
        .metadata
        .as_ref()
        .map(|metadata| metadata.session_id.clone())
        .unwrap_or_default();
    let mut data: Vec<_> = event.data.iter().filter(|(key, _)| *key != "session_id").collect();
    data.sort();
    let data: Vec<String> = data
        .iter()
        .map(|(key, value)| format!("{key}={}", one_line(value)))
        .collect();
    let line = format!(
        "{:>8}  {}  {:<24}  {session:<32}  {}",
        event.sequence,
        output.dim(&when),
        view::event_name(event),
        data.join(" ")
    );
    output.line(line.trim_end())?;
    Ok(())
}
