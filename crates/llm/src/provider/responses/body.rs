//! Encodes a request as a list of items. An item of reasoning stands right before the text or call that followed from it.

use serde_json::{Value, json};

use crate::{
    domain::{
        block::{Image, Part},
        catalogue,
        failure::{Failure, Kind},
        history::{self, Answered, Recipient, Said, Turn},
        request::{Request, ToolChoice},
    },
    provider::{Call, nothing_to_answer},
};

const LONGEST_ID: usize = 64;
const LONGEST_CACHE_KEY: usize = 64;

pub fn body(provider: &str, call: &Call) -> Result<Value, Failure> {
    let request = &call.request;
    if !request.parameters.stop.is_empty() {
        let text = "stop_sequences are not known to the responses API: leave them out, or set llm.openai_api to chat";
        return Err(Failure::new(Kind::Invalid, text));
    }
    let to = Recipient {
        provider,
        model: &call.model,
        longest_id: LONGEST_ID,
    };
    let turns = history::turns(&request.messages, to);
    let input: Vec<Value> = turns.iter().flat_map(items).collect();
    if input.is_empty() {
        return Err(nothing_to_answer());
    }
    let mut body = json!({"model": call.model, "input": input, "stream": true, "store": false});
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body[name] = value;
        }
    };
    set("instructions", instructions(&turns));
    set("max_output_tokens", request.parameters.max_tokens.map(Value::from));
    set("temperature", request.parameters.temperature.map(Value::from));
    set("top_p", request.parameters.top_p.map(Value::from));
    // Models that are known not to think refuse both.
    if catalogue::find(provider, &call.model).is_none_or(|model| model.thinking) {
        set("include", Some(json!(["reasoning.encrypted_content"])));
        let effort = request.thinking.map(|thinking| thinking.effort().name());
        set("reasoning", effort.map(|effort| json!({"effort": effort})));
    }
    let key: String = request.session.chars().take(LONGEST_CACHE_KEY).collect();
    set("prompt_cache_key", (!key.is_empty()).then(|| key.into()));
    if !request.tools.is_empty() {
        set("tools", Some(request.tools.iter().map(tool).collect()));
        set("tool_choice", tool_choice(request));
        set("parallel_tool_calls", request.parallel_tool_calls.map(Value::from));
    }
    Ok(body)
}

fn instructions(turns: &[Turn]) -> Option<Value> {
    let texts: Vec<&str> = turns
        .iter()
        .filter_map(|turn| match turn {
            Turn::System(text) => Some(text.as_str()),
            _ => None,
        })
        .collect();
    (!texts.is_empty()).then(|| texts.join("\n\n").into())
}

/// Not strict: a strict schema allows no optional arguments.
fn tool(tool: &crate::domain::request::Tool) -> Value {
    json!({
        "type": "function", "name": tool.name, "description": tool.description, "parameters": tool.schema, "strict": false,
    })
}

fn tool_choice(request: &Request) -> Option<Value> {
    match &request.tool_choice {
        ToolChoice::Auto => None,
        ToolChoice::None => Some("none".into()),
        ToolChoice::Required => Some("required".into()),
        ToolChoice::Named(name) => Some(json!({"type": "function", "name": name})),
    }
}

fn items(turn: &Turn) -> Vec<Value> {
    match turn {
        Turn::System(_) => Vec::new(),
        Turn::User(parts) => {
            let content: Vec<Value> = parts.iter().map(part).collect();
            vec![json!({"type": "message", "role": "user", "content": content})]
        }
        Turn::Assistant(said) => assistant(said),
        Turn::Results(results) => results.iter().map(output).collect(),
    }
}

fn part(part: &Part) -> Value {
    match part {
        Part::Text(text) => json!({"type": "input_text", "text": text}),
        Part::Image(image) => json!({"type": "input_image", "image_url": url(image)}),
    }
}

fn url(image: &Image) -> String {
    format!(
        "data:{};base64,{}",
        image.media_type,
        crate::provider::base64(&image.data)
    )
}

/// Reasoning that nothing followed from is left out: it is refused without what followed.
fn assistant(said: &[Said]) -> Vec<Value> {
    let last = said.iter().rposition(|said| !matches!(said, Said::Opaque(_)));
    let followed = &said[..last.map_or(0, |last| last + 1)];
    followed
        .iter()
        .filter_map(|said| match said {
            Said::Text(text) => {
                let content = json!([{"type": "output_text", "text": text}]);
                Some(json!({"type": "message", "role": "assistant", "content": content}))
            }
            Said::Call(call) => Some(json!({
                "type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.text,
            })),
            Said::Opaque(data) => {
                let item: Value = serde_json::from_slice(data).ok()?;
                (item["type"] == "reasoning").then_some(item)
            }
        })
        .collect()
}

fn output(result: &Answered) -> Value {
    let has_images = result.content.iter().any(|part| part.image().is_some());
    let output: Value = if has_images {
        result.content.iter().map(part).collect()
    } else {
        let texts = result.content.iter().filter_map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            Part::Image(_) => None,
        });
        texts.collect::<Vec<_>>().join("\n\n").into()
    };
    json!({"type": "function_call_output", "call_id": result.id, "output": output})
}
