//! Runs one turn: reads the conversation, asks a model, and passes on its answer.

use std::sync::Arc;

use nexus_daemon::spans::{Span, TraceParent};
use tokio::time::timeout;
use tracing::Instrument;

use super::{Style, history, kit::Kit, outbox::TurnSender};
use crate::{
    domain::assistant::{
        answer::{self, Answer, AnswerUpdate, CompleteAnswer, Limits, ModelEvent},
        window::Budget,
    },
    remote::{Ask, Offer, Outbound, Refusal, refusal},
};

/// Ends with exactly one last word, unless it is stopped.
pub(super) async fn run(kit: Arc<Kit>, offer: Offer, sender: TurnSender) {
    let id = followed_by(&offer);
    let span = tracing::debug_span!("turn", correlation_id = id, session_id = offer.session_id);
    let parent: Option<TraceParent> = offer.traceparent.as_ref().and_then(|parent| parent.parse().ok());
    let traced = parent.map_or_else(Span::default, |parent| Span::receive("turn", Some(&parent)));
    traced.note("nexus.correlation_id", id.to_owned());
    traced.note("nexus.session_id", offer.session_id.clone());
    let last = traced.over(one(&kit, &offer, &sender).instrument(span)).await;
    if let Outbound::Refusal(refusal) = &last {
        traced.failed(refusal.code.clone());
    }
    drop(traced);
    sender.say(last);
}

/// What the logs of all daemons call this message.
fn followed_by(offer: &Offer) -> &str {
    let known = offer.followed_by.as_ref().or(offer.message_id.as_ref());
    known.map_or(&offer.turn.0, |id| id)
}

async fn one(kit: &Arc<Kit>, offer: &Offer, sender: &TurnSender) -> Outbound {
    tracing::debug!("begins");
    let style = kit.style();
    let answer = timeout(style.turn_timeout, answer(kit, &style, offer, sender)).await;
    let last = answer.unwrap_or_else(|_| {
        Err(Refusal {
            code: "DEADLINE_EXCEEDED".into(),
            message: format!("no answer within {:?} (agent.turn_timeout)", style.turn_timeout),
            retryable: true,
            keeps_answer: true,
        })
    });
    match last {
        Ok(whole) => {
            tracing::debug!(model = whole.model, "answered");
            Outbound::Answer(whole)
        }
        Err(refusal) => {
            tracing::warn!(
                session_id = offer.session_id,
                code = refusal.code,
                error = refusal.message,
                "a turn has no answer"
            );
            Outbound::Refusal(refusal)
        }
    }
}

async fn answer(kit: &Arc<Kit>, style: &Style, offer: &Offer, sender: &TurnSender) -> Result<CompleteAnswer, Refusal> {
    let model = offer.model.clone().unwrap_or_else(|| style.model.clone());
    let window = kit.window(&model, style).await?;
    let budget = Budget::split(window, style.answer_tokens.into());
    let chosen_there = model.is_empty();
    let ask = Ask {
        session_id: offer.session_id.clone(),
        correlation_id: offer.turn.0.clone(),
        followed_by: followed_by(offer).to_owned(),
        model,
        provider: style.provider.clone(),
        max_tokens: budget.answer,
        temperature: style.temperature,
        messages: history::read(kit, style, offer, budget).await?,
    };
    let lost = |error: nexus_client::Error| refusal("the model daemon", &error);
    let silent = || Refusal {
        code: "DEADLINE_EXCEEDED".into(),
        message: format!(
            "the model daemon gave no sign of life for {:?} (agent.idle_timeout)",
            style.idle_timeout
        ),
        retryable: true,
        keeps_answer: true,
    };

    let asking = Span::call("ask model");
    let mut spoken = timeout(style.idle_timeout, asking.over(kit.ask(&ask)))
        .await
        .map_err(|_| silent())?
        .map_err(lost)?;
    let mut answer = Answer::new(Limits {
        bytes: style.answer_bytes,
        tokens: budget.answer,
        by_window: budget.answer < style.answer_tokens.into(),
    });
    loop {
        let heard = timeout(style.idle_timeout, spoken.next())
            .await
            .map_err(|_| silent())?
            .map_err(lost)?;
        let Some(heard) = heard else { continue };
        match answer.step(heard).map_err(unanswered)? {
            AnswerUpdate::Delta { index, text } => sender.say(Outbound::Delta { index, text }),
            AnswerUpdate::Done(_) | AnswerUpdate::Nothing => {}
        }
        // What follows the completion is not waited for: not every server ends the call itself.
        if answer.is_complete()
            && let AnswerUpdate::Done(whole) = answer.step(ModelEvent::End).map_err(unanswered)?
        {
            if chosen_there {
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
