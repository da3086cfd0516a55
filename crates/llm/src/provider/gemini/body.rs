//! Encodes a request for generateContent. Roles alternate and the user's comes last; a turn of calls is followed by the
//! turn of their results, as many and in the same order.

use serde_json::{Value, json};

use crate::{
    domain::{
        block::{Image, Part},
        catalogue,
        failure::Failure,
        history::{self, Answered, OURS, Recipient, Said, Turn},
        request::{Request, ToolChoice},
    },
    provider::{Call, nothing_to_answer},
};

const BEFORE: &str = "(The beginning of this conversation is left out.)";
const AFTER: &str = "(Go on.)";
/// What the provider documents for calls that were made by another model.
const NO_SIGNATURE: &str = "skip_thought_signature_validator";
const LONGEST_ID: usize = 64;

pub fn body(provider: &str, call: &Call) -> Result<Value, Failure> {
    let request = &call.request;
    let to = Recipient {
        provider,
        model: &call.model,
        longest_id: LONGEST_ID,
    };
    let turns = history::turns(&request.messages, to);
    let contents = contents(&turns, signs(&call.model));
    if contents.is_empty() {
        return Err(nothing_to_answer());
    }
    let mut body = json!({"contents": contents});
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body[name] = value;
        }
    };
    set("systemInstruction", system(&turns));
    set("generationConfig", generation(provider, call));
    if !request.tools.is_empty() {
        let functions: Vec<Value> = request
            .tools
            .iter()
            .map(
                |tool| json!({"name": tool.name, "description": tool.description, "parametersJsonSchema": tool.schema}),
            )
            .collect();
        set("tools", Some(json!([{"functionDeclarations": functions}])));
        set("toolConfig", choice(request));
    }
    Ok(body)
}

/// Models from the third on sign their calls and want the signatures back.
fn signs(model: &str) -> bool {
    let name = model.strip_prefix("models/").unwrap_or(model);
    !name.starts_with("gemini-1") && !name.starts_with("gemini-2")
}

fn system(turns: &[Turn]) -> Option<Value> {
    let parts: Vec<Value> = turns
        .iter()
        .filter_map(|turn| match turn {
            Turn::System(text) => Some(json!({"text": text})),
            _ => None,
        })
        .collect();
    (!parts.is_empty()).then(|| json!({"parts": parts}))
}

fn generation(provider: &str, call: &Call) -> Option<Value> {
    let request = &call.request;
    let mut config = json!({});
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            config[name] = value;
        }
    };
    set("maxOutputTokens", request.parameters.max_tokens.map(Value::from));
    set("temperature", request.parameters.temperature.map(Value::from));
    set("topP", request.parameters.top_p.map(Value::from));
    set("topK", request.parameters.top_k.map(Value::from));
    let stop = &request.parameters.stop;
    set("stopSequences", (!stop.is_empty()).then(|| stop.clone().into()));
    let can = catalogue::find(provider, &call.model).is_none_or(|model| model.thinking);
    let thinking = request.thinking.filter(|_| can).map(|thinking| {
        if signs(&call.model) {
            json!({"includeThoughts": true, "thinkingLevel": thinking.effort().name()})
        } else {
            json!({"includeThoughts": true, "thinkingBudget": thinking.tokens()})
        }
    });
    set("thinkingConfig", thinking);
    config
        .as_object()
        .is_some_and(|fields| !fields.is_empty())
        .then_some(config)
}

fn choice(request: &Request) -> Option<Value> {
    let calling = match &request.tool_choice {
        ToolChoice::Auto => return None,
        ToolChoice::None => json!({"mode": "NONE"}),
        ToolChoice::Required => json!({"mode": "ANY"}),
        ToolChoice::Named(name) => json!({"mode": "ANY", "allowedFunctionNames": [name]}),
    };
    Some(json!({"functionCallingConfig": calling}))
}

fn contents(turns: &[Turn], signs: bool) -> Vec<Value> {
    let mut contents: Vec<(&str, Vec<Value>)> = Vec::new();
    for turn in turns {
        let (role, parts) = match turn {
            Turn::System(_) => continue,
            Turn::User(parts) => ("user", parts.iter().map(part).collect()),
            Turn::Results(results) => ("user", results_of(results)),
            Turn::Assistant(said) => ("model", assistant(said, signs)),
        };
        if parts.is_empty() {
            continue;
        }
        match contents.last_mut() {
            Some((last, all)) if *last == role => all.extend::<Vec<Value>>(parts),
            None if role == "model" => {
                contents.push(("user", vec![json!({"text": BEFORE})]));
                contents.push((role, parts));
            }
            _ => contents.push((role, parts)),
        }
    }
    if contents.last().is_some_and(|(role, _)| *role == "model") {
        contents.push(("user", vec![json!({"text": AFTER})]));
    }
    let content = |(role, parts)| json!({"role": role, "parts": parts});
    contents.into_iter().map(content).collect()
}

fn part(part: &Part) -> Value {
    match part {
        Part::Text(text) => json!({"text": text}),
        Part::Image(image) => picture(image),
    }
}

fn picture(image: &Image) -> Value {
    json!({"inlineData": {"mimeType": image.media_type, "data": crate::provider::base64(&image.data)}})
}

/// A signature goes on the part that follows it; of several calls only the first has one.
fn assistant(said: &[Said], signs: bool) -> Vec<Value> {
    let mut parts = Vec::new();
    let mut signature: Option<Value> = None;
    let mut called = false;
    for said in said {
        let mut part = match said {
            Said::Opaque(data) => {
                let found = serde_json::from_slice::<Value>(data).ok();
                signature = found
                    .map(|found| found["thoughtSignature"].clone())
                    .filter(Value::is_string);
                continue;
            }
            Said::Text(text) => json!({"text": text}),
            Said::Call(call) => {
                let first = !std::mem::replace(&mut called, true);
                if first && signs && signature.is_none() {
                    signature = Some(NO_SIGNATURE.into());
                }
                let mut wire = json!({"name": function(&call.name), "args": call.arguments});
                give_id(&mut wire, &call.id);
                json!({"functionCall": wire})
            }
        };
        if let Some(signature) = signature.take() {
            part["thoughtSignature"] = signature;
        }
        parts.push(part);
    }
    // A last signature comes on an empty text, and goes back on one.
    if let Some(signature) = signature {
        parts.push(json!({"text": "", "thoughtSignature": signature}));
    }
    parts
}

/// A function's name begins with a letter or an underscore.
fn function(name: &str) -> String {
    if name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        name.to_owned()
    } else {
        format!("_{name}")
    }
}

/// Only ids that the provider gave: it needs none.
fn give_id(wire: &mut Value, id: &str) {
    if !id.starts_with(OURS) {
        wire["id"] = id.into();
    }
}

fn results_of(results: &[Answered]) -> Vec<Value> {
    let texts = |result: &Answered| {
        let texts = result.content.iter().filter_map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            Part::Image(_) => None,
        });
        texts.collect::<Vec<_>>().join("\n\n")
    };
    let mut parts: Vec<Value> = results
        .iter()
        .map(|result| {
            let field = if result.is_error { "error" } else { "output" };
            let mut wire = json!({"name": function(&result.name), "response": {field: texts(result)}});
            give_id(&mut wire, &result.id);
            json!({"functionResponse": wire})
        })
        .collect();
    let images = results
        .iter()
        .flat_map(|result| result.content.iter().filter_map(Part::image));
    parts.extend(images.map(picture));
    parts
}
