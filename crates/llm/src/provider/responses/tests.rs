use std::collections::VecDeque;

use serde_json::json;

use super::{events::Events, *};
use crate::{
    domain::{
        answer::{Answer, Finish},
        block::{Block, Opaque, ToolCall},
        failure::Kind,
        request::{Message, Parameters, Request, Role},
    },
    provider::{Limits, reply::Dialect, sse::Event},
};

fn read(lines: &[serde_json::Value]) -> Result<Answer, Failure> {
    let (mut events, mut out) = (Events::default(), VecDeque::new());
    for line in lines {
        let event = Event {
            name: String::new(),
            data: line.to_string(),
        };
        events.read(&event, &mut out)?;
    }
    events.at_end(&mut out)?;
    let mut answer = Answer::default();
    out.iter().for_each(|piece| answer.add(piece));
    Ok(answer)
}

fn call(messages: Vec<Message>, parameters: Parameters) -> Call {
    let request = Request {
        messages,
        parameters,
        session: "s-1".into(),
        ..Request::new("r")
    };
    Call {
        request: Arc::new(request),
        model: "gpt-5".into(),
        key: None,
        limits: Limits {
            first_byte: Duration::ZERO,
            idle: Duration::ZERO,
            max_output_tokens: 1,
        },
    }
}

#[test]
fn items_come_in_order_and_reasoning_is_kept_sealed() {
    let reasoning = json!({"type": "reasoning", "id": "rs_0", "summary": [], "encrypted_content": "sealed"});
    let made = json!({"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "t", "arguments": "{\"a\":1}"});
    let usage = json!({"input_tokens": 9, "output_tokens": 4});
    let answer = read(&[
        json!({"type": "response.created", "response": {}}),
        json!({"type": "response.output_item.done", "output_index": 0, "item": reasoning}),
        json!({"type": "response.output_item.added", "output_index": 1,
            "item": {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "t", "arguments": ""}}),
        json!({"type": "response.function_call_arguments.delta", "output_index": 1, "delta": "{\"a\":"}),
        json!({"type": "response.function_call_arguments.delta", "output_index": 1, "delta": "1}"}),
        json!({"type": "response.output_item.done", "output_index": 1, "item": made}),
        json!({"type": "response.completed", "response": {"status": "completed", "output": [reasoning, made], "usage": usage}}),
    ])
    .expect("whole");
    assert_eq!(answer.finish(), Finish::ToolUses);
    assert_eq!((answer.tokens(0).input, answer.tokens(0).output), (9, 4));
    let blocks = answer.blocks("openai", "gpt-5");
    let [Block::Opaque(opaque), Block::Call(made)] = blocks.as_slice() else {
        panic!("{blocks:?}")
    };
    assert_eq!(
        serde_json::from_slice::<serde_json::Value>(&opaque.data).expect("JSON"),
        reasoning
    );
    assert_eq!((made.id.as_str(), made.arguments.as_str()), ("c1", "{\"a\":1}"));
}

#[test]
fn every_end_is_known() {
    let end = |response: serde_json::Value| {
        let text = json!({"type": "response.output_text.delta", "output_index": 0, "delta": "Hi"});
        read(&[text, json!({"type": "response.completed", "response": response})])
    };
    assert_eq!(
        end(json!({"status": "completed"})).expect("whole").finish(),
        Finish::Stop
    );
    let cut = json!({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}});
    assert_eq!(end(cut).expect("whole").finish(), Finish::Length);
    let failed = json!({"status": "failed", "error": {"code": "rate_limit_exceeded", "message": "slow down"}});
    assert_eq!(end(failed).expect_err("failed").kind, Kind::RateLimited);
    assert_eq!(read(&[]).expect_err("cut").kind, Kind::Broken);
}

#[test]
fn reasoning_stands_before_what_followed_or_not_at_all() {
    let sealed = |id: &str| {
        let item = json!({"type": "reasoning", "id": id, "summary": [], "encrypted_content": "x"});
        Block::Opaque(Opaque {
            provider: "openai".into(),
            model: "gpt-5".into(),
            data: item.to_string().into_bytes(),
        })
    };
    let asked = Block::Call(ToolCall {
        id: "c1".into(),
        name: "t".into(),
        arguments: "{}".into(),
    });
    let messages = vec![
        Message::text(Role::System, "be kind"),
        Message::text(Role::User, "go"),
        Message::new(Role::Assistant, vec![sealed("rs_1"), asked, sealed("rs_2")]),
    ];
    let body = body("openai", &call(messages.clone(), Parameters::default())).expect("valid");
    let kinds: Vec<_> = body["input"]
        .as_array()
        .expect("items")
        .iter()
        .map(|item| &item["type"])
        .collect();
    assert_eq!(kinds, ["message", "reasoning", "function_call", "function_call_output"]);
    assert_eq!(
        (&body["store"], &body["instructions"]),
        (&json!(false), &json!("be kind"))
    );
    assert_eq!(body["prompt_cache_key"], "s-1");
    let stop = Parameters {
        stop: vec!["x".into()],
        ..Parameters::default()
    };
    assert_eq!(
        super::body("openai", &call(messages, stop)).expect_err("refused").kind,
        Kind::Invalid
    );
}
