//! Waiting until a daemon answers and says that it serves. Told by health, never guessed from a process or a pause.

use std::{path::Path, time::Duration};

use nexus_client::{Address, Connection, Kind};
use nexus_proto::agent::v1::AgentState;
use tokio::{net::UnixStream, time::sleep};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use crate::{failure::Failure, place::Place};

/// Between two looks at something that cannot be waited for: a file that does not exist yet.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Waits for the socket, then for SERVING. Ends early only with what waiting cannot change.
pub async fn serving(place: &Place, socket: &Path, name: &str) -> Result<Connection, Failure> {
    loop {
        while UnixStream::connect(socket).await.is_err() {
            sleep(LOOK_AGAIN).await;
        }
        let connection = Connection::lazy(&Address::Unix(socket.to_path_buf()), &place.options);
        match watch(&connection, name).await {
            Ok(()) => return Ok(connection),
            Err(error) if passes(&error) => sleep(LOOK_AGAIN).await,
            Err(error) => return Err(error.into()),
        }
    }
}

/// A daemon that stops or is replaced while we watch is looked for again.
fn passes(error: &nexus_client::Error) -> bool {
    matches!(
        error.kind,
        Kind::NotRunning | Kind::Unavailable | Kind::Timeout | Kind::Cancelled | Kind::Internal
    )
}

async fn watch(connection: &Connection, name: &str) -> Result<(), nexus_client::Error> {
    let request = HealthCheckRequest {
        service: name.to_owned(),
    };
    let mut states = connection.health().watch(request).await?.into_inner();
    while let Some(state) = states.message().await? {
        if state.status() == ServingStatus::Serving {
            return Ok(());
        }
    }
    Err(nexus_client::Error::new(
        Kind::Unavailable,
        "the daemon ended the watch of its health",
    ))
}

/// Waits until an agent holds its line to the orchestrator: from then on it can be given a message.
pub async fn connected(agent: &Connection) -> Result<(), Failure> {
    loop {
        match agent
            .agent()
            .get_status(())
            .await
            .map(|status| status.into_inner().state())
        {
            Ok(AgentState::Idle | AgentState::Busy) => return Ok(()),
            Ok(_) => {}
            Err(status) => {
                let error = status.into();
                if !passes(&error) {
                    return Err(error.into());
                }
            }
        }
        sleep(LOOK_AGAIN * 2).await;
    }
}
