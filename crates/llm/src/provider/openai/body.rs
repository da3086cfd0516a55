//! Encodes a request for OpenAI's chat API.

use serde_json::{Value, json};

use crate::{
    domain::{
        catalogue,
        request::{Message, Role},
    },
    provider::Call,
};

pub fn body(provider: &str, call: &Call) -> Value {
    let (request, is_openai) = (&call.request, provider == catalogue::OPENAI);
    let mut body = json!({
        "model": call.model,
        "messages": request.messages.iter().map(message).collect::<Vec<_>>(),
        "stream": true,
        "stream_options": {"include_usage": true},
    });
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body[name] = value;
        }
    };
    // OpenAI's newer models refuse the old name; the others know only that one.
    let limit = if is_openai {
        "max_completion_tokens"
    } else {
        "max_tokens"
    };
    set(limit, request.parameters.max_tokens.map(Value::from));
    set("temperature", request.parameters.temperature.map(Value::from));
    set("top_p", request.parameters.top_p.map(Value::from));
    set(
        "top_k",
        request.parameters.top_k.filter(|_| !is_openai).map(Value::from),
    );
    set(
        "stop",
        (!request.parameters.stop.is_empty()).then(|| request.parameters.stop.clone().into()),
    );
    let tools = request.tools.iter().map(|tool| {
        let function = json!({"name": tool.name, "description": tool.description, "parameters": tool.schema});
        json!({"type": "function", "function": function})
    });
    set("tools", (!request.tools.is_empty()).then(|| tools.collect()));
    body
}

fn message(message: &Message) -> Value {
    match message.role {
        Role::System => json!({"role": "system", "content": message.content}),
        Role::User => json!({"role": "user", "content": message.content}),
        Role::Tool => json!({"role": "tool", "tool_call_id": message.tool_call_id, "content": message.content}),
        Role::Assistant if message.tool_calls.is_empty() => json!({"role": "assistant", "content": message.content}),
        Role::Assistant => {
            let calls = message.tool_calls.iter().map(|call| {
                let function = json!({"name": call.name, "arguments": call.arguments});
                json!({"id": call.id, "type": "function", "function": function})
            });
            let calls: Vec<_> = calls.collect();
            json!({"role": "assistant", "content": message.content, "tool_calls": calls})
        }
    }
}
