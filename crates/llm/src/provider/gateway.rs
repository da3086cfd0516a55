//! The HTTP side of an older gateway to models: `POST {base}/v1/stream`, whose JSON has the names of `llm.v1`. It holds
//! its own keys, so it needs none. Its messages are text; calls and their results travel in `extra`.

mod events;

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use super::{
    Call, Http, Pieces, Provider,
    endpoint::{Endpoint, Post},
    http::Ask,
    nothing_to_answer, reply,
};
use crate::{
    domain::{
        block::Part,
        catalogue::{self, Model},
        failure::Failure,
        history::{self, Recipient, Said, Turn},
    },
    keys::Key,
};

const LONGEST_ID: usize = 40;

pub struct Gateway {
    endpoint: Arc<Endpoint>,
    http: Http,
}

impl Gateway {
    pub fn new(endpoint: Endpoint, http: Http) -> Self {
        Self {
            endpoint: Arc::new(endpoint),
            http,
        }
    }
}

impl Provider for Gateway {
    fn name(&self) -> &str {
        catalogue::GATEWAY
    }

    fn needs_key(&self) -> bool {
        false
    }

    fn is_endpoint(&self) -> bool {
        true
    }

    fn answer(&self, call: Call) -> Pieces {
        let (http, endpoint) = (self.http.clone(), self.endpoint.clone());
        let (within, idle) = (call.limits.first_byte, call.limits.idle);
        let body = body(&call);
        let open = async move {
            let post = Post {
                path: "/stream".into(),
                query: None,
                headers: HeaderMap::new(),
                body: body?,
                key: None,
                within,
            };
            endpoint.post(&http, post).await
        };
        reply::pieces(open, events::Events::default(), idle, None)
    }

    fn models(&self, _: Option<Key>, deadline: Duration) -> BoxFuture<'static, Result<Vec<Model>, Failure>> {
        let (http, url) = (self.http.clone(), self.endpoint.url("/models"));
        async move {
            let ask = Ask {
                url,
                headers: HeaderMap::new(),
                body: None,
                key: None,
            };
            let list = http.get_json(ask, deadline).await?;
            let models = list["models"].as_array().map(Vec::as_slice).unwrap_or_default();
            Ok(models.iter().filter_map(listed).collect())
        }
        .boxed()
    }
}

fn listed(model: &Value) -> Option<Model> {
    let id = model["id"].as_str()?.to_owned();
    let can = |what: &str| model["capabilities"][what] == true;
    Some(Model {
        name: model["name"].as_str().unwrap_or(&id).to_owned(),
        provider: catalogue::GATEWAY.into(),
        context_window: None,
        max_output: None,
        tools: can("tools"),
        vision: can("vision"),
        thinking: can("thinking"),
        id,
    })
}

fn body(call: &Call) -> Result<Value, Failure> {
    let request = &call.request;
    let to = Recipient {
        provider: catalogue::GATEWAY,
        model: &call.model,
        longest_id: LONGEST_ID,
    };
    let messages: Vec<Value> = history::turns(&request.messages, to)
        .iter()
        .flat_map(messages)
        .collect();
    if messages.iter().all(|message| message["role"] == "system") {
        return Err(nothing_to_answer());
    }
    let mut parameters = json!({"stream": true});
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            parameters[name] = value;
        }
    };
    set("max_tokens", request.parameters.max_tokens.map(Value::from));
    set("temperature", request.parameters.temperature.map(Value::from));
    set("top_p", request.parameters.top_p.map(Value::from));
    set("top_k", request.parameters.top_k.map(Value::from));
    let stop = &request.parameters.stop;
    set("stop_sequences", (!stop.is_empty()).then(|| stop.clone().into()));
    let tools: Vec<Value> = request
        .tools
        .iter()
        .map(|tool| json!({"name": tool.name, "description": tool.description, "input_schema": tool.schema}))
        .collect();
    let mut body = json!({
        "request_id": request.id, "session_id": request.session, "model": call.model, "messages": messages,
        "parameters": parameters,
    });
    if !tools.is_empty() {
        body["tools"] = tools.into();
    }
    Ok(body)
}

/// Images have no place there, which the text says.
fn messages(turn: &Turn) -> Vec<Value> {
    match turn {
        Turn::System(text) => vec![json!({"role": "system", "content": text})],
        Turn::User(parts) => vec![json!({"role": "user", "content": text(parts)})],
        Turn::Results(results) => results
            .iter()
            .map(|result| {
                json!({"role": "tool", "content": text(&result.content), "extra": {"tool_call_id": result.id}})
            })
            .collect(),
        Turn::Assistant(said) => assistant(said).into_iter().collect(),
    }
}

fn assistant(said: &[Said]) -> Option<Value> {
    let mut texts = Vec::new();
    let mut calls = Vec::new();
    for said in said {
        match said {
            Said::Text(text) => texts.push(text.as_str()),
            Said::Call(call) => calls.push(json!({"id": call.id, "name": call.name, "arguments": call.text})),
            Said::Opaque(_) => {}
        }
    }
    if texts.is_empty() && calls.is_empty() {
        return None;
    }
    let mut message = json!({"role": "assistant", "content": texts.join("\n\n")});
    if !calls.is_empty() {
        message["extra"] = json!({"tool_calls": Value::from(calls).to_string()});
    }
    Some(message)
}

fn text(parts: &[Part]) -> String {
    let part = |part: &Part| match part {
        Part::Text(text) => text.clone(),
        Part::Image(image) => format!("(an image of type {}, which cannot be sent here)", image.media_type),
    };
    parts.iter().map(part).collect::<Vec<_>>().join("\n\n")
}

#[cfg(test)]
mod tests;
