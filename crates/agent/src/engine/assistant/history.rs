//! Reads a conversation backwards, page by page, until the model's context window is full.

use nexus_client::{Error, Kind};

use super::{Style, kit::Kit};
use crate::{
    domain::assistant::window::{Budget, Entry, Role, Window},
    remote::{Offer, Page, Refusal, refusal},
};

const PAGE: u32 = 100;

/// The conversation up to the message that is asked about, as a model gets it. What was said after it belongs to later
/// turns.
pub(super) async fn read(kit: &Kit, style: &Style, offer: &Offer, budget: Budget) -> Result<Vec<Entry>, Refusal> {
    let current = Entry::new(Role::User, offer.text.clone());
    let mut window = Window::open(budget, &style.system_prompt, current).map_err(|error| Refusal {
        code: "INVALID_ARGUMENT".into(),
        message: error.to_string(),
        retryable: false,
        keeps_answer: false,
    })?;
    let mut looked = 0;
    let mut before = None;
    // Until then, what is read lies after the question.
    let mut reached = false;
    loop {
        let limit = PAGE.min(style.history_messages - looked);
        let page = page(kit, &offer.session_id, limit, before)
            .await
            .map_err(|error| refusal("the conversation cannot be read", &error))?;
        for line in page.messages.into_iter().rev() {
            looked += 1;
            if !reached {
                reached = match &offer.message_id {
                    Some(id) => *id == line.id,
                    None => true,
                };
                let question = offer.message_id.is_some() || line.entry.text == offer.text;
                if question || !reached {
                    continue;
                }
            }
            if !window.take_older(line.entry) {
                return Ok(window.finish());
            }
        }
        before = page.before;
        if before.is_none() || looked >= style.history_messages {
            break;
        }
    }
    if !reached && looked > 0 {
        tracing::warn!(
            session_id = offer.session_id,
            "the question is not in its session; it is answered alone"
        );
    }
    Ok(window.finish())
}

/// A page that would be too large for one message is asked for again, smaller.
async fn page(kit: &Kit, session_id: &str, mut limit: u32, before: Option<u64>) -> Result<Page, Error> {
    loop {
        match kit.orchestrator.page(session_id, limit, before).await {
            Err(error) if error.kind == Kind::Exhausted && limit > 1 => limit /= 2,
            result => return result,
        }
    }
}
