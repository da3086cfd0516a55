//! One configured address of a provider: where below it the API really is, and which optional fields it does not take.
//!
//! People write a base URL with and without its version, or copy the whole path of a call. What cannot be told from the
//! address is tried, in order, and what worked is remembered until the settings name another address.
//!
//! A field that the endpoint refuses is left out of a second request, once, where we had added it ourselves. The limit
//! of tokens has two names; the refusal of one leads to the other. What the caller chose is never taken back silently.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use reqwest::{Response, Url, header::HeaderMap};
use serde_json::Value;

use super::{
    http::{self, Ask, Http},
    reply,
};
use crate::{
    domain::failure::{Failure, Field, Kind},
    keys::Key,
};

/// What was learned of every endpoint, by its first address. Kept over reloads; there are as many as the settings ever
/// named.
#[derive(Clone, Default)]
pub struct Memory(Arc<Mutex<BTreeMap<String, Learned>>>);

#[derive(Clone, Default)]
struct Learned {
    /// Which of the possible bases answered.
    base: usize,
    refused: BTreeSet<Field>,
}

pub struct Endpoint {
    bases: Vec<Url>,
    /// Left out of every request, as the settings say.
    omitted: BTreeSet<Field>,
    memory: Memory,
}

/// A request to be posted below an endpoint's base.
pub struct Post {
    pub path: String,
    pub query: Option<&'static str>,
    pub headers: HeaderMap,
    pub body: Value,
    pub key: Option<Key>,
    pub within: Duration,
}

/// The families of APIs, by where they are found below an address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// With or without a version of its own.
    OpenAi,
    /// Below this version, always.
    Versioned(&'static str),
}

impl Endpoint {
    pub fn new(family: Family, given: &Url, omitted: BTreeSet<Field>, memory: Memory) -> Self {
        Self {
            bases: bases(family, given),
            omitted,
            memory,
        }
    }

    /// Where `path` is, as far as is known.
    pub fn url(&self, path: &str) -> Url {
        let base = self.learned().base.min(self.bases.len() - 1);
        http::below(&self.bases[base], path)
    }

    /// Posts, and gives back an answer that is not an error and not a page for people.
    pub async fn post(&self, http: &Http, mut post: Post) -> Result<Response, Failure> {
        self.omit(&mut post.body, &self.omitted);
        let until = Instant::now() + post.within;
        let known = self.learned().base;
        let mut order: Vec<usize> = (0..self.bases.len()).collect();
        order.sort_by_key(|place| *place != known);
        let mut asked = Vec::new();
        let mut first = None;
        for place in order {
            let mut url = http::below(&self.bases[place], &post.path);
            url.set_query(post.query);
            asked.push(http::shown(&url));
            match self.post_to(http, url, &post, until).await {
                Ok(response) => {
                    self.learn(|learned| learned.base = place);
                    return Ok(response);
                }
                Err((failure, true)) => _ = first.get_or_insert(failure),
                Err((failure, false)) => return Err(failure),
            }
        }
        let mut failure = first.expect("an endpoint has a base, and no base answered");
        if asked.len() > 1 {
            failure.message = format!("{}; tried {}", failure.message, asked[1..].join(", "));
        }
        Err(failure)
    }

    /// One address, once more for each field of ours that it refuses. With a failure: whether the address is wrong.
    async fn post_to(&self, http: &Http, url: Url, post: &Post, until: Instant) -> Result<Response, (Failure, bool)> {
        let mut without = self.learned().refused;
        loop {
            let mut body = post.body.clone();
            self.omit(&mut body, &without);
            let has = |field: Field| body.get(field.name()).is_some();
            let sent: Vec<Field> = Field::ALL.into_iter().filter(|field| has(*field)).collect();
            let ask = Ask {
                url: url.clone(),
                headers: post.headers.clone(),
                body: Some(body),
                key: post.key.clone(),
            };
            let left = until.saturating_duration_since(Instant::now());
            let failure = match http.send(ask, left, " (llm.first_byte_timeout)").await {
                Ok(response) => {
                    let response = reply::not_a_page(response).map_err(|failure| (failure, true))?;
                    self.learn(|learned| learned.refused = without);
                    return Ok(response);
                }
                Err(failure) => within(failure, post.within),
            };
            match failure.field.filter(|field| sent.contains(field)) {
                Some(field) if may_leave_out(field, &without) => {
                    tracing::info!(
                        url = http::shown(&url),
                        field = field.name(),
                        "asking again without a refused field"
                    );
                    without.insert(field);
                }
                Some(field) => return Err((settable(failure, field), false)),
                None => {
                    let wrong_address = failure.kind == Kind::NoSuchPath;
                    return Err((failure, wrong_address));
                }
            }
        }
    }

    /// Takes fields out; the limit of tokens goes under its other name, unless that is taken out too.
    fn omit(&self, body: &mut Value, fields: &BTreeSet<Field>) {
        let Some(body) = body.as_object_mut() else { return };
        for field in fields {
            let Some(value) = body.remove(field.name()) else {
                continue;
            };
            if let Some(other) =
                other_name(*field).filter(|other| !fields.contains(other) && !self.omitted.contains(other))
            {
                body.insert(other.name().to_owned(), value);
            }
        }
    }

    fn learned(&self) -> Learned {
        self.memory
            .0
            .lock()
            .get(self.bases[0].as_str())
            .cloned()
            .unwrap_or_default()
    }

    fn learn(&self, change: impl FnOnce(&mut Learned)) {
        change(self.memory.0.lock().entry(self.bases[0].to_string()).or_default());
    }
}

/// Fields that this daemon adds itself: the request for usage, and the name of the limit.
fn may_leave_out(field: Field, without: &BTreeSet<Field>) -> bool {
    match field {
        // How much to think is a wish, and a model that cannot think answers all the same.
        Field::StreamOptions | Field::ReasoningEffort | Field::Include => true,
        Field::MaxTokens | Field::MaxCompletionTokens => {
            other_name(field).is_some_and(|other| !without.contains(&other))
        }
        Field::Temperature | Field::ParallelToolCalls | Field::ToolChoice => false,
    }
}

fn other_name(field: Field) -> Option<Field> {
    match field {
        Field::MaxTokens => Some(Field::MaxCompletionTokens),
        Field::MaxCompletionTokens => Some(Field::MaxTokens),
        Field::StreamOptions
        | Field::Temperature
        | Field::ParallelToolCalls
        | Field::ToolChoice
        | Field::ReasoningEffort
        | Field::Include => None,
    }
}

fn settable(mut failure: Failure, field: Field) -> Failure {
    let name = field.name();
    failure.message = format!("{} (llm.omit_fields leaves {name} out for a provider)", failure.message);
    failure
}

/// The whole time is named, not what was left of it for a second request.
fn within(mut failure: Failure, whole: Duration) -> Failure {
    if failure.kind == Kind::Silent && failure.message.starts_with("no answer within") {
        failure.message = format!("no answer within {} s (llm.first_byte_timeout)", whole.as_secs_f64());
    }
    failure
}

/// Where the API may be below an address, the likeliest first.
fn bases(family: Family, given: &Url) -> Vec<Url> {
    let calls: &[&str] = match family {
        Family::OpenAi => &["/chat/completions", "/completions", "/responses", "/models"],
        Family::Versioned(_) => &["/messages", "/models", "/stream"],
    };
    let path = given.path().trim_end_matches('/');
    let at = |path: &str| {
        let mut url = given.clone();
        url.set_path(path);
        url
    };
    // Whoever copied the path of a call has said exactly where it is.
    if let Some(base) = calls.iter().find_map(|call| path.strip_suffix(call)) {
        return vec![at(base)];
    }
    let last = path.rsplit('/').next().unwrap_or_default();
    let is_version = last
        .strip_prefix('v')
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let with_version = |version: &str| at(&format!("{path}/{version}"));
    match family {
        _ if is_version => vec![at(path)],
        Family::Versioned(version) => vec![with_version(version)],
        Family::OpenAi if path.is_empty() => vec![with_version("v1"), at(path)],
        Family::OpenAi => vec![at(path), with_version("v1")],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn urls(family: Family, given: &str, path: &str) -> Vec<String> {
        bases(family, &Url::parse(given).expect("url"))
            .iter()
            .map(|base| http::below(base, path).to_string())
            .collect()
    }

    #[test]
    fn an_address_is_taken_as_people_write_it() {
        for (given, want) in [
            ("http://h/v1", vec!["http://h/v1/chat/completions"]),
            ("http://h/v1/", vec!["http://h/v1/chat/completions"]),
            ("http://h/v1/chat/completions", vec!["http://h/v1/chat/completions"]),
            ("http://h/x/chat/completions/", vec!["http://h/x/chat/completions"]),
            ("http://h/api/v1beta", vec!["http://h/api/v1beta/chat/completions"]),
            (
                "http://h:1",
                vec!["http://h:1/v1/chat/completions", "http://h:1/chat/completions"],
            ),
            (
                "http://h/api",
                vec!["http://h/api/chat/completions", "http://h/api/v1/chat/completions"],
            ),
        ] {
            assert_eq!(urls(Family::OpenAi, given, "/chat/completions"), want, "{given}");
        }
        for given in [
            "https://h",
            "https://h/",
            "https://h/v1",
            "https://h/v1/",
            "https://h/v1/messages",
        ] {
            assert_eq!(
                urls(Family::Versioned("v1"), given, "/messages"),
                ["https://h/v1/messages"],
                "{given}"
            );
        }
    }

    #[test]
    fn a_limit_goes_under_its_other_name_and_by_hand_under_none() {
        let url = Url::parse("http://h/v1").expect("url");
        let endpoint = |omitted: &[Field]| {
            Endpoint::new(
                Family::OpenAi,
                &url,
                omitted.iter().copied().collect(),
                Memory::default(),
            )
        };
        let mut body = json!({"max_tokens": 5, "stream_options": {}, "temperature": 1});
        endpoint(&[]).omit(&mut body, &BTreeSet::from([Field::MaxTokens, Field::StreamOptions]));
        assert_eq!(body, json!({"max_completion_tokens": 5, "temperature": 1}));
        let both = [Field::MaxTokens, Field::MaxCompletionTokens];
        endpoint(&both).omit(&mut body, &both.into_iter().collect());
        assert_eq!(body, json!({"temperature": 1}));
    }
}
