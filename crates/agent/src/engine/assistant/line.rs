//! One StreamAgent from its first frame to its loss, and the turns that were offered on it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use nexus_client::{Error, Kind};
use nexus_proto::agent::v1::{StreamAgentResponse, stream_agent_response::Payload};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, Id, JoinError, JoinSet},
    time::sleep,
};
use tonic::Streaming;

use super::{Command, kit::Kit, outbox::Outbox, turn};
use crate::{
    domain::assistant::{
        turn_queue::{self, Limits, Outcome, TurnId, TurnQueue},
        work::{Refusal, Work},
    },
    engine::board::Board,
    remote::Inbound,
};

pub(super) struct Terms {
    pub(super) kit: Arc<Kit>,
    pub(super) board: Board,
    pub(super) limits: Limits,
    pub(super) heartbeat_every: Duration,
    pub(super) agent_id: String,
}

/// Until the stream is lost; the answer is how. No turn runs any more by then.
pub(super) async fn serve(terms: Terms, commands: &mut mpsc::Receiver<Command>) -> Error {
    let outbox = Outbox::new(&terms.agent_id);
    let kit = terms.kit.clone();
    let agent_id = terms.agent_id.clone();
    let every = terms.heartbeat_every;
    let mut line = Line {
        queue: TurnQueue::new(terms.limits),
        terms,
        outbox: outbox.clone(),
        sessions: HashMap::new(),
        tasks: JoinSet::new(),
        running: HashMap::new(),
    };
    let forgotten = heartbeats(&kit, &agent_id, every);
    let opening = kit.orchestrator.open(outbox.messages());
    tokio::pin!(forgotten, opening);
    let mut stream: Option<Streaming<StreamAgentResponse>> = None;

    let error = loop {
        tokio::select! {
            opened = &mut opening, if stream.is_none() => match opened {
                Ok(opened) => {
                    tracing::info!(agent_id, "connected to the orchestrator");
                    line.terms.board.connected();
                    stream = Some(opened);
                }
                Err(error) => break error,
            },
            message = next(&mut stream), if stream.is_some() => match message {
                Ok(message) => if let Err(error) = line.hear(message) {
                    break error;
                },
                Err(error) => break error,
            },
            Some(ended) = line.tasks.join_next_with_id(), if !line.tasks.is_empty() => line.ended(ended),
            Some(command) = commands.recv() => line.command(command),
            error = &mut forgotten => break error,
        }
    };
    line.tasks.shutdown().await;
    error
}

async fn next(stream: &mut Option<Streaming<StreamAgentResponse>>) -> Result<StreamAgentResponse, Error> {
    let Some(stream) = stream else {
        return std::future::pending().await;
    };
    match stream.message().await? {
        Some(message) => Ok(message),
        None => Err(Error::new(Kind::Unavailable, "the orchestrator closed the stream")),
    }
}

/// Ends only when the orchestrator does not know this agent. Any other failure shows on the stream too.
async fn heartbeats(kit: &Kit, agent_id: &str, every: Duration) -> Error {
    loop {
        sleep(every).await;
        match kit.orchestrator.heartbeat(agent_id, Vec::new()).await {
            Err(error) if error.kind == Kind::NotFound => return error,
            Err(error) => tracing::debug!(%error, "a heartbeat failed"),
            Ok(_) => {}
        }
    }
}

struct Line {
    terms: Terms,
    queue: TurnQueue<Work>,
    outbox: Outbox,
    /// By turn, waiting or running: its session, since a cancel may name only that.
    sessions: HashMap<TurnId, String>,
    tasks: JoinSet<()>,
    running: HashMap<Id, (TurnId, AbortHandle)>,
}

impl Line {
    fn hear(&mut self, message: StreamAgentResponse) -> Result<(), Error> {
        let Some(Payload::Message(message)) = message.payload else {
            return Ok(());
        };
        match Inbound::decode(message, &self.terms.agent_id) {
            Inbound::Offer(work) => self.offer(work),
            Inbound::Cancel { turn, session_id } => {
                let turns = match turn {
                    Some(turn) => vec![turn],
                    None => self.of_session(&session_id),
                };
                for turn in turns {
                    self.cancel(turn);
                }
                Ok(())
            }
            Inbound::Malformed {
                turn,
                session_id,
                reason,
            } => self.refuse(turn, session_id, "INVALID_ARGUMENT", reason.to_owned(), false),
            Inbound::Ignored(reason) => {
                tracing::debug!(reason, "a message was ignored");
                Ok(())
            }
        }
    }

    fn offer(&mut self, work: Work) -> Result<(), Error> {
        let (turn, session_id) = (work.turn().clone(), work.session_id().to_owned());
        match self.queue.step(turn_queue::Command::Offer(turn.clone(), work)) {
            Ok(outcome) => {
                self.sessions.insert(turn, session_id);
                self.follow(outcome);
                Ok(())
            }
            Err(turn_queue::Error::Known) => Ok(()),
            Err(error @ (turn_queue::Error::Full { .. } | turn_queue::Error::Unknown)) => {
                self.refuse(turn, session_id, "RESOURCE_EXHAUSTED", error.to_string(), true)
            }
        }
    }

    fn of_session(&self, session_id: &str) -> Vec<TurnId> {
        let of = |(turn, session): (&TurnId, &String)| (session == session_id).then(|| turn.clone());
        self.sessions.iter().filter_map(of).collect()
    }

    /// The sender knows; nothing more is said. False if there is no such turn.
    fn cancel(&mut self, turn: TurnId) -> bool {
        match self.queue.step(turn_queue::Command::Cancel(turn)) {
            Ok(outcome) => {
                self.follow(outcome);
                true
            }
            Err(_) => false,
        }
    }

    /// A cancel from beside the stream; so the orchestrator must hear of it.
    fn command(&mut self, command: Command) {
        let turn = command.cancel;
        let session_id = self.sessions.get(&turn).cloned().unwrap_or_default();
        let found = self.cancel(turn.clone());
        if found {
            let message = "the answer was cancelled at the agent".to_owned();
            // Too many unread refusals end the line at the next message.
            let _ = self.refuse(turn, session_id, "CANCELLED", message, false);
        }
        let _ = command.found.send(found);
    }

    fn ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = match &ended {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        let Some((turn, _)) = self.running.remove(&id) else {
            return;
        };
        self.outbox.release(&turn);
        let session_id = self.sessions.remove(&turn).unwrap_or_default();
        if ended.is_err_and(|error| error.is_panic()) {
            let message = "the assistant failed: a fault of its own, see its log".to_owned();
            let _ = self.refuse(turn.clone(), session_id, "INTERNAL", message, false);
        }
        match self.queue.step(turn_queue::Command::Ended(turn)) {
            Ok(outcome) => self.follow(outcome),
            Err(error) => tracing::error!(%error, "a turn ended that had no place"),
        }
    }

    fn follow(&mut self, outcome: Outcome<Work>) {
        match outcome {
            Outcome::Start(turn, work) => {
                let sender = self.outbox.sender(turn.clone(), work.session_id().to_owned());
                let handle = self.tasks.spawn(turn::run(self.terms.kit.clone(), work, sender));
                self.running.insert(handle.id(), (turn, handle));
            }
            Outcome::Stop(turn) => {
                self.outbox.silence(&turn);
                for (_, handle) in self.running.values().filter(|(of, _)| *of == turn) {
                    handle.abort();
                }
            }
            Outcome::Dropped(turn) => {
                self.sessions.remove(&turn);
            }
            Outcome::Nothing => {}
        }
        self.terms
            .board
            .turns(self.queue.active().count(), self.queue.waiting());
    }

    fn refuse(
        &self,
        turn: TurnId,
        session_id: String,
        code: &str,
        message: String,
        retryable: bool,
    ) -> Result<(), Error> {
        let refusal = Refusal {
            code: code.to_owned(),
            message,
            retryable,
            keeps_answer: false,
        };
        if self.outbox.refuse(turn, session_id, refusal) {
            return Ok(());
        }
        Err(Error::new(
            Kind::Exhausted,
            "the orchestrator sends but does not read the answers",
        ))
    }
}
