//! Encodes a request for OpenAI's chat API. A result follows right after the message that asked for it, one message each.

use serde_json::{Map, Value, json};

use crate::{
    domain::{
        block::{Image, Part},
        catalogue,
        failure::Failure,
        history::{self, Answered, Recipient, Said, Turn},
        request::{Request, ToolChoice},
    },
    provider::{Call, nothing_to_answer},
};

const LONGEST_ID: usize = 40;
/// What servers call the thinking that they want back.
const THOUGHT: [&str; 4] = ["reasoning_content", "reasoning", "thinking", "reasoning_details"];

pub fn body(provider: &str, call: &Call) -> Result<Value, Failure> {
    let (request, is_openai) = (&call.request, provider == catalogue::OPENAI);
    let to = Recipient {
        provider,
        model: &call.model,
        longest_id: LONGEST_ID,
    };
    let turns = history::turns(&request.messages, to);
    let messages: Vec<Value> = turns.iter().flat_map(messages).collect();
    if messages.iter().all(|message| message["role"] == "system") {
        return Err(nothing_to_answer());
    }
    let mut body = json!({
        "model": call.model,
        "messages": messages,
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
    set("reasoning_effort", effort(provider, call));
    if !request.tools.is_empty() {
        set("tools", Some(request.tools.iter().map(tool).collect()));
        set("tool_choice", tool_choice(request));
        set("parallel_tool_calls", request.parallel_tool_calls.map(Value::from));
    }
    Ok(body)
}

/// Only of models that think, as far as we know them.
fn effort(provider: &str, call: &Call) -> Option<Value> {
    let can = catalogue::find(provider, &call.model).is_none_or(|model| model.thinking);
    let thinking = call.request.thinking.filter(|_| can)?;
    Some(thinking.effort().name().into())
}

fn tool(tool: &crate::domain::request::Tool) -> Value {
    let function = json!({"name": tool.name, "description": tool.description, "parameters": tool.schema});
    json!({"type": "function", "function": function})
}

fn tool_choice(request: &Request) -> Option<Value> {
    match &request.tool_choice {
        ToolChoice::Auto => None,
        ToolChoice::None => Some("none".into()),
        ToolChoice::Required => Some("required".into()),
        ToolChoice::Named(name) => Some(json!({"type": "function", "function": {"name": name}})),
    }
}

fn messages(turn: &Turn) -> Vec<Value> {
    match turn {
        Turn::System(text) => vec![json!({"role": "system", "content": text})],
        Turn::User(parts) => vec![json!({"role": "user", "content": content(parts)})],
        Turn::Assistant(said) => assistant(said).into_iter().collect(),
        Turn::Results(results) => results_of(results),
    }
}

/// A text, unless there are images: many endpoints take no list.
fn content(parts: &[Part]) -> Value {
    if parts.iter().all(|part| part.image().is_none()) {
        return joined(parts).into();
    }
    let part = |part: &Part| match part {
        Part::Text(text) => json!({"type": "text", "text": text}),
        Part::Image(image) => picture(image),
    };
    parts.iter().map(part).collect()
}

fn joined(parts: &[Part]) -> String {
    let texts = parts.iter().filter_map(|part| match part {
        Part::Text(text) => Some(text.as_str()),
        Part::Image(_) => None,
    });
    texts.collect::<Vec<_>>().join("\n\n")
}

fn picture(image: &Image) -> Value {
    let url = format!(
        "data:{};base64,{}",
        image.media_type,
        crate::provider::base64(&image.data)
    );
    json!({"type": "image_url", "image_url": {"url": url}})
}

/// What was thought goes back with the calls that followed from it, under the name it had; elsewhere some refuse it.
fn assistant(said: &[Said]) -> Option<Value> {
    let mut texts = Vec::new();
    let mut calls = Vec::new();
    let mut thought = Map::new();
    for said in said {
        match said {
            Said::Text(text) => texts.push(text.as_str()),
            Said::Call(call) => {
                let function = json!({"name": call.name, "arguments": call.text});
                calls.push(json!({"id": call.id, "type": "function", "function": function}));
            }
            Said::Opaque(data) => think(&mut thought, data),
        }
    }
    if texts.is_empty() && calls.is_empty() {
        return None;
    }
    let mut message = json!({"role": "assistant", "content": texts.join("\n\n")});
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
        for (field, value) in thought {
            message[field] = value;
        }
    }
    Some(message)
}

fn think(thought: &mut Map<String, Value>, data: &[u8]) {
    let Ok(Value::Object(fields)) = serde_json::from_slice(data) else {
        return;
    };
    for (field, value) in fields
        .into_iter()
        .filter(|(field, _)| THOUGHT.contains(&field.as_str()))
    {
        match (thought.get_mut(&field), value) {
            (Some(Value::String(before)), Value::String(more)) => before.push_str(&more),
            (Some(Value::Array(before)), Value::Array(more)) => before.extend(more),
            (_, value) => _ = thought.insert(field, value),
        }
    }
}

/// Their images follow in a message of the user's side: a tool's message takes text only.
fn results_of(results: &[Answered]) -> Vec<Value> {
    let mut messages: Vec<Value> = results
        .iter()
        .map(|result| json!({"role": "tool", "tool_call_id": result.id, "content": joined(&result.content)}))
        .collect();
    let mut images = Vec::new();
    for result in results {
        let of_result: Vec<Value> = result.content.iter().filter_map(Part::image).map(picture).collect();
        if !of_result.is_empty() {
            let text = format!("Images in the result of {} ({}):", result.name, result.id);
            images.push(json!({"type": "text", "text": text}));
            images.extend(of_result);
        }
    }
    if !images.is_empty() {
        messages.push(json!({"role": "user", "content": images}));
    }
    messages
}
