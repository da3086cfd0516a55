//! `nexus chat`: one message and its answer, or a conversation.
//!
//! ```text
//!   prompt or argument ──▶ talk (two streams for each turn, again after a loss) ──▶ turn ──┬─▶ answer (what is new) ──▶ screen
//!                                                                                          ├─▶ following (its run, calls)
//!                                                                                          └─▶ consent (what waits for it)
//! ```
//!
//! `nexus run` follows its one turn the same way.
//!
//! The conversation itself lives in the orchestrator: nothing is kept here but the ids of this run, so any client may
//! go on with it.

mod answer;
pub mod consent;
pub mod following;
pub mod limits;
mod lines;
mod news;
mod prompt;
pub mod rules;
pub mod screen;
pub mod session;
mod slash;
pub mod stop;
pub mod talk;
mod turn;
mod work;

use std::io::{self, IsTerminal, Read};

use crate::{
    args::ChatArgs,
    context::Context,
    failure::{Exit, Failure},
    output::{Output, clean, table::table},
};

use consent::{Consent, Manner};
use limits::Limits;
use screen::Screen;
use slash::Typed;
use talk::{End, Style, Talk};

pub const BROKE_OFF: &str = "the answer is incomplete, it broke off";

/// More than this from standard input is not a message.
const LARGEST_INPUT: u64 = 16 << 20;

pub async fn run(context: &Context, args: ChatArgs, output: &Output) -> Result<Exit, Failure> {
    let message = match args.message.is_empty() {
        false => Some(args.message.join(" ")),
        true if io::stdin().is_terminal() => None,
        true => Some(input()?),
    };
    if message.is_none() && (output.json || !output.terminal) {
        return Err(Failure::usage("a conversation needs a terminal").hint("give a message: nexus chat \"hello\""));
    }
    if message.as_ref().is_some_and(|message| message.trim().is_empty()) {
        return Err(Failure::usage("the message is empty"));
    }
    let connection = context.connection();
    let found = session::choose(&connection, &args).await?;
    let style = Style {
        client: session::CHAT,
        config: None,
        consent: Consent::new(Manner::Ask, Vec::new(), "chat"),
        limits: Limits::default(),
        news_text: false,
    };
    let mut talk = Talk::new(connection, found, args.model.clone(), args.timeout, style)?;
    let mut screen = Screen::new(output);
    match message {
        // Before a model sees it.
        Some(message) if slash::is_stop(&message) => {
            if talk.session_id().is_none() {
                return Err(
                    Failure::usage("stop ends what runs in a conversation, and none is named")
                        .hint("name one: nexus stop SESSION; everything: nexus stop --all"),
                );
            }
            let said = talk.stop().await?;
            output.note(&said);
            Ok(Exit::Ok)
        }
        Some(message) => once(&mut talk, &mut screen, message).await,
        None => converse(context, &mut talk, &mut screen, output).await,
    }
}

pub fn input() -> Result<String, Failure> {
    let failed = |error: io::Error| Failure::new(Exit::Failed, format!("failed to read the message: {error}"));
    let mut text = String::new();
    io::stdin()
        .lock()
        .take(LARGEST_INPUT + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if text.len() as u64 > LARGEST_INPUT {
        return Err(Failure::usage(format!(
            "standard input is larger than {LARGEST_INPUT} bytes"
        )));
    }
    Ok(text.trim_end().to_owned())
}

async fn once(talk: &mut Talk, screen: &mut Screen<'_>, message: String) -> Result<Exit, Failure> {
    let turned = match talk.turn(message, screen).await {
        Ok(turned) => turned,
        Err(failure) => {
            screen.broken(&failure)?;
            return Err(failure);
        }
    };
    match turned.end {
        End::Answered => Ok(Exit::Ok),
        End::Cancelled => Ok(Exit::Interrupted),
        End::Stopped => Ok(Exit::Stopped),
        End::Limit(limit) => Err(Failure::new(Exit::Limit, limit)),
        End::Failed(error) => Err(explain("no answer", &error)),
        End::BrokeOff(error) => Err(explain(BROKE_OFF, &error)),
    }
}

async fn converse(
    context: &Context,
    talk: &mut Talk,
    screen: &mut Screen<'_>,
    output: &Output,
) -> Result<Exit, Failure> {
    let mut prompt = prompt::Prompt::open(context)?;
    screen.greet(talk.recent());
    loop {
        let text = match talk.typed_ahead() {
            Some(line) => {
                output.note(&output.dim(&format!("you> {}", clean(&line))));
                line
            }
            None => {
                let (back, line) = prompt.ask().await?;
                prompt = back;
                match line {
                    prompt::Line::Text(text) if text.trim().is_empty() => continue,
                    prompt::Line::Text(text) => text,
                    prompt::Line::Interrupted => continue,
                    prompt::Line::End => break,
                }
            }
        };
        let text = match slash::read(text) {
            Typed::Message(text) => text,
            Typed::Quit => break,
            asked => {
                match obey(asked, talk, output).await {
                    Ok(()) => {}
                    Err(failure) if failure.quiet => return Err(failure),
                    Err(failure) => drop(output.fail(&failure)),
                }
                continue;
            }
        };
        match talk.turn(text, screen).await {
            Ok(turned) => {
                screen.used(&turned.following)?;
                match turned.end {
                    End::Answered | End::Cancelled | End::Stopped => {}
                    End::Limit(limit) => output.note(&limit),
                    End::Failed(error) => drop(output.fail(&explain("no answer", &error))),
                    End::BrokeOff(error) => drop(output.fail(&explain(BROKE_OFF, &error))),
                }
            }
            Err(failure) if failure.quiet => return Err(failure),
            // The conversation stays; the next message tries again.
            Err(failure) => drop(output.fail(&failure)),
        }
    }
    if let Some(id) = talk.session_id() {
        output.note(&output.dim(&format!("go on with: nexus chat --session {id}")));
    }
    Ok(Exit::Ok)
}

/// Conversations that `/sessions` lists.
const LISTED: usize = 10;

async fn obey(asked: Typed, talk: &mut Talk, output: &Output) -> Result<(), Failure> {
    match asked {
        Typed::Help => output.note(slash::HELP),
        Typed::New => {
            talk.begin_another();
            output.note("the next message begins another conversation");
        }
        Typed::Model(None) => match talk.model() {
            Some(model) => output.note(&format!("{model} is asked")),
            None => output.note("the default model is asked; which there are: nexus models"),
        },
        Typed::Model(Some(name)) => {
            output.note(&format!("{} is asked from now on", clean(&name)));
            talk.ask_model(name);
        }
        Typed::Sessions => {
            let latest = session::listed(talk.connection(), LISTED).await?;
            let rows = latest.into_iter().map(|(id, name, changed)| [id, name, changed]);
            output.line(table(output, ["ID", "NAME", "CHANGED"], rows))?;
        }
        Typed::Stop => {
            let said = talk.stop().await?;
            output.note(&said);
        }
        Typed::Unknown(word) => output.note(&format!(
            "there is no /{}; what there is: /help. A message that begins with a slash takes two: //",
            clean(&word)
        )),
        Typed::Message(_) | Typed::Quit => {}
    }
    Ok(())
}

/// A turn that failed, in the words of the daemon, with what helps against it.
pub fn explain(what: &str, error: &str) -> Failure {
    let failure = Failure::new(Exit::Failed, format!("{what}: {error}"));
    if error.contains("assistant agent not found") {
        failure.hint("no assistant is connected; start it with: nexus up")
    } else {
        failure.hint("the message is kept; see how the daemons are: nexus status")
    }
}
