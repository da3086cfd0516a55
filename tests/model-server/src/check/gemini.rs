//! Gemini's generateContent.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{
    Refused,
    json::{IMAGES, array, is_name, object, text, whole_number, within},
};
use crate::seal;

const FIELDS: [&str; 7] = [
    "contents",
    "systemInstruction",
    "tools",
    "toolConfig",
    "generationConfig",
    "safetySettings",
    "cachedContent",
];

pub fn check(model: &str, body: &Value) -> Result<(), Refused> {
    known(object(body, "body")?, "", &FIELDS)?;
    let names = tools(body)?;
    config(&body["toolConfig"], &names)?;
    generation(&body["generationConfig"])?;
    if !body["systemInstruction"].is_null() {
        let system = &body["systemInstruction"];
        known(
            object(system, "systemInstruction")?,
            "system_instruction",
            &["parts", "role"],
        )?;
        parts(system, "system_instruction")?;
    }
    let contents = array(&body["contents"], "contents")?;
    if contents.is_empty() {
        return Err(Refused::new(
            "* GenerateContentRequest.contents: contents is not specified",
        ));
    }
    for (place, content) in contents.iter().enumerate() {
        one(content, &format!("contents[{place}]"))?;
    }
    order(contents)?;
    // Models from the third on sign their calls, and want the signatures back.
    if !["gemini-1", "gemini-2"].iter().any(|older| model.starts_with(older)) {
        signatures(contents, model)?;
    }
    Ok(())
}

fn known(fields: &Map<String, Value>, at: &str, known: &[&str]) -> Result<(), Refused> {
    match fields.keys().find(|field| !known.contains(&field.as_str())) {
        None => Ok(()),
        Some(field) => {
            let at = if at.is_empty() {
                String::new()
            } else {
                format!(" at '{at}'")
            };
            Err(Refused::new(format!(
                "Invalid JSON payload received. Unknown name \"{field}\"{at}: Cannot find field."
            )))
        }
    }
}

fn tools(body: &Value) -> Result<BTreeSet<&str>, Refused> {
    let mut names = BTreeSet::new();
    let tools = match &body["tools"] {
        Value::Null => &[],
        tools => array(tools, "tools")?,
    };
    for tool in tools {
        known(object(tool, "tools")?, "tools[0]", &["functionDeclarations"])?;
        for function in array(&tool["functionDeclarations"], "tools[0].function_declarations")? {
            let fields = object(function, "tools[0].function_declarations")?;
            known(
                fields,
                "tools[0].function_declarations",
                &["name", "description", "parametersJsonSchema"],
            )?;
            let name = text(&function["name"], "name")?;
            if !is_function(name) {
                return Err(Refused::new(format!(
                    "* GenerateContentRequest.tools[0].function_declarations: [{name}] Invalid function name. Must start with a letter or an underscore, with a maximum length of 64."
                )));
            }
            if !names.insert(name) {
                return Err(Refused::new(format!("Duplicate function declaration found: {name}")));
            }
            if function["parametersJsonSchema"]["type"] != "object" {
                return Err(Refused::new(format!(
                    "* {name}: parameters schema should be of type OBJECT."
                )));
            }
        }
    }
    Ok(names)
}

fn is_function(name: &str) -> bool {
    is_name(name, 64) && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
}

fn config(config: &Value, names: &BTreeSet<&str>) -> Result<(), Refused> {
    if config.is_null() {
        return Ok(());
    }
    known(object(config, "toolConfig")?, "tool_config", &["functionCallingConfig"])?;
    let calling = &config["functionCallingConfig"];
    let fields = object(calling, "functionCallingConfig")?;
    known(
        fields,
        "tool_config.function_calling_config",
        &["mode", "allowedFunctionNames"],
    )?;
    let mode = text(&calling["mode"], "mode")?;
    if !matches!(mode, "AUTO" | "ANY" | "NONE") {
        return Err(Refused::new(format!(
            "Invalid value at 'tool_config.function_calling_config.mode': \"{mode}\""
        )));
    }
    if names.is_empty() && mode == "ANY" {
        return Err(Refused::new(
            "Function calling config is set without function_declarations.",
        ));
    }
    if let Some(allowed) = fields.get("allowedFunctionNames") {
        let is_fine = |name: &Value| name.as_str().is_some_and(|name| names.contains(name));
        if mode != "ANY" || !array(allowed, "allowed_function_names")?.iter().all(is_fine) {
            return Err(Refused::new(
                "`allowed_function_names` should only name declared functions, in mode ANY.",
            ));
        }
    }
    Ok(())
}

fn generation(config: &Value) -> Result<(), Refused> {
    if config.is_null() {
        return Ok(());
    }
    let own = [
        "maxOutputTokens",
        "temperature",
        "topP",
        "topK",
        "stopSequences",
        "thinkingConfig",
    ];
    known(object(config, "generationConfig")?, "generation_config", &own)?;
    within(&config["temperature"], "temperature", 2.0)?;
    within(&config["topP"], "topP", 1.0)?;
    if !config["maxOutputTokens"].is_null() {
        whole_number(&config["maxOutputTokens"], "maxOutputTokens", 1)?;
    }
    let thinking = &config["thinkingConfig"];
    if !thinking.is_null() {
        let own = ["includeThoughts", "thinkingBudget", "thinkingLevel"];
        known(
            object(thinking, "thinkingConfig")?,
            "generation_config.thinking_config",
            &own,
        )?;
        if !thinking["thinkingBudget"].is_null() && !thinking["thinkingLevel"].is_null() {
            return Err(Refused::new(
                "You can only set only one of thinking budget and thinking level.",
            ));
        }
    }
    Ok(())
}

fn parts<'a>(content: &'a Value, at: &str) -> Result<&'a [Value], Refused> {
    let parts = array(&content["parts"], &format!("{at}.parts"))?;
    if parts.is_empty() {
        return Err(Refused::new(format!(
            "* GenerateContentRequest.{at}.parts: contents.parts must not be empty."
        )));
    }
    Ok(parts)
}

fn one(content: &Value, at: &str) -> Result<(), Refused> {
    known(object(content, at)?, at, &["role", "parts"])?;
    let is_model = match content["role"].as_str() {
        Some("user") => false,
        Some("model") => true,
        _ => return Err(Refused::new("Please use a valid role: user, model.")),
    };
    for (place, part) in parts(content, at)?.iter().enumerate() {
        let at = format!("{at}.parts[{place}]");
        let own = [
            "text",
            "inlineData",
            "functionCall",
            "functionResponse",
            "thoughtSignature",
            "thought",
        ];
        let fields = object(part, &at)?;
        known(fields, &at, &own)?;
        let data = ["text", "inlineData", "functionCall", "functionResponse"];
        if fields.keys().filter(|field| data.contains(&field.as_str())).count() != 1 {
            return Err(Refused::new(format!(
                "* GenerateContentRequest.{at}.data: required oneof field 'data' must have one initialized field"
            )));
        }
        match (
            fields.contains_key("functionCall"),
            fields.contains_key("functionResponse"),
            is_model,
        ) {
            (true, _, false) => return Err(Refused::new("Function call parts are of role model only.")),
            (_, true, true) => return Err(Refused::new("Function response parts are of role user only.")),
            (true, _, true) => call(&part["functionCall"], &at)?,
            (_, true, false) => response(&part["functionResponse"], &at)?,
            (false, false, _) if part["inlineData"].is_object() => {
                let (kind, data) = (&part["inlineData"]["mimeType"], &part["inlineData"]["data"]);
                let is_fine = kind.as_str().is_some_and(|kind| IMAGES.contains(&kind))
                    && data.as_str().is_some_and(seal::is_base64);
                if !is_fine {
                    return Err(Refused::new(format!("Unable to process input image. ({at})")));
                }
            }
            (false, false, _) => _ = text(&part["text"], &at)?,
        }
    }
    Ok(())
}

fn call(call: &Value, at: &str) -> Result<(), Refused> {
    known(
        object(call, at)?,
        &format!("{at}.function_call"),
        &["name", "args", "id"],
    )?;
    if !is_function(text(&call["name"], at)?) || !call["args"].is_object() {
        return Err(Refused::new(format!("Invalid value at '{at}.function_call'")));
    }
    Ok(())
}

fn response(response: &Value, at: &str) -> Result<(), Refused> {
    known(
        object(response, at)?,
        &format!("{at}.function_response"),
        &["name", "response", "id", "parts"],
    )?;
    if !is_function(text(&response["name"], at)?) || !response["response"].is_object() {
        return Err(Refused::new(format!("Invalid value at '{at}.function_response'")));
    }
    Ok(())
}

fn all<'a>(content: &'a Value, field: &str) -> Vec<&'a Value> {
    let parts = content["parts"].as_array().map(Vec::as_slice).unwrap_or_default();
    parts
        .iter()
        .map(|part| &part[field])
        .filter(|value| !value.is_null())
        .collect()
}

fn order(contents: &[Value]) -> Result<(), Refused> {
    if contents[0]["role"] != "user" || contents.windows(2).any(|pair| pair[0]["role"] == pair[1]["role"]) {
        return Err(Refused::new(
            "Please ensure that multiturn requests alternate between user and model.",
        ));
    }
    if contents.last().is_some_and(|content| content["role"] == "model") {
        return Err(Refused::new(
            "Please ensure that multiturn requests end with a user turn or a function response turn.",
        ));
    }
    for (place, content) in contents.iter().enumerate() {
        let calls = all(content, "functionCall");
        let next = contents
            .get(place + 1)
            .map(|next| all(next, "functionResponse"))
            .unwrap_or_default();
        let same = calls
            .iter()
            .zip(&next)
            .all(|(call, answer)| call["name"] == answer["name"] && call["id"] == answer["id"]);
        if calls.len() != next.len() || !same {
            return Err(Refused::new(
                "Please ensure that the number of function response parts is equal to the number of function call parts of the \
                 function call turn.",
            ));
        }
    }
    if !all(&contents[0], "functionResponse").is_empty() {
        return Err(Refused::new(
            "Please ensure that function response turn comes immediately after a function call turn.",
        ));
    }
    Ok(())
}

/// From the last words of the user on, the first call of each of the model's turns is signed. Any signature that is
/// there is checked.
fn signatures(contents: &[Value], model: &str) -> Result<(), Refused> {
    let speaks = |content: &Value| {
        content["role"] == "user" && !all(content, "text").is_empty() && all(content, "functionResponse").is_empty()
    };
    let current = contents.iter().rposition(speaks).unwrap_or_default();
    for (place, content) in contents.iter().enumerate() {
        let parts = content["parts"].as_array().map(Vec::as_slice).unwrap_or_default();
        for part in parts {
            let signature = &part["thoughtSignature"];
            let is_known = match signature.as_str() {
                None => signature.is_null(),
                Some(seal::NO_SIGNATURE) => part["functionCall"].is_object(),
                Some(signature) => seal::opened(model, signature).is_some(),
            };
            if !is_known {
                return Err(Refused::new("Corrupted thought signature."));
            }
        }
        let first = parts.iter().find(|part| part["functionCall"].is_object());
        if let Some(call) = first.filter(|call| place > current && call["thoughtSignature"].is_null()) {
            return Err(Refused::new(format!(
                "Function call is missing a thought_signature in functionCall parts. Function call {}, position {place}.",
                call["functionCall"]["name"]
            )));
        }
    }
    Ok(())
}
