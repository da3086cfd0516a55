//! Translates facts into changes on disk.

use bytes::Bytes;
use nexus_store::Op;
use prost::Message as _;

use super::containers::container_doc;
use super::docs::{UserUsage, agent_doc, kept_doc, session_doc, task_doc, turn_doc, turn_end_doc};
use super::index::{delete, life_of_task, of_closed, of_task, put};
use super::{
    AGENT, CALL_OPEN, CHOSEN, CLOSED, CONTAINER, EVENT, KEPT, LIVE, MESSAGE, OPEN, OVER, SESSION_NOTE, SESSION_USAGE,
    TASK, TASK_OF_AGENT, TASK_OPEN, USER_USAGE, above, key, pair, runs, text,
};
use crate::domain::step::MessageOrigin;
use crate::domain::{Fact, State, Time};

/// The changes on disk that a fact asks for, with the state as it is after the step.
pub fn ops(fact: &Fact, state: &State, now: Time, out: &mut Vec<Op>) {
    match fact {
        Fact::Message {
            session,
            n,
            message,
            origin,
        } => {
            let body = Bytes::from(message.encode_to_vec());
            out.push(Op::Append {
                stream: *session,
                n: Some(*n),
                time: now,
                kind: MESSAGE,
                body,
            });
            if let MessageOrigin::Client { chose_id: true } = origin {
                out.push(Op::Put {
                    table: CHOSEN,
                    key: text(*session, message.id.as_bytes()),
                    value: key(*n),
                });
            }
        }
        Fact::Event { session, event } => {
            let body = Bytes::from(event.encode_to_vec());
            out.push(Op::Append {
                stream: *session,
                n: None,
                time: now,
                kind: EVENT,
                body,
            });
        }
        Fact::Session(session) => {
            let Some(session) = state.sessions.get(*session) else {
                return;
            };
            let table = if session.is_closed() { CLOSED } else { LIVE };
            if session.is_closed() {
                out.push(Op::Delete {
                    table: LIVE,
                    key: key(session.key),
                });
                let index = of_closed(&session.creator, &session.metadata.owner_id, session.key);
                out.extend(index.into_iter().map(put));
            }
            out.push(Op::Put {
                table,
                key: key(session.key),
                value: session_doc(session),
            });
        }
        Fact::Agent(agent) => {
            let Some(agent) = state.agents.get(*agent) else { return };
            out.push(Op::Put {
                table: AGENT,
                key: key(agent.key),
                value: agent_doc(agent),
            });
        }
        Fact::AgentGone(agent) => {
            out.push(Op::Delete {
                table: AGENT,
                key: key(*agent),
            });
            out.push(Op::DeleteRange {
                table: KEPT,
                from: key(*agent),
                to: above(*agent),
            });
        }
        Fact::Task(task) => {
            let Some(task) = state.tasks.get(*task) else { return };
            out.push(Op::Put {
                table: TASK,
                key: key(task.key),
                value: task_doc(task),
            });
            if task.is_over() {
                out.push(delete((TASK_OPEN, key(task.key))));
                out.push(put(life_of_task(task)));
            }
        }
        Fact::TaskMade(task) => {
            let Some(task) = state.tasks.get(*task) else { return };
            out.extend(of_task(task).into_iter().map(put));
        }
        Fact::TaskMoved { task, from } => {
            let to = state.tasks.get(*task).and_then(|task| task.agent);
            out.extend(from.map(|from| delete((TASK_OF_AGENT, pair(from, *task)))));
            out.extend(to.map(|to| put((TASK_OF_AGENT, pair(to, *task)))));
        }
        Fact::Container(container) => {
            let Some(container) = state.containers.get(*container) else {
                return;
            };
            out.push(Op::Put {
                table: CONTAINER,
                key: key(container.key),
                value: container_doc(container),
            });
        }
        Fact::ContainerGone(container) => out.push(Op::Delete {
            table: CONTAINER,
            key: key(*container),
        }),
        Fact::Turn { session, n } => {
            let session_found = state.sessions.get(*session);
            let Some(turn) = session_found.and_then(|found| found.turn_of(*n)) else {
                return;
            };
            out.push(Op::Put {
                table: OPEN,
                key: pair(*session, *n),
                value: turn_doc(turn),
            });
        }
        Fact::TurnEnded { session, n, over } => {
            out.push(Op::Delete {
                table: OPEN,
                key: pair(*session, *n),
            });
            out.push(Op::Put {
                table: OVER,
                key: pair(*session, *n),
                value: turn_end_doc(over),
            });
        }
        Fact::Kept { agent, n, message } => out.push(match message {
            Some(kept) => Op::Put {
                table: KEPT,
                key: pair(*agent, *n),
                value: kept_doc(kept),
            },
            None => Op::Delete {
                table: KEPT,
                key: pair(*agent, *n),
            },
        }),
        Fact::SessionUsage(session) => {
            let Some(session) = state.sessions.get(*session) else {
                return;
            };
            out.push(Op::Put {
                table: SESSION_USAGE,
                key: key(session.key),
                value: key(session.stored()),
            });
        }
        Fact::UserUsage(user) => out.push(Op::Put {
            table: USER_USAGE,
            key: Bytes::copy_from_slice(user.as_bytes()),
            value: UserUsage {
                stored: state.usage.stored(user),
                closed: state.usage.closed(user),
            }
            .encode_to_vec()
            .into(),
        }),
        Fact::Run { .. }
        | Fact::RunStep { .. }
        | Fact::Call(_)
        | Fact::Approval(_)
        | Fact::Grant(_)
        | Fact::GrantGone(_)
        | Fact::Tool(_)
        | Fact::ToolStats(_)
        | Fact::ToolGone(_)
        | Fact::Stop(_)
        | Fact::SessionNote(_) => runs::ops(fact, state, out),
        Fact::SessionGone {
            session,
            creator,
            owner,
        } => {
            out.extend(of_closed(creator, owner, *session).into_iter().map(delete));
            out.push(Op::Erase { stream: *session });
            for table in [LIVE, CLOSED, SESSION_USAGE] {
                out.push(Op::Delete {
                    table,
                    key: key(*session),
                });
            }
            out.push(delete((SESSION_NOTE, key(*session))));
            for table in [CHOSEN, OPEN, OVER, CALL_OPEN].into_iter().chain(runs::OF_SESSION) {
                out.push(Op::DeleteRange {
                    table,
                    from: key(*session),
                    to: above(*session),
                });
            }
        }
    }
}
