//! Filters of sessions and events, and which of them a caller may see. Every field that is set must match.

use std::collections::BTreeMap;

use super::{
    event::{Event, Kind, Priority},
    session::{Session, State},
};

#[derive(Clone, Debug, Default)]
pub struct SessionFilter {
    pub state: Option<State>,
    /// Any of these states.
    pub states: Option<Vec<State>>,
    pub user_id: Option<String>,
    pub labels: BTreeMap<String, String>,
}

impl SessionFilter {
    pub fn matches(&self, session: &Session) -> bool {
        self.state.is_none_or(|state| session.state == state)
            && self
                .states
                .as_ref()
                .is_none_or(|states| states.contains(&session.state))
            && self
                .user_id
                .as_ref()
                .is_none_or(|user| session.requested.metadata.user_id == *user)
            && has_all(&session.requested.metadata.labels, &self.labels)
    }
}

#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    pub session: Option<String>,
    /// `Some(None)`: a type that our log never holds.
    pub kind: Option<Option<Kind>>,
    pub source: Option<String>,
    pub priority: Option<Priority>,
    pub labels: BTreeMap<String, String>,
    /// In the past: replays from there.
    pub start: Option<i64>,
    pub end: Option<i64>,
}

impl EventFilter {
    /// Times are not looked at here: they choose the stretch of the log, not the events in it.
    pub fn matches(&self, event: &Event) -> bool {
        self.session.as_ref().is_none_or(|session| event.session == *session)
            && self.kind.is_none_or(|kind| kind == Some(event.kind))
            && self.source.as_ref().is_none_or(|source| event.source == *source)
            && self.priority.is_none_or(|priority| event.priority == priority)
            && has_all(&event.labels, &self.labels)
    }
}

fn has_all(found: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| found.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::session::{Metadata, NewSession};

    fn session() -> Session {
        let metadata = Metadata {
            user_id: "ann".into(),
            labels: BTreeMap::from([("a".into(), "1".into()), ("b".into(), "2".into())]),
            ..Metadata::default()
        };
        Session::new("s1".into(), "uid:7".into(), NewSession { metadata, config: None }, 0)
    }

    #[test]
    fn each_field_of_a_session_filter_can_refuse() {
        let labels = |key: &str, value: &str| BTreeMap::from([(key.into(), value.into())]);
        let session = session();
        let none = SessionFilter::default();
        assert!(none.matches(&session));
        assert!(
            SessionFilter {
                state: Some(State::Initializing),
                ..none.clone()
            }
            .matches(&session)
        );
        assert!(
            !SessionFilter {
                state: Some(State::Idle),
                ..none.clone()
            }
            .matches(&session)
        );
        assert!(
            !SessionFilter {
                states: Some(vec![State::Active]),
                ..none.clone()
            }
            .matches(&session)
        );
        assert!(
            !SessionFilter {
                user_id: Some("bob".into()),
                ..none.clone()
            }
            .matches(&session)
        );
        assert!(
            SessionFilter {
                labels: labels("a", "1"),
                ..none.clone()
            }
            .matches(&session)
        );
        assert!(
            !SessionFilter {
                labels: labels("a", "2"),
                ..none
            }
            .matches(&session)
        );
    }

    #[test]
    fn each_field_of_an_event_filter_can_refuse() {
        let event = Event::of(&session(), Kind::SessionCreated);
        let none = EventFilter::default();
        assert!(none.matches(&event));
        assert!(
            EventFilter {
                session: Some("s1".into()),
                ..none.clone()
            }
            .matches(&event)
        );
        assert!(
            !EventFilter {
                session: Some("s2".into()),
                ..none.clone()
            }
            .matches(&event)
        );
        assert!(
            EventFilter {
                kind: Some(Some(Kind::SessionCreated)),
                ..none.clone()
            }
            .matches(&event)
        );
        assert!(
            !EventFilter {
                kind: Some(None),
                ..none.clone()
            }
            .matches(&event)
        );
        assert!(
            !EventFilter {
                source: Some("x".into()),
                ..none.clone()
            }
            .matches(&event)
        );
        assert!(
            !EventFilter {
                priority: Some(Priority::Low),
                ..none.clone()
            }
            .matches(&event)
        );
        let labels = BTreeMap::from([("c".into(), "3".into())]);
        assert!(!EventFilter { labels, ..none }.matches(&event));
    }
}
