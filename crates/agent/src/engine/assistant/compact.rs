//! Makes a run fit its model's window before a request: what the domain cannot do alone, a model sums up.

use std::{sync::Arc, time::Duration};

use nexus_client::Kind;
use tokio::time::timeout;

use super::{
    Style,
    kit::{Kit, new_mark, refusal},
    outbox::TurnSender,
    request::{self, Show},
};
use crate::domain::assistant::{
    compaction::{self, Fit, Room},
    conversation::{Conversation, PromptMessage},
    transcript,
    window::{Entry, Role},
    work::{Ask, Refusal, Work},
};

/// The longest summary, in tokens.
const SUMMARY_TOKENS: u64 = 2_048;
/// Bytes of a token in the text for a summary: a careful guess.
const BYTES_PER_TOKEN: u64 = 3;
/// A transcript that the model does not take is halved so often.
const HALVES: u32 = 3;
/// The log is not searched longer for a summary: another one can be made.
const SEARCH: Duration = Duration::from_secs(5);

pub(super) async fn make_room(
    kit: &Arc<Kit>,
    style: &Style,
    work: &Work,
    sender: &TurnSender,
    conversation: &mut Conversation,
    room: &Room,
) -> Result<(), Refusal> {
    let mut searched = conversation.summary.is_some();
    loop {
        let cut = match conversation.make_room(room).map_err(too_large)? {
            Fit::Fits => return Ok(()),
            Fit::Summarise(cut) => cut,
        };
        if !std::mem::replace(&mut searched, true) && resume(kit, work, conversation).await {
            continue;
        }
        let mark = new_mark();
        let text = summarise(kit, style, work, room, |bytes| {
            transcript::request(conversation, cut, &mark, bytes)
        })
        .await?;
        tracing::info!(
            session_id = work.session_id(),
            messages = cut.messages,
            steps = cut.steps,
            "older messages and steps were summed up"
        );
        conversation.summarised(cut, text, mark, room);
        let (Some(summary), Some(place)) = (&conversation.summary, work.place()) else {
            continue;
        };
        let stored = kit
            .orchestrator
            .compact(sender.agent_id(), place, work.session_id(), summary)
            .await;
        match stored {
            Ok(()) => {}
            // The run was ended meanwhile; its end comes as a cancel.
            Err(error) if error.kind == Kind::NotFound => tracing::debug!(%error, "a summary was not stored"),
            Err(error) => return Err(refusal("the summary could not be stored", &error)),
        }
        kit.memory.keep_summary(work.session_id(), summary);
    }
}

/// Takes up the summary that a process before this one made. False if there is none.
async fn resume(kit: &Kit, work: &Work, conversation: &mut Conversation) -> bool {
    let session_id = work.session_id();
    let found = match timeout(SEARCH, kit.orchestrator.stored_summary(session_id)).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            tracing::debug!(%error, session_id, "the log could not be searched for a summary");
            None
        }
        Err(_) => {
            tracing::debug!(session_id, "the search for a summary takes too long");
            None
        }
    };
    let run_id = work.place().map_or("", |place| &place.run_id);
    let resumed = found.is_some_and(|stored| conversation.resume(stored, run_id));
    if let (true, Some(summary)) = (resumed, &conversation.summary) {
        kit.memory.keep_summary(session_id, summary);
    }
    resumed
}

/// Asks a model to sum up, in plain text and without tools. A transcript that is too long for it is made shorter.
async fn summarise(
    kit: &Arc<Kit>,
    style: &Style,
    work: &Work,
    room: &Room,
    transcript: impl Fn(usize) -> String,
) -> Result<String, Refusal> {
    let max_tokens = SUMMARY_TOKENS.min(room.window / 4).max(1);
    let tokens = room.window.saturating_sub(max_tokens) / 10 * 9;
    let mut bytes = usize::try_from(tokens.saturating_mul(BYTES_PER_TOKEN)).unwrap_or(usize::MAX);
    bytes = bytes.saturating_sub(transcript::INSTRUCTIONS.len());
    let mut half = 0;
    loop {
        let ask = Ask {
            max_tokens,
            messages: vec![
                PromptMessage::Text(Entry::new(Role::System, transcript::INSTRUCTIONS)),
                PromptMessage::Text(Entry::new(Role::User, transcript(bytes))),
            ],
            ..kit.ask_for(style, work)
        };
        let refusal = match request::complete(kit, style, &ask, Show::Nothing).await {
            Ok(whole) => return Ok(whole.text),
            Err(failure) => failure.refusal(),
        };
        if half == HALVES || !matches!(refusal.code.as_str(), "INVALID_ARGUMENT" | "OUT_OF_RANGE") {
            return Err(Refusal {
                message: format!("the conversation could not be summed up: {}", refusal.message),
                keeps_answer: false,
                ..refusal
            });
        }
        half += 1;
        bytes /= 2;
    }
}

fn too_large(error: compaction::Error) -> Refusal {
    let code = match error {
        compaction::Error::TooLong { .. } => "INVALID_ARGUMENT",
        compaction::Error::Fruitless { .. } => "CONTEXT",
    };
    Refusal {
        code: code.into(),
        message: error.to_string(),
        retryable: false,
        keeps_answer: false,
    }
}
