//! Parses answers of the responses API, streamed or whole.

use std::collections::{BTreeMap, VecDeque};

use serde_json::Value;

use crate::{
    domain::{
        answer::{Finish, Piece},
        failure::{Failure, Kind},
    },
    provider::{
        http::{ProviderError, clean},
        ids::Ids,
        reply::{self, Dialect},
        sse::Event,
    },
};

#[derive(Default)]
pub struct Events {
    /// What is known of each item, by its place in the answer.
    items: BTreeMap<u64, Item>,
    ids: Ids,
    refused: bool,
    calls: bool,
    done: bool,
}

#[derive(Default)]
struct Item {
    /// Our id of a call, and its name.
    call: Option<(String, String)>,
    /// A piece of its text or arguments came.
    begun: bool,
    ended: bool,
}

impl Dialect for Events {
    fn read(&mut self, event: &Event, out: &mut VecDeque<Piece>) -> Result<(), Failure> {
        let Some(data) = reply::json(event)? else { return Ok(()) };
        let place = data["output_index"].as_u64().unwrap_or_default();
        match data["type"].as_str().unwrap_or(&event.name) {
            "response.output_item.added" => self.begins(place, &data["item"], out),
            "response.output_text.delta" => self.says(place, &data["delta"], out),
            "response.refusal.delta" => {
                self.refused = true;
                self.says(place, &data["delta"], out);
            }
            "response.reasoning_summary_text.delta" | "response.reasoning_text.delta" => {
                out.extend(text(&data["delta"]).map(Piece::Thinking));
            }
            "response.function_call_arguments.delta" => self.arguments(place, &data["delta"], out),
            "response.output_item.done" => self.ends(place, &data["item"], out),
            "response.completed" | "response.incomplete" | "response.failed" | "response.done" => {
                self.end(&data["response"], out)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn whole(&mut self, document: &Value, out: &mut VecDeque<Piece>) -> Result<(), Failure> {
        if !document["output"].is_array() {
            return Err(reply::no_answer(document));
        }
        self.end(document, out)
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
    fn begins(&mut self, place: u64, item: &Value, out: &mut VecDeque<Piece>) {
        if item["type"] != "function_call" || self.items.contains_key(&place) {
            return;
        }
        self.calls = true;
        let given = text(&item["call_id"]).or_else(|| text(&item["id"])).unwrap_or_default();
        let (id, name) = (self.ids.own(&given, "call_"), text(&item["name"]).unwrap_or_default());
        out.push_back(Piece::Tool {
            id: id.clone(),
            name: name.clone(),
            arguments: String::new(),
        });
        let item = Item {
            call: Some((id, name)),
            ..Item::default()
        };
        self.items.insert(place, item);
    }

    fn says(&mut self, place: u64, delta: &Value, out: &mut VecDeque<Piece>) {
        if let Some(text) = text(delta) {
            self.items.entry(place).or_default().begun = true;
            out.push_back(Piece::Text(text));
        }
    }

    fn arguments(&mut self, place: u64, delta: &Value, out: &mut VecDeque<Piece>) {
        let Some(item) = self.items.get_mut(&place) else { return };
        if let (Some((id, name)), Some(arguments)) = (&item.call, text(delta)) {
            item.begun = true;
            out.push_back(Piece::Tool {
                id: id.clone(),
                name: name.clone(),
                arguments,
            });
        }
    }

    /// The whole item repeats what came in pieces, or brings it where nothing came before.
    fn ends(&mut self, place: u64, item: &Value, out: &mut VecDeque<Piece>) {
        self.begins(place, item, out);
        let known = self.items.entry(place).or_default();
        if std::mem::replace(&mut known.ended, true) {
            return;
        }
        let begun = known.begun;
        match item["type"].as_str() {
            Some("function_call") => {
                if !begun {
                    self.arguments(place, &item["arguments"], out);
                }
                let call = self.items.get(&place).and_then(|item| item.call.clone());
                out.extend(call.map(|(id, _)| Piece::ToolEnd { id }));
            }
            Some("message") if !begun => {
                for part in item["content"].as_array().into_iter().flatten() {
                    self.refused |= part["type"] == "refusal";
                    let said = text(&part["text"]).or_else(|| text(&part["refusal"]));
                    out.extend(said.map(Piece::Text));
                }
            }
            Some("reasoning") if item["encrypted_content"].is_string() => {
                out.push_back(Piece::Opaque(item.to_string().into_bytes()));
            }
            _ => {}
        }
    }

    fn end(&mut self, response: &Value, out: &mut VecDeque<Piece>) -> Result<(), Failure> {
        if let Some(told) = ProviderError::within(response) {
            return Err(told.failure());
        }
        for (place, item) in (0..).zip(response["output"].as_array().into_iter().flatten()) {
            self.ends(place, item, out);
        }
        let count = |field: &str| response["usage"][field].as_u64();
        out.push_back(Piece::Usage {
            input: count("input_tokens"),
            output: count("output_tokens"),
        });
        out.extend(reply::read_from_cache(
            &response["usage"]["input_tokens_details"]["cached_tokens"],
        ));
        let why = response["incomplete_details"]["reason"].as_str().unwrap_or_default();
        let finish = match (response["status"].as_str().unwrap_or("completed"), why) {
            ("completed", _) if self.refused && !self.calls => Finish::Filter,
            ("completed", _) if self.calls => Finish::ToolUses,
            ("completed", _) => Finish::Stop,
            ("incomplete", "max_output_tokens" | "max_tokens") => Finish::Length,
            ("incomplete", "content_filter") => Finish::Filter,
            ("failed" | "cancelled", _) => {
                let text = "ended its answer with an error, and says no more";
                return Err(Failure::new(Kind::Server, text));
            }
            (status, why) => return Err(reply::unknown_end(&clean(&format!("{status} {why}")))),
        };
        out.push_back(Piece::Finish(finish));
        self.done = true;
        Ok(())
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}
