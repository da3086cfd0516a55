//! Tool calls from their pieces. Servers name the call that a piece belongs to by an index, by an id, by both, or by
//! neither; two calls stay two calls, and every call has an id of its own, as its result must name one.

use serde_json::Value;

use crate::domain::answer::Piece;

#[derive(Default)]
pub struct Calls {
    all: Vec<Call>,
}

struct Call {
    index: Option<u64>,
    /// As the server calls it; empty where it does not.
    given: String,
    /// As we call it.
    id: String,
    name: String,
    arguments: String,
    /// The server sent `{}` as an object, which is only a beginning if more follows.
    empty_object: bool,
}

/// A piece as it came.
struct Part<'a> {
    index: Option<u64>,
    id: &'a str,
    name: &'a str,
    arguments: String,
    empty_object: bool,
}

impl Calls {
    /// `place` is the piece's place among those that came with it.
    pub fn take(&mut self, place: usize, call: &Value) -> Piece {
        let function = &call["function"];
        let (arguments, empty_object) = match &function["arguments"] {
            Value::String(text) => (text.clone(), false),
            Value::Null => (String::new(), false),
            Value::Object(fields) if fields.is_empty() => (String::new(), true),
            whole => (whole.to_string(), false),
        };
        let part = Part {
            index: call["index"].as_u64(),
            id: call["id"].as_str().unwrap_or_default(),
            name: function["name"].as_str().unwrap_or_default(),
            arguments,
            empty_object,
        };
        let at = match self.place_of(place, &part) {
            Some(at) => at,
            None => self.begin(&part),
        };
        let call = &mut self.all[at];
        if call.name.is_empty() {
            call.name = part.name.to_owned();
        }
        call.arguments.push_str(&part.arguments);
        call.empty_object |= part.empty_object;
        Piece::Tool {
            id: call.id.clone(),
            name: call.name.clone(),
            arguments: part.arguments,
        }
    }

    /// What was said by an empty object alone, once nothing more can follow.
    pub fn finish(&mut self) -> Vec<Piece> {
        let empty = self
            .all
            .iter_mut()
            .filter(|call| call.empty_object && call.arguments.is_empty());
        empty
            .map(|call| {
                call.arguments = "{}".to_owned();
                Piece::Tool {
                    id: call.id.clone(),
                    name: call.name.clone(),
                    arguments: call.arguments.clone(),
                }
            })
            .collect()
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The call that a piece goes on with; `None` for one that begins a call.
    fn place_of(&self, place: usize, part: &Part<'_>) -> Option<usize> {
        let last = |wanted: &dyn Fn(&Call) -> bool| self.all.iter().rposition(wanted);
        match (part.index, part.id) {
            (Some(index), "") => last(&|call| call.index == Some(index)).filter(|at| !self.is_next(*at, part)),
            // One index for several ids: each id is a call. One id for several indices, each with a name: likewise.
            (Some(index), id) => last(&|call| call.given == id && call.index == Some(index)).or_else(|| {
                let same = last(&|call| call.given == id && part.name.is_empty());
                // A call that began without its id gets it now.
                same.or_else(|| {
                    last(&|call| call.index == Some(index) && call.given.is_empty() && part.name.is_empty())
                })
            }),
            (None, "") if part.name.is_empty() => {
                let newest = self.all.len().checked_sub(1)?;
                Some(if place == 0 { newest } else { place.min(newest) })
            }
            (None, "") => self
                .all
                .len()
                .checked_sub(1)
                .filter(|at| place == 0 && !self.is_next(*at, part)),
            (None, id) => last(&|call| call.given == id).filter(|at| !self.is_next(*at, part)),
        }
    }

    /// A piece with a name begins the next call, unless the server repeats the name with every piece of one.
    fn is_next(&self, at: usize, part: &Part<'_>) -> bool {
        let call = &self.all[at];
        if part.name.is_empty() || call.name.is_empty() {
            return false;
        }
        let is_whole = serde_json::from_str::<serde::de::IgnoredAny>(&call.arguments).is_ok();
        call.name != part.name || (is_whole && !part.arguments.is_empty()) || (is_whole && part.empty_object)
    }

    fn begin(&mut self, part: &Part<'_>) -> usize {
        let at = self.all.len();
        let taken = |id: &str| self.all.iter().any(|call| call.id == id);
        let mut id = match part.id {
            "" => format!("call_{}", part.index.unwrap_or(at as u64)),
            id => id.to_owned(),
        };
        let mut more = at;
        while taken(&id) {
            id = match part.id {
                "" => format!("call_{more}"),
                given => format!("{given}_{more}"),
            };
            more += 1;
        }
        self.all.push(Call {
            index: part.index,
            given: part.id.to_owned(),
            id,
            name: String::new(),
            arguments: String::new(),
            empty_object: false,
        });
        at
    }
}
