//! OpenAI's responses, without a store.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::{
    Refused,
    json::{array, is_image_url, is_name, object, text, whole_number, within},
};
use crate::seal;

const FIELDS: [&str; 20] = [
    "model",
    "input",
    "instructions",
    "stream",
    "store",
    "include",
    "reasoning",
    "max_output_tokens",
    "temperature",
    "top_p",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "prompt_cache_key",
    "metadata",
    "text",
    "truncation",
    "service_tier",
    "user",
    "previous_response_id",
];
const LONGEST_ID: usize = 64;

pub fn check(body: &Value) -> Result<(), Refused> {
    known(object(body, "body")?, "", &FIELDS)?;
    let model = text(&body["model"], "model")?;
    within(&body["temperature"], "temperature", 2.0)?;
    within(&body["top_p"], "top_p", 1.0)?;
    if !body["max_output_tokens"].is_null() {
        whole_number(&body["max_output_tokens"], "max_output_tokens", 16)?;
    }
    if !body["reasoning"].is_null() {
        known(
            object(&body["reasoning"], "reasoning")?,
            "reasoning",
            &["effort", "summary"],
        )?;
    }
    tools(body)?;
    let items = match &body["input"] {
        Value::String(text) if !text.is_empty() => return Ok(()),
        input => array(input, "input")?,
    };
    if items.is_empty() {
        return Err(Refused::at(
            "input",
            "One of \"input\" or \"previous_response_id\" must be provided.",
        ));
    }
    let mut calls = Calls::default();
    for (place, item) in items.iter().enumerate() {
        one(
            item,
            &format!("input[{place}]"),
            items.get(place + 1),
            model,
            &mut calls,
        )?;
    }
    calls.check()
}

fn known(fields: &Map<String, Value>, at: &str, known: &[&str]) -> Result<(), Refused> {
    match fields.keys().find(|field| !known.contains(&field.as_str())) {
        None => Ok(()),
        Some(field) => {
            let at = if at.is_empty() {
                field.clone()
            } else {
                format!("{at}.{field}")
            };
            Err(Refused::at(&at, format!("Unknown parameter: '{at}'.")))
        }
    }
}

/// Calls by id, and whether their output came.
#[derive(Default)]
struct Calls<'a> {
    all: BTreeMap<&'a str, bool>,
}

impl Calls<'_> {
    fn check(&self) -> Result<(), Refused> {
        match self.all.iter().find(|(_, answered)| !**answered) {
            None => Ok(()),
            Some((id, _)) => Err(Refused::at(
                "input",
                format!("No tool output found for function call {id}."),
            )),
        }
    }
}

fn tools(body: &Value) -> Result<(), Refused> {
    let tools = match &body["tools"] {
        Value::Null => &[],
        tools => array(tools, "tools")?,
    };
    let mut names = BTreeSet::new();
    for (place, tool) in tools.iter().enumerate() {
        let at = format!("tools[{place}]");
        known(
            object(tool, &at)?,
            &at,
            &["type", "name", "description", "parameters", "strict"],
        )?;
        let name = text(&tool["name"], &format!("{at}.name"))?;
        if tool["type"] != "function" || !is_name(name, 64) || tool["parameters"]["type"] != "object" {
            return Err(Refused::at(
                &at,
                format!("Invalid '{at}': expected a function with a plain name and a schema of an object."),
            ));
        }
        names.insert(name);
    }
    match &body["tool_choice"] {
        Value::Null => Ok(()),
        Value::String(choice) if matches!(choice.as_str(), "auto" | "none") => Ok(()),
        Value::String(choice) if choice == "required" && !names.is_empty() => Ok(()),
        choice if choice["type"] == "function" && choice["name"].as_str().is_some_and(|name| names.contains(name)) => {
            Ok(())
        }
        _ => Err(Refused::at("tool_choice", "Tool choice names no tool of 'tools'.")),
    }
}

fn one<'a>(item: &'a Value, at: &str, next: Option<&Value>, model: &str, calls: &mut Calls<'a>) -> Result<(), Refused> {
    let fields = object(item, at)?;
    match item["type"].as_str().unwrap_or("message") {
        "message" => {
            known(fields, at, &["type", "role", "content", "status", "id"])?;
            message(item, at)
        }
        "function_call" => {
            known(fields, at, &["type", "call_id", "name", "arguments", "status", "id"])?;
            let id = text(&item["call_id"], &format!("{at}.call_id"))?;
            if id.is_empty() || id.len() > LONGEST_ID {
                let message = format!(
                    "Invalid '{at}.call_id': string too long. Expected a string with maximum length {LONGEST_ID}."
                );
                return Err(Refused::at(&format!("{at}.call_id"), message));
            }
            let arguments = text(&item["arguments"], &format!("{at}.arguments"))?;
            let is_object = serde_json::from_str::<Map<String, Value>>(arguments).is_ok();
            if !is_name(text(&item["name"], &format!("{at}.name"))?, 64) || !is_object {
                return Err(Refused::at(
                    at,
                    format!("Invalid '{at}': a plain name and JSON arguments are expected."),
                ));
            }
            if calls.all.insert(id, false).is_some() {
                return Err(Refused::at(at, format!("Duplicate function call id {id}.")));
            }
            Ok(())
        }
        "function_call_output" => {
            known(fields, at, &["type", "call_id", "output", "status", "id"])?;
            let id = text(&item["call_id"], &format!("{at}.call_id"))?;
            match calls.all.get_mut(id) {
                Some(answered) if !*answered => *answered = true,
                _ => {
                    let message = format!("No tool call found for function call output with call_id {id}.");
                    return Err(Refused::at("input", message));
                }
            }
            match &item["output"] {
                Value::String(_) => Ok(()),
                output => parts(array(output, at)?, at, &["input_text", "input_image"]),
            }
        }
        "reasoning" => {
            known(fields, at, &["type", "id", "summary", "encrypted_content", "status"])?;
            reasoning(item, at, next, model)
        }
        kind => Err(Refused::at(&format!("{at}.type"), format!("Invalid value: '{kind}'."))),
    }
}

fn message(item: &Value, at: &str) -> Result<(), Refused> {
    let kinds: &[&str] = match item["role"].as_str() {
        Some("user" | "system" | "developer") => &["input_text", "input_image"],
        Some("assistant") => &["output_text", "refusal"],
        _ => {
            return Err(Refused::at(
                &format!("{at}.role"),
                format!("Invalid value: {}.", item["role"]),
            ));
        }
    };
    match &item["content"] {
        Value::String(_) => Ok(()),
        content => parts(array(content, &format!("{at}.content"))?, at, kinds),
    }
}

fn parts(parts: &[Value], at: &str, kinds: &[&str]) -> Result<(), Refused> {
    if parts.is_empty() {
        return Err(Refused::at(at, format!("[] is too short - '{at}'")));
    }
    for part in parts {
        let kind = part["type"].as_str().unwrap_or_default();
        let is_whole = match kind {
            "input_image" => part["image_url"].as_str().is_some_and(is_image_url),
            "refusal" => part["refusal"].is_string(),
            _ => part["text"].is_string(),
        };
        if !kinds.contains(&kind) || !is_whole {
            return Err(Refused::at(
                at,
                format!("Invalid value: '{kind}'. Supported values are: {kinds:?}."),
            ));
        }
    }
    Ok(())
}

fn reasoning(item: &Value, at: &str, next: Option<&Value>, model: &str) -> Result<(), Refused> {
    array(&item["summary"], &format!("{at}.summary"))?;
    let id = item["id"].as_str().unwrap_or("(no id)");
    let Some(sealed) = item["encrypted_content"].as_str() else {
        let message = format!("Item with id '{id}' not found. Items are not persisted when `store` is set to false.");
        return Err(Refused::at("input", message));
    };
    if seal::opened(model, sealed).is_none() {
        return Err(Refused::at(
            "input",
            format!("The encrypted content for item {id} could not be verified."),
        ));
    }
    let follows = next.is_some_and(|next| match next["type"].as_str().unwrap_or("message") {
        "reasoning" | "function_call" => true,
        "message" => next["role"] == "assistant",
        _ => false,
    });
    if follows {
        return Ok(());
    }
    let message = format!("Item '{id}' of type 'reasoning' was provided without its required following item.");
    Err(Refused::at("input", message))
}
