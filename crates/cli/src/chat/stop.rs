//! Ends what runs in a conversation.

use std::time::Duration;

use nexus_client::{Connection, Error};
use nexus_proto::{
    orchestrator::v1::{
        CancelRunRequest, CancelTurn, StopRequest, StopResponse, StreamMessageRequest, stream_message_request,
        stream_message_response::Payload,
    },
    words,
};

use crate::{context::runs, failure::Failure, output::table::one_line};

/// How long a cancelled answer may take to end.
const WAIT: Duration = Duration::from_secs(5);

/// Everything in a session, background processes too.
pub async fn session(connection: &Connection, session_id: &str) -> Result<StopResponse, Error> {
    let request = StopRequest {
        session_id: session_id.to_owned(),
        reason: "stopped by its user".into(),
        ..StopRequest::default()
    };
    Ok(runs(connection).stop(request).await?.into_inner())
}

/// Asks for the end of one run, where it is known which, and does not wait for it: the stream of the messages tells.
pub fn cancel(connection: &Connection, run_id: Option<&str>, reason: &str) {
    let Some(run_id) = run_id else { return };
    let request = CancelRunRequest {
        run_id: run_id.to_owned(),
        reason: reason.to_owned(),
    };
    let mut client = runs(connection);
    tokio::spawn(async move {
        // The turn is cancelled over its stream too, whatever becomes of this.
        let _ended_already = client.cancel_run(request).await;
    });
}

/// The answer that is written in a session of an orchestrator without runs. False: there is none.
pub async fn answer(connection: &Connection, session_id: &str, cursor: u64) -> Result<bool, Failure> {
    let cancel = StreamMessageRequest {
        session_id: session_id.to_owned(),
        payload: Some(stream_message_request::Payload::Cancel(CancelTurn::default())),
        after_sequence: Some(cursor),
        ..StreamMessageRequest::default()
    };
    let frames = tokio_stream::once(cancel);
    let mut inbox = connection.orchestrator().stream_messages(frames).await?.into_inner();
    // Our half is closed: the stream delivers the answer that is still owed, and ends.
    let ended = async {
        while let Some(frame) = inbox.message().await? {
            if let Some(Payload::Message(message)) = frame.payload {
                let extra = message.metadata.map(|metadata| metadata.extra).unwrap_or_default();
                if extra.contains_key(words::extra::CANCELLED) {
                    return Ok(true);
                }
            }
        }
        Ok::<bool, tonic::Status>(false)
    };
    match tokio::time::timeout(WAIT, ended).await {
        Ok(ended) => Ok(ended?),
        Err(_) => Ok(false),
    }
}

/// What was ended, in words.
pub fn told(stopped: &StopResponse) -> String {
    let count = |number: usize, one: &str| match number {
        1 => format!("1 {one}"),
        number => format!("{number} {one}s"),
    };
    let mut said = format!(
        "stopped {} and {}",
        count(stopped.runs.len(), "run"),
        count(stopped.calls.len(), "call")
    );
    if !stopped.survived.is_empty() {
        let ids: Vec<String> = stopped.survived.iter().map(|id| one_line(id)).collect();
        said.push_str(&format!("; NOT ended: {}", ids.join(" ")));
    }
    said
}
