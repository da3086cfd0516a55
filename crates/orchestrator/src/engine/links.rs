//! Open StreamAgents: the newest one of each agent, with a bounded outgoing queue.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use nexus_daemon::Caller;
use nexus_proto::agent::v1::{AgentMessage, StreamAgentResponse, stream_agent_response::Payload};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::outlets::Outlet;
use crate::domain::Error;
use crate::domain::reload::Attached;

/// Frames that may wait for an agent that does not read.
pub(super) const QUEUED: usize = 1024;

#[derive(Debug, Default)]
pub(crate) struct Links {
    open: HashMap<u64, Arc<Link>>,
}

/// The sending half of a StreamAgent.
#[derive(Debug)]
pub struct Link {
    pub agent: u64,
    pub number: u64,
    /// Who opened it, and speaks for the agent.
    pub caller: Caller,
    queue: Mutex<Queue>,
    more: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    /// Each with whether it is mail, which goes to the agent's next stream where this one does not deliver it.
    frames: VecDeque<(Payload, bool)>,
    ended: Option<Result<(), Error>>,
}

impl Link {
    /// Gives the frame back where it does not fit.
    fn push(&self, frame: Payload, mail: bool) -> Option<Payload> {
        let mut queue = self.queue.lock();
        if queue.frames.len() >= QUEUED || queue.ended.is_some() {
            return Some(frame);
        }
        queue.frames.push_back((frame, mail));
        self.more.notify_one();
        None
    }

    /// Answers a heartbeat. One that does not fit is for an agent that does not read: it misses nothing.
    pub fn heartbeat(&self) {
        let _unread = self.push(Payload::Heartbeat(()), false);
    }

    fn end(&self, error: Error) {
        self.queue.lock().ended.get_or_insert(Err(error));
        self.more.notify_one();
    }

    /// The agent ended its side.
    pub fn finish(&self) {
        self.queue.lock().ended.get_or_insert(Ok(()));
        self.more.notify_one();
    }

    /// Mail that was not delivered. What else is queued was for this stream alone.
    pub(super) fn leftovers(&self) -> Vec<AgentMessage> {
        let mut queue = self.queue.lock();
        let (mail, rest) = queue.frames.drain(..).partition(|(_, mail)| *mail);
        queue.frames = rest;
        let message = |(frame, _)| match frame {
            Payload::Message(message) => Some(message),
            Payload::Heartbeat(()) => None,
        };
        VecDeque::into_iter(mail).filter_map(message).collect()
    }

    /// The next frame, `None` at the end; what was queued before an end is still delivered.
    pub async fn next(&self) -> Result<Option<StreamAgentResponse>, Error> {
        loop {
            {
                let mut queue = self.queue.lock();
                if let Some((frame, _)) = queue.frames.pop_front() {
                    return Ok(Some(StreamAgentResponse { payload: Some(frame) }));
                }
                if let Some(ended) = &queue.ended {
                    return ended.clone().map(|()| None);
                }
            }
            self.more.notified().await;
        }
    }
}

impl Outlet for Links {
    fn attached(&self, to: &mut Attached) {
        let streams = self.open.values().map(|link| (link.agent, link.number));
        to.agent_streams.extend(streams);
    }
}

impl Links {
    /// Opens the newest stream of an agent. An older one ends, and what was kept comes first, whatever the bound.
    pub fn open(&mut self, agent: u64, number: u64, id: &str, caller: Caller, kept: Vec<AgentMessage>) -> Arc<Link> {
        let older = self.end(agent, Error::StreamReplaced(id.into()));
        let left = older.map(|older| older.leftovers()).unwrap_or_default();
        let frames = left
            .into_iter()
            .chain(kept)
            .map(|message| (Payload::Message(message), true))
            .collect();
        let queue = Mutex::new(Queue { frames, ended: None });
        let link = Arc::new(Link {
            agent,
            number,
            caller,
            queue,
            more: Notify::new(),
        });
        self.open.insert(agent, link.clone());
        link
    }

    /// Gives the message back where no stream takes it: none is open, or its queue is full.
    pub fn send(&self, agent: u64, message: AgentMessage, mail: bool) -> Option<AgentMessage> {
        let Some(link) = self.open.get(&agent) else {
            return Some(message);
        };
        match link.push(Payload::Message(message), mail)? {
            Payload::Message(message) => Some(message),
            Payload::Heartbeat(()) => None,
        }
    }

    /// Ends the stream of an agent from our side.
    pub fn end(&mut self, agent: u64, error: Error) -> Option<Arc<Link>> {
        let link = self.open.remove(&agent)?;
        link.end(error);
        Some(link)
    }

    /// A stream ended; a newer one stays.
    pub fn close(&mut self, link: &Link) {
        if self
            .open
            .get(&link.agent)
            .is_some_and(|open| open.number == link.number)
        {
            self.open.remove(&link.agent);
        }
    }
}
