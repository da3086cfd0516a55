//! The Messages API.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    Refused,
    json::{IMAGES, array, is_name, object, only, text, whole_number, within},
};
use crate::seal;

const FIELDS: [&str; 15] = [
    "model",
    "messages",
    "max_tokens",
    "system",
    "temperature",
    "top_p",
    "top_k",
    "stop_sequences",
    "stream",
    "tools",
    "tool_choice",
    "thinking",
    "output_config",
    "metadata",
    "service_tier",
];
const MOST_MARKS: usize = 4;

pub fn check(body: &Value) -> Result<(), Refused> {
    let fields = object(body, "body")?;
    only(fields, "", &FIELDS)?;
    let model = text(&body["model"], "model")?;
    whole_number(&body["max_tokens"], "max_tokens", 1)?;
    within(&body["temperature"], "temperature", 1.0)?;
    within(&body["top_p"], "top_p", 1.0)?;
    let mut marks = Marks::default();
    let has_tools = tools(body, &mut marks)?;
    system(&body["system"], &mut marks)?;
    let messages = array(&body["messages"], "messages")?;
    alternate(messages)?;
    let mut ids = BTreeSet::new();
    for (place, message) in messages.iter().enumerate() {
        let before = place.checked_sub(1).map(|before| &messages[before]);
        one(place, message, before, model, &mut ids, &mut marks)?;
        answered(place, message, messages.get(place + 1))?;
    }
    if !has_tools
        && messages
            .iter()
            .any(|message| has(message, "tool_use") || has(message, "tool_result"))
    {
        return Err(Refused::new(
            "Requests which include `tool_use` or `tool_result` blocks must define tools.",
        ));
    }
    last(messages)?;
    thinking(body, messages)?;
    marks.check()
}

/// Where parts of a request may be cached, in the order in which they are read.
#[derive(Default)]
struct Marks {
    hours: Vec<bool>,
}

impl Marks {
    fn take(&mut self, block: &Value, at: &str) -> Result<(), Refused> {
        let mark = &block["cache_control"];
        if mark.is_null() {
            return Ok(());
        }
        only(object(mark, at)?, &format!("{at}.cache_control"), &["type", "ttl"])?;
        let ttl = mark["ttl"].as_str().unwrap_or("5m");
        if mark["type"] != "ephemeral" || !matches!(ttl, "5m" | "1h") {
            return Err(Refused::new(format!(
                "{at}.cache_control: Input should be ephemeral with ttl '5m' or '1h'"
            )));
        }
        self.hours.push(ttl == "1h");
        Ok(())
    }

    fn check(&self) -> Result<(), Refused> {
        if self.hours.len() > MOST_MARKS {
            return Err(Refused::new(format!(
                "A maximum of 4 blocks with cache_control may be provided. Found {}.",
                self.hours.len()
            )));
        }
        if self.hours.windows(2).any(|pair| !pair[0] && pair[1]) {
            return Err(Refused::new(
                "a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block. Note that blocks are \
                 processed in the following order: `tools`, `system`, `messages`.",
            ));
        }
        Ok(())
    }
}

fn tools(body: &Value, marks: &mut Marks) -> Result<bool, Refused> {
    let tools = match &body["tools"] {
        Value::Null => &[],
        tools => array(tools, "tools")?,
    };
    let mut names = BTreeSet::new();
    for (place, tool) in tools.iter().enumerate() {
        let at = format!("tools.{place}");
        only(
            object(tool, &at)?,
            &at,
            &["name", "description", "input_schema", "cache_control", "type"],
        )?;
        let name = text(&tool["name"], &format!("{at}.name"))?;
        if !is_name(name, 128) {
            return Err(Refused::new(format!(
                "{at}.custom.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'"
            )));
        }
        if !names.insert(name) {
            return Err(Refused::new("tools: Tool names must be unique."));
        }
        if tool["input_schema"]["type"] != "object" {
            return Err(Refused::new(format!(
                "{at}.custom.input_schema.type: Input should be 'object'"
            )));
        }
        marks.take(tool, &at)?;
    }
    choice(&body["tool_choice"], &names)?;
    Ok(!tools.is_empty())
}

fn choice(choice: &Value, names: &BTreeSet<&str>) -> Result<(), Refused> {
    if choice.is_null() {
        return Ok(());
    }
    let fields = object(choice, "tool_choice")?;
    if names.is_empty() {
        return Err(Refused::new("tool_choice may only be specified while providing tools"));
    }
    match choice["type"].as_str() {
        Some("auto" | "any") => only(fields, "tool_choice", &["type", "disable_parallel_tool_use"]),
        Some("none") => only(fields, "tool_choice", &["type"]),
        Some("tool") => {
            only(fields, "tool_choice", &["type", "name", "disable_parallel_tool_use"])?;
            let name = text(&choice["name"], "tool_choice.name")?;
            if names.contains(name) {
                Ok(())
            } else {
                Err(Refused::new(format!("Tool '{name}' not found in provided tools")))
            }
        }
        _ => Err(Refused::new(
            "tool_choice: Input tag does not match any of 'auto', 'any', 'tool', 'none'",
        )),
    }
}

fn system(system: &Value, marks: &mut Marks) -> Result<(), Refused> {
    match system {
        Value::Null => Ok(()),
        Value::String(text) if !text.is_empty() => Ok(()),
        Value::Array(blocks) => blocks.iter().enumerate().try_for_each(|(place, block)| {
            let at = format!("system.{place}");
            only(object(block, &at)?, &at, &["type", "text", "cache_control"])?;
            words(&block["text"], "system")?;
            marks.take(block, &at)
        }),
        _ => Err(Refused::new("system: text content blocks must be non-empty")),
    }
}

fn alternate(messages: &[Value]) -> Result<(), Refused> {
    let Some(first) = messages.first() else {
        return Err(Refused::new("messages: at least one message is required"));
    };
    if first["role"] != "user" {
        return Err(Refused::new("messages: first message must use the \"user\" role"));
    }
    match messages.windows(2).find(|pair| pair[0]["role"] == pair[1]["role"]) {
        None => Ok(()),
        Some(pair) => Err(Refused::new(format!(
            "messages: roles must alternate between \"user\" and \"assistant\", but found multiple {} roles in a row",
            pair[0]["role"]
        ))),
    }
}

fn has(message: &Value, kind: &str) -> bool {
    blocks(message).iter().any(|block| block["type"] == kind)
}

fn blocks(message: &Value) -> &[Value] {
    message["content"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn words(value: &Value, at: &str) -> Result<(), Refused> {
    match text(value, at)? {
        "" => Err(Refused::new(format!("{at}: text content blocks must be non-empty"))),
        text if text.trim().is_empty() => Err(Refused::new(format!(
            "{at}: text content blocks must contain non-whitespace text"
        ))),
        _ => Ok(()),
    }
}

fn one<'a>(
    place: usize,
    message: &'a Value,
    before: Option<&Value>,
    model: &str,
    ids: &mut BTreeSet<&'a str>,
    marks: &mut Marks,
) -> Result<(), Refused> {
    let at = format!("messages.{place}");
    only(object(message, &at)?, &at, &["role", "content"])?;
    let is_user = match message["role"].as_str() {
        Some("user") => true,
        Some("assistant") => false,
        _ => {
            return Err(Refused::new(format!(
                "{at}.role: Input should be 'user' or 'assistant'"
            )));
        }
    };
    if let Value::String(text) = &message["content"] {
        return words(&text.clone().into(), &at);
    }
    let content = array(&message["content"], &format!("{at}.content"))?;
    if content.is_empty() {
        return Err(Refused::new(format!(
            "{at}: all messages must have non-empty content except for the optional final assistant message"
        )));
    }
    let mut results = BTreeSet::new();
    let mut text_came = false;
    for (block_place, block) in content.iter().enumerate() {
        let at = format!("{at}.content.{block_place}");
        marks.take(block, &at)?;
        match (block["type"].as_str().unwrap_or_default(), is_user) {
            ("text", _) => {
                only(object(block, &at)?, &at, &["type", "text", "cache_control"])?;
                words(&block["text"], &at)?;
                text_came = true;
            }
            ("image", true) => {
                image(block, &at)?;
                text_came = true;
            }
            ("tool_result", true) => {
                if text_came {
                    return Err(Refused::new(format!(
                        "{at}: `tool_result` blocks must come before any other content"
                    )));
                }
                result(block, &at, before, &mut results)?;
            }
            ("tool_use", false) => call(block, &at, ids)?,
            ("thinking" | "redacted_thinking", false) => thought(block, &at, model)?,
            (kind, _) => {
                let role = &message["role"];
                return Err(Refused::new(format!(
                    "{at}: `{kind}` blocks are not permitted in {role} messages"
                )));
            }
        }
    }
    let ends_with_thought = content.last().is_some_and(is_thought);
    if ends_with_thought {
        return Err(Refused::new(format!(
            "{at}: The final block in an assistant message cannot be `thinking`."
        )));
    }
    Ok(())
}

fn image(block: &Value, at: &str) -> Result<(), Refused> {
    only(object(block, at)?, at, &["type", "source", "cache_control"])?;
    let source = &block["source"];
    only(object(source, at)?, at, &["type", "media_type", "data"])?;
    let kind = text(&source["media_type"], &format!("{at}.source.media_type"))?;
    if !IMAGES.contains(&kind) {
        return Err(Refused::new(format!(
            "{at}.source.base64.media_type: Input should be one of {IMAGES:?}"
        )));
    }
    if source["type"] != "base64" || !seal::is_base64(text(&source["data"], at)?) {
        return Err(Refused::new(format!("{at}.source.base64: invalid base64 data")));
    }
    Ok(())
}

fn result<'a>(block: &'a Value, at: &str, before: Option<&Value>, seen: &mut BTreeSet<&'a str>) -> Result<(), Refused> {
    let known = ["type", "tool_use_id", "content", "is_error", "cache_control"];
    only(object(block, at)?, at, &known)?;
    let id = text(&block["tool_use_id"], &format!("{at}.tool_use_id"))?;
    let is_asked = before.is_some_and(|message| {
        blocks(message)
            .iter()
            .any(|call| call["type"] == "tool_use" && call["id"] == id)
    });
    if !is_asked {
        return Err(Refused::new(format!(
            "{at}: unexpected `tool_use_id` found in `tool_result` blocks: {id}. Each `tool_result` block must have a \
             corresponding `tool_use` block in the previous message."
        )));
    }
    if !seen.insert(id) {
        return Err(Refused::new(format!(
            "{at}: each tool_use must have a single result. Found multiple `tool_result` blocks with id: {id}"
        )));
    }
    if !block["is_error"].is_null() && !block["is_error"].is_boolean() {
        return Err(Refused::new(format!("{at}.is_error: Input should be a valid boolean")));
    }
    match &block["content"] {
        Value::Null | Value::String(_) => Ok(()),
        content => array(content, at)?
            .iter()
            .try_for_each(|part| match part["type"].as_str() {
                Some("text") => words(&part["text"], at),
                Some("image") => image(part, at),
                _ => Err(Refused::new(format!(
                    "{at}.content: Input tag is none of 'text', 'image'"
                ))),
            }),
    }
}

fn call<'a>(block: &'a Value, at: &str, ids: &mut BTreeSet<&'a str>) -> Result<(), Refused> {
    only(
        object(block, at)?,
        at,
        &["type", "id", "name", "input", "cache_control"],
    )?;
    let id = text(&block["id"], &format!("{at}.id"))?;
    if !is_name(id, 64) {
        return Err(Refused::new(format!(
            "{at}.id: String should match pattern '^[a-zA-Z0-9_-]+$'"
        )));
    }
    if !ids.insert(id) {
        return Err(Refused::new("messages: `tool_use` ids must be unique"));
    }
    if !is_name(text(&block["name"], &format!("{at}.name"))?, 128) {
        return Err(Refused::new(format!(
            "{at}.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'"
        )));
    }
    if !block["input"].is_object() {
        return Err(Refused::new(format!("{at}.input: Input should be a valid dictionary")));
    }
    Ok(())
}

fn thought(block: &Value, at: &str, model: &str) -> Result<(), Refused> {
    if block["type"] == "redacted_thinking" {
        only(object(block, at)?, at, &["type", "data"])?;
        let data = text(&block["data"], &format!("{at}.data"))?;
        return match seal::opened(model, data) {
            Some(_) => Ok(()),
            None => Err(Refused::new(format!(
                "{at}: Invalid `data` in `redacted_thinking` block"
            ))),
        };
    }
    only(object(block, at)?, at, &["type", "thinking", "signature"])?;
    let thinking = text(&block["thinking"], &format!("{at}.thinking.thinking"))?;
    let signature = &block["signature"];
    let signature = signature
        .as_str()
        .ok_or_else(|| Refused::new(format!("{at}.thinking.signature: Field required")))?;
    match seal::opened(model, signature) {
        Some(signed) if signed == thinking => Ok(()),
        _ => Err(Refused::new(format!("{at}: Invalid `signature` in `thinking` block"))),
    }
}

fn is_thought(block: &Value) -> bool {
    matches!(block["type"].as_str(), Some("thinking" | "redacted_thinking"))
}

/// Each call has its result in the next message.
fn answered(place: usize, message: &Value, next: Option<&Value>) -> Result<(), Refused> {
    let calls = blocks(message).iter().filter(|block| block["type"] == "tool_use");
    let has_result = |id: &Value| {
        let results = next.map(blocks).unwrap_or_default();
        results
            .iter()
            .any(|block| block["type"] == "tool_result" && block["tool_use_id"] == *id)
    };
    let open: Vec<&str> = calls
        .map(|call| &call["id"])
        .filter(|id| !has_result(id))
        .map(|id| id.as_str().unwrap_or_default())
        .collect();
    if open.is_empty() {
        return Ok(());
    }
    Err(Refused::new(format!(
        "messages.{place}: `tool_use` ids were found without `tool_result` blocks immediately after: {}. Each `tool_use` \
         block must have a corresponding `tool_result` block in the next message.",
        open.join(", ")
    )))
}

fn last(messages: &[Value]) -> Result<(), Refused> {
    let Some(last) = messages.last().filter(|message| message["role"] == "assistant") else {
        return Ok(());
    };
    let text = match &last["content"] {
        Value::String(text) => Some(text.as_str()),
        _ => blocks(last).last().and_then(|block| block["text"].as_str()),
    };
    if text.is_some_and(|text| text.trim_end() != text) {
        return Err(Refused::new(
            "messages: final assistant content cannot end with trailing whitespace",
        ));
    }
    Ok(())
}

fn thinking(body: &Value, messages: &[Value]) -> Result<(), Refused> {
    let thinking = &body["thinking"];
    let last_assistant = messages.iter().rposition(|message| message["role"] == "assistant");
    let ends_with_assistant = last_assistant.is_some_and(|place| place + 1 == messages.len());
    if is_newer(body["model"].as_str().unwrap_or_default()) {
        return adaptive(body, ends_with_assistant);
    }
    if !body["output_config"].is_null() {
        return Err(Refused::new(
            "output_config: This model does not support the effort parameter.",
        ));
    }
    if thinking.is_null() || thinking["type"] == "disabled" {
        if ends_with_assistant
            && messages
                .last()
                .is_some_and(|message| blocks(message).iter().any(is_thought))
        {
            return Err(Refused::new(
                "When thinking is disabled, an `assistant` message in the final position cannot contain `thinking`.",
            ));
        }
        return Ok(());
    }
    only(object(thinking, "thinking")?, "thinking", &["type", "budget_tokens"])?;
    if thinking["type"] != "enabled" {
        return Err(Refused::new(
            "thinking: Input tag does not match any of 'enabled', 'disabled'",
        ));
    }
    let budget = whole_number(&thinking["budget_tokens"], "thinking.enabled.budget_tokens", 1_024)?;
    if body["max_tokens"].as_u64().is_some_and(|most| most <= budget) {
        return Err(Refused::new(
            "`max_tokens` must be greater than `thinking.budget_tokens`.",
        ));
    }
    if body["temperature"]
        .as_f64()
        .is_some_and(|temperature| temperature != 1.0)
    {
        return Err(Refused::new(
            "`temperature` may only be set to 1 when thinking is enabled.",
        ));
    }
    if !body["top_k"].is_null() {
        return Err(Refused::new("`top_k` must be unset when thinking is enabled."));
    }
    if matches!(body["tool_choice"]["type"].as_str(), Some("any" | "tool")) {
        return Err(Refused::new(
            "Thinking may not be enabled when tool_choice forces tool use.",
        ));
    }
    if ends_with_assistant {
        return Err(Refused::new(
            "an answer that is begun cannot be continued when thinking is enabled",
        ));
    }
    let Some(place) = last_assistant else { return Ok(()) };
    let of_loop = blocks(&messages[place]);
    let calls = of_loop.iter().any(|block| block["type"] == "tool_use");
    if calls && !of_loop.first().is_some_and(is_thought) {
        let found = &of_loop[0]["type"];
        return Err(Refused::new(format!(
            "messages.{place}.content.0.type: Expected `thinking` or `redacted_thinking`, but found {found}. When `thinking` \
             is enabled, a final `assistant` message must start with a thinking block."
        )));
    }
    Ok(())
}

/// 4.6 and everything after it.
fn is_newer(model: &str) -> bool {
    ["-5", "-4-6", "-4-7", "-4-8"].iter().any(|version| {
        let family = [
            "claude-opus",
            "claude-sonnet",
            "claude-haiku",
            "claude-fable",
            "claude-mythos",
        ];
        family
            .iter()
            .any(|family| model.strip_prefix(family).is_some_and(|rest| rest.starts_with(version)))
    })
}

fn adaptive(body: &Value, ends_with_assistant: bool) -> Result<(), Refused> {
    if ends_with_assistant {
        return Err(Refused::new(
            "This model does not support assistant message prefill. The conversation must end with a user message.",
        ));
    }
    let config = &body["output_config"];
    if !config.is_null() {
        only(object(config, "output_config")?, "output_config", &["effort"])?;
        if !matches!(config["effort"].as_str(), Some("low" | "medium" | "high" | "max")) {
            return Err(Refused::new(
                "output_config.effort: Input should be 'low', 'medium', 'high' or 'max'",
            ));
        }
    }
    match body["thinking"]["type"].as_str() {
        None if body["thinking"].is_null() => Ok(()),
        Some("adaptive") if matches!(body["tool_choice"]["type"].as_str(), Some("any" | "tool")) => Err(Refused::new(
            "Thinking may not be enabled when tool_choice forces tool use.",
        )),
        Some("adaptive") => only(object(&body["thinking"], "thinking")?, "thinking", &["type", "display"]),
        _ => Err(Refused::new(
            "\"thinking.type.enabled\" is not supported for this model. Use \"thinking.type.adaptive\" and \
             \"output_config.effort\" to control thinking behavior.",
        )),
    }
}
