//! Encodes a request for the Messages API, which is the strictest about a conversation: roles alternate beginning with
//! the user's, every call is answered in the next message and there before any text, no text is blank, and signed
//! thinking stands unchanged before the call that followed from it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

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

/// A conversation has to begin with the user.
const BEFORE: &str = "(The beginning of this conversation is left out.)";
const AFTER: &str = "(Go on.)";
/// The least that a model may be told to think.
const LEAST_THINKING: u32 = 1_024;
const LONGEST_ID: usize = 64;

pub fn body(provider: &str, call: &Call) -> Result<Value, Failure> {
    let request = &call.request;
    let to = Recipient {
        provider,
        model: &call.model,
        longest_id: LONGEST_ID,
    };
    let turns = history::turns(&request.messages, to);
    let mut messages = messages(&turns);
    if messages.is_empty() {
        return Err(nothing_to_answer());
    }
    let adapts = adapts(&call.model);
    let thinks = may_think(provider, call, &messages, adapts);
    end(&mut messages, thinks.is_some(), adapts);
    mark(messages.iter_mut().rev().take(2).filter_map(last_block), None);
    let tools = tools(request, &turns);
    let mut body = json!({
        "model": call.model,
        "max_tokens": limit(provider, call, thinks),
        "messages": messages,
        "stream": true,
    });
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body[name] = value;
        }
    };
    set("system", system(&turns));
    set("temperature", request.parameters.temperature.map(Value::from));
    set("top_p", request.parameters.top_p.map(Value::from));
    set("top_k", request.parameters.top_k.map(Value::from));
    set(
        "stop_sequences",
        (!request.parameters.stop.is_empty()).then(|| request.parameters.stop.clone().into()),
    );
    set(
        "tool_choice",
        (!tools.is_empty()).then(|| tool_choice(request)).flatten(),
    );
    set("tools", (!tools.is_empty()).then(|| tools.into()));
    set(
        "thinking",
        thinks.map(|tokens| match adapts {
            true => json!({"type": "adaptive"}),
            false => json!({"type": "enabled", "budget_tokens": tokens}),
        }),
    );
    let effort = request.thinking.filter(|_| adapts && thinks.is_some());
    set(
        "output_config",
        effort.map(|thinking| json!({"effort": thinking.effort().name()})),
    );
    Ok(body)
}

/// Models from 4.6 on decide themselves how much they think, guided by an effort instead of a number of tokens, and do not
/// go on with an answer that another began. A name without a version is taken for an older one.
fn adapts(model: &str) -> bool {
    let number = |word: &&str| (1..=2).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_digit());
    let mut words = model.split('-').skip_while(|word| !number(word));
    let mut next = || words.next().filter(number).and_then(|word| word.parse::<u8>().ok());
    let version = next().map(|major| (major, next().unwrap_or(0)));
    version.is_some_and(|version| version >= (4, 6))
}

/// The length of an answer, thinking included: the provider insists on a limit.
fn limit(provider: &str, call: &Call, thinks: Option<u32>) -> u32 {
    let most = catalogue::find(provider, &call.model)
        .and_then(|model| model.max_output)
        .unwrap_or(u32::MAX);
    match call.request.parameters.max_tokens {
        Some(limit) => limit,
        None => call
            .limits
            .max_output_tokens
            .saturating_add(thinks.unwrap_or(0))
            .min(most),
    }
}

/// For how many tokens, if it can think at all: not while it is forced to call a tool, and, of the older models, not in
/// the middle of a loop of calls that began without thinking, as the provider refuses both.
fn may_think(provider: &str, call: &Call, messages: &[Value], adapts: bool) -> Option<u32> {
    let wanted = call.request.thinking?.tokens();
    let can = catalogue::find(provider, &call.model).is_none_or(|model| model.thinking);
    if !can || call.request.tool_choice.is_forced() {
        return None;
    }
    if adapts {
        return Some(wanted);
    }
    let last = messages.iter().rev().find(|message| message["role"] == "assistant");
    let is_last = messages.last().is_some_and(|message| message["role"] == "assistant");
    let began_without = last.is_some_and(|message| {
        let blocks = message["content"].as_array().map(Vec::as_slice).unwrap_or_default();
        blocks.iter().any(|block| block["type"] == "tool_use") && !blocks.first().is_some_and(is_thinking)
    });
    if is_last || began_without {
        return None;
    }
    let most = limit(provider, call, Some(wanted)).saturating_sub(1);
    let tokens = wanted.max(LEAST_THINKING).min(most);
    (tokens >= LEAST_THINKING).then_some(tokens)
}

fn is_thinking(block: &Value) -> bool {
    matches!(block["type"].as_str(), Some("thinking" | "redacted_thinking"))
}

/// An answer that is to be continued may not end with blanks, nor hold thinking if the model is not to think; newer
/// models are asked to go on instead.
fn end(messages: &mut Vec<Value>, thinks: bool, adapts: bool) {
    let Some(last) = messages.last_mut().filter(|message| message["role"] == "assistant") else {
        return;
    };
    if adapts {
        messages.push(json!({"role": "user", "content": [{"type": "text", "text": AFTER}]}));
        return;
    }
    let Some(blocks) = last["content"].as_array_mut() else {
        return;
    };
    if !thinks {
        blocks.retain(|block| !is_thinking(block));
    }
    if let Some(text) = blocks.last_mut().and_then(|block| block.get_mut("text")) {
        *text = text.as_str().unwrap_or_default().trim_end().into();
    }
}

fn system(turns: &[Turn]) -> Option<Value> {
    let texts = turns.iter().filter_map(|turn| match turn {
        Turn::System(text) => Some(text.as_str()),
        _ => None,
    });
    let text = texts.collect::<Vec<_>>().join("\n\n");
    let mut block = json!({"type": "text", "text": text});
    mark([&mut block], Some("1h"));
    (!text.is_empty()).then(|| json!([block]))
}

/// The beginning up to a marked block is read from the provider's cache next time. Tools and system text, which change
/// least, are kept an hour; what is kept longer has to come first.
fn mark<'a>(blocks: impl IntoIterator<Item = &'a mut Value>, ttl: Option<&str>) {
    for block in blocks {
        block["cache_control"] = match ttl {
            Some(ttl) => json!({"type": "ephemeral", "ttl": ttl}),
            None => json!({"type": "ephemeral"}),
        };
    }
}

fn last_block(message: &mut Value) -> Option<&mut Value> {
    message["content"].as_array_mut()?.last_mut()
}

/// A conversation with calls is refused without definitions of tools, also where no further call is wanted.
fn tools(request: &Request, turns: &[Turn]) -> Vec<Value> {
    let mut tools: Vec<Value> = request
        .tools
        .iter()
        .map(|tool| {
            let mut wire = json!({"name": tool.name, "input_schema": tool.schema});
            if !tool.description.trim().is_empty() {
                wire["description"] = tool.description.clone().into();
            }
            wire
        })
        .collect();
    if tools.is_empty() {
        tools = called(turns)
            .into_iter()
            .map(|name| json!({"name": name, "input_schema": {"type": "object"}}))
            .collect();
    }
    mark(tools.last_mut(), Some("1h"));
    tools
}

fn called(turns: &[Turn]) -> BTreeSet<&str> {
    let said = turns.iter().filter_map(|turn| match turn {
        Turn::Assistant(said) => Some(said),
        _ => None,
    });
    said.flatten()
        .filter_map(|said| match said {
            Said::Call(call) => Some(call.name.as_str()),
            _ => None,
        })
        .collect()
}

fn tool_choice(request: &Request) -> Option<Value> {
    let mut choice = match &request.tool_choice {
        // Without tools of the request's own there are only those that earlier calls name.
        _ if request.tools.is_empty() => return Some(json!({"type": "none"})),
        ToolChoice::None => return Some(json!({"type": "none"})),
        ToolChoice::Auto if request.parallel_tool_calls.is_none() => return None,
        ToolChoice::Auto => json!({"type": "auto"}),
        ToolChoice::Required => json!({"type": "any"}),
        ToolChoice::Named(name) => json!({"type": "tool", "name": name}),
    };
    if request.parallel_tool_calls == Some(false) {
        choice["disable_parallel_tool_use"] = true.into();
    }
    Some(choice)
}

/// Neighbours of one role become one message; results of tools belong to the user's side.
fn messages(turns: &[Turn]) -> Vec<Value> {
    let mut messages: Vec<(&str, Vec<Value>)> = Vec::new();
    for turn in turns {
        let (role, blocks) = match turn {
            Turn::System(_) => continue,
            Turn::User(parts) => ("user", parts.iter().map(part).collect()),
            Turn::Results(results) => ("user", results.iter().map(result).collect()),
            Turn::Assistant(said) => ("assistant", blocks(said)),
        };
        if blocks.is_empty() {
            continue;
        }
        match messages.last_mut() {
            Some((last, all)) if *last == role => all.extend::<Vec<Value>>(blocks),
            None if role == "assistant" => {
                messages.push(("user", vec![json!({"type": "text", "text": BEFORE})]));
                messages.push((role, blocks));
            }
            _ => messages.push((role, blocks)),
        }
    }
    let message = |(role, blocks)| json!({"role": role, "content": blocks});
    messages.into_iter().map(message).collect()
}

/// Thinking that nothing followed from is left out: an answer may not end with it.
fn blocks(said: &[Said]) -> Vec<Value> {
    let mut blocks: Vec<Value> = said
        .iter()
        .filter_map(|said| match said {
            Said::Text(text) => Some(json!({"type": "text", "text": text})),
            Said::Call(call) => {
                Some(json!({"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments}))
            }
            Said::Opaque(data) => serde_json::from_slice(data).ok().filter(is_thinking),
        })
        .collect();
    while blocks.last().is_some_and(is_thinking) {
        blocks.pop();
    }
    blocks
}

fn part(part: &Part) -> Value {
    match part {
        Part::Text(text) => json!({"type": "text", "text": text}),
        Part::Image(image) => picture(image),
    }
}

fn picture(image: &Image) -> Value {
    let source =
        json!({"type": "base64", "media_type": image.media_type, "data": crate::provider::base64(&image.data)});
    json!({"type": "image", "source": source})
}

fn result(result: &Answered) -> Value {
    let mut wire = json!({"type": "tool_result", "tool_use_id": result.id});
    match result.content.as_slice() {
        [] => {}
        [Part::Text(text)] => wire["content"] = text.clone().into(),
        parts => wire["content"] = parts.iter().map(part).collect(),
    }
    if result.is_error {
        wire["is_error"] = true.into();
    }
    wire
}
