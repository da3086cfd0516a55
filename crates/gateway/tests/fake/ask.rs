//! Requests and readers that several tests make.

use std::time::Duration;

use nexus_proto::gateway::v1::*;
use tonic::Streaming;

use super::site::Site;

pub fn named(name: &str, user_id: &str, label: &str) -> CreateGatewaySessionRequest {
    CreateGatewaySessionRequest {
        metadata: Some(GatewaySessionMetadata {
            name: name.into(),
            user_id: user_id.into(),
            labels: [("team".to_owned(), label.to_owned())].into(),
            client_type: "web".into(),
            ..GatewaySessionMetadata::default()
        }),
        config: None,
    }
}

pub fn get(session_id: &str) -> GetGatewaySessionRequest {
    GetGatewaySessionRequest {
        session_id: session_id.into(),
    }
}

pub fn close(session_id: &str) -> CloseGatewaySessionRequest {
    CloseGatewaySessionRequest {
        session_id: session_id.into(),
        reason: "done".into(),
    }
}

pub async fn gone(site: &Site, session: &str) {
    let wait = async { while let Ok(_still) = site.client().get_gateway_session(get(session)).await {} };
    tokio::time::timeout(Duration::from_secs(5), wait)
        .await
        .expect("the session to go");
}

pub fn at(seconds: i64) -> nexus_proto::Timestamp {
    nexus_proto::Timestamp { seconds, nanos: 0 }
}

/// From the beginning of the log.
pub fn past(filter: GatewayEventFilter) -> GatewayEventFilter {
    GatewayEventFilter {
        start_time: Some(at(0)),
        ..filter
    }
}

pub async fn subscribe(site: &Site, session: &str, filter: Option<GatewayEventFilter>) -> Streaming<GatewayEvent> {
    let request = SubscribeToEventsRequest {
        session_id: session.into(),
        filter,
    };
    site.client().subscribe_to_events(request).await.unwrap().into_inner()
}

pub async fn next(events: &mut Streaming<GatewayEvent>) -> GatewayEvent {
    let next = tokio::time::timeout(Duration::from_secs(10), events.message());
    next.await.expect("an event within 10 s").unwrap().expect("an event")
}
