//! Filters of event readers and of session listings.

use std::collections::HashMap;

use nexus_proto::orchestrator::v1::{Event, EventFilter, SessionFilter};

use super::event;
use super::session::Session;
use super::{Error, Time};

/// A reader's filter, checked once. What is empty asks for nothing.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    filter: EventFilter,
    pub start: Option<Time>,
    pub end: Option<Time>,
}

impl Wanted {
    pub fn new(filter: Option<EventFilter>) -> Result<Self, Error> {
        let filter = filter.unwrap_or_default();
        let start = filter.start_time.as_ref().map(event::time);
        let end = filter.end_time.as_ref().map(event::time);
        if let (Some(start), Some(end)) = (start, end)
            && end < start
        {
            return Err(Error::Invalid("filter.end_time is before filter.start_time".into()));
        }
        Ok(Wanted { filter, start, end })
    }

    /// True if nothing is filtered, so that no event has to be looked at.
    pub fn everything(&self) -> bool {
        self.filter == EventFilter::default()
    }

    /// `labels` are those of the event's session: few events say them themselves.
    pub fn takes(&self, event: &Event, labels: &HashMap<String, String>) -> bool {
        let f = &self.filter;
        let empty = Default::default();
        let about = event.metadata.as_ref().unwrap_or(&empty);
        let time = event.timestamp.as_ref().map_or(0, event::time);
        (f.r#type == 0 || f.r#type == event.r#type)
            && (f.names.is_empty() || f.names.contains(&event.name))
            && (f.source.is_empty() || f.source == event.source)
            && (f.session_id.is_empty() || f.session_id == about.session_id)
            && (f.container_id.is_empty() || f.container_id == about.container_id)
            && (f.priority == 0 || f.priority == about.priority)
            && has_all(labels, &f.labels)
            && self.start.is_none_or(|start| time >= start)
            && self.end.is_none_or(|end| time <= end)
    }
}

/// True if a session belongs in a listing.
pub fn shows(session: &Session, filter: &SessionFilter) -> bool {
    (filter.state == 0 || filter.state == i32::from(session.state))
        && (filter.status == 0 || filter.status == i32::from(session.status()))
        && (filter.owner_id.is_empty() || filter.owner_id == session.metadata.owner_id)
        && has_all(&session.metadata.labels, &filter.labels)
}

fn has_all(labels: &HashMap<String, String>, wanted: &HashMap<String, String>) -> bool {
    wanted.iter().all(|(name, value)| labels.get(name) == Some(value))
}
