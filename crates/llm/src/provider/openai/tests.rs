use std::collections::VecDeque;

use serde_json::json;

use super::{chunks::Chunks, *};
use crate::{
    domain::{
        answer::{Answer, Finish},
        block::{Block, Part, ToolCall, ToolResult},
        failure::Kind,
        request::{Message, Parameters, Request, Role},
    },
    provider::{Limits, reply::Dialect, sse::Event},
};

fn chunks(lines: &[&str]) -> Result<Answer, Failure> {
    let (mut chunks, mut out) = (Chunks::default(), VecDeque::new());
    for line in lines {
        chunks.read(
            &Event {
                name: String::new(),
                data: (*line).to_owned(),
            },
            &mut out,
        )?;
    }
    chunks.at_end(&mut out)?;
    let mut answer = Answer::default();
    out.iter().for_each(|piece| answer.add(piece));
    Ok(answer)
}

#[test]
fn interleaved_calls_with_split_arguments() {
    let answer = chunks(&[
        r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":null}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c0","function":{"name":"t","arguments":""}}]}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"function":{"name":"u","arguments":"{"}}]}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"a\":"}}]}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"function":{"arguments":"}"}},{"index":0,"function":{"arguments":"1}"}}]}}]}"#,
        r#"{"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}"#,
        r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4,"total_tokens":13}}"#,
        "[DONE]",
    ])
    .expect("whole");
    let calls: Vec<_> = answer
        .tool_calls
        .iter()
        .map(|call| (call.id.as_str(), call.arguments.as_str()))
        .collect();
    assert_eq!(calls, [("c0", "{\"a\":1}"), ("call_1", "{}")]);
    assert_eq!((answer.tokens(0).input, answer.tokens(0).output), (9, 4));
    assert_eq!(answer.finish(), Finish::ToolUses);
}

#[test]
fn the_end_must_have_come() {
    let text = r#"{"choices":[{"index":0,"delta":{"content":"Hi"}}]}"#;
    let last = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}"#;
    assert_eq!(chunks(&[text]).expect_err("cut").kind, Kind::Broken);
    assert_eq!(chunks(&[text, "[DONE]"]).expect("no reason").finish(), Finish::Stop);
    assert_eq!(chunks(&[text, last]).expect("forgot [DONE]").finish(), Finish::Length);
    let error = r#"{"error":{"message":"slow down","code":"rate_limit_exceeded"}}"#;
    assert_eq!(chunks(&[text, error]).expect_err("error").kind, Kind::RateLimited);
}

#[test]
fn the_body_is_as_each_endpoint_wants_it() {
    let call = ToolCall {
        id: "c0".into(),
        name: "t".into(),
        arguments: "{}".into(),
    };
    let asks = Message::new(
        Role::Assistant,
        vec![Block::Text("let me see".into()), Block::Call(call)],
    );
    let result = Message::new(
        Role::Tool,
        vec![Block::Result(ToolResult {
            call_id: "c0".into(),
            name: "t".into(),
            content: vec![Part::Text("42".into())],
            is_error: false,
        })],
    );
    let request = Request {
        messages: vec![
            Message::text(Role::System, "be kind"),
            Message::text(Role::User, "hi"),
            asks,
            result,
        ],
        parameters: Parameters {
            max_tokens: Some(10),
            top_k: Some(3),
            ..Parameters::default()
        },
        ..Request::new("r")
    };
    let limits = Limits {
        first_byte: Duration::ZERO,
        idle: Duration::ZERO,
        max_output_tokens: 1,
    };
    let call = Call {
        request: Arc::new(request),
        model: "m".into(),
        key: None,
        limits,
    };
    let (openai, ollama) = (
        body("openai", &call).expect("valid"),
        body("ollama", &call).expect("valid"),
    );
    assert_eq!(
        (&openai["max_completion_tokens"], &openai["top_k"]),
        (&json!(10), &Value::Null)
    );
    assert_eq!((&ollama["max_tokens"], &ollama["top_k"]), (&json!(10), &json!(3)));
    assert_eq!(openai["stream_options"]["include_usage"], true);
    assert_eq!(openai["messages"][2]["tool_calls"][0]["function"]["name"], "t");
    assert_eq!(
        openai["messages"][3],
        json!({"role": "tool", "tool_call_id": "c0", "content": "42"})
    );
    assert!(openai.get("tools").is_none());
}
