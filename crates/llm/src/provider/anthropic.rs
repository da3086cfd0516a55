//! The Anthropic Messages API: `POST {base}/v1/messages` with `stream: true`.
//!
//! ```text
//! message_start  (content_block_start content_block_delta* content_block_stop)*  message_delta  message_stop
//! ```
//! with `ping` and `error` anywhere. Events and blocks that we do not know are passed over.

mod events;

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use reqwest::header::{HeaderMap, HeaderValue};
use serde_json::{Value, json};

use super::{
    Call, Http, Pieces, Provider,
    endpoint::{Endpoint, Post},
    http::{self, Ask},
    reply,
};
use crate::{
    domain::{
        catalogue::{self, Model},
        failure::Failure,
        request::{Message, Role},
    },
    keys::Key,
};

const VERSION: &str = "2023-06-01";

pub struct Anthropic {
    endpoint: Arc<Endpoint>,
    http: Http,
}

impl Anthropic {
    pub fn new(endpoint: Endpoint, http: Http) -> Self {
        Self {
            endpoint: Arc::new(endpoint),
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
        let (http, endpoint, key) = (self.http.clone(), self.endpoint.clone(), call.key.clone());
        let (within, idle) = (call.limits.first_byte, call.limits.idle);
        let open = async move {
            let post = Post {
                path: "/messages",
                headers: headers(call.key.as_ref())?,
                body: body(&call),
                key: call.key,
                within,
            };
            endpoint.post(&http, post).await
        };
        reply::pieces(open, events::Events::default(), idle, key)
    }

    fn models(&self, key: Option<Key>, deadline: Duration) -> BoxFuture<'static, Result<Vec<Model>, Failure>> {
        let (http, mut url) = (self.http.clone(), self.endpoint.url("/models"));
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
        // Only an object is taken there; what the model wrote goes back to it unrepaired within one.
        let input = match serde_json::from_str::<Value>(&call.arguments) {
            Ok(input) if input.is_object() => input,
            _ if call.arguments.trim().is_empty() => json!({}),
            _ => json!({"malformed_arguments": call.arguments}),
        };
        json!({"type": "tool_use", "id": call.id, "name": call.name, "input": input})
    });
    text.into_iter().chain(calls).collect()
}

#[cfg(test)]
mod tests;
