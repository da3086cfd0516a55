//! One request to the model daemon, from the question to the last piece of the answer.

use std::{sync::Arc, time::Duration};

use nexus_client::Error;
use nexus_daemon::spans::Span;
use tokio::time::timeout;

use super::{
    Style,
    kit::{Kit, refusal},
    outbox::TurnSender,
};
use crate::domain::assistant::{
    answer::{self, Answer, AnswerUpdate, CompleteAnswer, Limits, ModelEvent},
    work::{Ask, Outbound, Refusal},
};

/// Why a request has no answer.
pub(super) enum Failure {
    /// The model daemon went away, or its answer broke off.
    Lost(Error),
    Silent(Duration),
    Answer(answer::Error),
}

impl Failure {
    /// The same request, asked again, may well succeed: nothing came to an end.
    pub(super) fn broke_off(&self) -> bool {
        match self {
            Failure::Lost(error) => error.is_retryable(),
            Failure::Answer(error) => *error == answer::Error::BrokeOff,
            Failure::Silent(_) => false,
        }
    }

    pub(super) fn refusal(self) -> Refusal {
        match self {
            Failure::Lost(error) => refusal("the model daemon", &error),
            Failure::Silent(idle) => Refusal {
                code: "DEADLINE_EXCEEDED".into(),
                message: format!("the model daemon gave no sign of life for {idle:?} (agent.idle_timeout)"),
                retryable: true,
                keeps_answer: true,
            },
            Failure::Answer(error) => unanswered(error),
        }
    }
}

/// How an answer is passed on while it comes.
#[derive(Clone, Copy)]
pub(super) enum Show<'a> {
    Text(&'a TurnSender),
    TextAndThoughts(&'a TurnSender),
    Nothing,
}

impl Show<'_> {
    fn pass_on(self, update: AnswerUpdate) {
        match (self, update) {
            (Show::Text(sender) | Show::TextAndThoughts(sender), AnswerUpdate::Delta { index, text }) => {
                sender.say(Outbound::Delta { index, text });
            }
            (Show::TextAndThoughts(sender), AnswerUpdate::Thought { index, text }) => {
                sender.say(Outbound::Thought { index, text });
            }
            _ => {}
        }
    }
}

/// Asks, and waits for the whole answer.
pub(super) async fn complete(
    kit: &Arc<Kit>,
    style: &Style,
    ask: &Ask,
    show: Show<'_>,
) -> Result<CompleteAnswer, Failure> {
    let silent = |_| Failure::Silent(style.idle_timeout);
    let asking = Span::call("ask model");
    let mut spoken = timeout(style.idle_timeout, asking.over(kit.ask(ask)))
        .await
        .map_err(silent)?
        .map_err(Failure::Lost)?;
    let mut answer = Answer::new(Limits {
        bytes: style.answer_bytes,
        tokens: ask.max_tokens,
        by_window: ask.max_tokens < style.answer_tokens.into(),
    });
    loop {
        let heard = timeout(style.idle_timeout, spoken.next())
            .await
            .map_err(silent)?
            .map_err(Failure::Lost)?;
        let Some(heard) = heard else { continue };
        show.pass_on(answer.step(heard).map_err(Failure::Answer)?);
        // What follows the completion is not waited for: not every server ends the call itself.
        if answer.is_complete()
            && let AnswerUpdate::Done(whole) = answer.step(ModelEvent::End).map_err(Failure::Answer)?
        {
            if ask.model.is_empty() {
                kit.learn_default(&whole.model);
            }
            return Ok(whole);
        }
    }
}

fn unanswered(error: answer::Error) -> Refusal {
    let message = error.to_string();
    let keeps_answer = error != answer::Error::BrokeOff;
    let (code, retryable) = match error {
        answer::Error::Model { code, retryable, .. } => (code, retryable),
        answer::Error::BrokeOff => ("UNAVAILABLE".to_owned(), true),
        answer::Error::Empty { .. } => ("EMPTY_ANSWER".to_owned(), true),
        answer::Error::Faulty => ("MODEL_ERROR".to_owned(), true),
        answer::Error::TooLong { .. } => ("RESOURCE_EXHAUSTED".to_owned(), false),
    };
    Refusal {
        code,
        message,
        retryable,
        keeps_answer,
    }
}
