//! What is asked of a store costs by what is found, not by what else is stored: the same questions of a store that holds
//! little and of one that holds much. Both are written as a version without index documents wrote them, so that the first
//! start makes the index.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use bytes::Bytes;
use nexus_proto::Timestamp;
use nexus_proto::agent::v1::{ListTasksRequest, ListTasksResponse, Task, TaskConfig, TaskState, TaskType};
use nexus_proto::orchestrator::v1::{
    DeleteSessionRequest, ListSessionsRequest, ListSessionsResponse, SessionMetadata, SessionState,
};
use prost::Message as _;

use super::{Run, create_session};
use crate::daemons::{Running, TempRoot};
use crate::figures::{Figure, Goal, median};
use crate::wire::{Target, call_once};

const ROW: &str = "stored";
const LIST_TASKS: &str = "/agent.v1.AgentService/ListTasks";
const LIST_SESSIONS: &str = "/orchestrator.v1.OrchestratorService/ListSessions";
const DELETE_SESSION: &str = "/orchestrator.v1.OrchestratorService/DeleteSession";

/// Closed sessions and ended tasks in the two stores; a tenth of the larger one where it has to be quick.
const LITTLE: (u64, u64) = (1_000, 10_000);
const MUCH: (u64, u64) = (100_000, 1_000_000);
/// Tasks of one agent, and sessions in a page.
const TASKS_OF_AGENT: u64 = 10;
const PAGE: i32 = 50;
/// Making the index of the larger store may take this long.
const FIRST_START: Duration = Duration::from_secs(300);

/// The tables and the documents as the orchestrator keeps them.
const CLOSED: u16 = 2;
const TASK: u16 = 8;

#[derive(Clone, PartialEq, prost::Message)]
struct SessionDoc {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(int32, tag = "2")]
    state: i32,
    #[prost(int64, tag = "3")]
    created: i64,
    #[prost(int64, tag = "4")]
    updated: i64,
    #[prost(int64, optional, tag = "6")]
    closed: Option<i64>,
    #[prost(message, optional, tag = "7")]
    metadata: Option<SessionMetadata>,
    #[prost(string, tag = "12")]
    creator: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TaskDoc {
    #[prost(message, optional, tag = "1")]
    wire: Option<Task>,
    #[prost(uint64, optional, tag = "2")]
    agent: Option<u64>,
    #[prost(int64, tag = "4")]
    attempt: i64,
    #[prost(int64, tag = "6")]
    expires: i64,
}

/// Times of one store, in milliseconds.
struct Times {
    first: f64,
    start: f64,
    tasks: f64,
    sessions: f64,
    delete: f64,
}

pub async fn run(run: &Run) -> Result<Vec<Figure>> {
    let much = if run.quick { (MUCH.0 / 10, MUCH.1 / 10) } else { MUCH };
    let little = measure(run, LITTLE).await?;
    let large = measure(run, much).await?;
    let held = format!("{} sessions, {} tasks", much.0, much.1);
    let against = |name: &str, large: f64, little: f64, most: f64| {
        // A floor for what is too short to be compared.
        let times = large / little.max(0.2);
        Figure::alone(ROW, format!("{name}, {held} : little stored"), "x", times)
            .goal(Goal::AtMost(most))
            .note(format!("{large:.2} : {little:.2} ms"))
    };
    Ok(vec![
        against("start", large.start, little.start, 3.0),
        against("ListTasks of one agent", large.tasks, little.tasks, 3.0),
        against("ListSessions, a page", large.sessions, little.sessions, 3.0),
        against("DeleteSession", large.delete, little.delete, 3.0),
        Figure::alone(
            ROW,
            format!("first start, making the index of {held}"),
            "ms",
            large.first,
        ),
    ])
}

async fn measure(run: &Run, (sessions, tasks): (u64, u64)) -> Result<Times> {
    let place = TempRoot::new(&run.bin, &run.dir)?;
    let orchestrator = place.start("orchestrator").await?;
    create_session(&orchestrator.socket).await?;
    orchestrator.stop().await?;
    let ids = seed(&place, sessions, tasks)?;

    let begin = Instant::now();
    started(&place, FIRST_START).await?.stop().await?;
    let first = ms(begin);
    let rounds = if run.quick { 3 } else { 9 };
    let mut starts = Vec::new();
    for _ in 0..rounds {
        let begin = Instant::now();
        let running = started(&place, FIRST_START).await?;
        starts.push(ms(begin));
        running.stop().await?;
    }
    let orchestrator = started(&place, FIRST_START).await?;
    let call = async |path: &'static str, body: Vec<u8>| -> Result<(Bytes, f64)> {
        let begin = Instant::now();
        let answer = call_once(&Target::new(&orchestrator.socket, path), body.into()).await?;
        Ok((answer, ms(begin)))
    };
    let (mut listed, mut paged, mut deleted) = (Vec::new(), Vec::new(), Vec::new());
    for session in ids.iter().take(4 * rounds) {
        let request = ListTasksRequest {
            agent_id: agent(tasks / TASKS_OF_AGENT / 2).1,
            ..ListTasksRequest::default()
        };
        let (answer, time) = call(LIST_TASKS, request.encode_to_vec()).await?;
        let found = ListTasksResponse::decode(answer)?.tasks.len();
        anyhow::ensure!(found as u64 == TASKS_OF_AGENT, "{found} tasks were found");
        listed.push(time);
        let request = ListSessionsRequest {
            page_size: PAGE,
            page_token: session[..16].into(),
            without_messages: true,
            ..ListSessionsRequest::default()
        };
        let (answer, time) = call(LIST_SESSIONS, request.encode_to_vec()).await?;
        let found = ListSessionsResponse::decode(answer)?.sessions.len();
        anyhow::ensure!(found == PAGE as usize, "{found} sessions were found");
        paged.push(time);
        let request = DeleteSessionRequest {
            session_id: session.clone(),
        };
        deleted.push(call(DELETE_SESSION, request.encode_to_vec()).await?.1);
    }
    orchestrator.stop().await?;
    Ok(Times {
        first,
        start: median(starts),
        tasks: median(listed),
        sessions: median(paged),
        delete: median(deleted),
    })
}

fn ms(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64() * 1e3
}

/// Starts the orchestrator and waits longer than a start usually may take.
async fn started(place: &TempRoot, within: Duration) -> Result<Running> {
    let until = Instant::now() + within;
    let mut running = place.spawn("orchestrator")?;
    loop {
        match running.ready().await {
            Ok(()) => return Ok(running),
            Err(error) if Instant::now() > until => return Err(error),
            Err(_) => {}
        }
    }
}

fn agent(n: u64) -> (u64, String) {
    let key = (1_600_000_000_000 << 20) + n;
    (key, id(key))
}

fn id(key: u64) -> String {
    format!("{key:016x}{key:016x}")
}

/// Writes what a version without index documents would have; ids of some of the sessions.
fn seed(place: &TempRoot, sessions: u64, tasks: u64) -> Result<Vec<String>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let millis = u64::try_from(now.as_millis())?;
    let stamp = Timestamp {
        seconds: i64::try_from(now.as_secs())?,
        nanos: 0,
    };
    let now = i64::try_from(now.as_nanos())?;
    let path = place.path().join("state/db/orchestrator.db");
    let mut connection =
        rusqlite::Connection::open(&path).with_context(|| format!("no store at {}", path.display()))?;
    let transaction = connection.transaction()?;
    let creator = format!("uid:{}", nix::unistd::geteuid());
    // Below the keys of what was made a moment ago.
    let first = (millis - 10_000_000) << 20;
    {
        let mut put = transaction.prepare("INSERT INTO document (collection, key, value) VALUES (?1, ?2, ?3)")?;
        for n in 0..sessions {
            let key = first + n;
            let session = SessionDoc {
                id: id(key),
                state: SessionState::Closed.into(),
                created: now,
                updated: now,
                closed: Some(now),
                metadata: Some(SessionMetadata {
                    owner_id: format!("owner-{}", n % 1000),
                    ..SessionMetadata::default()
                }),
                creator: creator.clone(),
            };
            put.execute(rusqlite::params![CLOSED, key.to_be_bytes(), session.encode_to_vec()])?;
        }
        for n in 0..tasks {
            let key = first + sessions + n;
            let (agent, agent_id) = agent(n / TASKS_OF_AGENT);
            let task = Task {
                id: id(key),
                session_id: id(first + n % sessions),
                agent_id,
                r#type: TaskType::CodeExecution.into(),
                state: TaskState::Completed.into(),
                created_at: Some(stamp),
                completed_at: Some(stamp),
                config: Some(TaskConfig::default()),
                ..Task::default()
            };
            let task = TaskDoc {
                wire: Some(task),
                agent: Some(agent),
                attempt: 1,
                expires: now,
            };
            put.execute(rusqlite::params![TASK, key.to_be_bytes(), task.encode_to_vec()])?;
        }
    }
    transaction.commit()?;
    let step = sessions / 100;
    Ok((0..50).map(|n| id(first + n * step)).collect())
}
