//! Parses answers of the gateway: events with a `type`, their fields beside it.

use std::collections::VecDeque;

use serde_json::Value;

use crate::{
    domain::{
        answer::{Finish, Piece},
        failure::{Failure, Kind},
    },
    provider::{
        http::clean,
        reply::{self, Dialect},
        sse::Event,
    },
};

#[derive(Default)]
pub struct Events {
    begun: bool,
    done: bool,
}

impl Dialect for Events {
    fn read(&mut self, event: &Event, out: &mut VecDeque<Piece>) -> Result<(), Failure> {
        let data = match serde_json::from_str::<Value>(event.data.trim()) {
            Ok(data) if data["type"] == "error" => return Err(failure(&data)),
            _ => reply::json(event)?,
        };
        let Some(data) = data else { return Ok(()) };
        match data["type"].as_str().unwrap_or_default() {
            "chunk" => self.says(&data["content"], out),
            "tool_call" => {
                let id = &data["tool_call_id"];
                self.call(id, &data["name"], &data["arguments_delta"], out);
            }
            "usage" => usage(&data["usage"], out),
            "complete" => self.complete(&data["response"], out)?,
            _ => {}
        }
        Ok(())
    }

    fn whole(&mut self, document: &Value, out: &mut VecDeque<Piece>) -> Result<(), Failure> {
        if !document["response"].is_object() {
            return Err(reply::no_answer(document));
        }
        self.complete(&document["response"], out)
    }

    fn is_finished(&self) -> bool {
        self.done
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn at_end(&mut self, _: &mut VecDeque<Piece>) -> Result<(), Failure> {
        if self.done { Ok(()) } else { Err(reply::cut()) }
    }
}

impl Events {
    fn says(&mut self, text: &Value, out: &mut VecDeque<Piece>) {
        if let Some(text) = text.as_str().filter(|text| !text.is_empty()) {
            self.begun = true;
            out.push_back(Piece::Text(text.to_owned()));
        }
    }

    fn call(&mut self, id: &Value, name: &Value, arguments: &Value, out: &mut VecDeque<Piece>) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        self.begun = true;
        out.push_back(Piece::Tool {
            id: text(id),
            name: text(name),
            arguments: text(arguments),
        });
    }

    /// It repeats what came in pieces, or brings it where nothing came before.
    fn complete(&mut self, response: &Value, out: &mut VecDeque<Piece>) -> Result<(), Failure> {
        if !self.begun {
            self.says(&response["content"], out);
            for call in response["tool_calls"].as_array().into_iter().flatten() {
                self.call(&call["id"], &call["name"], &call["arguments"], out);
            }
        }
        usage(&response["usage"], out);
        let reason = response["finish_reason"].as_str().unwrap_or_default();
        out.push_back(Piece::Finish(match reason {
            "" | "stop" => Finish::Stop,
            "length" => Finish::Length,
            "tool_uses" | "tool_use" | "tool_calls" => Finish::ToolUses,
            "filter" | "content_filter" => Finish::Filter,
            "error" => {
                return Err(Failure::new(
                    Kind::Server,
                    "ended its answer with an error, and says no more",
                ));
            }
            reason => return Err(reply::unknown_end(reason)),
        }));
        self.done = true;
        Ok(())
    }
}

fn usage(usage: &Value, out: &mut VecDeque<Piece>) {
    if usage.is_object() {
        out.push_back(Piece::Usage {
            input: usage["input_tokens"].as_u64(),
            output: usage["output_tokens"].as_u64(),
        });
    }
}

/// Whether asking again may help stands in the event.
fn failure(told: &Value) -> Failure {
    let kind = if told["retryable"] == true {
        Kind::Server
    } else {
        Kind::Refused
    };
    let message = told["message"]
        .as_str()
        .unwrap_or("ended its answer with an error, and says no more");
    Failure::new(kind, clean(message))
}
