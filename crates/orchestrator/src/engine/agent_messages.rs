//! Messages from agents on their streams: deltas, answers, failures, and messages for other agents.

use std::collections::HashMap;

use bytes::Bytes;
use nexus_daemon::spans::Span;
use nexus_proto::agent::v1::{
    AgentMessage, AgentMessageMetadata, DataMessage, EventMessage, MessageType, agent_message::Payload,
};
use nexus_proto::words;

use super::streams::Streams;
use super::traces::Traces;
use super::{Engine, Link};
use crate::domain::Error;
use crate::domain::run::ProcessEnd;

/// What of an answer's headers is kept with it.
const KEPT: [&str; 6] = [
    "model",
    "provider",
    words::extra::FINISH_REASON,
    words::extra::CUT_SHORT,
    "input_tokens",
    "output_tokens",
];

/// The event by which a worker says that a process ended that no call waits for.
const PROCESS_EXITED: &str = "process.exited";

impl Engine {
    /// What an agent said on its stream.
    pub async fn agent_said(&self, link: &Link, message: AgentMessage) -> Result<(), Error> {
        let from = link.agent;
        let kind = MessageType::try_from(message.r#type).unwrap_or_default();
        let target = message.target_id.as_str();
        if !target.is_empty() && target != "orchestrator" && kind != MessageType::Heartbeat {
            self.room()?;
            let relayed = self.write(|state, step| state.relay(step, &link.caller, from, message));
            return relayed.await.map(drop);
        }
        let about = message.metadata.as_ref();
        match (kind, message.payload) {
            (MessageType::Event, Some(Payload::EventMessage(event))) => self.event(from, about, event).await,
            (MessageType::Data | MessageType::Error, Some(Payload::DataMessage(data))) => {
                let Some((session, correlation)) = self.turn_of(about, &data.headers) else {
                    tracing::info!(agent = from, "dropped an answer that no turn asked for");
                    return Ok(());
                };
                if kind == MessageType::Error {
                    let code = data.headers.get("code").map_or("INTERNAL", String::as_str);
                    let text = text_of(&data.data);
                    let error = if text.is_empty() { "the assistant failed" } else { &text };
                    let error = format!("{code}: {error}");
                    if data
                        .headers
                        .get(words::extra::INCOMPLETE)
                        .is_some_and(|value| value == "true")
                    {
                        return self.broke_off(from, session, &correlation, &error).await;
                    }
                    self.gave_up(from, session, &correlation, &error).await
                } else {
                    self.answered(from, session, correlation, data).await
                }
            }
            (MessageType::Data | MessageType::Error, _) => {
                let Some((session, correlation)) = self.turn_of(about, &HashMap::new()) else {
                    return Ok(());
                };
                let error = if kind == MessageType::Error {
                    "the assistant failed"
                } else {
                    "the answer has no data"
                };
                self.gave_up(from, session, &correlation, &format!("INTERNAL: {error}"))
                    .await
            }
            (kind, _) => {
                tracing::debug!(agent = from, ?kind, "dropped a message without a recipient");
                Ok(())
            }
        }
    }

    async fn event(&self, from: u64, about: Option<&AgentMessageMetadata>, event: EventMessage) -> Result<(), Error> {
        if event.event_type == PROCESS_EXITED {
            return self.process_exited(from, about, &event).await;
        }
        let Some((session, correlation)) = self.turn_of(about, &HashMap::new()) else {
            return Ok(());
        };
        if event.event_type == "delta" {
            let delta = event.data.get("delta").map(String::as_str).unwrap_or_default();
            let index = event
                .data
                .get("index")
                .and_then(|index| index.parse().ok())
                .unwrap_or(usize::MAX);
            return self.delta(from, session, &correlation, index, delta).await;
        }
        if event.event_type == "thinking" {
            let thought = event.data.get("delta").map(String::as_str).unwrap_or_default();
            let index = event
                .data
                .get("index")
                .and_then(|index| index.parse().ok())
                .unwrap_or_default();
            self.look(|ledger| {
                if ledger.state.is_offered(session, from, &correlation) {
                    ledger.tell_text(session, thought, index, true);
                }
            });
            return Ok(());
        }
        if event.event_type.starts_with("tool") {
            self.write(|state, step| {
                state.tool_ran(step, from, session, &correlation);
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// A worker says that a process ended that no call waited for.
    async fn process_exited(
        &self,
        from: u64,
        about: Option<&AgentMessageMetadata>,
        event: &EventMessage,
    ) -> Result<(), Error> {
        let word = |name: &str| event.data.get(name).map(String::as_str).unwrap_or_default();
        let session = match word("session_id") {
            "" => about.map(|about| about.session_id.as_str()).unwrap_or_default(),
            id => id,
        };
        let told = ProcessEnd {
            process_id: word("process_id"),
            command: word("command"),
            exit_code: word("exit_code"),
        };
        self.write(|state, step| {
            state.sweep();
            state.process_exited(step, from, session, &told);
            Ok(())
        })
        .await
    }

    /// A piece of an answer: not in the log, shown to the session's streams at once.
    async fn delta(&self, from: u64, session: u64, correlation: &str, index: usize, delta: &str) -> Result<(), Error> {
        let taken = self
            .write(|state, step| Ok(state.delta(step, from, session, correlation, index, delta)))
            .await?;
        if !taken {
            return Ok(());
        }
        self.look_mut(|ledger| {
            ledger.outlets.of::<Streams>().wake(session);
            ledger.tell_text(session, delta, index as u64, false);
        });
        Ok(())
    }

    async fn answered(&self, from: u64, session: u64, correlation: String, data: DataMessage) -> Result<(), Error> {
        let extra = KEPT
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), data.headers.get(*name)?.clone())));
        let (extra, text) = (extra.collect(), text_of(&data.data));
        let _storing = self.traced(session, "store answer");
        let known = self
            .write(move |state, step| Ok(state.answer(step, from, session, &correlation, text, extra)))
            .await?;
        if !known {
            tracing::info!(
                agent = from,
                "dropped an answer that came too late, or from another agent"
            );
        }
        Ok(())
    }

    /// A part of what is done for the message whose turn it is.
    fn traced(&self, session: u64, name: &'static str) -> Span {
        self.look(|ledger| {
            let turn = ledger.state.sessions.get(session)?.turn()?;
            Some(Span::within(name, ledger.outlets.get::<Traces>()?.of(session, turn.n)?))
        })
        .unwrap_or_default()
    }

    /// The turn ends without an answer.
    pub(super) async fn gave_up(&self, agent: u64, session: u64, correlation: &str, error: &str) -> Result<(), Error> {
        self.write(|state, step| {
            state.answer_failed(step, agent, session, correlation, error);
            Ok(())
        })
        .await
    }

    /// The turn ends in the middle of its answer, and what was said is kept.
    async fn broke_off(&self, agent: u64, session: u64, correlation: &str, error: &str) -> Result<(), Error> {
        self.write(|state, step| {
            state.answer_broke_off(step, agent, session, correlation, error);
            Ok(())
        })
        .await
    }

    /// The session and correlation id that an agent's message is about, from its metadata or else its headers.
    fn turn_of(
        &self,
        metadata: Option<&AgentMessageMetadata>,
        headers: &HashMap<String, String>,
    ) -> Option<(u64, String)> {
        let pick = |from: Option<&str>, name: &str| {
            let from = from.map(str::trim).filter(|value| !value.is_empty());
            from.or_else(|| headers.get(name).map(|value| value.trim()))
                .unwrap_or_default()
                .to_owned()
        };
        let session = pick(metadata.map(|m| m.session_id.as_str()), "session_id");
        let correlation = pick(
            metadata.map(|m| m.correlation_id.as_str()),
            words::extra::CORRELATION_ID,
        );
        self.look(|ledger| Some((ledger.state.sessions.find(&session)?.key, correlation)))
    }
}

/// An agent's bytes as text; what is no UTF-8 is marked as such.
fn text_of(data: &Bytes) -> String {
    String::from_utf8_lossy(data).into_owned()
}
