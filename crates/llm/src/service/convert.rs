//! Converts between the wire's messages and the domain's types.
//!
//! A message is a list of blocks. Clients that know none put tool calls into `extra`: an assistant's message carries
//! `tool_calls`, a JSON array of `{"id","name","arguments"}`; a message with role `tool` carries `tool_call_id`. With
//! either an assistant's message may carry `provider`, who wrote it: ids of calls then only go back to that provider.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use nexus_proto::{
    common::v1::{ModelCapabilities, TokenUsage},
    llm::v1 as wire,
};
use serde_json::{Map, Value, json};

use super::blocks;
use crate::{
    domain::{
        answer::{Finish, Tokens},
        block::{Block, Part, ToolCall, ToolResult},
        budget::{self, Scope},
        catalogue::Model,
        error::Error,
        request::{Effort, Message, Parameters, Request, Role, Thinking, Tool, ToolChoice},
    },
    engine::Whole,
};

pub fn request(wire: wire::LlmRequest) -> Result<Request, Error> {
    let timeout_ms = wire.metadata.as_ref().map_or(0, |metadata| metadata.timeout_ms);
    let timeout = match u64::try_from(timeout_ms) {
        // Old clients send 0 where they mean nothing.
        Ok(0) => None,
        Ok(ms) => Some(Duration::from_millis(ms)),
        Err(_) => return Err(Error::Invalid("metadata.timeout_ms is negative".into())),
    };
    let messages = wire
        .messages
        .into_iter()
        .enumerate()
        .map(|(place, one)| message(place, one));
    Ok(Request {
        id: wire.request_id,
        model: wire.model,
        provider: wire.provider,
        fallbacks: wire.fallback_providers,
        messages: messages.collect::<Result<_, _>>()?,
        tools: wire.tools.into_iter().map(tool).collect::<Result<_, _>>()?,
        parameters: parameters(wire.parameters.unwrap_or_default())?,
        tool_choice: ToolChoice::parse(&wire.tool_choice),
        parallel_tool_calls: wire.parallel_tool_calls,
        thinking: thinking(wire.thinking)?,
        session: wire.session_id,
        agent: wire.metadata.map(|metadata| metadata.agent_id).unwrap_or_default(),
        scopes: wire
            .scopes
            .into_iter()
            .enumerate()
            .map(scope)
            .collect::<Result<_, _>>()?,
        timeout,
    })
}

fn message(place: usize, mut wire: wire::LlmMessage) -> Result<Message, Error> {
    let invalid = |what: String| Error::Invalid(format!("messages[{place}]: {what}"));
    let role = Role::parse(&wire.role.to_ascii_lowercase())
        .ok_or_else(|| invalid(format!("role {:?} is none of system, user, assistant, tool", wire.role)))?;
    let origin = wire.extra.remove("provider").filter(|name| !name.is_empty());
    let blocks = if wire.blocks.is_empty() {
        older(role, wire).ok_or_else(|| invalid("extra[\"tool_calls\"] is not what it should be".into()))?
    } else {
        blocks::received(wire.blocks).map_err(invalid)?
    };
    Ok(Message { role, blocks, origin })
}

/// A message of a client that knows no blocks.
fn older(role: Role, mut wire: wire::LlmMessage) -> Option<Vec<Block>> {
    if role == Role::Tool {
        return Some(vec![Block::Result(ToolResult {
            call_id: wire.extra.remove("tool_call_id").unwrap_or_default(),
            name: String::new(),
            content: vec![Part::Text(wire.content)],
            is_error: false,
        })]);
    }
    let calls = match wire.extra.get("tool_calls") {
        Some(text) if role == Role::Assistant => tool_calls(text)?,
        _ => Vec::new(),
    };
    let text = std::iter::once(Block::Text(wire.content));
    Some(text.chain(calls.into_iter().map(Block::Call)).collect())
}

fn tool_calls(text: &str) -> Option<Vec<ToolCall>> {
    let calls: Vec<Value> = serde_json::from_str(text).ok()?;
    calls
        .iter()
        .map(|call| {
            let arguments = match &call["arguments"] {
                Value::String(text) => text.clone(),
                whole => whole.to_string(),
            };
            Some(ToolCall {
                id: call["id"].as_str()?.into(),
                name: call["name"].as_str()?.into(),
                arguments,
            })
        })
        .collect()
}

fn parameters(wire: wire::LlmParameters) -> Result<Parameters, Error> {
    let count = |name: &str, value: i32| match u32::try_from(value) {
        Ok(0) => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(_) => Err(Error::Invalid(format!("parameters.{name} is negative"))),
    };
    let set = |value: f64| (value != 0.0).then_some(value);
    Ok(Parameters {
        max_tokens: count("max_tokens", wire.max_tokens)?,
        temperature: set(wire.temperature),
        top_p: set(wire.top_p),
        top_k: count("top_k", wire.top_k)?,
        stop: wire.stop_sequences,
    })
}

const MOST_SCOPES: usize = 16;
const LONGEST_SCOPE_ID: usize = 256;

fn scope((place, wire): (usize, wire::BudgetScope)) -> Result<Scope, Error> {
    let invalid = |what: &str| Error::Invalid(format!("scopes[{place}]: {what}"));
    if place >= MOST_SCOPES {
        return Err(invalid("a request counts against 16 budgets at most"));
    }
    let kind = budget::Kind::parse(&wire.kind).ok_or_else(|| invalid("kind is none of run, session, agent, day"))?;
    if wire.id.is_empty() || wire.id.len() > LONGEST_SCOPE_ID || wire.id.contains('\0') {
        return Err(invalid("id has to have 1 to 256 bytes, none of them zero"));
    }
    let limit = |value: i64| match u64::try_from(value) {
        Ok(0) => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(_) => Err(invalid("a limit is negative")),
    };
    Ok(Scope {
        key: budget::Key { kind, id: wire.id },
        max_tokens: limit(wire.max_tokens)?,
        max_cost: limit(wire.max_cost_micros)?,
    })
}

/// Nothing said is no wish.
fn thinking(wire: Option<wire::Thinking>) -> Result<Option<Thinking>, Error> {
    let Some(wire) = wire else { return Ok(None) };
    let effort = match wire.effort.as_str() {
        "" => None,
        name => Some(
            Effort::parse(name)
                .ok_or_else(|| Error::Invalid(format!("thinking.effort {name:?} is none of low, medium, high")))?,
        ),
    };
    match (u32::try_from(wire.budget_tokens), effort) {
        (Err(_), _) => Err(Error::Invalid("thinking.budget_tokens is negative".into())),
        (Ok(0), effort) => Ok(effort.map(Thinking::Effort)),
        (Ok(tokens), _) => Ok(Some(Thinking::Tokens(tokens))),
    }
}

fn tool(wire: wire::Tool) -> Result<Tool, Error> {
    let schema = if wire.input_schema_json.is_empty() {
        properties(wire.input_schema.unwrap_or_default())
    } else {
        schema(&wire.input_schema_json)
            .map_err(|wrong| Error::Invalid(format!("tool {:?}: input_schema_json {wrong}", wire.name)))?
    };
    Ok(Tool {
        name: wire.name,
        description: wire.description,
        schema,
    })
}

/// Providers take a schema of type object only.
fn schema(text: &str) -> Result<Value, String> {
    let Ok(mut schema) = serde_json::from_str::<Map<String, Value>>(text) else {
        return Err("is not a JSON object".into());
    };
    match schema.get("type") {
        None => _ = schema.insert("type".into(), "object".into()),
        Some(kind) if kind == "object" => {}
        Some(kind) => return Err(format!("is of type {kind} instead of \"object\"")),
    }
    Ok(schema.into())
}

fn properties(schema: wire::ToolInputSchema) -> Value {
    let properties: Map<String, Value> = schema
        .properties
        .into_iter()
        .map(|(name, one)| (name, property(one)))
        .collect();
    let mut whole = json!({"type": "object", "properties": properties});
    if !schema.required.is_empty() {
        whole["required"] = schema.required.into();
    }
    whole
}

fn property(wire: wire::ToolProperty) -> Value {
    let mut property = Map::new();
    if !wire.r#type.is_empty() {
        // An array without a word on its items is refused by some; the wire has none.
        if wire.r#type == "array" {
            property.insert("items".into(), json!({}));
        }
        property.insert("type".into(), wire.r#type.into());
    }
    if !wire.description.is_empty() {
        property.insert("description".into(), wire.description.into());
    }
    if !wire.r#enum.is_empty() {
        property.insert("enum".into(), wire.r#enum.into());
    }
    property.into()
}

pub fn response(id: &str, metadata: Option<wire::LlmMetadata>, whole: Whole) -> wire::LlmResponse {
    let calls = whole.tool_calls.into_iter();
    wire::LlmResponse {
        budgets: whole.budgets.into_iter().map(super::usage::budget).collect(),
        cost_micros: whole.cost.map(super::usage::count),
        blocks: whole.blocks.into_iter().map(blocks::sent).collect(),
        request_id: id.to_owned(),
        content: whole.content,
        tool_calls: calls.map(blocks::call).collect(),
        usage: Some(usage(whole.tokens)),
        finish_reason: finish(whole.finish).into(),
        provider: whole.provider,
        model: whole.model,
        completed_at: Some(whole.completed.into()),
        metadata,
    }
}

fn finish(finish: Finish) -> wire::FinishReason {
    match finish {
        Finish::Stop => wire::FinishReason::Stop,
        Finish::Length => wire::FinishReason::Length,
        Finish::ToolUses => wire::FinishReason::ToolUses,
        Finish::Filter => wire::FinishReason::Filter,
    }
}

pub fn usage(tokens: Tokens) -> TokenUsage {
    let count = |value: u64| i32::try_from(value).unwrap_or(i32::MAX);
    TokenUsage {
        input_tokens: count(tokens.input),
        output_tokens: count(tokens.output),
        total_tokens: count(tokens.total()),
    }
}

pub fn model(model: Model) -> wire::ModelInfo {
    let id = match model
        .id
        .strip_prefix(&model.provider)
        .and_then(|rest| rest.strip_prefix('/'))
    {
        Some(_) => model.id.clone(),
        None => format!("{}/{}", model.provider, model.id),
    };
    let number = |name: &str, value: Option<u32>| value.map(|value| (name.to_owned(), value.to_string()));
    let metadata: HashMap<String, String> = [
        number("context_window", model.context_window),
        number("max_output_tokens", model.max_output),
    ]
    .into_iter()
    .flatten()
    .collect();
    wire::ModelInfo {
        id,
        name: model.name,
        provider: model.provider,
        capabilities: Some(ModelCapabilities {
            streaming: true,
            tools: model.tools,
            vision: model.vision,
            thinking: model.thinking,
        }),
        metadata,
    }
}

pub fn timestamp(time: SystemTime) -> nexus_proto::Timestamp {
    time.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_old_clients_leave_at_zero_is_unset() {
        let wire = wire::LlmRequest {
            request_id: "r".into(),
            messages: vec![wire::LlmMessage {
                role: "user".into(),
                content: "hi".into(),
                ..Default::default()
            }],
            metadata: Some(wire::LlmMetadata::default()),
            ..Default::default()
        };
        let request = request(wire).expect("valid");
        assert_eq!((request.timeout, request.parameters), (None, Parameters::default()));
    }

    #[test]
    fn tools_travel_both_ways() {
        let calls = r#"[{"id":"c1","name":"t","arguments":"{\"a\":1}"},{"id":"c2","name":"u","arguments":{}}]"#;
        let wire = wire::LlmMessage {
            role: "assistant".into(),
            extra: HashMap::from([("tool_calls".into(), calls.into())]),
            ..Default::default()
        };
        let message = message(0, wire).expect("valid");
        let arguments: Vec<_> = message
            .blocks
            .iter()
            .filter_map(|block| match block {
                Block::Call(call) => Some(call.arguments.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(arguments, ["{\"a\":1}", "{}"]);
        let property = wire::ToolProperty {
            r#type: "array".into(),
            ..Default::default()
        };
        let schema = wire::ToolInputSchema {
            r#type: "object".into(),
            properties: HashMap::from([("p".into(), property)]),
            required: vec!["p".into()],
        };
        let tool = tool(wire::Tool {
            name: "t".into(),
            description: String::new(),
            input_schema: Some(schema),
            ..Default::default()
        })
        .expect("valid");
        let want = json!({"type":"object","properties":{"p":{"type":"array","items":{}}},"required":["p"]});
        assert_eq!(tool.schema, want);
    }

    #[test]
    fn a_whole_schema_is_taken_as_it_is_if_it_is_one() {
        let tool = |schema: &str| {
            tool(wire::Tool {
                name: "t".into(),
                input_schema_json: schema.into(),
                ..Default::default()
            })
        };
        let nested = r#"{"properties":{"p":{"type":"object","properties":{"q":{"type":"string"}}}}}"#;
        let schema = tool(nested).expect("valid").schema;
        assert_eq!(schema["properties"]["p"]["properties"]["q"]["type"], "string");
        assert_eq!(schema["type"], "object", "added where it is left out");
        for wrong in ["[]", "{", r#"{"type":"string"}"#] {
            let told = tool(wrong).expect_err("no schema of an object").to_string();
            assert!(told.contains("tool \"t\": input_schema_json"), "{told}");
        }
    }

    #[test]
    fn wrong_fields_are_named() {
        let wrong = |role: &str, timeout_ms| {
            let wire = wire::LlmRequest {
                messages: vec![wire::LlmMessage {
                    role: role.into(),
                    ..Default::default()
                }],
                metadata: Some(wire::LlmMetadata {
                    timeout_ms,
                    ..Default::default()
                }),
                ..Default::default()
            };
            request(wire).expect_err("invalid").to_string()
        };
        assert!(wrong("robot", 0).contains("messages[0]: role \"robot\""));
        assert!(wrong("user", -1).contains("timeout_ms"));
    }
}
