use std::collections::VecDeque;

use serde_json::json;

use super::{events::Events, *};
use crate::{
    domain::{
        answer::{Finish, Piece},
        block::{Block, Part, ToolCall, ToolResult},
        failure::Kind,
        request::{Message, Parameters, Request, Role, Tool},
    },
    provider::{Limits, reply::Dialect, sse::Event},
};

fn events(lines: &[&str]) -> (Vec<Piece>, Result<(), Failure>) {
    let (mut events, mut out) = (Events::default(), VecDeque::new());
    for line in lines {
        let event = Event {
            name: String::new(),
            data: (*line).to_owned(),
        };
        if let Err(failure) = events.read(&event, &mut out) {
            return (out.into(), Err(failure));
        }
    }
    let end = events.at_end(&mut out);
    (out.into(), end)
}

fn call(messages: Vec<Message>) -> Call {
    let request = Request {
        messages,
        tools: vec![Tool {
            name: "t".into(),
            description: "d".into(),
            schema: json!({"type": "object"}),
        }],
        parameters: Parameters {
            temperature: Some(0.7),
            ..Parameters::default()
        },
        ..Request::new("r")
    };
    Call {
        request: Arc::new(request),
        model: "claude-x".into(),
        key: None,
        limits: Limits {
            first_byte: Duration::ZERO,
            idle: Duration::ZERO,
            max_output_tokens: 4096,
        },
    }
}

#[test]
fn text_and_tools_with_split_arguments() {
    let (pieces, end) = events(&[
        r#"{"type":"message_start","message":{"usage":{"input_tokens":10,"cache_read_input_tokens":5,"output_tokens":1}}}"#,
        r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#,
        r#"{"type":"ping"}"#,
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hi"}}"#,
        r#"{"type":"content_block_stop","index":0}"#,
        r#"{"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"tu1","name":"t","input":{}}}"#,
        r#"{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\"a\""}}"#,
        r#"{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":":1}"}}"#,
        r#"{"type":"content_block_stop","index":1}"#,
        r#"{"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"tu2","name":"u","input":{}}}"#,
        r#"{"type":"content_block_stop","index":2}"#,
        r#"{"type":"message_delta","delta":{"stop_reason":"tool_use"},"usage":{"output_tokens":42}}"#,
        r#"{"type":"message_stop"}"#,
    ]);
    assert_eq!(end, Ok(()));
    let mut answer = crate::domain::answer::Answer::default();
    pieces.iter().for_each(|piece| answer.add(piece));
    assert_eq!(answer.content, "Hi");
    let calls: Vec<_> = answer
        .tool_calls
        .iter()
        .map(|call| (call.id.as_str(), call.arguments.as_str()))
        .collect();
    assert_eq!(calls, [("tu1", "{\"a\":1}"), ("tu2", "{}")]);
    assert_eq!((answer.tokens(0).input, answer.tokens(0).output), (15, 42));
    assert_eq!(answer.finish(), Finish::ToolUses);
}

#[test]
fn an_error_and_an_early_end_are_failures() {
    let start = r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hi"}}"#;
    let (pieces, end) = events(&[start]);
    assert_eq!((pieces.len(), end.expect_err("cut").kind), (1, Kind::Broken));
    let overloaded = r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
    assert_eq!(events(&[start, overloaded]).1.expect_err("error").kind, Kind::Server);
    assert_eq!(events(&[start, "{oops"]).1.expect_err("malformed").kind, Kind::Broken);
}

#[test]
fn the_body_is_as_the_api_wants_it() {
    let asks = Message::new(
        Role::Assistant,
        vec![Block::Call(ToolCall {
            id: "tu1".into(),
            name: "t".into(),
            arguments: "{\"a\":1}".into(),
        })],
    );
    let result = Message::new(
        Role::Tool,
        vec![Block::Result(ToolResult {
            call_id: "tu1".into(),
            name: "t".into(),
            content: vec![Part::Text("42".into())],
            is_error: false,
        })],
    );
    let body = body(
        "anthropic",
        &call(vec![
            Message::text(Role::System, "be kind"),
            Message::text(Role::User, "hi"),
            asks,
            result,
            Message::text(Role::User, "and?"),
        ]),
    )
    .expect("something to answer");
    let hour = json!({"type": "ephemeral", "ttl": "1h"});
    assert_eq!(
        body["system"],
        json!([{"type": "text", "text": "be kind", "cache_control": hour}])
    );
    assert_eq!(body["tools"][0]["cache_control"], hour);
    assert_eq!(body["max_tokens"], 4096);
    assert_eq!(body["stream"], true);
    assert!(body.get("top_p").is_none());
    let want = json!([
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "tu1", "name": "t", "input": {"a": 1},
            "cache_control": {"type": "ephemeral"}}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "tu1", "content": "42"},
            {"type": "text", "text": "and?", "cache_control": {"type": "ephemeral"}},
        ]},
    ]);
    assert_eq!(body["messages"], want);
    assert_eq!(body["tools"][0]["input_schema"]["type"], "object");
}

#[test]
fn newer_models_are_told_an_effort_and_asked_to_go_on() {
    let sent = |model: &str| {
        let mut call = call(vec![
            Message::text(Role::User, "hi"),
            Message::text(Role::Assistant, "Well, "),
        ]);
        call.model = model.into();
        let request = Arc::make_mut(&mut call.request);
        request.thinking = Some(crate::domain::request::Thinking::Tokens(3_000));
        body("anthropic", &call).expect("something to answer")
    };
    for model in ["claude-opus-5-5", "claude-opus-4-6", "claude-fable-5"] {
        let sent = sent(model);
        assert_eq!(sent["thinking"], json!({"type": "adaptive"}), "{model}");
        assert_eq!(sent["output_config"], json!({"effort": "low"}), "{model}");
        assert_eq!(sent["messages"][2]["content"][0]["text"], "(Go on.)", "{model}");
    }
    for model in [
        "claude-sonnet-4-20250514",
        "claude-opus-4-5",
        "claude-3-5-haiku-20241022",
        "claude-x",
    ] {
        let sent = sent(model);
        assert_eq!(sent.get("output_config"), None, "{model}");
        assert_eq!(sent["messages"][1]["content"][0]["text"], "Well,", "{model}");
    }
}
