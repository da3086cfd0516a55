//! One table of the shapes in which providers answer, each fed through a real HTTP server: what is told of it, and what
//! never is.

mod support;

use std::{fmt::Write as _, io::Write as _};

use flate2::{Compression, write::GzEncoder, write::ZlibEncoder};
use nexus_proto::llm::v1::FinishReason;
use support::{
    KEYS, World, ask,
    server::{Act, Server, response},
    world,
};

#[derive(Clone, Copy, PartialEq)]
enum Family {
    OpenAi,
    Anthropic,
}
use Family::{Anthropic, OpenAi};

/// What the caller is told.
#[derive(Default)]
struct Want {
    text: &'static str,
    thinking: &'static str,
    /// Name, arguments, and whether those are marked as no JSON.
    calls: &'static [(&'static str, &'static str, bool)],
    finish: FinishReason,
    /// A part of the error, where it ends with one.
    error: &'static str,
}

struct Shape {
    name: &'static str,
    family: Family,
    headers: &'static str,
    body: Vec<u8>,
    want: Want,
}

const EVENTS: &str = "content-type: text/event-stream\r\n";

/// An event stream of OpenAI's words: each line one event's data, unless it is a whole line of its own.
fn openai(name: &'static str, lines: &[&str], want: Want) -> Shape {
    Shape {
        name,
        family: OpenAi,
        headers: EVENTS,
        body: events(lines).into_bytes(),
        want,
    }
}

fn anthropic(name: &'static str, lines: &[&str], want: Want) -> Shape {
    Shape {
        family: Anthropic,
        ..openai(name, lines, want)
    }
}

fn raw(name: &'static str, headers: &'static str, body: impl Into<Vec<u8>>, want: Want) -> Shape {
    Shape {
        name,
        family: OpenAi,
        headers,
        body: body.into(),
        want,
    }
}

fn events(lines: &[&str]) -> String {
    let mut all = String::new();
    for line in lines {
        let whole = ["event:", "data:", "error:", ":"]
            .iter()
            .any(|field| line.starts_with(field));
        let _ = if whole {
            write!(all, "{line}\n\n")
        } else {
            write!(all, "data: {line}\n\n")
        };
    }
    all
}

const HI: &str = r#"{"choices":[{"index":0,"delta":{"content":"Hi"}}]}"#;
const STOP: &str = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
const CALLS: &str = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}"#;
const DONE: &str = "[DONE]";
const A_HI: &str = r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hi"}}"#;
const A_STOP: &str = r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":2}}"#;
const A_END: &str = r#"{"type":"message_stop"}"#;

fn hi() -> Want {
    Want {
        text: "Hi",
        finish: FinishReason::Stop,
        ..Want::default()
    }
}

/// "Hi" came, and then the error.
fn failed(error: &'static str) -> Want {
    Want {
        text: "Hi",
        error,
        ..Want::default()
    }
}

fn calls(calls: &'static [(&'static str, &'static str, bool)]) -> Want {
    Want {
        calls,
        finish: FinishReason::ToolUses,
        ..Want::default()
    }
}

/// A failure is never half an answer.
fn failures() -> Vec<Shape> {
    vec![
        openai(
            "error at the top",
            &[HI, r#"{"error":{"message":"cuda died","code":502}}"#],
            failed("cuda died"),
        ),
        openai(
            "error as a text",
            &[HI, r#"{"error":"cuda died"}"#],
            failed("cuda died"),
        ),
        openai(
            "finish_reason error",
            &[HI, r#"{"choices":[{"delta":{},"finish_reason":"error"}]}"#, DONE],
            failed("\"error\""),
        ),
        openai(
            "finish_reason that nobody knows",
            &[
                HI,
                r#"{"choices":[{"delta":{},"finish_reason":"insufficient_system_resource"}]}"#,
                DONE,
            ],
            failed("insufficient_system_resource"),
        ),
        openai(
            "error in a choice",
            &[
                HI,
                r#"{"choices":[{"delta":{},"error":{"message":"upstream fell over"},"finish_reason":"error"}]}"#,
            ],
            failed("upstream fell over"),
        ),
        openai(
            "event error with JSON",
            &[HI, "event: error\ndata: {\"message\":\"it broke\"}"],
            failed("it broke"),
        ),
        openai(
            "event error with text",
            &[HI, "event: error\ndata: it broke"],
            failed("it broke"),
        ),
        openai(
            "event error with nothing",
            &[HI, "event: error"],
            failed("says no more"),
        ),
        openai(
            "an object of type error",
            &[HI, r#"{"type":"error","message":"it broke","code":"server_error"}"#],
            failed("it broke"),
        ),
        openai(
            "an object that is an error",
            &[HI, r#"{"object":"error","message":"it broke","code":500}"#],
            failed("it broke"),
        ),
        openai(
            "a field error",
            &[HI, r#"error: {"code":500,"message":"it broke"}"#],
            failed("it broke"),
        ),
        raw(
            "an error in a good JSON answer",
            "content-type: application/json\r\n",
            r#"{"error":{"message":"no slot is free"}}"#,
            Want {
                error: "no slot is free",
                ..Want::default()
            },
        ),
        raw(
            "JSON that is no answer",
            "content-type: application/json\r\n",
            r#"{"hello":"world"}"#,
            Want {
                error: "no answer",
                ..Want::default()
            },
        ),
        openai(
            "not JSON",
            &[HI, "data: upstream connect error"],
            failed("upstream connect error"),
        ),
        openai("no end", &[HI], failed("before the answer did")),
        raw(
            "text instead of a stream",
            "content-type: text/plain\r\n",
            "no healthy upstream",
            Want {
                error: "no healthy upstream",
                ..Want::default()
            },
        ),
        raw(
            "nothing at all",
            EVENTS,
            "",
            Want {
                error: "empty answer",
                ..Want::default()
            },
        ),
        anthropic(
            "error event",
            &[
                A_HI,
                r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#,
            ],
            failed("Overloaded"),
        ),
        anthropic(
            "event error with text",
            &[A_HI, "event: error\ndata: it broke"],
            failed("it broke"),
        ),
        anthropic(
            "stop_reason that nobody knows",
            &[
                A_HI,
                r#"{"type":"message_delta","delta":{"stop_reason":"meteor"}}"#,
                A_END,
            ],
            failed("meteor"),
        ),
        anthropic("no end", &[A_HI], failed("before the answer did")),
    ]
}

/// What only keeps a connection alive, and the forms that a good answer has.
fn forms() -> Vec<Shape> {
    let thought = Want {
        thinking: "Hm.",
        ..hi()
    };
    let whole = r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop"}],
        "usage":{"prompt_tokens":1,"completion_tokens":1}}"#;
    let parts = r#"{"choices":[{"delta":{"content":[{"type":"thinking","thinking":[{"type":"text","text":"Hm."}]},
        {"type":"text","text":"H"},{"type":"text","text":"i"}]}}]}"#
        .replace('\n', "");
    vec![
        openai(
            "keepalives",
            &[
                ": OPENROUTER PROCESSING",
                "data:",
                "data: : still there",
                "event: ping",
                "event: ping\ndata: ping",
                HI,
                STOP,
                DONE,
            ],
            hi(),
        ),
        openai(
            "parts of content",
            &[&parts, STOP, DONE],
            Want {
                thinking: "Hm.",
                ..hi()
            },
        ),
        openai(
            "reasoning_content",
            &[
                r#"{"choices":[{"delta":{"reasoning_content":"Hm.","content":null}}]}"#,
                HI,
                STOP,
                DONE,
            ],
            Want {
                thinking: "Hm.",
                ..hi()
            },
        ),
        openai(
            "reasoning",
            &[
                r#"{"choices":[{"delta":{"reasoning":"Hm.","content":""}}]}"#,
                HI,
                STOP,
                DONE,
            ],
            thought,
        ),
        openai(
            "thinking",
            &[r#"{"choices":[{"delta":{"thinking":"Hm."}}]}"#, HI, STOP, DONE],
            Want {
                thinking: "Hm.",
                ..hi()
            },
        ),
        openai("no [DONE]", &[HI, STOP], hi()),
        openai("no reason", &[HI, DONE], hi()),
        raw("a whole answer", "content-type: application/json\r\n", whole, hi()),
        raw("a whole answer that calls itself a stream", EVENTS, whole, hi()),
        raw(
            "media type in capitals",
            "content-type: Text/Event-Stream; Charset=UTF-8\r\n",
            events(&[HI, STOP, DONE]),
            hi(),
        ),
        raw("no media type", "", events(&[HI, STOP, DONE]), hi()),
        raw(
            "a stream that calls itself JSON",
            "content-type: application/json\r\n",
            events(&[HI, STOP, DONE]),
            hi(),
        ),
        raw(
            "gzip",
            "content-type: text/event-stream\r\ncontent-encoding: gzip\r\n",
            gzip(&events(&[HI, STOP, DONE])),
            hi(),
        ),
        raw(
            "deflate",
            "content-type: text/event-stream\r\ncontent-encoding: deflate\r\n",
            deflate(&events(&[HI, STOP, DONE])),
            hi(),
        ),
        raw(
            "a bad byte",
            EVENTS,
            [
                b"data: {\"choices\":[{\"delta\":{\"content\":\"a\xffb\"}}]}\n\n".as_slice(),
                events(&[STOP, DONE]).as_bytes(),
            ]
            .concat(),
            Want {
                text: "a\u{fffd}b",
                ..hi()
            },
        ),
        openai(
            "a refusal",
            &[
                r#"{"choices":[{"delta":{"refusal":"I will not."},"finish_reason":"stop"}]}"#,
                DONE,
            ],
            Want {
                text: "I will not.",
                finish: FinishReason::Filter,
                ..Want::default()
            },
        ),
        anthropic(
            "keepalives",
            &["event: ping", "data:", r#"{"type":"ping"}"#, A_HI, A_STOP, A_END],
            hi(),
        ),
        anthropic(
            "thinking",
            &[
                r#"{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"Hm."}}"#,
                A_HI,
                A_STOP,
                A_END,
            ],
            Want {
                thinking: "Hm.",
                ..hi()
            },
        ),
        anthropic("no message_stop", &[A_HI, A_STOP], hi()),
        Shape {
            family: Anthropic,
            ..raw(
                "a whole message",
                "content-type: application/json; charset=utf-8\r\n",
                r#"{"type":"message","content":[{"type":"text","text":"Hi"}],"stop_reason":"end_turn","usage":{}}"#,
                hi(),
            )
        },
    ]
}

/// Two calls stay two calls, however their pieces are named.
fn tools() -> Vec<Shape> {
    const TWO: &[(&str, &str, bool)] = &[("a", r#"{"x":1}"#, false), ("b", r#"{"y":2}"#, false)];
    let delta = |calls: &str| format!(r#"{{"choices":[{{"index":0,"delta":{{"tool_calls":[{calls}]}}}}]}}"#);
    let of = |name, parts: &[&str], want| {
        let deltas: Vec<String> = parts.iter().map(|part| delta(part)).collect();
        let mut lines: Vec<&str> = deltas.iter().map(String::as_str).collect();
        lines.extend([CALLS, DONE]);
        openai(name, &lines, want)
    };
    vec![
        of(
            "no index, ids",
            &[
                r#"{"id":"1","function":{"name":"a","arguments":"{\"x\":"}}"#,
                r#"{"id":"1","function":{"arguments":"1}"}}"#,
                r#"{"id":"2","function":{"name":"b","arguments":"{\"y\":2}"}}"#,
            ],
            calls(TWO),
        ),
        of(
            "no index, pieces without ids",
            &[
                r#"{"id":"1","function":{"name":"a","arguments":""}}"#,
                r#"{"function":{"arguments":"{\"x\":1}"}}"#,
                r#"{"id":"2","function":{"name":"b","arguments":""}}"#,
                r#"{"function":{"arguments":"{\"y\":2}"}}"#,
            ],
            calls(TWO),
        ),
        of(
            "one index for two ids",
            &[
                r#"{"index":0,"id":"1","function":{"name":"a","arguments":"{\"x\":1}"}}"#,
                r#"{"index":0,"id":"2","function":{"name":"b","arguments":"{\"y\""}}"#,
                r#"{"index":0,"function":{"arguments":":2}"}}"#,
            ],
            calls(TWO),
        ),
        of(
            "no ids",
            &[
                r#"{"index":0,"function":{"name":"a","arguments":"{\"x\":1}"}}"#,
                r#"{"index":1,"function":{"name":"b","arguments":"{\"y\":2}"}}"#,
            ],
            calls(TWO),
        ),
        of(
            "one index and no ids",
            &[
                r#"{"index":0,"function":{"name":"a","arguments":"{\"x\":1}"}}"#,
                r#"{"index":0,"function":{"name":"b","arguments":"{\"y\":2}"}}"#,
            ],
            calls(TWO),
        ),
        of(
            "neither index nor ids",
            &[r#"{"function":{"name":"a","arguments":"{\"x\":1}"}},{"function":{"name":"b","arguments":"{\"y\":2}"}}"#],
            calls(TWO),
        ),
        of(
            "the same function twice, neither index nor ids",
            &[
                r#"{"function":{"name":"a","arguments":"{\"x\":1}"}}"#,
                r#"{"function":{"name":"a","arguments":"{\"x\":2}"}}"#,
            ],
            calls(&[("a", r#"{"x":1}"#, false), ("a", r#"{"x":2}"#, false)]),
        ),
        of(
            "the name with every piece",
            &[
                r#"{"index":0,"id":"1","function":{"name":"a","arguments":"{\"x\""}}"#,
                r#"{"index":0,"id":"1","function":{"name":"a","arguments":":1}"}}"#,
            ],
            calls(&[("a", r#"{"x":1}"#, false)]),
        ),
        of(
            "arguments as objects",
            &[
                r#"{"index":0,"id":"1","function":{"name":"a","arguments":{"x":1}}}"#,
                r#"{"index":1,"id":"2","function":{"name":"b","arguments":{}}}"#,
            ],
            calls(&[("a", r#"{"x":1}"#, false), ("b", "{}", false)]),
        ),
        of(
            "an empty object, then the arguments",
            &[
                r#"{"index":0,"id":"1","function":{"name":"a","arguments":{}}}"#,
                r#"{"index":0,"id":"1","function":{"arguments":"{\"x\":1}"}}"#,
            ],
            calls(&[("a", r#"{"x":1}"#, false)]),
        ),
        of(
            "arguments that are no JSON",
            &[
                r#"{"index":0,"id":"1","function":{"name":"a","arguments":"{\"x\": oops"}}"#,
                r#"{"index":1,"id":"2","function":{"name":"b","arguments":"{\"y\":2}"}}"#,
            ],
            calls(&[("a", "{\"x\": oops", true), ("b", r#"{"y":2}"#, false)]),
        ),
        anthropic(
            "one index and one id for two calls",
            &[
                r#"{"type":"content_block_start","content_block":{"type":"tool_use","id":"1","name":"a","input":{"x":1}}}"#,
                r#"{"type":"content_block_start","content_block":{"type":"tool_use","id":"1","name":"b","input":{}}}"#,
                r#"{"type":"content_block_delta","delta":{"type":"input_json_delta","partial_json":"{\"y\":2}"}}"#,
                r#"{"type":"message_delta","delta":{"stop_reason":"tool_use"}}"#,
                A_END,
            ],
            calls(TWO),
        ),
    ]
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text.as_bytes()).expect("in memory");
    encoder.finish().expect("in memory")
}

fn deflate(text: &str) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text.as_bytes()).expect("in memory");
    encoder.finish().expect("in memory")
}

/// A daemon whose every provider is the server of the test.
async fn daemon(server: &Server) -> World {
    let base = format!("http://127.0.0.1:{}", server.port);
    let rack = format!("rack={base}/v1");
    world(
        KEYS,
        &[
            ("anthropic_base_url", &base),
            ("endpoints", &rack),
            ("max_retries", "0"),
            ("breaker_failures", "0"),
        ],
    )
    .await
}

async fn check(shapes: Vec<Shape>) {
    let answers: Vec<(&str, Vec<u8>)> = shapes.iter().map(|shape| (shape.headers, shape.body.clone())).collect();
    let server = Server::start(move |asked, _| {
        let number: usize = asked.body["model"]
            .as_str()
            .and_then(|model| model.parse().ok())
            .expect("a number");
        let (headers, body) = &answers[number];
        response(200, headers, body)
    })
    .await;
    let world = daemon(&server).await;
    let mut wrong = Vec::new();
    for (number, shape) in shapes.iter().enumerate() {
        let provider = if shape.family == OpenAi { "rack" } else { "anthropic" };
        let answer = world.stream(ask("r", &format!("{provider}/{number}"), "hi")).await;
        if let Err(reason) = compare(&shape.want, answer) {
            wrong.push(format!("{provider}, {}: {reason}", shape.name));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        shapes.len(),
        wrong.join("\n")
    );
}

fn compare(want: &Want, answer: support::Answer) -> Result<(), String> {
    let thinking: String = answer.chunks.iter().map(|chunk| chunk.thinking.as_str()).collect();
    if (answer.text.as_str(), thinking.as_str()) != (want.text, want.thinking) {
        return Err(format!(
            "said {:?} and thought {thinking:?}; {:?}",
            answer.text, answer.error
        ));
    }
    if !want.error.is_empty() {
        let error = answer.error.ok_or("ended as if it were whole")?;
        return if error.message.contains(want.error) {
            Ok(())
        } else {
            Err(format!("told {:?}", error.message))
        };
    }
    let whole = answer
        .complete
        .ok_or_else(|| format!("failed with {:?}", answer.error))?;
    if whole.content != want.text || whole.finish_reason() != want.finish {
        return Err(format!("ended with {:?}, {:?}", whole.content, whole.finish_reason()));
    }
    let calls: Vec<_> = whole
        .tool_calls
        .iter()
        .map(|call| (call.name.as_str(), call.arguments.as_str(), call.malformed))
        .collect();
    if calls != want.calls {
        return Err(format!("called {calls:?}"));
    }
    // The pieces say the same as the whole, each under the id of its call.
    for call in &whole.tool_calls {
        let pieces = answer.tools.iter().filter(|piece| piece.tool_call_id == call.id);
        let joined: String = pieces.map(|piece| piece.arguments_delta.as_str()).collect();
        if joined != call.arguments {
            return Err(format!("the pieces of {} are {joined:?}", call.name));
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_failure_in_any_form_is_never_half_an_answer() {
    check(failures()).await;
}

#[tokio::test]
async fn a_good_answer_is_read_in_any_form() {
    check(forms()).await;
}

#[tokio::test]
async fn two_calls_stay_two_calls_and_nothing_is_repaired() {
    check(tools()).await;
}

/// Cut at every byte, an answer is the same.
#[tokio::test]
async fn pieces_of_the_network_change_nothing() {
    let body = events(&[r#"{"choices":[{"delta":{"content":"Grüße 🦀"}}]}"#, STOP, DONE]);
    let server = Server::start(move |asked, _| {
        let cut: usize = asked.body["model"]
            .as_str()
            .and_then(|model| model.parse().ok())
            .expect("a number");
        let mut acts = response(200, EVENTS, &body.as_bytes()[..cut.min(body.len())]);
        acts.push(Act::Wait(std::time::Duration::from_millis(2)));
        acts.push(Act::Send(body.as_bytes()[cut.min(body.len())..].to_vec()));
        acts
    })
    .await;
    let world = daemon(&server).await;
    for cut in (0..140).step_by(3) {
        let answer = world.stream(ask("r", &format!("rack/{cut}"), "hi")).await;
        assert_eq!(answer.text, "Grüße 🦀", "cut at {cut}");
    }
}
