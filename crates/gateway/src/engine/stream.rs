//! Opens the streams of clients: access, session, and the position that reading starts from.

use futures_core::Stream;
use futures_util::StreamExt;
use nexus_daemon::{
    Caller,
    spans::{self, TraceParent},
};
use tokio::sync::mpsc;

use super::{
    Counted, Handle,
    talk::{Talk, cut},
};
use crate::{
    Error,
    domain::{self, answers::Frame, conversation::Follow, message::Asked},
};

/// Frames on their way to one client; more are kept, and grown together, in the conversation.
const QUEUE: usize = 8;

/// What a client of StreamChat says.
#[derive(Clone, Debug)]
pub struct ClientFrame {
    pub session_id: String,
    pub request: Request,
}

#[derive(Clone, Debug)]
pub enum Request {
    /// Only names the session.
    Join,
    Message(Asked),
    Heartbeat,
    Cancel {
        reason: String,
        force: bool,
    },
    /// Not what a client may say; told in the stream, which goes on.
    Bad(domain::Error),
}

/// What it hears.
#[derive(Clone, Debug)]
pub enum Reply {
    Heartbeat,
    Frame(Frame),
}

/// What a client of StreamResponses wants.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub session_id: String,
    /// Empty: from the newest message on.
    pub message_id: String,
    pub chunk_size: Option<i64>,
    pub after_sequence: Option<u64>,
    /// Heartbeats while nothing else is said.
    pub heartbeats: bool,
}

/// Frames for one client, until it is dropped.
pub struct Chat {
    pub replies: mpsc::Receiver<Result<Reply, Error>>,
    pub counted: Counted,
}

impl Handle {
    /// `frames` ends when the client has said everything; `None` in it: the client is gone.
    pub fn chat(
        &self,
        caller: Caller,
        frames: impl Stream<Item = Option<ClientFrame>> + Send + Unpin + 'static,
    ) -> Result<Chat, Error> {
        let counted = self.count_stream()?;
        let (out, replies) = mpsc::channel(QUEUE);
        let (handle, parent) = (self.clone(), spans::current());
        tokio::spawn(async move {
            let gone = out.clone();
            let chat = handle.converse(caller, frames, out.clone(), parent);
            let result = tokio::select! {
                result = chat => result,
                () = gone.closed() => Ok(()),
            };
            if let Err(error) = result {
                // A client that left does not want to know.
                let _gone = gone.send(Err(error)).await;
            }
        });
        Ok(Chat { replies, counted })
    }

    async fn converse(
        self,
        caller: Caller,
        mut frames: impl Stream<Item = Option<ClientFrame>> + Unpin,
        out: mpsc::Sender<Result<Reply, Error>>,
        parent: Option<TraceParent>,
    ) -> Result<(), Error> {
        let (session, ended, first) = loop {
            let Some(Some(frame)) = frames.next().await else {
                return Ok(());
            };
            let heartbeat = matches!(frame.request, Request::Heartbeat);
            if heartbeat && out.send(Ok(Reply::Heartbeat)).await.is_err() {
                return Ok(());
            }
            match (heartbeat, frame.session_id.as_str()) {
                (true, "") => {}
                (false, "") => return Err(domain::Error::FirstFrame.into()),
                (heartbeat, id) => match self.find(&caller, id) {
                    Ok((session, ended)) => break (session, ended, frame.request),
                    // A heartbeat asks for nothing, so it is refused nothing.
                    Err(_unknown) if heartbeat => {}
                    Err(error) => return Err(error),
                },
            }
        };
        let config = session.requested.stream();
        let mut talk = Talk::new(&self, (session, ended), Follow::All, cut(config, None), out);
        talk.parent = parent;
        if !matches!(first, Request::Heartbeat) {
            talk.hear(first).await?;
        }
        talk.run(Some(frames)).await
    }

    /// What does not exist is said at once; everything else in the stream.
    pub async fn responses(&self, caller: &Caller, wanted: Wanted) -> Result<Chat, Error> {
        let (session, ended) = self.find(caller, &wanted.session_id)?;
        let counted = self.count_stream()?;
        let orchestrator = &self.inner.orchestrator;
        let there = &session.orchestrator_session;
        let position = orchestrator.find(there, &wanted.message_id).await?;
        let mut cursor = position.as_ref().map_or(0, |position| position.sequence);
        let follow = match &position {
            None if !wanted.message_id.is_empty() => return Err(Error::MessageNotFound(wanted.message_id)),
            Some(position) if !wanted.message_id.is_empty() => Follow::One {
                message_id: wanted.message_id.clone(),
                alone: position.alone,
            },
            _ => Follow::All,
        };
        if let Some(after) = wanted.after_sequence {
            let newest = orchestrator.newest(there).await?;
            if after > newest {
                return Err(Error::BeyondEnd { after, newest });
            }
            if follow == Follow::All {
                cursor = after;
            }
        } else if position.is_none() {
            cursor = orchestrator.newest(there).await?;
        }
        let (out, replies) = mpsc::channel(QUEUE);
        let config = session.requested.stream();
        let had = |answer: u64| wanted.after_sequence.is_some_and(|after| answer <= after);
        let had_already =
            follow != Follow::All && position.as_ref().and_then(|position| position.answer).is_some_and(had);
        let failed = position.and_then(|position| position.failed);
        let mut talk = Talk::new(
            self,
            (session, ended),
            follow,
            cut(config, wanted.chunk_size),
            out.clone(),
        );
        talk.heartbeat = wanted.heartbeats.then(|| self.config().heartbeat_interval);
        talk.conversation.heard_up_to(cursor);
        talk.cursor_known = true;
        if had_already {
            talk.conversation.had_already();
        } else if let Some(error) = failed {
            match wanted.message_id.as_str() {
                "" => talk.conversation.refuse(&error),
                _ => drop(talk.conversation.give_up(&error)),
            }
        }
        tokio::spawn(async move {
            let nothing = None::<futures_util::stream::Pending<Option<ClientFrame>>>;
            let result = tokio::select! {
                result = talk.run(nothing) => result,
                () = out.closed() => Ok(()),
            };
            if let Err(error) = result {
                // A client that left does not want to know.
                let _gone = out.send(Err(error)).await;
            }
        });
        Ok(Chat { replies, counted })
    }
}
