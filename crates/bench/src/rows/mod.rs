//! One file for each row of the table.

pub mod containers;
pub mod deltas;
pub mod door;
pub mod durable;
pub mod fanout;
pub mod idle;
pub mod services;
pub mod sizes;
pub mod soak;
pub mod start;
pub mod stored;
pub mod tools;
pub mod unary;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use bytes::Bytes;
use nexus_proto::orchestrator::v1::{
    CreateSessionRequest, CreateSessionResponse, Message, MessageRole, SendMessageRequest, SessionMetadata,
};
use prost::Message as _;

use crate::{
    load::{Pool, Until},
    wire::{Target, call_once},
};

pub const CREATE_SESSION: &str = "/orchestrator.v1.OrchestratorService/CreateSession";
pub const GET_SESSION: &str = "/orchestrator.v1.OrchestratorService/GetSession";
pub const SEND_MESSAGE: &str = "/orchestrator.v1.OrchestratorService/SendMessage";

/// Bytes of a message's text.
pub const CONTENT: usize = 300;

/// What all rows are given.
#[derive(Debug)]
pub struct Run {
    /// Where the daemons' programs are.
    pub bin: PathBuf,
    /// Every store and socket lies here.
    pub dir: PathBuf,
    /// Pairs of measurements for each figure.
    pub pairs: usize,
    /// Of one measurement.
    pub time: Duration,
    /// How long the memory is watched under a steady load.
    pub soak: Duration,
    pub quick: bool,
}

pub async fn create_session(socket: &Path) -> Result<String> {
    let request = CreateSessionRequest {
        metadata: Some(SessionMetadata {
            name: "bench".into(),
            owner_id: "bench".into(),
            ..SessionMetadata::default()
        }),
        config: None,
    };
    let body = request.encode_to_vec().into();
    let answer = call_once(&Target::new(socket, CREATE_SESSION), body).await?;
    let answer = CreateSessionResponse::decode(answer).context("CreateSession answered nonsense")?;
    Ok(answer.session_id)
}

pub async fn create_sessions(socket: &Path, count: usize) -> Result<Vec<String>> {
    let mut ids = Vec::with_capacity(count);
    for _ in 0..count {
        ids.push(create_session(socket).await?);
    }
    Ok(ids)
}

/// A SendMessage that no assistant answers.
pub fn note(session: &str) -> Bytes {
    let request = SendMessageRequest {
        session_id: session.into(),
        message: Some(Message {
            role: MessageRole::System.into(),
            content: "m".repeat(CONTENT),
            ..Message::default()
        }),
    };
    request.encode_to_vec().into()
}

/// Sends so many notes, going round the sessions.
pub async fn fill(socket: &Path, sessions: &[String], count: usize) -> Result<()> {
    let pool = Pool::open(Target::new(socket, SEND_MESSAGE), 4).await?;
    for (some, each) in sessions.chunks(64).zip(shares(sessions.len(), count)) {
        let bodies: Vec<Bytes> = some.iter().map(|session| note(session)).collect();
        pool.run(&bodies, 64, Until::Calls(each)).await?;
    }
    Ok(())
}

/// How many of `count` each chunk of 64 sessions gets.
fn shares(sessions: usize, count: usize) -> impl Iterator<Item = usize> {
    let chunks = sessions.div_ceil(64);
    (0..chunks).map(move |i| count / chunks + usize::from(i < count % chunks))
}
