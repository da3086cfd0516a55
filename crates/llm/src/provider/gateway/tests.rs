use std::collections::VecDeque;

use super::{events::Events, *};
use crate::{
    domain::{
        answer::{Answer, Finish},
        block::{Block, ToolCall, ToolResult},
        failure::Kind,
        request::{Message, Request, Role},
    },
    provider::{Limits, reply::Dialect, sse::Event},
};

fn read(lines: &[&str]) -> Result<Answer, Failure> {
    let (mut events, mut out) = (Events::default(), VecDeque::new());
    for line in lines {
        let event = Event {
            name: String::new(),
            data: (*line).to_owned(),
        };
        events.read(&event, &mut out)?;
    }
    events.at_end(&mut out)?;
    let mut answer = Answer::default();
    out.iter().for_each(|piece| answer.add(piece));
    Ok(answer)
}

#[test]
fn its_events_are_those_of_the_older_wire() {
    let answer = read(&[
        r#"{"type":"chunk","request_id":"r","content":"Hi","index":0,"is_last":false}"#,
        r#"{"type":"tool_call","request_id":"r","tool_call_id":"c1","name":"t","arguments_delta":"{}"}"#,
        r#"{"type":"usage","usage":{"input_tokens":9,"output_tokens":4,"total_tokens":13}}"#,
        r#"{"type":"complete","response":{"content":"Hi","tool_calls":[],"finish_reason":"tool_use"}}"#,
        "[DONE]",
    ])
    .expect("whole");
    assert_eq!((answer.content.as_str(), answer.finish()), ("Hi", Finish::ToolUses));
    assert_eq!((answer.tokens(0).input, answer.tokens(0).output), (9, 4));
    let whole = r#"{"type":"complete","response":{"content":"Hi","finish_reason":"stop"}}"#;
    assert_eq!(read(&[whole]).expect("in one piece").content, "Hi");
    let failed = r#"{"type":"error","code":"PROVIDER_ERROR","message":"asleep","retryable":true}"#;
    assert_eq!(read(&[failed]).expect_err("told").kind, Kind::Server);
    assert_eq!(read(&[]).expect_err("cut").kind, Kind::Broken);
}

#[test]
fn calls_and_results_travel_in_extra() {
    let asked = Block::Call(ToolCall {
        id: "c1".into(),
        name: "t".into(),
        arguments: "{\"a\":1}".into(),
    });
    let result = Block::Result(ToolResult {
        call_id: "c1".into(),
        name: "t".into(),
        content: vec![Part::Text("42".into())],
        is_error: false,
    });
    let call = Call {
        request: Arc::new(Request {
            messages: vec![
                Message::text(Role::User, "go"),
                Message::new(Role::Assistant, vec![asked]),
                Message::new(Role::Tool, vec![result]),
            ],
            ..Request::new("r-1")
        }),
        model: "anthropic/claude-x".into(),
        key: None,
        limits: Limits {
            first_byte: Duration::ZERO,
            idle: Duration::ZERO,
            max_output_tokens: 1,
        },
    };
    let body = body(&call).expect("valid");
    assert_eq!(
        (&body["request_id"], &body["model"]),
        (&"r-1".into(), &"anthropic/claude-x".into())
    );
    let calls = body["messages"][1]["extra"]["tool_calls"]
        .as_str()
        .expect("JSON in a text");
    assert_eq!(
        serde_json::from_str::<Value>(calls).expect("JSON")[0]["arguments"],
        "{\"a\":1}"
    );
    assert_eq!(body["messages"][2]["extra"]["tool_call_id"], "c1");
}
