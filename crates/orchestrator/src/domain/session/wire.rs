//! A session as clients see it.

use nexus_proto::common::v1::ResourceUsage;
use nexus_proto::orchestrator::v1::{Message, Session as Wire, SessionContext, SessionMetadata};

use super::Session;
use crate::domain::event;

/// A session with these messages. Metadata and context are always there: old clients rely on it.
pub fn wire(session: &Session, messages: Vec<Message>, omitted: u64) -> Wire {
    let stamp = event::timestamp;
    Wire {
        id: session.id.to_string(),
        state: session.state.into(),
        status: session.status().into(),
        created_at: Some(stamp(session.created)),
        updated_at: Some(stamp(session.updated)),
        expires_at: session.expires.map(stamp),
        closed_at: session.closed.map(stamp),
        metadata: Some(SessionMetadata::clone(&session.metadata)),
        context: Some(SessionContext {
            messages,
            current_task_id: session.current_task.clone(),
            task_history: session.task_history.clone(),
            preferences: Some(session.preferences.clone()),
            config: Some(session.config.clone()),
            resource_usage: Some(ResourceUsage::default()),
            messages_omitted: omitted,
        }),
        container_ids: session.containers().iter().map(ToString::to_string).collect(),
    }
}
