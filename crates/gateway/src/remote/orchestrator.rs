//! The calls that the gateway makes to the orchestrator, and the connections that they share.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nexus_client::{Address, Connection, Error, Kind, Options};
use nexus_proto::orchestrator::v1::{
    CloseSessionRequest, EventFilter, GetSessionRequest, ListSessionsRequest, Message, MessageRole, SendMessageRequest,
    SessionState, SubscribeEventsRequest,
};
use nexus_proto::words;
use parking_lot::Mutex;
use tonic::{Request, Streaming, metadata::MetadataValue};

use super::{Line, convert};
use crate::domain::{message::Outgoing, session::Session};

/// Streams that share a connection: what HTTP/2 servers commonly allow on one, with room to spare.
const STREAMS_EACH: usize = 64;
/// Messages looked at in one read while an old one is searched.
const PAGE: i32 = 200;
const SESSIONS_PAGE: i32 = 500;
/// Searching a whole session, or the log for a failed turn.
const SEARCH_WITHIN: Duration = Duration::from_secs(30);
/// The orchestrator's name for a turn that failed.
const TURN_FAILED: &str = words::event::TURN_FAILED;

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Orchestrator {
    address: Address,
    options: Options,
    /// For unary calls, the registration and the watch.
    main: Connection,
    /// Streams have connections of their own, so that one client's backlog stops nobody's calls.
    lines: Arc<Mutex<Vec<Shared>>>,
}

/// A connection and who uses it: as many as its count has owners beside this one.
type Shared = (Connection, Arc<()>);

/// The position of a message in its session, and the state of its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessagePosition {
    pub message_id: String,
    pub sequence: u64,
    /// Where its answer stands, if it has one.
    pub answer: Option<u64>,
    /// No older message waits for its answer.
    pub alone: bool,
    /// How its turn failed, if it did and nothing answered it since.
    pub failed: Option<String>,
}

impl Orchestrator {
    pub fn new(address: Address, options: Options) -> Self {
        let main = Connection::lazy(&address, &options);
        Orchestrator {
            address,
            options,
            main,
            lines: Arc::default(),
        }
    }

    pub fn connection(&self) -> &Connection {
        &self.main
    }

    /// The same `key` makes the same session, however often this is asked.
    pub async fn create_session(&self, session: &Session, key: &str) -> Result<String, Error> {
        let mut request = Request::new(convert::create(&session.id, &session.requested));
        let key = MetadataValue::try_from(key)
            .map_err(|_| Error::new(Kind::Invalid, "the idempotency key has characters that no key has"))?;
        request.metadata_mut().insert(words::metadata::IDEMPOTENCY_KEY, key);
        let made = self.main.orchestrator().create_session(request).await?.into_inner();
        if made.session_id.is_empty() {
            return Err(Error::new(Kind::Internal, "the orchestrator gave no session id"));
        }
        Ok(made.session_id)
    }

    /// A session that is not there any more is closed.
    pub async fn close_session(&self, session_id: &str, reason: &str) -> Result<(), Error> {
        let request = CloseSessionRequest {
            session_id: session_id.into(),
            reason: reason.into(),
        };
        match self
            .main
            .orchestrator()
            .close_session(request)
            .await
            .map_err(Error::from)
        {
            Ok(_) => Ok(()),
            Err(error) if error.kind == Kind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The message's id, and the orchestrator's time for it in nanoseconds.
    pub async fn send(&self, session_id: &str, message: Outgoing) -> Result<(String, Option<i64>), Error> {
        let message = Some(convert::outgoing(message));
        let request = SendMessageRequest {
            session_id: session_id.into(),
            message,
        };
        let sent = self.main.orchestrator().send_message(request).await?.into_inner();
        Ok((sent.message_id, sent.timestamp.as_ref().map(convert::nanos)))
    }

    /// A conversation in `session_id`, on one of the connections for that.
    pub fn line(&self, session_id: &str) -> Line {
        let mut lines = self.lines.lock();
        let free = lines.iter().find(|(_, users)| Arc::strong_count(users) <= STREAMS_EACH);
        let (connection, users) = match free {
            Some((connection, users)) => (connection.clone(), users.clone()),
            None => {
                let connection = Connection::lazy(&self.address, &self.options);
                let users = Arc::new(());
                lines.push((connection.clone(), users.clone()));
                (connection, users)
            }
        };
        // The first stays, as most of the time there is someone who needs it.
        let mut kept = 0;
        lines.retain(|(_, users)| {
            kept += 1;
            kept == 1 || Arc::strong_count(users) > 1
        });
        Line::new(connection, users, session_id)
    }

    /// Events as they happen: sessions that close, and nothing else.
    pub async fn closings(&self) -> Result<Streaming<nexus_proto::orchestrator::v1::Event>, Error> {
        let filter = EventFilter {
            names: vec![
                words::event::SESSION_CLOSED.into(),
                words::event::SESSION_DELETED.into(),
            ],
            ..EventFilter::default()
        };
        let request = SubscribeEventsRequest {
            filter: Some(filter),
            after_sequence: None,
        };
        Ok(self.main.orchestrator().subscribe_events(request).await?.into_inner())
    }

    /// The ids of all sessions that are not closed.
    pub async fn open_sessions(&self) -> Result<HashSet<String>, Error> {
        let mut open = HashSet::new();
        let mut page_token = String::new();
        loop {
            let request = ListSessionsRequest {
                filter: None,
                page_size: SESSIONS_PAGE,
                page_token,
                without_messages: true,
            };
            let page = self.main.orchestrator().list_sessions(request).await?.into_inner();
            let ended = |state| matches!(state, SessionState::Closed | SessionState::Closing);
            open.extend(page.sessions.into_iter().filter(|s| !ended(s.state())).map(|s| s.id));
            if page.next_page_token.is_empty() {
                return Ok(open);
            }
            page_token = page.next_page_token;
        }
    }

    /// The newest sequence of a session, 0 if nothing was said yet.
    pub async fn newest(&self, session_id: &str) -> Result<u64, Error> {
        newest(&self.main, session_id).await
    }

    /// Finds a user's message, the newest one if `message_id` is empty. `None`: there is none.
    pub async fn find(&self, session_id: &str, message_id: &str) -> Result<Option<MessagePosition>, Error> {
        let search = async {
            let Some((mut position, since)) = self.search(session_id, message_id).await? else {
                return Ok(None);
            };
            if position.answer.is_none() {
                position.failed = self.failure(session_id, &position.message_id, since).await?;
            }
            Ok(Some(position))
        };
        match tokio::time::timeout(SEARCH_WITHIN, search).await {
            Ok(found) => found,
            Err(_) => Err(Error::new(Kind::Timeout, "the message was not found in time")),
        }
    }

    /// The position, and when the message was sent.
    async fn search(
        &self,
        session_id: &str,
        message_id: &str,
    ) -> Result<Option<(MessagePosition, Option<i64>)>, Error> {
        let mut before = 0;
        let mut answered = HashMap::new();
        let mut found: Option<(MessagePosition, Option<i64>)> = None;
        loop {
            let page = self.page(session_id, PAGE, before).await?;
            for message in page.iter().rev() {
                match message.role() {
                    MessageRole::Assistant => {
                        let extra = message.metadata.as_ref().map(|metadata| &metadata.extra);
                        let asked = extra.and_then(|extra| extra.get(words::extra::IN_REPLY_TO)).cloned();
                        answered.extend(asked.map(|asked| (asked, message.sequence)));
                    }
                    MessageRole::User if found.is_some() => {
                        // The one before it: turns go in order, so no older one can wait if this does not.
                        let alone = answered.contains_key(&message.id);
                        return Ok(found.map(|(position, since)| (MessagePosition { alone, ..position }, since)));
                    }
                    MessageRole::User if message_id.is_empty() || message.id == message_id => {
                        let position = MessagePosition {
                            message_id: message.id.clone(),
                            sequence: message.sequence,
                            answer: answered.get(&message.id).copied(),
                            alone: true,
                            failed: None,
                        };
                        let since = message.timestamp.as_ref().map(convert::nanos);
                        found = Some((position, since));
                    }
                    _ => {}
                }
            }
            match page.first() {
                Some(oldest) if oldest.sequence > 1 => before = oldest.sequence,
                _ => return Ok(found),
            }
        }
    }

    async fn page(&self, session_id: &str, limit: i32, before: u64) -> Result<Vec<Message>, Error> {
        page(&self.main, session_id, limit, before).await
    }

    /// The last failure of a message's turn that the log tells of.
    async fn failure(&self, session_id: &str, message_id: &str, since: Option<i64>) -> Result<Option<String>, Error> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
        let filter = EventFilter {
            session_id: session_id.into(),
            names: vec![TURN_FAILED.into()],
            start_time: Some(convert::timestamp(since.map_or(0, |since| since.min(now)))),
            end_time: Some(convert::timestamp(now)),
            ..EventFilter::default()
        };
        let request = SubscribeEventsRequest {
            filter: Some(filter),
            after_sequence: None,
        };
        let mut events = self.main.orchestrator().subscribe_events(request).await?.into_inner();
        let mut failed = None;
        while let Some(mut event) = events.message().await? {
            if event
                .data
                .get(words::data::MESSAGE_ID)
                .is_some_and(|id| id == message_id)
            {
                failed = event.data.remove("error");
            }
        }
        Ok(failed)
    }
}

pub(super) async fn newest(connection: &Connection, session_id: &str) -> Result<u64, Error> {
    Ok(page(connection, session_id, 1, 0)
        .await?
        .last()
        .map_or(0, |message| message.sequence))
}

async fn page(connection: &Connection, session_id: &str, limit: i32, before: u64) -> Result<Vec<Message>, Error> {
    let request = GetSessionRequest {
        session_id: session_id.into(),
        message_limit: limit,
        messages_before: before,
    };
    let session = connection
        .orchestrator()
        .get_session(request)
        .await?
        .into_inner()
        .session;
    Ok(session
        .and_then(|session| session.context)
        .map(|context| context.messages)
        .unwrap_or_default())
}
