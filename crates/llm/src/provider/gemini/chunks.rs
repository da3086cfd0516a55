//! Parses answers of generateContent, streamed or whole.

use std::collections::VecDeque;

use serde_json::{Value, json};

use crate::{
    domain::{
        answer::{Finish, Piece},
        failure::{Failure, Kind},
        history::OURS,
    },
    provider::{
        ids::Ids,
        reply::{self, Dialect},
        sse::Event,
    },
};

#[derive(Default)]
pub struct Chunks {
    ids: Ids,
    finished: bool,
    done: bool,
}

impl Dialect for Chunks {
    fn read(&mut self, event: &Event, out: &mut VecDeque<Piece>) -> Result<(), Failure> {
        match reply::json(event)? {
            Some(chunk) => self.chunk(&chunk, out),
            None => Ok(()),
        }
    }

    fn whole(&mut self, document: &Value, out: &mut VecDeque<Piece>) -> Result<(), Failure> {
        // Without `alt=sse` the chunks come as one list.
        let chunks = document
            .as_array()
            .map_or(std::slice::from_ref(document), Vec::as_slice);
        if !chunks
            .iter()
            .any(|chunk| chunk["candidates"].is_array() || chunk["promptFeedback"].is_object())
        {
            return Err(reply::no_answer(document));
        }
        chunks.iter().try_for_each(|chunk| self.chunk(chunk, out))?;
        self.done = true;
        if self.finished { Ok(()) } else { Err(reply::cut()) }
    }

    fn is_finished(&self) -> bool {
        self.finished
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn at_end(&mut self, _: &mut VecDeque<Piece>) -> Result<(), Failure> {
        if self.finished { Ok(()) } else { Err(reply::cut()) }
    }
}

impl Chunks {
    fn chunk(&mut self, chunk: &Value, out: &mut VecDeque<Piece>) -> Result<(), Failure> {
        let candidate = &chunk["candidates"][0];
        for part in candidate["content"]["parts"].as_array().into_iter().flatten() {
            self.part(part, out);
        }
        let counted = self.usage(&chunk["usageMetadata"], out);
        if chunk["promptFeedback"]["blockReason"].is_string() {
            self.finished = true;
            out.push_back(Piece::Finish(Finish::Filter));
        }
        if let Some(reason) = candidate["finishReason"].as_str() {
            let finish = finish(reason, &candidate["finishMessage"])?;
            self.finished = true;
            out.push_back(Piece::Finish(finish));
            self.done = counted;
        }
        Ok(())
    }

    fn part(&mut self, part: &Value, out: &mut VecDeque<Piece>) {
        if let Some(signature) = part["thoughtSignature"].as_str() {
            let kept = json!({"thoughtSignature": signature});
            out.push_back(Piece::Opaque(kept.to_string().into_bytes()));
        }
        if let Some(text) = part["text"].as_str().filter(|text| !text.is_empty()) {
            let text = text.to_owned();
            let thinks = part["thought"] == true;
            out.push_back(if thinks {
                Piece::Thinking(text)
            } else {
                Piece::Text(text)
            });
        }
        let call = &part["functionCall"];
        if !call.is_object() {
            return;
        }
        let id = self.ids.own(call["id"].as_str().unwrap_or_default(), OURS);
        out.push_back(Piece::Tool {
            id: id.clone(),
            name: call["name"].as_str().unwrap_or_default().to_owned(),
            arguments: match &call["args"] {
                Value::Null => "{}".to_owned(),
                arguments => arguments.to_string(),
            },
        });
        out.push_back(Piece::ToolEnd { id });
    }

    /// What a model thinks is counted beside its answer.
    fn usage(&mut self, usage: &Value, out: &mut VecDeque<Piece>) -> bool {
        if !usage.is_object() {
            return false;
        }
        let sum = |fields: [&str; 2]| {
            let counts: Vec<u64> = fields.iter().filter_map(|field| usage[*field].as_u64()).collect();
            (!counts.is_empty()).then(|| counts.into_iter().fold(0, u64::saturating_add))
        };
        out.push_back(Piece::Usage {
            input: sum(["promptTokenCount", "toolUsePromptTokenCount"]),
            output: sum(["candidatesTokenCount", "thoughtsTokenCount"]),
        });
        out.extend(reply::read_from_cache(&usage["cachedContentTokenCount"]));
        true
    }
}

fn finish(reason: &str, why: &Value) -> Result<Finish, Failure> {
    match reason {
        "STOP" => Ok(Finish::Stop),
        "MAX_TOKENS" => Ok(Finish::Length),
        "SAFETY" | "RECITATION" | "LANGUAGE" | "BLOCKLIST" | "PROHIBITED_CONTENT" | "SPII" | "IMAGE_SAFETY" => {
            Ok(Finish::Filter)
        }
        // The model's mistake, which it does not make again when it is asked again.
        "MALFORMED_FUNCTION_CALL" | "UNEXPECTED_TOOL_CALL" => {
            let why = why.as_str().map(crate::provider::http::clean).unwrap_or_default();
            Err(Failure::new(
                Kind::Broken,
                format!("asked for a tool in a form that it could not read: {why}"),
            ))
        }
        reason => Err(reply::unknown_end(reason)),
    }
}
