//! Reads a session backwards, page by page: until a model's window is full, or until everything that is not in a summary
//! is there.

use nexus_client::{Error, Kind};

use super::{
    Style,
    kit::{Kit, refusal},
};
use crate::{
    domain::assistant::{
        conversation::PastMessage,
        digest,
        window::{Budget, Entry, Role, Window, tokens},
        work::{Offer, Refusal},
    },
    remote::{Line, Page},
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
    let question = Question {
        session_id: &offer.session_id,
        message_id: offer.message_id.as_deref(),
        text: Some(&offer.text),
    };
    backwards(kit, style, question, |line| window.take_older(line.entry)).await?;
    Ok(window.finish())
}

/// What a run is about, and what was said before it.
pub(super) struct Past {
    /// `None` if the session does not have it.
    pub(super) question: Option<PastMessage>,
    /// Oldest first.
    pub(super) messages: Vec<PastMessage>,
}

/// The messages before a question: those after `summarised`, and of these the newest up to about `most` tokens.
pub(super) async fn past(
    kit: &Kit,
    style: &Style,
    question: Question<'_>,
    summarised: u64,
    most: u64,
) -> Result<Past, Refusal> {
    let mut messages = Vec::new();
    let mut left = most;
    let found = backwards(kit, style, question, |line| {
        if line.sequence != 0 && line.sequence <= summarised {
            return false;
        }
        let calls = line
            .calls
            .as_deref()
            .map(|calls| Entry::new(Role::User, digest::shown(calls)));
        // Newest first: the note stands behind the answer.
        for entry in calls.into_iter().chain([line.entry]) {
            let Some(rest) = left.checked_sub(tokens(&entry.text)) else {
                return false;
            };
            left = rest;
            messages.push(PastMessage {
                sequence: line.sequence,
                entry,
            });
        }
        true
    })
    .await?;
    messages.reverse();
    Ok(Past {
        question: found,
        messages,
    })
}

/// The message that is to be answered.
#[derive(Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) session_id: &'a str,
    /// Absent: the newest one of the session.
    pub(super) message_id: Option<&'a str>,
    /// Its text, where it is known; a newest message with another text belongs to what was said before.
    pub(super) text: Option<&'a str>,
}

/// Hands out the messages before the question, newest first, while `take` wants more. Returns the question as the
/// session has it.
async fn backwards(
    kit: &Kit,
    style: &Style,
    question: Question<'_>,
    mut take: impl FnMut(Line) -> bool,
) -> Result<Option<PastMessage>, Refusal> {
    let mut looked = 0;
    let mut before = None;
    // Until then, what is read lies after the question.
    let mut reached = false;
    let mut found = None;
    loop {
        let limit = PAGE.min(style.history_messages - looked);
        let page = page(kit, question.session_id, limit, before)
            .await
            .map_err(|error| refusal("the conversation cannot be read", &error))?;
        for line in page.messages.into_iter().rev() {
            looked += 1;
            if !reached {
                reached = match question.message_id {
                    Some(id) => id == line.id,
                    None => true,
                };
                let is_question = question.message_id.is_some() || question.text == Some(line.entry.text.as_str());
                if reached && is_question {
                    found = Some(PastMessage {
                        sequence: line.sequence,
                        entry: line.entry,
                    });
                    continue;
                }
                if !reached {
                    continue;
                }
            }
            if !take(line) {
                return Ok(found);
            }
        }
        before = page.before;
        if before.is_none() || looked >= style.history_messages {
            break;
        }
    }
    if !reached && looked > 0 {
        tracing::warn!(
            session_id = question.session_id,
            "the question is not in its session; it is answered alone"
        );
    }
    Ok(found)
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
