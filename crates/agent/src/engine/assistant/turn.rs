//! Runs one turn, or one step of a run: reads the conversation, asks a model, and passes on its answer.

use std::sync::Arc;

use nexus_daemon::spans::{Span, TraceParent};
use tokio::time::timeout;
use tracing::Instrument;

use super::{
    Style, history,
    kit::{Kit, UNKNOWN_WINDOW},
    outbox::TurnSender,
    request::{self, Show},
    step,
};
use crate::domain::assistant::{
    conversation::PromptMessage,
    window::Budget,
    work::{Ask, Offer, Outbound, Refusal, Work},
};

/// Ends with exactly one last word, unless it is stopped or the orchestrator was told by another call.
pub(super) async fn run(kit: Arc<Kit>, work: Work, sender: TurnSender) {
    let (id, session_id) = (work.followed_by().to_owned(), work.session_id().to_owned());
    let span = tracing::debug_span!("turn", correlation_id = id, session_id);
    let parent: Option<TraceParent> = work.traceparent().and_then(|parent| parent.parse().ok());
    let traced = parent.map_or_else(Span::default, |parent| Span::receive("turn", Some(&parent)));
    traced.note("nexus.correlation_id", id);
    traced.note("nexus.session_id", session_id);
    let last = traced.over(one(&kit, work, &sender).instrument(span)).await;
    if let Some(Outbound::Refusal(refusal)) = &last {
        traced.failed(refusal.code.clone());
    }
    drop(traced);
    if let Some(last) = last {
        sender.say(last);
    }
}

async fn one(kit: &Arc<Kit>, work: Work, sender: &TurnSender) -> Option<Outbound> {
    tracing::debug!("begins");
    let style = kit.style();
    let session_id = work.session_id().to_owned();
    let answer = timeout(style.turn_timeout, answer(kit, &style, work, sender)).await;
    let last = answer.unwrap_or_else(|_| {
        Err(Refusal {
            code: "DEADLINE_EXCEEDED".into(),
            message: format!("no answer within {:?} (agent.turn_timeout)", style.turn_timeout),
            retryable: true,
            keeps_answer: true,
        })
    });
    match last {
        Ok(Some(last)) => {
            tracing::debug!("answered");
            Some(last)
        }
        Ok(None) => {
            tracing::debug!("the step is over");
            None
        }
        Err(refusal) => {
            tracing::warn!(
                session_id,
                code = refusal.code,
                error = refusal.message,
                "a turn has no answer"
            );
            Some(Outbound::Refusal(refusal))
        }
    }
}

async fn answer(kit: &Arc<Kit>, style: &Style, work: Work, sender: &TurnSender) -> Result<Option<Outbound>, Refusal> {
    match work {
        Work::Message(offer) => match &offer.step {
            Some(place) => {
                let (role, style) = step::role(kit, style).await?;
                let tools = step::tools(kit, &role, place, &offer.session_id).await?;
                if tools.is_empty() {
                    return plain(kit, &style, &offer, sender).await;
                }
                match step::room_beside_tools(kit, &style, &offer, &tools).await? {
                    Some(room) => step::first(kit, (&role, &style), &offer, place, (tools, room), sender).await,
                    None => plain(kit, &style, &offer, sender).await,
                }
            }
            None => plain(kit, style, &offer, sender).await,
        },
        Work::Step(next) => step::next(kit, style, *next, sender).await,
    }
}

/// An answer without tools.
async fn plain(kit: &Arc<Kit>, style: &Style, offer: &Offer, sender: &TurnSender) -> Result<Option<Outbound>, Refusal> {
    let work = Work::Message(Box::new(offer.clone()));
    let model = work.model().unwrap_or(&style.model).clone();
    let window = kit.window(&model, style, UNKNOWN_WINDOW).await?;
    let budget = Budget::split(window, style.answer_tokens.into());
    let messages = history::read(kit, style, offer, budget).await?;
    let ask = Ask {
        max_tokens: budget.answer,
        messages: messages.into_iter().map(PromptMessage::Text).collect(),
        ..kit.ask_for(style, &work)
    };
    let whole = request::complete(kit, style, &ask, Show::Text(sender)).await;
    whole
        .map(|whole| Some(Outbound::Answer(whole)))
        .map_err(request::Failure::refusal)
}
