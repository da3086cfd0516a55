//! A model provider for tests: speaks the HTTP and SSE of Anthropic's and OpenAI's APIs on a loopback port, and fails in
//! every way that a real one does. What it does is chosen by the model's name.
//!
//! It prints one line for each thing that happens: `port N`, `request PATH MODEL`, `finished MODEL` for an answer sent
//! to its end, `gone MODEL` for a caller who left before that. It ends when its standard input does.
//!
//! | model | what happens |
//! |---|---|
//! | `claude*`, `gpt*`, `echo` | says back the last user message, word by word |
//! | `text` | "Hello from the fake provider." |
//! | `bytes` | text of several bytes a character, one byte at a time |
//! | `slow` | twenty words, 50 ms apart |
//! | `endless` | words for ever |
//! | `mute` | no answer at all; `silent`: a word, then nothing |
//! | `tools` | text, then two tool calls with their arguments in parts |
//! | `once-429`, `once-500` | fails the first time (`Retry-After: 1`), then is `text` |
//! | `always-429`, `always-500`, `quota` | fails; asks to wait an hour; has no quota left |
//! | `error` | a word, then an error event; `cut`: a word, then the connection ends |
//! | `malformed` | a word, then an event that is no JSON |
//! | `huge` | an event of five million bytes; `long`: one of a million |
//! | `length`, `filter` | ends for that reason |
//! | `uncounted` | tells no usage |
//! | `moved` | a redirect; `page`: HTML instead of events |
//! | `body` | says back the request's own JSON |
//!
//! The key `sk-wrong...` is refused with a message that quotes it. Any other name is an unknown model.

use std::{
    collections::HashSet,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

#[derive(Clone, Copy, PartialEq)]
enum Family {
    Anthropic,
    OpenAi,
}

#[derive(Default)]
struct State {
    failed_once: Mutex<HashSet<String>>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("port {}", listener.local_addr()?.port());
    let state = Arc::new(State::default());
    let mut input = tokio::io::stdin();
    let mut byte = [0];
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                tokio::spawn(serve(stream, state.clone()));
            }
            read = input.read(&mut byte) => if read? == 0 { return Ok(()) },
        }
    }
}

struct Asked {
    path: String,
    key: String,
    body: Value,
}

async fn serve(mut stream: TcpStream, state: Arc<State>) {
    let _ = stream.set_nodelay(true);
    while let Ok(Some(asked)) = read(&mut stream).await {
        let model = asked.body["model"].as_str().unwrap_or("-").to_owned();
        println!("request {} {model}", asked.path);
        match answer(&mut stream, &asked, &model, &state).await {
            Ok(true) => println!("finished {model}"),
            // A broken answer, on purpose: the connection is of no more use.
            Ok(false) => return,
            Err(_) => {
                println!("gone {model}");
                return;
            }
        }
    }
}

async fn read(stream: &mut TcpStream) -> io::Result<Option<Asked>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) if head.is_empty() => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head
        .split(' ')
        .nth(1)
        .unwrap_or_default()
        .split('?')
        .next()
        .unwrap_or_default()
        .to_owned();
    let header = |name: &str| {
        let found = head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(one, _)| one.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let mut body = vec![0; header("content-length").parse().unwrap_or(0)];
    stream.read_exact(&mut body).await?;
    let key = header("x-api-key") + header("authorization").trim_start_matches("Bearer ");
    Ok(Some(Asked {
        path,
        key,
        body: serde_json::from_slice(&body).unwrap_or_default(),
    }))
}

/// Whether the connection can go on.
async fn answer(stream: &mut TcpStream, asked: &Asked, model: &str, state: &State) -> io::Result<bool> {
    let family = match asked.path.as_str() {
        "/v1/messages" => Family::Anthropic,
        "/v1/chat/completions" => Family::OpenAi,
        "/v1/models" => {
            let list = json!({"object": "list", "data": [
                {"id": "text", "object": "model", "max_model_len": 8192}, {"id": "echo", "object": "model"},
            ]});
            return whole(stream, 200, "", &list).await;
        }
        _ => {
            return whole(
                stream,
                404,
                "",
                &json!({"error": {"message": "no such path", "type": "not_found_error"}}),
            )
            .await;
        }
    };
    if asked.key.starts_with("sk-wrong") {
        let text = format!("Incorrect API key provided: {}.", asked.key);
        return whole(stream, 401, "", &error("authentication_error", &text)).await;
    }
    let first_time = || {
        state
            .failed_once
            .lock()
            .expect("not poisoned")
            .insert(format!("{model}{}", asked.path))
    };
    match model {
        "once-429" if first_time() => {
            return whole(
                stream,
                429,
                "retry-after: 1\r\n",
                &error("rate_limit_error", "Slow down."),
            )
            .await;
        }
        "once-500" if first_time() => return whole(stream, 500, "", &error("api_error", "Oops.")).await,
        "always-429" => {
            return whole(
                stream,
                429,
                "retry-after: 3600\r\n",
                &error("rate_limit_error", "Slow down."),
            )
            .await;
        }
        "always-500" => return whole(stream, 500, "", &error("api_error", "Oops.")).await,
        "quota" => return whole(stream, 429, "", &error("insufficient_quota", "You have no quota left.")).await,
        "moved" => return whole(stream, 307, "location: http://127.0.0.1:1/elsewhere\r\n", &json!({})).await,
        "mute" => {
            // Until the caller hangs up.
            let _ = stream.read_u8().await;
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        "page" => {
            let page = "<html>hello</html>";
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {}\r\n\r\n{page}",
                page.len()
            );
            stream.write_all(head.as_bytes()).await?;
            return Ok(true);
        }
        _ => {}
    }
    let known = ["claude", "gpt"].iter().any(|prefix| model.starts_with(prefix)) || MODELS.contains(&model);
    if !known {
        return whole(stream, 404, "", &error("model_not_found", &format!("model: {model}"))).await;
    }
    stream
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        .await?;
    let mut events = Events {
        stream,
        family,
        by_byte: model == "bytes",
    };
    script(&mut events, model, &asked.body).await
}

const MODELS: [&str; 18] = [
    "echo",
    "text",
    "bytes",
    "slow",
    "endless",
    "silent",
    "tools",
    "once-429",
    "once-500",
    "error",
    "cut",
    "malformed",
    "huge",
    "long",
    "length",
    "filter",
    "uncounted",
    "body",
];

async fn script(events: &mut Events<'_>, model: &str, body: &Value) -> io::Result<bool> {
    events.start().await?;
    let mut reason = "stop";
    match model {
        "text" | "once-429" | "once-500" | "uncounted" => events.words("Hello from the fake provider.").await?,
        "bytes" => events.words("Grüße, 世界! 🦀 çok güzel").await?,
        "slow" => {
            for number in 1..=20 {
                events.text(&format!("{number} ")).await?;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        "endless" => loop {
            events.text("more ").await?;
            tokio::time::sleep(Duration::from_millis(2)).await;
        },
        "silent" => {
            events.text("Well, ").await?;
            let _ = events.stream.read_u8().await;
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        "tools" => {
            events.text("Let me look. ").await?;
            events.tools().await?;
            reason = "tool_calls";
        }
        "error" => {
            events.text("Well, ").await?;
            events.send("error", &error("overloaded_error", "Overloaded")).await?;
            return Ok(false);
        }
        "cut" => {
            events.text("Well, ").await?;
            return Ok(false);
        }
        "malformed" => {
            events.text("Well, ").await?;
            events.raw("data: {\"type\": oops\n\n").await?;
            return Ok(false);
        }
        "huge" => events.text(&"x".repeat(5_000_000)).await?,
        "long" => events.text(&"x".repeat(1_000_000)).await?,
        "length" | "filter" => {
            events.text("Well, ").await?;
            reason = if model == "length" { "length" } else { "content_filter" };
        }
        "body" => events.text(&body.to_string()).await?,
        _ => events.words(&last_user_text(body)).await?,
    }
    events.end(reason, model != "uncounted").await?;
    Ok(true)
}

fn last_user_text(body: &Value) -> String {
    let messages = body["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let last = messages.iter().rev().find(|message| message["role"] == "user");
    let content = last.map(|message| message["content"].clone()).unwrap_or_default();
    let blocks = content
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|block| block["text"].as_str());
    content
        .as_str()
        .map_or_else(|| blocks.collect::<Vec<_>>().join(" "), str::to_owned)
}

fn error(code: &str, message: &str) -> Value {
    json!({"type": "error", "error": {"type": code, "code": code, "message": message}})
}

async fn whole(stream: &mut TcpStream, status: u16, headers: &str, body: &Value) -> io::Result<bool> {
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await?;
    Ok(true)
}

struct Events<'a> {
    stream: &'a mut TcpStream,
    family: Family,
    by_byte: bool,
}

impl Events<'_> {
    async fn start(&mut self) -> io::Result<()> {
        match self.family {
            Family::Anthropic => {
                let usage = json!({"input_tokens": 11, "output_tokens": 1});
                let message =
                    json!({"id": "msg_1", "type": "message", "role": "assistant", "content": [], "usage": usage});
                self.send("message_start", &json!({"type": "message_start", "message": message}))
                    .await?;
                let block = json!({"type": "text", "text": ""});
                let start = json!({"type": "content_block_start", "index": 0, "content_block": block});
                self.send("content_block_start", &start).await?;
                self.send("ping", &json!({"type": "ping"})).await
            }
            Family::OpenAi => {
                self.delta(json!({"role": "assistant", "content": ""}), Value::Null)
                    .await
            }
        }
    }

    async fn words(&mut self, text: &str) -> io::Result<()> {
        for word in text.split_inclusive(' ') {
            self.text(word).await?;
        }
        Ok(())
    }

    async fn text(&mut self, text: &str) -> io::Result<()> {
        match self.family {
            Family::Anthropic => {
                let delta = json!({"type": "text_delta", "text": text});
                let event = json!({"type": "content_block_delta", "index": 0, "delta": delta});
                self.send("content_block_delta", &event).await
            }
            Family::OpenAi => self.delta(json!({"content": text}), Value::Null).await,
        }
    }

    async fn tools(&mut self) -> io::Result<()> {
        match self.family {
            Family::Anthropic => {
                self.send("content_block_stop", &json!({"type": "content_block_stop", "index": 0}))
                    .await?;
                for (index, id, parts) in [(1, "toolu_1", ["{\"path\":", "\"/tmp\"}"]), (2, "toolu_2", ["{", "}"])] {
                    let block = json!({"type": "tool_use", "id": id, "name": "list_files", "input": {}});
                    let start = json!({"type": "content_block_start", "index": index, "content_block": block});
                    self.send("content_block_start", &start).await?;
                    for part in parts {
                        let delta = json!({"type": "input_json_delta", "partial_json": part});
                        let event = json!({"type": "content_block_delta", "index": index, "delta": delta});
                        self.send("content_block_delta", &event).await?;
                    }
                    self.send(
                        "content_block_stop",
                        &json!({"type": "content_block_stop", "index": index}),
                    )
                    .await?;
                }
                Ok(())
            }
            Family::OpenAi => {
                for (index, id) in [(0, "toolu_1"), (1, "toolu_2")] {
                    let function = json!({"name": "list_files", "arguments": ""});
                    let call = json!({"index": index, "id": id, "type": "function", "function": function});
                    self.delta(json!({"tool_calls": [call]}), Value::Null).await?;
                }
                // The two calls' arguments come in turns.
                for (index, part) in [(0, "{\"path\":"), (1, "{"), (0, "\"/tmp\"}"), (1, "}")] {
                    let call = json!({"index": index, "function": {"arguments": part}});
                    self.delta(json!({"tool_calls": [call]}), Value::Null).await?;
                }
                Ok(())
            }
        }
    }

    async fn end(&mut self, reason: &str, counted: bool) -> io::Result<()> {
        match self.family {
            Family::Anthropic => {
                let reason = match reason {
                    "stop" => "end_turn",
                    "length" => "max_tokens",
                    "tool_calls" => "tool_use",
                    _ => "refusal",
                };
                let usage = if counted {
                    json!({"output_tokens": 7})
                } else {
                    json!({})
                };
                let delta = json!({"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage});
                self.send("message_delta", &delta).await?;
                self.send("message_stop", &json!({"type": "message_stop"})).await?;
            }
            Family::OpenAi => {
                self.delta(json!({}), json!(reason)).await?;
                if counted {
                    let usage = json!({"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18});
                    self.send(
                        "",
                        &json!({"object": "chat.completion.chunk", "choices": [], "usage": usage}),
                    )
                    .await?;
                }
                self.raw("data: [DONE]\n\n").await?;
            }
        }
        self.stream.write_all(b"0\r\n\r\n").await
    }

    async fn delta(&mut self, delta: Value, finish: Value) -> io::Result<()> {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": finish});
        self.send(
            "",
            &json!({"id": "c1", "object": "chat.completion.chunk", "choices": [choice]}),
        )
        .await
    }

    async fn send(&mut self, name: &str, data: &Value) -> io::Result<()> {
        let named = self.family == Family::Anthropic && !name.is_empty();
        let name = if named {
            format!("event: {name}\n")
        } else {
            String::new()
        };
        self.raw(&format!("{name}data: {data}\n\n")).await
    }

    /// As one HTTP chunk, or as one for each byte.
    async fn raw(&mut self, text: &str) -> io::Result<()> {
        let size = if self.by_byte { 1 } else { text.len() };
        for part in text.as_bytes().chunks(size) {
            let mut chunk = format!("{:x}\r\n", part.len()).into_bytes();
            chunk.extend_from_slice(part);
            chunk.extend_from_slice(b"\r\n");
            self.stream.write_all(&chunk).await?;
            if self.by_byte {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }
}
