//! The document of a container.

use bytes::Bytes;
use nexus_proto::orchestrator::v1::ContainerConfig;
use prost::Message as _;

use super::number;
use crate::domain::container::{Container, Phase};
use crate::domain::{Error, Time};

#[derive(Clone, PartialEq, prost::Message)]
struct ContainerDoc {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(uint64, tag = "2")]
    session: u64,
    #[prost(string, tag = "3")]
    session_id: String,
    #[prost(string, tag = "4")]
    creator: String,
    #[prost(message, optional, tag = "5")]
    config: Option<ContainerConfig>,
    #[prost(uint32, tag = "6")]
    phase: u32,
    #[prost(int64, tag = "7")]
    restart_at: Time,
    #[prost(bool, tag = "8")]
    stopped: bool,
    #[prost(string, tag = "9")]
    engine: String,
    #[prost(string, tag = "10")]
    engine_id: String,
    #[prost(string, repeated, tag = "11")]
    unenforced: Vec<String>,
    #[prost(int64, tag = "12")]
    created: Time,
    #[prost(int64, optional, tag = "13")]
    started: Option<Time>,
    #[prost(int64, optional, tag = "14")]
    exited: Option<Time>,
    #[prost(int32, tag = "15")]
    exit_code: i32,
    #[prost(bool, tag = "16")]
    oom: bool,
    #[prost(int32, tag = "17")]
    restarts: i32,
    #[prost(string, tag = "18")]
    error: String,
    #[prost(string, tag = "19")]
    name: String,
}

pub fn container_doc(one: &Container) -> Bytes {
    let (phase, restart_at) = match one.phase {
        Phase::Creating => (1, 0),
        Phase::Running => (2, 0),
        Phase::Paused => (3, 0),
        Phase::Restarting { at } => (4, at),
        Phase::Exited => (5, 0),
        Phase::Removing => (6, 0),
        Phase::Lost => (7, 0),
    };
    let doc = ContainerDoc {
        id: one.id.to_string(),
        session: one.session,
        session_id: one.session_id.to_string(),
        creator: one.creator.to_string(),
        config: Some(one.config.clone()),
        phase,
        restart_at,
        stopped: one.stopped,
        engine: one.engine.clone(),
        engine_id: one.engine_id.clone(),
        unenforced: one.unenforced.clone(),
        created: one.created,
        started: one.started,
        exited: one.exited,
        exit_code: one.exit_code,
        oom: one.oom,
        restarts: one.restarts,
        error: one.error.clone(),
        name: one.name.clone(),
    };
    doc.encode_to_vec().into()
}

pub fn container(key: &[u8], value: &[u8]) -> Result<Container, Error> {
    let damaged = |detail: String| {
        Error::Store(nexus_store::Error::Damaged {
            path: "orchestrator".into(),
            detail,
        })
    };
    let doc = ContainerDoc::decode(value).map_err(|e| damaged(format!("a container: {e}")))?;
    let phase = match doc.phase {
        1 => Phase::Creating,
        2 => Phase::Running,
        3 => Phase::Paused,
        4 => Phase::Restarting { at: doc.restart_at },
        5 => Phase::Exited,
        6 => Phase::Removing,
        7 => Phase::Lost,
        other => return Err(damaged(format!("a container in phase {other}"))),
    };
    Ok(Container {
        key: number(key)?,
        id: doc.id.into(),
        session: doc.session,
        session_id: doc.session_id.into(),
        creator: doc.creator.into(),
        name: doc.name,
        config: doc.config.unwrap_or_default(),
        phase,
        stopped: doc.stopped,
        engine: doc.engine,
        engine_id: doc.engine_id,
        unenforced: doc.unenforced,
        created: doc.created,
        started: doc.started,
        exited: doc.exited,
        exit_code: doc.exit_code,
        oom: doc.oom,
        restarts: doc.restarts,
        error: doc.error,
        usage: None,
        healthy: None,
        mark: 0,
    })
}
