//! The model that is none: no network, always the same answer to the same conversation, and it says what it is. It lets
//! a first look see a whole conversation stream, and programs be tried without a key. With a script it says what the
//! script says, tool calls included.

mod script;

use std::{collections::VecDeque, path::PathBuf, time::Duration};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream};

use self::script::Script;
use super::{Call, Pieces, Provider};
use crate::{
    domain::{
        answer::{Finish, Piece},
        catalogue::{self, Model},
        failure::{Failure, Kind},
        request::{Message, Request, Role},
    },
    keys::Key,
};

const HIGHEST_COUNT: u32 = 10_000;

pub struct Offline {
    pace: Duration,
    script: Option<PathBuf>,
}

impl Offline {
    pub fn new(pace: Duration, script: Option<PathBuf>) -> Self {
        Self { pace, script }
    }
}

impl Provider for Offline {
    fn name(&self) -> &str {
        catalogue::OFFLINE
    }

    fn needs_key(&self) -> bool {
        false
    }

    fn is_endpoint(&self) -> bool {
        false
    }

    fn answer(&self, call: Call) -> Pieces {
        let pace = self.pace;
        let unknown = |text: String| stream::iter([Err(Failure::new(Kind::UnknownModel, text))]).boxed();
        match (call.model.as_str(), &self.script) {
            (catalogue::OFFLINE_MODEL | catalogue::SCRIPT_MODEL, Some(path)) => {
                let said = scripted(path.clone(), call);
                let answer = move |said: Result<VecDeque<Piece>, Failure>| match said {
                    Ok(pieces) => paced(pieces, pace),
                    Err(failure) => stream::iter([Err(failure)]).boxed(),
                };
                said.map(answer).flatten_stream().boxed()
            }
            (catalogue::OFFLINE_MODEL, None) => paced(pieces(&call.request), pace),
            (catalogue::SCRIPT_MODEL, None) => {
                unknown("has no script: name its file in llm.offline_script (docs/MODELS.md)".into())
            }
            (other, _) => unknown(format!("has no model {other:?}, only {}", catalogue::OFFLINE_MODEL)),
        }
    }

    fn models(&self, _: Option<Key>, _: Duration) -> BoxFuture<'static, Result<Vec<Model>, Failure>> {
        let mut models = catalogue::models(catalogue::OFFLINE);
        if self.script.is_some() {
            models.push(Model {
                id: catalogue::SCRIPT_MODEL.into(),
                name: "Nexus offline, from a script".into(),
                tools: true,
                ..models[0].clone()
            });
        }
        async { Ok(models) }.boxed()
    }
}

/// The file is read for each request, so it can be changed at any time.
async fn scripted(path: PathBuf, call: Call) -> Result<VecDeque<Piece>, Failure> {
    let read = tokio::task::spawn_blocking(move || Script::read(&path)).await;
    let script = read.map_err(|error| Failure::new(Kind::Broken, error.to_string()))??;
    script.answer(&call.request).map(VecDeque::from)
}

fn paced(pieces: VecDeque<Piece>, pace: Duration) -> Pieces {
    stream::unfold((pieces, true), move |(mut pieces, first)| async move {
        let piece = pieces.pop_front()?;
        if !first && !pace.is_zero() && matches!(piece, Piece::Text(_)) {
            tokio::time::sleep(pace).await;
        }
        Some((Ok::<_, Failure>(piece), (pieces, false)))
    })
    .boxed()
}

fn pieces(request: &Request) -> VecDeque<Piece> {
    let whole = text(request);
    let words: Vec<&str> = whole.split_inclusive([' ', '\n']).collect();
    let limit = request.parameters.max_tokens.map_or(usize::MAX, |most| most as usize);
    let said = words.len().min(limit);
    let asked = request
        .messages
        .iter()
        .map(|message| message.joined_text().split_whitespace().count() as u64)
        .sum();
    let finish = if said < words.len() {
        Finish::Length
    } else {
        Finish::Stop
    };
    let mut pieces: VecDeque<Piece> = words[..said]
        .iter()
        .map(|word| Piece::Text((*word).to_owned()))
        .collect();
    pieces.push_back(Piece::Usage {
        input: Some(asked),
        output: Some(said as u64),
    });
    pieces.push_back(Piece::Finish(finish));
    pieces
}

fn text(request: &Request) -> String {
    let said: Vec<String> = request
        .messages
        .iter()
        .filter(|message| message.role == Role::User)
        .map(Message::joined_text)
        .collect();
    let last = said.last().map(|text| text.trim()).unwrap_or_default();
    let body = body(last);
    if said.len() <= 1 {
        return format!("{WHAT_I_AM}\n\n{body}\n\n{HOW_TO_LEAVE}");
    }
    let first: String = said[0].trim().chars().take(60).collect();
    format!(
        "(offline model) {body}\n\nThis was message {} of yours in this conversation; it began with \"{first}\".",
        said.len()
    )
}

const WHAT_I_AM: &str = "This is the offline model of Nexus. There is no language model behind it: it repeats and counts, \
    so that you see the whole line work, from your terminal through the daemons and back.";

const HOW_TO_LEAVE: &str = "For real answers give Nexus a key:\n  nexus models key set anthropic\n\
    (or openai, openrouter), or run Ollama and ask for one of its models:\n  nexus chat --model ollama/llama3.2";

const COMMANDS: &str = "Commands for a first look:\n  \
    nexus status                  what is running, and how it fares\n  \
    nexus chat                    talk; Ctrl-C stops an answer, Ctrl-D leaves\n  \
    nexus sessions list           conversations; show, export and delete them\n  \
    nexus events --follow         everything that happens, as it happens\n  \
    nexus agents                  who is registered\n  \
    nexus models                  which models can be asked\n  \
    nexus down                    stop everything; nothing is lost";

fn body(last: &str) -> String {
    let lower = last.to_lowercase();
    let words: Vec<&str> = lower
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect();
    if let Some(count) = count_asked(&words) {
        return (1..=count)
            .map(|number| number.to_string())
            .collect::<Vec<_>>()
            .join(" ");
    }
    let asks = |topics: &[&str]| words.iter().any(|word| topics.contains(word));
    if asks(&["help", "commands", "command", "nexus"]) {
        return COMMANDS.into();
    }
    let (words, characters) = (last.split_whitespace().count(), last.chars().count());
    let plural = |count: usize| if count == 1 { "" } else { "s" };
    let measure = format!(
        "{words} word{}, {characters} character{}",
        plural(words),
        plural(characters)
    );
    let greeting = if asks(&["hello", "hi", "hey"]) { "Hello! " } else { "" };
    format!(
        "{greeting}You wrote: \"{last}\" ({measure}). Ask for \"help\" to see the commands, or say \"count to 20\"."
    )
}

/// `count to 20`: an answer as long as one likes.
fn count_asked(words: &[&str]) -> Option<u32> {
    let place = words.windows(2).position(|pair| pair == ["count", "to"])?;
    words
        .get(place + 2)?
        .parse::<u32>()
        .ok()
        .filter(|count| (1..=HIGHEST_COUNT).contains(count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::request::Parameters;

    fn ask(messages: &[&str], max_tokens: Option<u32>) -> Vec<Piece> {
        let request = Request {
            messages: messages.iter().map(|text| Message::text(Role::User, *text)).collect(),
            parameters: Parameters {
                max_tokens,
                ..Parameters::default()
            },
            ..Request::new("r")
        };
        pieces(&request).into()
    }

    fn text(pieces: &[Piece]) -> String {
        pieces
            .iter()
            .filter_map(|piece| {
                if let Piece::Text(text) = piece {
                    Some(text.as_str())
                } else {
                    None
                }
            })
            .collect()
    }

    #[test]
    fn says_what_it_is_and_how_to_get_a_real_one() {
        let answer = text(&ask(&["hello"], None));
        for part in [
            "no language model",
            "\"hello\" (1 word, 5 characters)",
            "nexus models key set",
        ] {
            assert!(answer.contains(part), "{part} in {answer}");
        }
        assert_eq!(ask(&["hello"], None), ask(&["hello"], None));
    }

    #[test]
    fn knows_the_conversation_and_the_limit() {
        assert!(text(&ask(&["red", "blue"], None)).contains("message 2 of yours"));
        let cut = ask(&["count to 50"], Some(5));
        assert_eq!(cut.last(), Some(&Piece::Finish(Finish::Length)));
        assert_eq!(text(&cut).split_whitespace().count(), 5);
        assert!(text(&ask(&["please count to 12", "count to 3"], None)).contains("1 2 3\n"));
    }
}
