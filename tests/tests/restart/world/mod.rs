//! What a restart must not change: made, looked at, and gone on with.

pub mod agents;
pub mod sessions;
pub mod tasks;

use nexus_client::Connection;

pub struct World {
    pub sessions: Vec<String>,
    pub agents: agents::Made,
    pub tasks: tasks::Made,
}

/// Everything that clients can see of it.
#[derive(Debug, PartialEq)]
pub struct Seen {
    sessions: Vec<nexus_proto::orchestrator::v1::Session>,
    listed: Vec<String>,
    agents: Vec<nexus_proto::agent::v1::Agent>,
    tasks: Vec<nexus_proto::agent::v1::Task>,
}

impl World {
    pub async fn look(&self, connection: &Connection) -> Seen {
        Seen {
            sessions: sessions::look(connection, &self.sessions).await,
            listed: sessions::listed(connection).await,
            agents: agents::look(connection).await,
            tasks: tasks::look(connection, &self.tasks).await,
        }
    }
}
