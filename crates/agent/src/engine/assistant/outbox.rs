//! The outgoing queue of one StreamAgent: ordered and bounded.
//!
//! Deltas of a turn that wait grow together into one, so a slow reader costs at most one waiting message for each turn,
//! and gets every byte. A silenced turn sends nothing more, whatever its task still does.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use nexus_proto::agent::v1::StreamAgentRequest;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_stream::Stream;

use crate::domain::assistant::{
    turn_queue::TurnId,
    work::{Outbound, Refusal},
};

/// Refusals that may wait. An orchestrator that asks this often without reading an answer is left.
const REFUSALS: usize = 10_000;
/// One delta is not longer, however much has waited: small enough for any receiver's limit.
const DELTA_BYTES: usize = 256 * 1024;

#[derive(Clone)]
pub(super) struct Outbox {
    state: Arc<Mutex<State>>,
    agent_id: Arc<str>,
}

struct State {
    queue: VecDeque<Item>,
    /// By turn and kind: the delta that waits, and the session it belongs to.
    pieces: HashMap<(TurnId, Kind), Piece>,
    silenced: HashSet<TurnId>,
    refusals: usize,
    waker: Option<Waker>,
    /// Told when a turn has no delta any more that waits.
    drained: Arc<Notify>,
}

/// Text of the answer, or what the model thinks before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Text,
    Thought,
}

enum Item {
    /// The first frame: who we are, and nothing else.
    Hello,
    Piece(TurnId, Kind),
    Last(TurnId, String, Outbound),
    Refusal(TurnId, String, Refusal),
}

struct Piece {
    session_id: String,
    index: usize,
    text: String,
}

impl Outbox {
    pub(super) fn new(agent_id: &str) -> Self {
        Outbox {
            agent_id: agent_id.into(),
            state: Arc::new(Mutex::new(State {
                queue: VecDeque::from([Item::Hello]),
                pieces: HashMap::new(),
                silenced: HashSet::new(),
                refusals: 0,
                waker: None,
                drained: Arc::default(),
            })),
        }
    }

    /// The other end: what the orchestrator receives. There is one.
    pub(super) fn messages(&self) -> Messages {
        Messages { outbox: self.clone() }
    }

    pub(super) fn sender(&self, turn: TurnId, session_id: String) -> TurnSender {
        TurnSender {
            outbox: self.clone(),
            turn,
            session_id,
        }
    }

    /// Tells why a turn that never began has no answer. False when too many wait to be read.
    pub(super) fn refuse(&self, turn: TurnId, session_id: String, refusal: Refusal) -> bool {
        let mut state = self.state.lock();
        if state.refusals >= REFUSALS {
            return false;
        }
        state.refusals += 1;
        state.push(Item::Refusal(turn, session_id, refusal));
        true
    }

    /// Takes back what has not left, and lets nothing follow.
    pub(super) fn silence(&self, turn: &TurnId) {
        let mut state = self.state.lock();
        state.pieces.retain(|(of, _), _| of != turn);
        state.queue.retain(|item| match item {
            Item::Piece(of, _) | Item::Last(of, ..) => of != turn,
            Item::Hello | Item::Refusal(..) => true,
        });
        state.silenced.insert(turn.clone());
    }

    /// The turn's task is gone, and so is the need to keep it silent.
    pub(super) fn release(&self, turn: &TurnId) {
        self.state.lock().silenced.remove(turn);
    }
}

impl State {
    fn push(&mut self, item: Item) {
        self.queue.push_back(item);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// The outgoing side of one turn.
pub(super) struct TurnSender {
    outbox: Outbox,
    turn: TurnId,
    session_id: String,
}

impl TurnSender {
    pub(super) fn say(&self, outbound: Outbound) {
        let mut state = self.outbox.state.lock();
        if state.silenced.contains(&self.turn) {
            return;
        }
        let (kind, index, text) = match outbound {
            Outbound::Delta { index, text } => (Kind::Text, index, text),
            Outbound::Thought { index, text } => (Kind::Thought, index, text),
            last @ (Outbound::Answer(_) | Outbound::Refusal(_)) => {
                state.push(Item::Last(self.turn.clone(), self.session_id.clone(), last));
                return;
            }
        };
        let piece = Piece {
            session_id: self.session_id.clone(),
            index,
            text,
        };
        match state.pieces.get_mut(&(self.turn.clone(), kind)) {
            Some(waiting) if index == waiting.index + waiting.text.len() => waiting.text.push_str(&piece.text),
            // The text starts over: what waits of the one before is of no use any more.
            Some(waiting) => *waiting = piece,
            None => {
                state.pieces.insert((self.turn.clone(), kind), piece);
                state.push(Item::Piece(self.turn.clone(), kind));
            }
        }
    }

    pub(super) fn agent_id(&self) -> &str {
        &self.outbox.agent_id
    }

    /// Until every delta of this turn has left.
    pub(super) async fn drained(&self) {
        let drained = self.outbox.state.lock().drained.clone();
        loop {
            let mut told = std::pin::pin!(drained.notified());
            told.as_mut().enable();
            if !self.outbox.state.lock().pieces.keys().any(|(of, _)| *of == self.turn) {
                return;
            }
            told.await;
        }
    }
}

pub(super) struct Messages {
    outbox: Outbox,
}

impl Stream for Messages {
    type Item = StreamAgentRequest;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<StreamAgentRequest>> {
        let agent_id = &self.outbox.agent_id;
        let mut state = self.outbox.state.lock();
        let Some(item) = state.queue.pop_front() else {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        let message = match item {
            Item::Hello => StreamAgentRequest {
                agent_id: agent_id.to_string(),
                payload: None,
            },
            Item::Piece(turn, kind) => {
                let key = (turn, kind);
                let mut piece = state
                    .pieces
                    .remove(&key)
                    .expect("a piece is queued when it is made, and both go together");
                let session_id = piece.session_id.clone();
                let index = piece.index;
                let rest = piece.text.split_off(piece.text.floor_char_boundary(DELTA_BYTES));
                let text = std::mem::replace(&mut piece.text, rest);
                let turn = key.0.clone();
                if piece.text.is_empty() {
                    state.drained.notify_waiters();
                } else {
                    piece.index += text.len();
                    state.pieces.insert(key, piece);
                    state.queue.push_front(Item::Piece(turn.clone(), kind));
                }
                let piece = match kind {
                    Kind::Text => Outbound::Delta { index, text },
                    Kind::Thought => Outbound::Thought { index, text },
                };
                piece.encode(agent_id, &turn, &session_id)
            }
            Item::Last(turn, session_id, last) => last.encode(agent_id, &turn, &session_id),
            Item::Refusal(turn, session_id, refusal) => {
                state.refusals -= 1;
                Outbound::Refusal(refusal).encode(agent_id, &turn, &session_id)
            }
        };
        Poll::Ready(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, StreamExt as _};
    use nexus_proto::agent::v1::{agent_message, stream_agent_request::Payload};

    use super::*;

    fn turn() -> TurnId {
        TurnId("t".into())
    }

    fn delta(index: usize, text: &str) -> Outbound {
        Outbound::Delta {
            index,
            text: text.into(),
        }
    }

    fn read(messages: &mut Messages) -> Option<(String, String)> {
        let message = messages.next().now_or_never()??;
        let Some(Payload::Message(message)) = message.payload else {
            return Some(("hello".into(), message.agent_id));
        };
        match message.payload.unwrap() {
            agent_message::Payload::EventMessage(event) => {
                Some((event.data["index"].clone(), event.data["delta"].clone()))
            }
            agent_message::Payload::DataMessage(data) => {
                Some(("last".into(), String::from_utf8(data.data.into()).unwrap()))
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_slow_reader_gets_every_byte_in_fewer_messages() {
        let outbox = Outbox::new("a1");
        let mut messages = outbox.messages();
        assert_eq!(read(&mut messages).unwrap(), ("hello".into(), "a1".into()));
        let sender = outbox.sender(turn(), "s".into());
        sender.say(delta(0, "ab"));
        assert_eq!(read(&mut messages).unwrap(), ("0".into(), "ab".into()));
        sender.say(delta(2, "c"));
        sender.say(delta(3, "d"));
        sender.say(delta(4, "e"));
        sender.say(Outbound::Answer(crate::domain::assistant::answer::CompleteAnswer {
            text: "abcde".into(),
            ..Default::default()
        }));
        assert_eq!(read(&mut messages).unwrap(), ("2".into(), "cde".into()));
        assert_eq!(read(&mut messages).unwrap(), ("last".into(), "abcde".into()));
        assert_eq!(read(&mut messages), None);
    }

    #[test]
    fn what_has_waited_long_is_cut_between_characters() {
        let outbox = Outbox::new("a1");
        let mut messages = outbox.messages();
        read(&mut messages);
        let long = "\u{20ac}".repeat(DELTA_BYTES / 2);
        outbox.sender(turn(), "s".into()).say(delta(7, &long));
        let mut built = String::new();
        while let Some((index, text)) = read(&mut messages) {
            assert_eq!(index, (7 + built.len()).to_string());
            assert!(text.len() <= DELTA_BYTES);
            built.push_str(&text);
        }
        assert!(built == long);
    }

    #[test]
    fn a_silenced_turn_takes_back_its_words_and_the_others_go_on() {
        let outbox = Outbox::new("a1");
        let mut messages = outbox.messages();
        read(&mut messages);
        let sender = outbox.sender(turn(), "s".into());
        let other = outbox.sender(TurnId("o".into()), "s2".into());
        sender.say(delta(0, "never"));
        other.say(delta(0, "heard"));
        outbox.silence(&turn());
        sender.say(delta(5, "nor this"));
        assert_eq!(read(&mut messages).unwrap().1, "heard");
        assert_eq!(read(&mut messages), None);
    }

    #[test]
    fn a_text_that_starts_over_takes_the_place_of_what_waits() {
        let outbox = Outbox::new("a1");
        let mut messages = outbox.messages();
        read(&mut messages);
        let sender = outbox.sender(turn(), "s".into());
        sender.say(delta(0, "first try"));
        sender.say(delta(0, "sec"));
        sender.say(delta(3, "ond"));
        assert_eq!(read(&mut messages).unwrap(), ("0".into(), "second".into()));
        assert_eq!(read(&mut messages), None);
    }

    #[test]
    fn a_turn_is_drained_when_its_last_delta_has_left() {
        let outbox = Outbox::new("a1");
        let mut messages = outbox.messages();
        read(&mut messages);
        let sender = outbox.sender(turn(), "s".into());
        assert!(sender.drained().now_or_never().is_some());
        sender.say(delta(0, "a"));
        sender.say(Outbound::Thought {
            index: 0,
            text: "hm".into(),
        });
        let mut drained = std::pin::pin!(sender.drained());
        assert!(drained.as_mut().now_or_never().is_none());
        read(&mut messages);
        assert!(drained.as_mut().now_or_never().is_none());
        assert_eq!(read(&mut messages).unwrap().1, "hm");
        assert!(drained.as_mut().now_or_never().is_some());
    }

    #[test]
    fn refusals_nobody_reads_have_an_end() {
        let outbox = Outbox::new("a1");
        let refusal = Refusal {
            code: "X".into(),
            message: "no".into(),
            retryable: false,
            keeps_answer: false,
        };
        let accepted = (0..REFUSALS + 5)
            .filter(|_| outbox.refuse(turn(), "s".into(), refusal.clone()))
            .count();
        assert_eq!(accepted, REFUSALS);
    }
}
