//! Keeps a daemon registered with the orchestrator for as long as it lives.

use std::time::Duration;

use nexus_proto::agent::v1::{HeartbeatRequest, RegisterRequest, UnregisterRequest};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{Connection, Error, Kind, error::DISK_FULL};

/// A third of the time after which the orchestrator counts an agent as lost.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(30);
/// A goodbye must not hold up a stop.
const UNREGISTER_WITHIN: Duration = Duration::from_secs(1);

/// Registers, sends heartbeats, and registers again when the orchestrator no longer knows the id. Attempts never end
/// by themselves, whatever the options say; `stop` ends them, with an Unregister. `told` hears each id
/// once, each time that it works again, and why it does not.
pub async fn register_forever(
    connection: Connection,
    request: impl Fn() -> RegisterRequest,
    stop: CancellationToken,
    told: impl Fn(Result<&str, &Error>),
) {
    let mut id = None;
    stop.run_until_cancelled(keep(&connection, request, told, &mut id))
        .await;
    if let Some(agent_id) = id.filter(|_| connection.is_connected()) {
        let goodbye = UnregisterRequest {
            agent_id,
            reason: "stopped".into(),
        };
        // The orchestrator may be stopping too; the registration then ends with its lease.
        let _ = timeout(UNREGISTER_WITHIN, connection.agent().unregister(goodbye)).await;
    }
}

async fn keep(
    connection: &Connection,
    request: impl Fn() -> RegisterRequest,
    told: impl Fn(Result<&str, &Error>),
    id: &mut Option<String>,
) {
    let mut backoff = connection.backoff().endless();
    let mut said = None;
    loop {
        let before = connection.link();
        let new = id.is_none();
        let outcome = match id.clone() {
            Some(known) => heartbeat(connection, &known).await.map(|()| known),
            None => register(connection, request()).await,
        };
        match outcome {
            Ok(known) => {
                let again = said.take().is_some();
                if again {
                    tracing::info!(address = %connection.address(), "registered again");
                }
                if new || again {
                    told(Ok(&known));
                }
                *id = Some(known);
                backoff.reset();
                // Over another connection than this one it may have been heard by a process that is gone.
                let over = before.generation + u64::from(!before.up);
                tokio::select! {
                    () = sleep(HEARTBEAT_EVERY) => {}
                    () = connection.left(over) => {}
                }
            }
            Err(error) if error.kind == Kind::NotFound && id.is_some() => *id = None,
            Err(mut error) => {
                // It is not this daemon's disk.
                if error.reason.as_deref() == Some(DISK_FULL) {
                    error.message = format!("the orchestrator takes nothing new: {}", error.message);
                }
                told(Err(&error));
                // Once for each new reason: an orchestrator that is away for an hour is one line, not a thousand.
                if said.as_ref() != Some(&error.kind) {
                    tracing::warn!(address = %connection.address(), %error, hint = error.hint, "not registered");
                    said = Some(error.kind);
                }
                backoff.wait().await;
            }
        }
    }
}

async fn register(connection: &Connection, request: RegisterRequest) -> Result<String, Error> {
    let answer = connection.agent().register(request).await?.into_inner();
    if answer.agent_id.is_empty() {
        return Err(Error::new(Kind::Internal, "the orchestrator gave no agent id"));
    }
    Ok(answer.agent_id)
}

async fn heartbeat(connection: &Connection, id: &str) -> Result<(), Error> {
    let request = HeartbeatRequest {
        agent_id: id.to_owned(),
        ..HeartbeatRequest::default()
    };
    connection.agent().heartbeat(request).await?;
    Ok(())
}
