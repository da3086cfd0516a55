//! Chat completions as OpenAI words them and many others understand: OpenRouter, Ollama, LM Studio, vLLM, llama.cpp.
//! `POST {base}/chat/completions` with `stream: true`; one chunk after another, `[DONE]` at the end.
//!
//! `top_k` is sent to all but OpenAI itself, which has none. Endpoints differ in small ways, each noted where it is met.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use reqwest::{
    Url,
    header::{AUTHORIZATION, HeaderMap},
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

pub struct OpenAi {
    name: String,
    completions: Url,
    models: Url,
    http: Http,
}

impl OpenAi {
    pub fn new(name: String, base: &Url, http: Http) -> Self {
        Self {
            name,
            completions: http::below(base, "/chat/completions"),
            models: http::below(base, "/models"),
            http,
        }
    }
}

impl Provider for OpenAi {
    fn name(&self) -> &str {
        &self.name
    }

    fn needs_key(&self) -> bool {
        !self.is_endpoint()
    }

    fn is_endpoint(&self) -> bool {
        !matches!(self.name.as_str(), catalogue::OPENAI | catalogue::OPENROUTER)
    }

    fn answer(&self, call: Call) -> Pieces {
        let (http, url, key) = (self.http.clone(), self.completions.clone(), call.key.clone());
        let (first_byte, idle) = (call.limits.first_byte, call.limits.idle);
        let body = body(&self.name, &call);
        let open = async move {
            let ask = Ask {
                url,
                headers: headers(call.key.as_ref())?,
                body: Some(body),
                key: call.key,
            };
            http.send(ask, first_byte).await
        };
        reply::pieces(open, Chunks::default(), idle, key)
    }

    fn models(&self, key: Option<Key>, deadline: Duration) -> BoxFuture<'static, Result<Vec<Model>, Failure>> {
        let (http, url, provider) = (self.http.clone(), self.models.clone(), self.name.clone());
        async move {
            let ask = Ask {
                url,
                headers: headers(key.as_ref())?,
                body: None,
                key,
            };
            let list = http.get_json(ask, deadline).await?;
            let models = list["data"].as_array().map(Vec::as_slice).unwrap_or_default();
            Ok(models.iter().filter_map(|model| listed(&provider, model)).collect())
        }
        .boxed()
    }
}

fn headers(key: Option<&Key>) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    if let Some(key) = key {
        let bearer = zeroize::Zeroizing::new(format!("Bearer {}", key.reveal()));
        headers.insert(AUTHORIZATION, http::secret(&bearer)?);
    }
    Ok(headers)
}

/// OpenRouter and vLLM say more than OpenAI does.
fn listed(provider: &str, model: &Value) -> Option<Model> {
    let id = model["id"].as_str()?.to_owned();
    let number = |value: &Value| value.as_u64().and_then(|value| u32::try_from(value).ok());
    Some(Model {
        name: model["name"].as_str().unwrap_or(&id).to_owned(),
        provider: provider.to_owned(),
        context_window: number(&model["context_length"]).or_else(|| number(&model["max_model_len"])),
        max_output: number(&model["top_provider"]["max_completion_tokens"]),
        tools: true,
        vision: model["architecture"]["input_modalities"]
            .as_array()
            .is_some_and(|kinds| kinds.iter().any(|kind| kind == "image")),
        thinking: false,
        id,
    })
}

fn body(provider: &str, call: &Call) -> Value {
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

#[derive(Default)]
struct Chunks {
    /// Id and name by the call's place: only its first delta carries them.
    tools: BTreeMap<u64, (String, String)>,
    finished: bool,
    done: bool,
}

impl Dialect for Chunks {
    fn read(&mut self, event: &Event, out: &mut VecDeque<Piece>) -> Result<(), Failure> {
        if event.data.trim() == "[DONE]" {
            // A few endpoints end so without having given a reason.
            if !std::mem::replace(&mut self.finished, true) {
                out.push_back(Piece::Finish(Finish::Stop));
            }
            self.done = true;
            return Ok(());
        }
        let data = reply::json(event)?;
        if !data["error"].is_null() {
            return Err(failure(&Told::of(&data["error"])));
        }
        // Sent with no choices by most, with the last one by some.
        if let Some(usage) = data["usage"].as_object() {
            let count = |field: &str| usage.get(field).and_then(Value::as_u64);
            out.push_back(Piece::Usage {
                input: count("prompt_tokens"),
                output: count("completion_tokens"),
            });
        }
        let choice = &data["choices"][0];
        let delta = &choice["delta"];
        for field in ["content", "refusal"] {
            if let Some(text) = delta[field].as_str().filter(|text| !text.is_empty()) {
                out.push_back(Piece::Text(text.to_owned()));
            }
        }
        for (place, call) in delta["tool_calls"].as_array().into_iter().flatten().enumerate() {
            out.push_back(self.call(place as u64, call));
        }
        if let Some(reason) = choice["finish_reason"].as_str().filter(|reason| !reason.is_empty()) {
            self.finished = true;
            out.push_back(Piece::Finish(finish(reason)));
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.done
    }

    /// Some endpoints forget `[DONE]`; a finish reason says as much.
    fn at_end(&mut self, _: &mut VecDeque<Piece>) -> Result<(), Failure> {
        if self.finished { Ok(()) } else { Err(reply::cut()) }
    }
}

impl Chunks {
    fn call(&mut self, place: u64, call: &Value) -> Piece {
        let index = call["index"].as_u64().unwrap_or(place);
        let (id, name) = self.tools.entry(index).or_insert_with(|| {
            // Some endpoints give no id, but a result must name one.
            let id = call["id"]
                .as_str()
                .filter(|id| !id.is_empty())
                .map_or_else(|| format!("call_{index}"), str::to_owned);
            (id, call["function"]["name"].as_str().unwrap_or_default().to_owned())
        });
        let arguments = match &call["function"]["arguments"] {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            whole => whole.to_string(),
        };
        Piece::Tool {
            id: id.clone(),
            name: name.clone(),
            arguments,
        }
    }
}

fn finish(reason: &str) -> Finish {
    match reason {
        "length" => Finish::Length,
        "tool_calls" | "function_call" => Finish::ToolUses,
        "content_filter" => Finish::Filter,
        _ => Finish::Stop,
    }
}

fn failure(told: &Told) -> Failure {
    let kind = match told.code.as_str() {
        "rate_limit_exceeded" | "429" => Kind::RateLimited,
        "insufficient_quota" | "401" | "402" | "403" => Kind::Refused,
        "invalid_request_error" | "context_length_exceeded" | "400" => Kind::Invalid,
        "model_not_found" | "404" => Kind::UnknownModel,
        _ => Kind::Server,
    };
    Failure::new(kind, told.message.clone())
}

#[cfg(test)]
mod tests;
