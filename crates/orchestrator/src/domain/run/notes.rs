//! Lines for the model that nobody asked for: a background process that ended, a run that was interrupted.

use nexus_proto::agent::v1::{
    AgentMessage, AgentMessageMetadata, ControlCommand, ControlMessage, MessageType, agent_message,
};

use crate::domain::call::takes_tasks;
use crate::domain::{Effect, Fact, State, Step};

/// Longest note of a session, in bytes; the oldest lines go first.
const NOTE_BYTES: usize = 8 << 10;
/// Notes of one step.
const IN_STEP: usize = 64;

impl State {
    /// A worker says that a process ended that no call waited for: the next request says so.
    pub fn process_exited(&mut self, step: &mut Step<'_>, worker: u64, session_id: &str, told: &ProcessEnd<'_>) {
        let Some(session) = self.sessions.find(session_id).map(|session| session.key) else {
            return;
        };
        if !self.agents.get(worker).is_some_and(takes_tasks) {
            return;
        }
        if let Some(processes) = self.processes.get_mut(&session) {
            processes.remove(told.process_id);
        }
        let line = format!(
            "The background process {} ({}) has ended with exit code {}.",
            plain(told.process_id),
            plain(told.command),
            plain(told.exit_code)
        );
        self.note(step, session, line);
    }

    /// A line for the model: after the results of the present step, or with the next run's message.
    pub(super) fn note(&mut self, step: &mut Step<'_>, session: u64, line: String) {
        let n = self
            .sessions
            .get(session)
            .and_then(|session| session.turn())
            .map(|turn| turn.n);
        let run = n
            .and_then(|n| self.runs.get_mut(session, n))
            .filter(|run| run.next.is_none());
        if let Some(run) = run.filter(|run| run.step.notes.len() < IN_STEP) {
            run.step.notes.push(line);
            let n = run.n;
            return step.fact(Fact::RunStep { session, n });
        }
        let note = self.notes.entry(session).or_default();
        if !note.is_empty() {
            note.push('\n');
        }
        note.push_str(&line);
        while note.len() > NOTE_BYTES {
            let end = note.find('\n').map_or(note.len(), |at| at + 1);
            note.drain(..end);
        }
        step.fact(Fact::SessionNote(session));
    }

    /// A session is over or stopped: its background processes and its sandbox end on every worker.
    pub(in crate::domain) fn end_sandbox(&mut self, step: &mut Step<'_>, session_id: &str) {
        if let Some(session) = self.sessions.find(session_id) {
            self.processes.remove(&session.key);
        }
        let workers = self
            .agents
            .iter()
            .filter(|agent| agent.link.is_some() && takes_tasks(agent));
        for agent in workers {
            step.effect(Effect::Deliver {
                agent: agent.key,
                message: Box::new(AgentMessage {
                    id: format!("{session_id}-shutdown"),
                    r#type: MessageType::Control.into(),
                    source_id: "orchestrator".into(),
                    target_id: agent.id.to_string(),
                    metadata: Some(AgentMessageMetadata {
                        session_id: session_id.into(),
                        ..AgentMessageMetadata::default()
                    }),
                    payload: Some(agent_message::Payload::ControlMessage(ControlMessage {
                        command: ControlCommand::Shutdown.into(),
                        parameters: [("session_id".to_owned(), session_id.to_owned())].into(),
                    })),
                    ..AgentMessage::default()
                }),
                mail: false,
            });
        }
    }
}

/// A process that ended, in its worker's words.
#[derive(Clone, Copy, Debug)]
pub struct ProcessEnd<'a> {
    pub process_id: &'a str,
    pub command: &'a str,
    pub exit_code: &'a str,
}

/// Words of a worker in a note: short, on one line.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(120).collect()
}
