//! An HTTP server that answers each request with bytes that a test chose, as they are, and keeps what it was asked.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// What is sent, in order. The connection ends behind it.
#[derive(Clone, Debug)]
pub enum Act {
    Send(Vec<u8>),
    Wait(Duration),
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub path: String,
    pub body: Value,
}

pub struct Server {
    pub port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    /// `answer` gets each request, and how many came before it.
    pub async fn start(answer: impl Fn(&Asked, usize) -> Vec<Act> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (kept, answer) = (asked.clone(), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, kept.clone(), answer.clone()));
            }
        });
        Self { port, asked }
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("not poisoned").clone()
    }
}

async fn serve(
    mut stream: TcpStream,
    kept: Arc<Mutex<Vec<Asked>>>,
    answer: Arc<impl Fn(&Asked, usize) -> Vec<Act> + Send + Sync>,
) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse().ok())?
    });
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await.ok()?;
    let asked = Asked {
        path: head.split(' ').nth(1)?.to_owned(),
        body: serde_json::from_slice(&body).unwrap_or_default(),
    };
    let before = {
        let mut kept = kept.lock().expect("not poisoned");
        kept.push(asked.clone());
        kept.len() - 1
    };
    for act in answer(&asked, before) {
        match act {
            Act::Send(bytes) => stream.write_all(&bytes).await.ok()?,
            Act::Wait(time) => tokio::time::sleep(time).await,
        }
    }
    stream.shutdown().await.ok()
}

/// A response without a length: it ends with its connection.
pub fn response(status: u16, headers: &str, body: impl AsRef<[u8]>) -> Vec<Act> {
    let head = format!("HTTP/1.1 {status} X\r\nconnection: close\r\n{headers}\r\n");
    vec![Act::Send(head.into_bytes()), Act::Send(body.as_ref().to_vec())]
}

pub fn json(status: u16, body: &Value) -> Vec<Act> {
    response(status, "content-type: application/json\r\n", body.to_string())
}

/// An event stream of OpenAI's words, `[DONE]` included.
pub fn says(text: &str) -> Vec<Act> {
    let delta = serde_json::json!({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": "stop"}]});
    response(
        200,
        "content-type: text/event-stream\r\n",
        format!("data: {delta}\n\ndata: [DONE]\n\n"),
    )
}
