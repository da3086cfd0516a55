//! The Anthropic Messages API: `POST {base}/v1/messages` with `stream: true`.
//!
//! ```text
//! message_start  (content_block_start content_block_delta* content_block_stop)*  message_delta  message_stop
//! ```
//! with `ping` and `error` anywhere. Events and blocks that we do not know (thinking among them) are passed over.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use reqwest::{
    Url,
    header::{HeaderMap, HeaderValue},
};
use serde_json::{Value, json};

use super::{
    Call, Http, Pieces, Provider,
    http::{self, Ask, Told},
    reply::{self, Dialect},
    sse::Event,
};
use crate::{
    domain::{
        answer::{Finish, Piece},
        catalogue::{self, Model},
        failure::{Failure, Kind},
        request::{Message, Role},
    },
    keys::Key,
};

const VERSION: &str = "2023-06-01";

pub struct Anthropic {
    messages: Url,
    models: Url,
    http: Http,
}

impl Anthropic {
    pub fn new(base: &Url, http: Http) -> Self {
        // People write the address with and without the version.
        let trimmed = base.path().trim_end_matches('/').trim_end_matches("/v1").to_owned();
        let mut base = base.clone();
        base.set_path(&trimmed);
        Self {
            messages: http::below(&base, "/v1/messages"),
            models: http::below(&base, "/v1/models"),
            http,
        }
    }
}

impl Provider for Anthropic {
    fn name(&self) -> &str {
        catalogue::ANTHROPIC
    }

    fn needs_key(&self) -> bool {
        true
    }

    fn is_endpoint(&self) -> bool {
        false
    }

    fn answer(&self, call: Call) -> Pieces {
        let (http, url, key) = (self.http.clone(), self.messages.clone(), call.key.clone());
        let (first_byte, idle) = (call.limits.first_byte, call.limits.idle);
        let open = async move {
            let ask = Ask {
                url,
                headers: headers(call.key.as_ref())?,
                body: Some(body(&call)),
                key: call.key,
            };
            http.send(ask, first_byte).await
        };
        reply::pieces(open, Events::default(), idle, key)
    }

    fn models(&self, key: Option<Key>, deadline: Duration) -> BoxFuture<'static, Result<Vec<Model>, Failure>> {
        let (http, mut url) = (self.http.clone(), self.models.clone());
        url.set_query(Some("limit=1000"));
        async move {
            let ask = Ask {
                url,
                headers: headers(key.as_ref())?,
                body: None,
                key,
            };
            let list = http.get_json(ask, deadline).await?;
            Ok(list["data"]
                .as_array()
                .map_or_else(Vec::new, |models| models.iter().filter_map(listed).collect()))
        }
        .boxed()
    }
}

fn headers(key: Option<&Key>) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    headers.insert("anthropic-version", HeaderValue::from_static(VERSION));
    if let Some(key) = key {
        headers.insert("x-api-key", http::secret(key.reveal())?);
    }
    Ok(headers)
}

fn listed(model: &Value) -> Option<Model> {
    let id = model["id"].as_str()?.to_owned();
    let name = model["display_name"].as_str().unwrap_or(&id).to_owned();
    Some(Model {
        name,
        provider: catalogue::ANTHROPIC.into(),
        context_window: None,
        max_output: None,
        tools: true,
        vision: true,
        thinking: false,
        id,
    })
}

fn body(call: &Call) -> Value {
    let request = &call.request;
    let system: Vec<&str> = request
        .messages
        .iter()
        .filter(|message| message.role == Role::System)
        .map(|message| message.content.as_str())
        .collect();
    // The provider insists on a limit.
    let limit = request.parameters.max_tokens.unwrap_or_else(|| {
        let most = catalogue::find(catalogue::ANTHROPIC, &call.model).and_then(|model| model.max_output);
        call.limits.max_output_tokens.min(most.unwrap_or(u32::MAX))
    });
    let mut body = json!({
        "model": call.model,
        "max_tokens": limit,
        "messages": turns(&request.messages),
        "stream": true,
    });
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body[name] = value;
        }
    };
    set("system", (!system.is_empty()).then(|| system.join("\n\n").into()));
    set("temperature", request.parameters.temperature.map(Value::from));
    set("top_p", request.parameters.top_p.map(Value::from));
    set("top_k", request.parameters.top_k.map(Value::from));
    set(
        "stop_sequences",
        (!request.parameters.stop.is_empty()).then(|| request.parameters.stop.clone().into()),
    );
    let tools = request
        .tools
        .iter()
        .map(|tool| json!({"name": tool.name, "description": tool.description, "input_schema": tool.schema}));
    set("tools", (!request.tools.is_empty()).then(|| tools.collect()));
    body
}

/// Roles alternate, so neighbours of one role become one turn; results of tools belong to the user's side.
fn turns(messages: &[Message]) -> Vec<Value> {
    let mut turns: Vec<(&str, Vec<Value>)> = Vec::new();
    for message in messages {
        let role = match message.role {
            Role::System => continue,
            Role::User | Role::Tool => "user",
            Role::Assistant => "assistant",
        };
        let blocks = blocks(message);
        match turns.last_mut() {
            Some((last, all)) if *last == role => all.extend(blocks),
            _ => turns.push((role, blocks)),
        }
    }
    turns
        .into_iter()
        .filter(|(_, blocks)| !blocks.is_empty())
        .map(|(role, blocks)| json!({"role": role, "content": blocks}))
        .collect()
}

/// An empty text is refused there, so it is left out.
fn blocks(message: &Message) -> Vec<Value> {
    if message.role == Role::Tool {
        return vec![json!({
            "type": "tool_result", "tool_use_id": message.tool_call_id, "content": message.content,
        })];
    }
    let text = (!message.content.trim().is_empty()).then(|| json!({"type": "text", "text": message.content}));
    let calls = message.tool_calls.iter().map(|call| {
        let input = serde_json::from_str(&call.arguments).unwrap_or_else(|_| json!({}));
        json!({"type": "tool_use", "id": call.id, "name": call.name, "input": input})
    });
    text.into_iter().chain(calls).collect()
}

#[derive(Default)]
struct Events {
    /// Tool calls by block, and whether arguments have come.
    tools: BTreeMap<u64, (String, String, bool)>,
    input: u64,
    done: bool,
}

impl Dialect for Events {
    fn read(&mut self, event: &Event, out: &mut VecDeque<Piece>) -> Result<(), Failure> {
        let data = reply::json(event)?;
        let block = data["index"].as_u64().unwrap_or_default();
        match data["type"].as_str().unwrap_or(&event.name) {
            "message_start" => out.extend(self.usage(&data["message"]["usage"])),
            "content_block_start" => self.block_starts(block, &data["content_block"], out),
            "content_block_delta" => self.delta(block, &data["delta"], out),
            "content_block_stop" => {
                if let Some((id, name, false)) = self.tools.remove(&block) {
                    out.push_back(Piece::Tool {
                        id,
                        name,
                        arguments: "{}".into(),
                    });
                }
            }
            "message_delta" => {
                out.extend(self.usage(&data["usage"]));
                if let Some(reason) = data["delta"]["stop_reason"].as_str() {
                    out.push_back(Piece::Finish(finish(reason)));
                }
            }
            "message_stop" => self.done = true,
            "error" => return Err(failure(&Told::of(&data["error"]))),
            _ => {}
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn at_end(&mut self, _: &mut VecDeque<Piece>) -> Result<(), Failure> {
        if self.done { Ok(()) } else { Err(reply::cut()) }
    }
}

impl Events {
    fn block_starts(&mut self, block: u64, content: &Value, out: &mut VecDeque<Piece>) {
        match content["type"].as_str() {
            Some("tool_use") => {
                let text = |field: &str| content[field].as_str().unwrap_or_default().to_owned();
                let (id, name) = (text("id"), text("name"));
                out.push_back(Piece::Tool {
                    id: id.clone(),
                    name: name.clone(),
                    arguments: String::new(),
                });
                self.tools.insert(block, (id, name, false));
            }
            Some("text") => out.extend(text(&content["text"])),
            _ => {}
        }
    }

    fn delta(&mut self, block: u64, delta: &Value, out: &mut VecDeque<Piece>) {
        match (delta["type"].as_str(), self.tools.get_mut(&block)) {
            (Some("text_delta"), _) => out.extend(text(&delta["text"])),
            (Some("input_json_delta"), Some((id, name, begun))) => {
                let arguments = delta["partial_json"].as_str().unwrap_or_default().to_owned();
                if !arguments.is_empty() {
                    *begun = true;
                    out.push_back(Piece::Tool {
                        id: id.clone(),
                        name: name.clone(),
                        arguments,
                    });
                }
            }
            _ => {}
        }
    }

    /// What was read from or written to the provider's cache was sent as well.
    fn usage(&mut self, usage: &Value) -> Option<Piece> {
        let input: u64 = ["input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"]
            .iter()
            .filter_map(|field| usage[*field].as_u64())
            .sum();
        self.input = self.input.max(input);
        let output = usage["output_tokens"].as_u64();
        (input > 0 || output.is_some()).then_some(Piece::Usage {
            input: (self.input > 0).then_some(self.input),
            output,
        })
    }
}

fn text(value: &Value) -> Option<Piece> {
    value
        .as_str()
        .filter(|text| !text.is_empty())
        .map(|text| Piece::Text(text.to_owned()))
}

fn finish(reason: &str) -> Finish {
    match reason {
        "max_tokens" | "model_context_window_exceeded" => Finish::Length,
        "tool_use" => Finish::ToolUses,
        "refusal" => Finish::Filter,
        _ => Finish::Stop,
    }
}

fn failure(told: &Told) -> Failure {
    let kind = match told.code.as_str() {
        "rate_limit_error" => Kind::RateLimited,
        "invalid_request_error" | "request_too_large" => Kind::Invalid,
        "authentication_error" | "permission_error" | "billing_error" => Kind::Refused,
        "not_found_error" => Kind::UnknownModel,
        _ => Kind::Server,
    };
    Failure::new(kind, format!("{} ({})", told.message, told.code))
}

#[cfg(test)]
mod tests;
