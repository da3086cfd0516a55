//! Selects the conversation: a new one, the latest, or one by its id.

use std::collections::HashMap;

use nexus_client::Connection;
use nexus_proto::orchestrator::v1::{
    CreateSessionRequest, GetSessionRequest, Message, SessionFilter, SessionMetadata, SessionState,
};
use nexus_proto::words;

use super::talk::Style;
use crate::{
    args::ChatArgs,
    commands::sessions::{all, find},
    failure::{Exit, Failure},
    output::{table::cut, time::ago},
};

/// The label of conversations that says by which command they were begun.
const CLIENT: &str = "client";
/// Its value for `nexus chat`.
pub const CHAT: &str = "nexus-chat";
/// Its value for `nexus run`.
pub const RUN: &str = "nexus-run";
/// Messages shown again when a conversation goes on.
const RECENT: i32 = 6;

/// A conversation to go on with.
#[derive(Debug)]
pub struct Session {
    pub id: String,
    /// The newest message's place: what comes after it is news.
    pub cursor: u64,
    pub recent: Vec<Message>,
    /// It was begun here, and nothing was said in it yet.
    pub is_new: bool,
}

impl Session {
    pub fn begun(id: String) -> Session {
        Session {
            id,
            cursor: 0,
            recent: Vec::new(),
            is_new: true,
        }
    }
}

/// `None`: a new one, begun with its first message, so that leaving without one leaves nothing behind.
pub async fn choose(connection: &Connection, args: &ChatArgs) -> Result<Option<Session>, Failure> {
    let id = match &args.session {
        Some(given) => find(connection, given).await?,
        None if args.latest => latest(connection).await?,
        None => {
            connection.connect().await?;
            return Ok(None);
        }
    };
    Ok(Some(go_on(connection, id).await?))
}

/// A conversation that is there, and open.
pub async fn go_on(connection: &Connection, id: String) -> Result<Session, Failure> {
    let request = GetSessionRequest {
        session_id: id,
        message_limit: RECENT,
        messages_before: 0,
    };
    let session = connection
        .orchestrator()
        .get_session(request)
        .await?
        .into_inner()
        .session
        .unwrap_or_default();
    if matches!(session.state(), SessionState::Closed | SessionState::Closing) {
        return Err(
            Failure::new(Exit::Failed, format!("conversation {} is closed", session.id))
                .hint(format!("read it with: nexus sessions show {}", session.id)),
        );
    }
    let recent = session.context.unwrap_or_default().messages;
    let cursor = recent.last().map_or(0, |message| message.sequence);
    Ok(Session {
        id: session.id,
        cursor,
        recent,
        is_new: false,
    })
}

/// The latest conversations of `nexus chat`: id, name, and when each changed.
pub async fn listed(connection: &Connection, most: usize) -> Result<Vec<(String, String, String)>, Failure> {
    let labels = HashMap::from([(CLIENT.to_owned(), CHAT.to_owned())]);
    let filter = SessionFilter {
        labels,
        ..SessionFilter::default()
    };
    let mut sessions = all(connection, filter).await?;
    sessions.sort_by_key(|session| std::cmp::Reverse(session.updated_at.map(|at| (at.seconds, at.nanos))));
    sessions.truncate(most);
    let row = |session: nexus_proto::orchestrator::v1::Session| {
        let name = session.metadata.unwrap_or_default().name;
        (session.id, name, ago(session.updated_at.as_ref()))
    };
    Ok(sessions.into_iter().map(row).collect())
}

async fn latest(connection: &Connection) -> Result<String, Failure> {
    let labels = HashMap::from([(CLIENT.to_owned(), CHAT.to_owned())]);
    let sessions = all(
        connection,
        SessionFilter {
            labels,
            ..SessionFilter::default()
        },
    )
    .await?;
    let open = sessions
        .into_iter()
        .filter(|s| matches!(s.state(), SessionState::Active | SessionState::Idle));
    let latest = open.max_by_key(|session| session.updated_at.map(|at| (at.seconds, at.nanos)));
    latest.map(|session| session.id).ok_or_else(|| {
        Failure::new(Exit::NotFound, "there is no conversation to continue").hint("start one with: nexus chat")
    })
}

/// Named after its first message. `key` makes it the same session however often it is asked for.
pub async fn create(
    connection: &Connection,
    style: &Style,
    first: &str,
    key: &str,
) -> Result<String, nexus_client::Error> {
    let metadata = SessionMetadata {
        name: cut(first, 60),
        labels: HashMap::from([(CLIENT.to_owned(), style.client.to_owned())]),
        ..SessionMetadata::default()
    };
    let mut request = tonic::Request::new(CreateSessionRequest {
        metadata: Some(metadata),
        config: style.config.clone(),
    });
    let key = key.parse().expect("a key of hex digits is ASCII");
    request.metadata_mut().insert(words::metadata::IDEMPOTENCY_KEY, key);
    Ok(connection
        .orchestrator()
        .create_session(request)
        .await?
        .into_inner()
        .session_id)
}
