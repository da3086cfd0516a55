//! Events that were committed together: encoded once, with the heads that gRPC puts before messages, in one piece of
//! memory. A reader of everything gets that piece as it is, however many events it holds.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use bytes::{BufMut, Bytes, BytesMut};
use nexus_proto::orchestrator::v1::{Event, EventGap, Message, SessionMetadata};
use prost::Message as _;

use super::wire;
use crate::domain::filter::Wanted;
use crate::domain::{Time, event, ids};

/// A gRPC message begins with a byte that says whether it is compressed, and its length in four.
const HEAD: usize = 5;
/// About what an event takes; only a guess, so that a group seldom has to grow.
const USUAL: usize = 360;

/// One event of a group.
#[derive(Debug)]
pub(super) struct Published {
    pub seq: u64,
    pub time: Time,
    /// The session that it is of, 0 for none, and whose that is; empty for nobody's.
    pub session: u64,
    pub creator: Arc<str>,
    /// What its session says of itself, for filters by label.
    metadata: Arc<SessionMetadata>,
    /// Where it ends in the group's memory; it begins where the one before ends.
    end: usize,
    /// The session whose traces it ends, 0 for none.
    pub erases: u64,
    /// Made of the bytes when the first filter asks for it.
    event: OnceLock<Box<Event>>,
}

/// Events in the order of the log.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub events: Vec<Published>,
    wire: Bytes,
}

/// Which events of the log one reader may see and asked for.
#[derive(Debug)]
pub(super) struct Visibility {
    wanted: Wanted,
    /// `Some` for a caller that sees only what is of its own sessions.
    only: Option<Arc<str>>,
    everything: bool,
}

/// Which session an event is of: 0 and empty for none.
#[derive(Clone, Debug)]
pub(crate) struct EventSession {
    pub session: u64,
    pub creator: Arc<str>,
    pub metadata: Arc<SessionMetadata>,
}

/// A group in the making.
#[derive(Debug, Default)]
pub(super) struct Writing {
    events: Vec<Published>,
    wire: BytesMut,
}

impl Writing {
    pub fn room_for(events: usize) -> Self {
        Writing {
            events: Vec::with_capacity(events),
            wire: BytesMut::with_capacity(events * USUAL),
        }
    }

    pub fn message(&mut self, seq: u64, id: &str, of: EventSession, message: &Message, time: Time) {
        let start = self.begin();
        wire::message_sent(&mut self.wire, seq, message, id, time);
        self.finish(start);
        self.push(seq, time, of, 0);
    }

    /// `event` has no sequence of its own yet.
    pub fn event(&mut self, seq: u64, of: EventSession, event: &Event) {
        let time = event.timestamp.as_ref().map_or(0, event::time);
        let deleted = (event.name == event::SESSION_DELETED)
            .then(|| event.data.get("session_id"))
            .flatten();
        let erases = deleted.and_then(|id| ids::number(id)).unwrap_or(0);
        let start = self.begin();
        self.wire.reserve(event.encoded_len());
        event.encode_raw(&mut self.wire);
        // Fields of a message may come in any order.
        wire::sequence(&mut self.wire, seq);
        self.finish(start);
        self.push(seq, time, of, erases);
    }

    fn begin(&mut self) -> usize {
        let start = self.wire.len();
        self.wire.put_bytes(0, HEAD);
        start
    }

    fn finish(&mut self, start: usize) {
        let length = u32::try_from(self.wire.len() - start - HEAD).expect("an event is smaller than a message may be");
        self.wire[start + 1..start + HEAD].copy_from_slice(&length.to_be_bytes());
    }

    fn push(&mut self, seq: u64, time: Time, of: EventSession, erases: u64) {
        let end = self.wire.len();
        self.events.push(Published {
            seq,
            time,
            session: of.session,
            creator: of.creator,
            metadata: of.metadata,
            end,
            erases,
            event: OnceLock::new(),
        });
    }

    pub fn done(self) -> Group {
        Group {
            events: self.events,
            wire: self.wire.freeze(),
        }
    }
}

impl Group {
    pub fn bytes(&self) -> usize {
        self.wire.len()
    }

    /// The sequence of the last event; 0 for a group without any.
    pub fn last(&self) -> u64 {
        self.events.last().map_or(0, |event| event.seq)
    }

    /// What is after `cursor` and in visibility, in as few pieces as there are holes. Returns false once the time that the
    /// reader is interested in is over.
    pub fn show(&self, cursor: u64, visibility: &Visibility, out: &mut VecDeque<Bytes>) -> bool {
        let first = self.events.partition_point(|event| event.seq <= cursor);
        let mut from = self.start(first);
        let mut piece = |from: usize, to: usize| {
            if from < to {
                out.push_back(self.wire.slice(from..to));
            }
        };
        if visibility.everything {
            piece(from, self.wire.len());
            return true;
        }
        let mut goes_on = true;
        for (i, event) in self.events.iter().enumerate().skip(first) {
            // Times never fall along the log: what comes after the end is of no interest, however much it is.
            goes_on &= visibility.wanted.end.is_none_or(|end| event.time <= end);
            if !visibility.shows(self, i) {
                piece(from, self.start(i));
                from = event.end;
            }
        }
        piece(from, self.wire.len());
        goes_on
    }

    /// The same without the events of one session; `None` if there are none of it.
    pub fn without(&self, session: u64) -> Option<Group> {
        if !self.events.iter().any(|event| event.session == session) {
            return None;
        }
        let mut kept = Writing::default();
        for (i, event) in self
            .events
            .iter()
            .enumerate()
            .filter(|(_, event)| event.session != session)
        {
            kept.wire.put_slice(&self.wire[self.start(i)..event.end]);
            let of = EventSession {
                session: event.session,
                creator: event.creator.clone(),
                metadata: event.metadata.clone(),
            };
            kept.push(event.seq, event.time, of, event.erases);
        }
        Some(kept.done())
    }

    fn start(&self, i: usize) -> usize {
        i.checked_sub(1).map_or(0, |before| self.events[before].end)
    }

    fn event(&self, i: usize) -> &Event {
        self.events[i].event.get_or_init(|| {
            let wire = self.wire.slice(self.start(i) + HEAD..self.events[i].end);
            Box::new(Event::decode(wire).expect("we wrote it ourselves"))
        })
    }
}

impl Visibility {
    pub fn new(wanted: Wanted, only: Option<Arc<str>>) -> Self {
        let everything = only.is_none() && wanted.everything();
        Visibility {
            wanted,
            only,
            everything,
        }
    }

    pub fn end(&self) -> Option<Time> {
        self.wanted.end
    }

    fn shows(&self, group: &Group, i: usize) -> bool {
        let creator = &*group.events[i].creator;
        let visible = self
            .only
            .as_ref()
            .is_none_or(|only| *creator == **only && !only.is_empty());
        visible && (self.wanted.everything() || self.wanted.takes(group.event(i), &group.events[i].metadata.labels))
    }
}

/// The wire form of an event that stands for rows that are gone.
pub(super) fn gap(first: u64, last: u64) -> Bytes {
    let mut gap = Writing::default();
    let start = gap.begin();
    let event = Event {
        gap: Some(EventGap { first, last }),
        ..Event::default()
    };
    event.encode_raw(&mut gap.wire);
    gap.finish(start);
    gap.wire.freeze()
}

#[cfg(test)]
mod tests {
    use bytes::Buf;
    use nexus_proto::orchestrator::v1::EventFilter;

    use super::*;

    fn group() -> Group {
        let mut writing = Writing::room_for(1);
        let of = |session, creator: &str| {
            let labels = [("of".to_owned(), creator.to_owned())].into();
            let metadata = SessionMetadata {
                labels,
                ..SessionMetadata::default()
            };
            EventSession {
                session,
                creator: creator.into(),
                metadata: metadata.into(),
            }
        };
        for (seq, session, creator) in [(3, 1, "a"), (4, 2, "b"), (6, 1, "a"), (7, 2, "b")] {
            let message = Message {
                id: format!("m{seq}"),
                ..Message::default()
            };
            writing.message(seq, "s", of(session, creator), &message, seq as Time * 10);
        }
        let data = [("session_id".to_owned(), format!("{:032x}", 2u128 << 64))];
        let deleted = Event {
            name: event::SESSION_DELETED.into(),
            data: data.into(),
            ..Event::default()
        };
        writing.event(9, of(0, "b"), &deleted);
        writing.done()
    }

    /// Sequences in all pieces, and how many pieces there were.
    fn seen(group: &Group, cursor: u64, visibility: &Visibility) -> (Vec<u64>, usize) {
        let mut pieces = VecDeque::new();
        group.show(cursor, visibility, &mut pieces);
        let mut seqs = Vec::new();
        for mut piece in pieces.clone() {
            while piece.has_remaining() {
                assert_eq!(piece.get_u8(), 0);
                let length = piece.get_u32() as usize;
                seqs.push(Event::decode(piece.split_to(length)).unwrap().sequence);
            }
        }
        (seqs, pieces.len())
    }

    #[test]
    fn a_reader_of_everything_gets_one_piece() {
        let visibility = Visibility::new(Wanted::default(), None);
        assert_eq!(seen(&group(), 0, &visibility), (vec![3, 4, 6, 7, 9], 1));
        assert_eq!(seen(&group(), 4, &visibility), (vec![6, 7, 9], 1));
        assert_eq!(seen(&group(), 9, &visibility), (vec![], 0));
    }

    #[test]
    fn holes_are_left_out() {
        let own = Visibility::new(Wanted::default(), Some("b".into()));
        assert_eq!(seen(&group(), 0, &own), (vec![4, 7, 9], 2));
        let nobody = Visibility::new(Wanted::default(), Some("".into()));
        assert_eq!(seen(&group(), 0, &nobody), (vec![], 0));
        let filter = EventFilter {
            names: vec![event::MESSAGE_SENT.into()],
            ..EventFilter::default()
        };
        let messages = Visibility::new(Wanted::new(Some(filter)).unwrap(), None);
        assert_eq!(seen(&group(), 3, &messages), (vec![4, 6, 7], 1));
    }

    #[test]
    fn the_end_of_the_time_is_told() {
        let end_time = Some(event::timestamp(45));
        let filter = EventFilter {
            end_time,
            ..EventFilter::default()
        };
        let visibility = Visibility::new(Wanted::new(Some(filter)).unwrap(), None);
        assert_eq!(seen(&group(), 0, &visibility).0, vec![3, 4, 9]);
        assert!(!group().show(0, &visibility, &mut VecDeque::new()));
    }

    #[test]
    fn an_erased_session_leaves_nothing() {
        let everything = Visibility::new(Wanted::default(), None);
        let group = group();
        let erased = group.events.last().unwrap().erases;
        assert_eq!(erased, 2);
        assert_eq!(
            seen(&group.without(erased).unwrap(), 0, &everything),
            (vec![3, 6, 9], 1)
        );
        assert!(group.without(5).is_none());
    }
}
