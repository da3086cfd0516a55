//! A model provider that misbehaves: it answers OpenAI's chat calls in the manner that the model's name says.
//!
//! It prints its port, and ends with its standard input.
//!
//! | model | what it does |
//! |---|---|
//! | `breaks` | says "Well, ", then an error event |
//! | `cut` | says "Well, ", then closes the connection |
//! | `thinks-SECONDS` | thinks so long, a piece each second, then says "Yes." |
//! | `loads` | answers 503 "Loading model" three times, then says "Yes." |
//! | `short` | says "Once upon", and ends for its token limit |
//! | `thought-out` | thinks, says nothing, and ends for its token limit |
//! | `filtered` | says "I will", and ends for a content filter |
//! | `strict` | refuses `stream_options` and `max_tokens`, else says "Yes." |
//! | `whole` | answers with one JSON document, "Yes." in it |

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

static LOADED: AtomicUsize = AtomicUsize::new(0);

fn main() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?.port());
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A caller that leaves ends its own answer only.
            thread::spawn(move || drop(serve(stream)));
        }
    });
    io::stdin().read_to_end(&mut Vec::new()).map(drop)
}

fn serve(stream: TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    answer(stream, &serde_json::from_slice(&body).unwrap_or_default())
}

fn answer(mut to: TcpStream, body: &Value) -> io::Result<()> {
    let model = body["model"].as_str().unwrap_or_default();
    match model {
        "" => return document(to, 200, &json!({"object": "list", "data": []})),
        "loads" if LOADED.fetch_add(1, Ordering::Relaxed) < 3 => {
            return document(to, 503, &json!({"error": {"code": 503, "message": "Loading model"}}));
        }
        "strict" => {
            if let Some(field) = ["stream_options", "max_tokens"]
                .into_iter()
                .find(|field| body.get(field).is_some())
            {
                let message = format!("Unsupported parameter: '{field}'");
                return document(to, 400, &json!({"error": {"message": message, "param": field}}));
            }
        }
        "whole" => {
            let message = json!({"role": "assistant", "content": "Yes."});
            return document(
                to,
                200,
                &json!({"choices": [{"message": message, "finish_reason": "stop"}]}),
            );
        }
        _ => {}
    }
    to.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")?;
    if let Some(seconds) = model
        .strip_prefix("thinks-")
        .and_then(|seconds| seconds.parse::<u32>().ok())
    {
        for _ in 0..seconds {
            delta(&mut to, &json!({"reasoning_content": "Hm. "}))?;
            thread::sleep(Duration::from_secs(1));
        }
    }
    let (text, reason) = match model {
        "breaks" => {
            delta(&mut to, &json!({"content": "Well, "}))?;
            return to.write_all(b"event: error\ndata: {\"message\": \"the graphics card fell asleep\"}\n\n");
        }
        "cut" => return delta(&mut to, &json!({"content": "Well, "})),
        "short" => ("Once upon", "length"),
        "thought-out" => {
            delta(&mut to, &json!({"reasoning_content": "Hm. "}))?;
            ("", "length")
        }
        "filtered" => ("I will", "content_filter"),
        _ => ("Yes.", "stop"),
    };
    delta(&mut to, &json!({"content": text}))?;
    let last = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]});
    to.write_all(format!("data: {last}\n\ndata: [DONE]\n\n").as_bytes())
}

fn delta(to: &mut TcpStream, delta: &Value) -> io::Result<()> {
    let chunk = json!({"choices": [{"index": 0, "delta": delta}]});
    to.write_all(format!("data: {chunk}\n\n").as_bytes())
}

fn document(mut to: TcpStream, status: u16, body: &Value) -> io::Result<()> {
    let body = body.to_string();
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    );
    to.write_all((head + &body).as_bytes())
}
