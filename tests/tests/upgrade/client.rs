//! A client that asks one question after the other over a stream, and connects anew when it breaks.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use nexus_client::{Address, Connection, Options, ServerUid};
use nexus_proto::orchestrator::v1::MessageRole;
use nexus_tests::{Frame, PATIENCE, Talk, ask, in_reply_to};

#[derive(Debug)]
pub struct Told {
    session: String,
    said: Vec<String>,
    pub answered: usize,
    pub repeated: usize,
    pub longest: Duration,
}

pub fn connect(socket: &Path) -> Connection {
    let options = Options {
        reconnect_interval: Duration::from_millis(20),
        rpc_timeout: PATIENCE,
        server_uid: ServerUid::OwnOrRoot,
        ..Options::default()
    };
    Connection::lazy(&Address::Unix(socket.into()), &options)
}

/// Until it is over, and each question has its answer.
pub async fn talk(socket: PathBuf, over: Arc<AtomicBool>) -> Told {
    let connection = connect(&socket);
    let mut told = Told {
        session: ask::create(&connection, "upgraded").await,
        said: Vec::new(),
        answered: 0,
        repeated: 0,
        longest: Duration::ZERO,
    };
    let (mut open, mut cursor) = (None, 0);
    while !over.load(Ordering::Relaxed) {
        let id = format!("q-{}", told.said.len());
        told.said.push(id.clone());
        let begin = Instant::now();
        while !once(&connection, &told.session, &mut open, &mut cursor, &id).await {
            assert!(begin.elapsed() < PATIENCE * 2, "{id} has no answer");
            told.repeated += 1;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        told.answered += 1;
        told.longest = told.longest.max(begin.elapsed());
    }
    told
}

async fn once(connection: &Connection, session: &str, open: &mut Option<Talk>, cursor: &mut u64, id: &str) -> bool {
    let mut talk = match open.take() {
        Some(talk) => talk,
        None => match Talk::open(connection, session, Some(*cursor), false).await {
            Ok(talk) => talk,
            Err(_) => return false,
        },
    };
    if !talk.say(id, &format!("the words of {id}")).await {
        return false;
    }
    loop {
        match talk.next().await {
            Ok(Some(Frame::Message(message))) => {
                *cursor = (*cursor).max(message.sequence);
                if in_reply_to(&message) == Some(id) {
                    *open = Some(talk);
                    return true;
                }
            }
            Ok(Some(Frame::Failed { message_id, .. })) if message_id == id => {
                *open = Some(talk);
                return false;
            }
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return false,
        }
    }
}

impl Told {
    /// Every question stands there once, in its order, and has one answer.
    pub async fn nothing_is_lost(&self, socket: &Path) {
        let messages = ask::messages(&connect(socket), &self.session).await;
        ask::in_order(&messages);
        let asked = messages.iter().filter(|one| one.role() == MessageRole::User);
        let asked: Vec<&str> = asked.map(|one| one.id.as_str()).collect();
        assert_eq!(asked, self.said);
        let answers: Vec<&str> = messages.iter().filter_map(in_reply_to).collect();
        assert_eq!(answers, self.said);
    }
}
