use std::collections::VecDeque;

use serde_json::json;

use super::{chunks::Chunks, *};
use crate::{
    domain::{
        answer::{Answer, Finish},
        block::{Block, Part, ToolResult},
        request::{Message, Request, Role},
    },
    provider::{Limits, reply::Dialect, sse::Event},
};

fn read(lines: &[Value]) -> Result<Answer, Failure> {
    let (mut chunks, mut out) = (Chunks::default(), VecDeque::new());
    for line in lines {
        let event = Event {
            name: String::new(),
            data: line.to_string(),
        };
        chunks.read(&event, &mut out)?;
    }
    chunks.at_end(&mut out)?;
    let mut answer = Answer::default();
    out.iter().for_each(|piece| answer.add(piece));
    Ok(answer)
}

fn chunk(parts: Value, reason: Option<&str>) -> Value {
    json!({
        "candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": reason}],
        "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 4, "thoughtsTokenCount": 2},
    })
}

fn call(model: &str, messages: Vec<Message>) -> Call {
    Call {
        request: Arc::new(Request {
            messages,
            ..Request::new("r")
        }),
        model: model.into(),
        key: None,
        limits: Limits {
            first_byte: Duration::ZERO,
            idle: Duration::ZERO,
            max_output_tokens: 1,
        },
    }
}

#[test]
fn a_signature_goes_back_on_its_own_part() {
    let answer = read(&[
        chunk(json!([{"text": "hm", "thought": true}, {"text": "Let me see."}]), None),
        chunk(
            json!([
                {"functionCall": {"name": "t", "args": {"a": 1}}, "thoughtSignature": "c2ln"},
                {"functionCall": {"name": "t", "args": {"a": 2}, "id": "g2"}},
            ]),
            Some("STOP"),
        ),
    ])
    .expect("whole");
    assert_eq!(
        (answer.content.as_str(), answer.finish()),
        ("Let me see.", Finish::ToolUses)
    );
    assert_eq!((answer.tokens(0).input, answer.tokens(0).output), (9, 6));
    let said = Message::new(Role::Assistant, answer.blocks("gemini", "gemini-3-pro"));
    let results = answer.tool_calls.iter().map(|call| {
        Block::Result(ToolResult {
            call_id: call.id.clone(),
            name: "t".into(),
            content: vec![Part::Text("42".into())],
            is_error: false,
        })
    });
    let messages = vec![
        Message::text(Role::User, "go"),
        said,
        Message::new(Role::Tool, results.collect()),
    ];
    let sent = body("gemini", &call("gemini-3-pro", messages.clone())).expect("valid");
    let want = json!([
        {"role": "user", "parts": [{"text": "go"}]},
        {"role": "model", "parts": [
            {"text": "Let me see."},
            {"functionCall": {"name": "t", "args": {"a": 1}}, "thoughtSignature": "c2ln"},
            {"functionCall": {"name": "t", "args": {"a": 2}, "id": "g2"}},
        ]},
        {"role": "user", "parts": [
            {"functionResponse": {"name": "t", "response": {"output": "42"}}},
            {"functionResponse": {"name": "t", "response": {"output": "42"}, "id": "g2"}},
        ]},
    ]);
    assert_eq!(sent["contents"], want);
    // Another model of the same provider gets no signature of this one, but the stand-in for it.
    let sent = body("gemini", &call("gemini-3-flash", messages.clone())).expect("valid");
    assert_eq!(
        sent["contents"][1]["parts"][1]["thoughtSignature"],
        "skip_thought_signature_validator"
    );
    let sent = body("gemini", &call("gemini-2.5-pro", messages)).expect("valid");
    assert_eq!(
        sent["contents"][1]["parts"][1].get("thoughtSignature"),
        None,
        "nor do older ones"
    );
}

#[test]
fn every_end_is_known_and_a_model_is_no_path() {
    let end = |reason: &str| read(&[chunk(json!([{"text": "Hi"}]), Some(reason))]);
    assert_eq!(end("MAX_TOKENS").expect("whole").finish(), Finish::Length);
    assert_eq!(end("SAFETY").expect("whole").finish(), Finish::Filter);
    assert_eq!(
        end("MALFORMED_FUNCTION_CALL").expect_err("a mistake").kind,
        Kind::Broken
    );
    assert_eq!(read(&[chunk(json!([]), None)]).expect_err("cut").kind, Kind::Broken);
    let blocked = json!({"promptFeedback": {"blockReason": "SAFETY"}});
    assert_eq!(read(&[blocked]).expect("told").finish(), Finish::Filter);
    assert_eq!(
        path("models/gemini-3-pro").expect("plain"),
        "/models/gemini-3-pro:streamGenerateContent"
    );
    for wrong in ["", "..", "a/../../x", "a?b", "ü"] {
        assert_eq!(path(wrong).expect_err("no name").kind, Kind::UnknownModel, "{wrong}");
    }
}
