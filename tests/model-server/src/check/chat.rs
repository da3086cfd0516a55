//! OpenAI's chat completions, and servers like it that give `reasoning_content` with their calls and want it back.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{
    Refused,
    json::{array, is_image_url, is_name, object, text, whole_number, within},
};
use crate::seal;

const FIELDS: [&str; 23] = [
    "model",
    "messages",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "stop",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "reasoning_effort",
    "prompt_cache_key",
    "n",
    "seed",
    "user",
    "metadata",
    "store",
    "response_format",
    "presence_penalty",
    "frequency_penalty",
    "service_tier",
];
const LONGEST_ID: usize = 40;

pub fn check(body: &Value) -> Result<(), Refused> {
    let fields = object(body, "body")?;
    known(fields, "", &FIELDS)?;
    let model = text(&body["model"], "model")?;
    within(&body["temperature"], "temperature", 2.0)?;
    within(&body["top_p"], "top_p", 1.0)?;
    limits(body)?;
    if !body["stream_options"].is_null() && body["stream"] != true {
        let message = "The 'stream_options' parameter is only allowed when 'stream' is enabled.";
        return Err(Refused::at("stream_options", message));
    }
    tools(body)?;
    let messages = array(&body["messages"], "messages")?;
    if messages.is_empty() {
        return Err(Refused::at("messages", "[] is too short - 'messages'"));
    }
    conversation(messages, model)
}

fn known(fields: &Map<String, Value>, at: &str, known: &[&str]) -> Result<(), Refused> {
    match fields.keys().find(|field| !known.contains(&field.as_str())) {
        None => Ok(()),
        Some(field) if at.is_empty() => Err(Refused::at(
            field,
            format!("Unrecognized request argument supplied: {field}"),
        )),
        Some(field) => {
            let at = format!("{at}.{field}");
            Err(Refused::at(&at, format!("Unknown parameter: '{at}'.")))
        }
    }
}

fn limits(body: &Value) -> Result<(), Refused> {
    let both = ["max_tokens", "max_completion_tokens"];
    for field in both {
        if !body[field].is_null() {
            whole_number(&body[field], field, 1)?;
        }
    }
    if both.iter().all(|field| !body[*field].is_null()) {
        let message = "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.";
        return Err(Refused::at("max_tokens", message));
    }
    Ok(())
}

fn tools(body: &Value) -> Result<(), Refused> {
    let tools = match &body["tools"] {
        Value::Null => {
            for field in ["tool_choice", "parallel_tool_calls"] {
                if !body[field].is_null() {
                    let message = format!("'{field}' is only allowed when 'tools' are specified.");
                    return Err(Refused::at(field, message));
                }
            }
            return Ok(());
        }
        tools => array(tools, "tools")?,
    };
    if tools.is_empty() {
        return Err(Refused::at("tools", "[] is too short - 'tools'"));
    }
    let mut names = BTreeSet::new();
    for (place, tool) in tools.iter().enumerate() {
        let at = format!("tools[{place}]");
        known(object(tool, &at)?, &at, &["type", "function"])?;
        let at = format!("{at}.function");
        let function = &tool["function"];
        known(
            object(function, &at)?,
            &at,
            &["name", "description", "parameters", "strict"],
        )?;
        let name = text(&function["name"], &format!("{at}.name"))?;
        if !is_name(name, 64) {
            let message = format!("Invalid '{at}.name': string does not match pattern. Expected '^[a-zA-Z0-9_-]+$'.");
            return Err(Refused::at(&format!("{at}.name"), message));
        }
        if function["parameters"]["type"] != "object" {
            let message =
                format!("Invalid schema for function '{name}': schema must be a JSON Schema of 'type: \"object\"'");
            return Err(Refused::at(&format!("{at}.parameters"), message));
        }
        names.insert(name);
    }
    match &body["tool_choice"] {
        Value::Null => Ok(()),
        Value::String(choice) if matches!(choice.as_str(), "auto" | "none" | "required") => Ok(()),
        choice
            if choice["function"]["name"]
                .as_str()
                .is_some_and(|name| names.contains(name)) =>
        {
            Ok(())
        }
        _ => Err(Refused::at(
            "tool_choice",
            "Invalid value: 'tool_choice' names no tool of 'tools'.",
        )),
    }
}

/// Every call is answered right after the message that asked for it.
fn conversation(messages: &[Value], model: &str) -> Result<(), Refused> {
    let mut open: BTreeSet<&str> = BTreeSet::new();
    for (place, message) in messages.iter().enumerate() {
        let at = format!("messages[{place}]");
        let fields = object(message, &at)?;
        if message["role"] != "tool" && !open.is_empty() {
            return Err(unanswered(&open));
        }
        match message["role"].as_str() {
            Some("system" | "developer") => {
                known(fields, &at, &["role", "content", "name"])?;
                words(&message["content"], &at)?;
            }
            Some("user") => {
                known(fields, &at, &["role", "content", "name"])?;
                content(&message["content"], &at)?;
            }
            Some("assistant") => open = assistant(message, &at, model)?,
            Some("tool") => {
                known(fields, &at, &["role", "content", "tool_call_id"])?;
                words(&message["content"], &at)?;
                let id = text(&message["tool_call_id"], &format!("{at}.tool_call_id"))?;
                if !open.remove(id) {
                    let message = "Invalid parameter: messages with role 'tool' must be a response to a preceding message \
                                   with 'tool_calls'.";
                    return Err(Refused::at(&format!("{at}.role"), message));
                }
            }
            _ => {
                let message = format!(
                    "Invalid value: {}. Supported values are: 'system', 'assistant', 'user', 'tool', and 'developer'.",
                    message["role"]
                );
                return Err(Refused::at(&format!("{at}.role"), message));
            }
        }
    }
    if open.is_empty() {
        Ok(())
    } else {
        Err(unanswered(&open))
    }
}

fn unanswered(open: &BTreeSet<&str>) -> Refused {
    let ids: Vec<&str> = open.iter().copied().collect();
    Refused::at(
        "messages",
        format!(
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. The \
             following tool_call_ids did not have response messages: {}",
            ids.join(", ")
        ),
    )
}

/// Text only.
fn words(value: &Value, at: &str) -> Result<(), Refused> {
    let is_text = |part: &Value| part["type"] == "text" && part["text"].is_string();
    match value {
        Value::String(_) => Ok(()),
        Value::Array(parts) if !parts.is_empty() && parts.iter().all(is_text) => Ok(()),
        _ => Err(Refused::at(
            &format!("{at}.content"),
            format!("Invalid type for '{at}.content': expected text."),
        )),
    }
}

fn content(value: &Value, at: &str) -> Result<(), Refused> {
    let Value::Array(parts) = value else {
        return words(value, at);
    };
    let is_fine = |part: &Value| match part["type"].as_str() {
        Some("text") => part["text"].is_string(),
        Some("image_url") => part["image_url"]["url"].as_str().is_some_and(is_image_url),
        _ => false,
    };
    if parts.is_empty() || !parts.iter().all(is_fine) {
        return Err(Refused::at(
            &format!("{at}.content"),
            format!("Invalid content type in '{at}.content'."),
        ));
    }
    Ok(())
}

/// The ids of its calls.
fn assistant<'a>(message: &'a Value, at: &str, model: &str) -> Result<BTreeSet<&'a str>, Refused> {
    let own = ["role", "content", "tool_calls", "refusal", "name", "reasoning_content"];
    known(object(message, at)?, at, &own)?;
    let calls = match &message["tool_calls"] {
        Value::Null => &[],
        calls => array(calls, &format!("{at}.tool_calls"))?,
    };
    if calls.is_empty() && !message["tool_calls"].is_null() {
        return Err(Refused::at(
            &format!("{at}.tool_calls"),
            format!("[] is too short - '{at}.tool_calls'"),
        ));
    }
    match &message["content"] {
        Value::Null if !calls.is_empty() => {}
        content => words(content, at)?,
    }
    let mut ids = BTreeSet::new();
    for (place, call) in calls.iter().enumerate() {
        let at = format!("{at}.tool_calls[{place}]");
        known(object(call, &at)?, &at, &["id", "type", "function"])?;
        let id = text(&call["id"], &format!("{at}.id"))?;
        if id.is_empty() || id.len() > LONGEST_ID {
            let message =
                format!("Invalid '{at}.id': string too long. Expected a string with maximum length {LONGEST_ID}.");
            return Err(Refused::at(&format!("{at}.id"), message));
        }
        if !ids.insert(id) {
            return Err(Refused::at(
                &format!("{at}.id"),
                format!("Duplicate value for 'tool_call_id' of '{id}'"),
            ));
        }
        let function = &call["function"];
        known(
            object(function, &at)?,
            &format!("{at}.function"),
            &["name", "arguments"],
        )?;
        let arguments = text(&function["arguments"], &format!("{at}.function.arguments"))?;
        let is_object = serde_json::from_str::<Map<String, Value>>(arguments).is_ok();
        let is_named = function["name"].as_str().is_some_and(|name| is_name(name, 64));
        if call["type"] != "function" || !is_named || !is_object {
            return Err(Refused::at(
                &at,
                format!("Invalid '{at}': a function's name and JSON arguments are expected."),
            ));
        }
    }
    reasoning(message, at, model, !calls.is_empty())?;
    Ok(ids)
}

/// Only with calls, and only what this model has thought.
fn reasoning(message: &Value, at: &str, model: &str, calls: bool) -> Result<(), Refused> {
    let param = format!("{at}.reasoning_content");
    match &message["reasoning_content"] {
        Value::Null => Ok(()),
        Value::String(text) if calls && text.split_whitespace().all(|part| seal::opened(model, part).is_some()) => {
            Ok(())
        }
        _ => Err(Refused::at(&param, format!("Unknown parameter: '{param}'."))),
    }
}
