//! Runs one step of a run: one request with tools. An answer without calls ends the run; calls are handed to the
//! orchestrator, which offers the next step when each has its result.
//!
//! ```text
//!   first step ─▶ session's messages ─┐                       ┌─ text, first step ─▶ the answer, on the stream
//!                                     ├─▶ room ─▶ model ──────┼─ text, later ──────▶ FinishStep: the run ends
//!   later step ─▶ memory, or GetRun ──┘                       └─ calls ────────────▶ FinishStep ─▶ memory
//! ```

use std::{collections::HashMap, sync::Arc, time::Duration};

use nexus_client::Kind;
use nexus_proto::{llm::v1::Tool, words};
use tokio::time::sleep;

use super::{
    Style, compact, history,
    kit::{Kit, UNKNOWN_WINDOW_WITH_TOOLS, refusal},
    outbox::TurnSender,
    prompt,
    request::{self, Failure, Show},
};
use crate::domain::assistant::{
    answer::{self, CompleteAnswer, Finish},
    compaction::Room,
    conversation::{Conversation, PastMessage},
    digest,
    role::AssistantRole,
    window::{Budget, Entry, Role},
    work::{Ask, FinishedStep, NextStep, Offer, Outbound, Refusal, StepPlace, Work},
};

/// A model request of a later step is made so often, if the model daemon goes away in the middle of it.
const ATTEMPTS: u32 = 3;
/// FinishStep is tried so often.
const FINISH_ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);

/// What the model is told in its last step.
const LAST: &str = "This run has reached its limit of steps or time. No tool can be called any more. Report now what was \
                    done, what you found, and what is left.";
/// What the model is told after an answer without a word or a call.
const EMPTY: &str = "Your answer was empty. Answer the user, or call a tool.";

/// A step with everything it needs.
struct StepRun<'a> {
    kit: &'a Arc<Kit>,
    style: &'a Style,
    work: &'a Work,
    place: &'a StepPlace,
    sender: &'a TurnSender,
    tools: Arc<Vec<Tool>>,
    room: Room,
    last: bool,
}

/// The tools of a run that the role may use. Asked for again only when their digest changes.
pub(super) async fn tools(
    kit: &Kit,
    role: &AssistantRole,
    place: &StepPlace,
    session_id: &str,
) -> Result<Arc<Vec<Tool>>, Refusal> {
    let tools = kit.tools(place, session_id).await;
    let tools = tools.map_err(|error| refusal("the tools cannot be read", &error))?;
    if tools.iter().all(|tool| role.may_use(&tool.name)) {
        return Ok(tools);
    }
    let allowed = tools.iter().filter(|tool| role.may_use(&tool.name));
    Ok(Arc::new(allowed.cloned().collect()))
}

/// What the role says where the settings and the message say nothing.
pub(super) async fn role(kit: &Kit, style: &Style) -> Result<(AssistantRole, Style), Refusal> {
    let role = prompt::role(kit, style).await.map_err(|message| Refusal {
        code: "FAILED_PRECONDITION".into(),
        message,
        retryable: false,
        keeps_answer: false,
    })?;
    let mut style = style.clone();
    if !role.model.is_empty() {
        style.model.clone_from(&role.model);
    }
    if !role.provider.is_empty() {
        style.provider.clone_from(&role.provider);
    }
    Ok((role, style))
}

/// How the model's window is divided. `None` if the definitions of the tools leave less than half of it for the
/// conversation.
pub(super) async fn room_beside_tools(
    kit: &Arc<Kit>,
    style: &Style,
    offer: &Offer,
    tools: &[Tool],
) -> Result<Option<Room>, Refusal> {
    let room = room(kit, style, offer.model.as_ref(), tools).await?;
    if room.tools * 2 <= room.input() {
        return Ok(Some(room));
    }
    tracing::warn!(
        window = room.window,
        tools = room.tools,
        "the model's window is too small for the tools; it answers without them"
    );
    Ok(None)
}

pub(super) async fn first(
    kit: &Arc<Kit>,
    (role, style): (&AssistantRole, &Style),
    offer: &Offer,
    place: &StepPlace,
    (tools, room): (Arc<Vec<Tool>>, Room),
    sender: &TurnSender,
) -> Result<Option<Outbound>, Refusal> {
    let work = Work::Message(Box::new(offer.clone()));
    let question = history::Question {
        session_id: &offer.session_id,
        message_id: offer.message_id.as_deref(),
        text: Some(&offer.text),
    };
    let (mut conversation, found) = begin(kit, (role, style), question, &room).await?;
    conversation.question = PastMessage {
        sequence: found.map_or(0, |found| found.sequence),
        entry: Entry::new(Role::User, offer.text.clone()),
    };
    conversation.notes = offer.note.iter().cloned().collect();
    let step = StepRun {
        kit,
        style,
        work: &work,
        place,
        sender,
        tools,
        room,
        last: false,
    };
    step.run(conversation).await
}

pub(super) async fn next(
    kit: &Arc<Kit>,
    style: &Style,
    next: NextStep,
    sender: &TurnSender,
) -> Result<Option<Outbound>, Refusal> {
    let (role, style) = &role(kit, style).await?;
    let (last, mut previous) = (next.last, next.previous.clone());
    let work = Work::Step(Box::new(next));
    let place = work.place().expect("a later step always has its place").clone();
    let tools = if last {
        Arc::default()
    } else {
        tools(kit, role, &place, work.session_id()).await?
    };
    let room = room(kit, style, work.model(), &tools).await?;
    let known = kit.memory.take(work.session_id(), &place.run_id, previous.number);
    let mut conversation = match known {
        Some(known) => known,
        None => restore(kit, (role, style), &work, &place, &room).await?,
    };
    if last {
        previous.notes.push(LAST.into());
    }
    conversation.add_step(previous);
    let step = StepRun {
        kit,
        style,
        work: &work,
        place: &place,
        sender,
        tools,
        room,
        last,
    };
    step.run(conversation).await
}

/// The window of the model that is asked.
async fn room(kit: &Arc<Kit>, style: &Style, asked: Option<&String>, tools: &[Tool]) -> Result<Room, Refusal> {
    let model = asked.unwrap_or(&style.model);
    let window = kit.window(model, style, UNKNOWN_WINDOW_WITH_TOOLS).await?;
    let size = |tool: &Tool| tool.name.len() + tool.description.len() + tool.input_schema_json.len();
    let bytes: usize = tools.iter().map(size).sum();
    Ok(Room {
        window,
        answer: Budget::split(window, style.answer_tokens.into()).answer,
        tools: (bytes as u64).div_ceil(3),
    })
}

/// The conversation before a run's first step, and the question as the session has it.
async fn begin(
    kit: &Kit,
    (role, style): (&AssistantRole, &Style),
    question: history::Question<'_>,
    room: &Room,
) -> Result<(Conversation, Option<PastMessage>), Refusal> {
    let summary = kit.memory.summary(question.session_id);
    let summarised = summary.as_ref().map_or(0, |summary| summary.through_sequence);
    // What does not fit is summed up, and a model can sum up about a window.
    let most = room.window.saturating_mul(2);
    let past = history::past(kit, style, question, summarised, most).await?;
    let unknown = PastMessage {
        sequence: 0,
        entry: Entry::new(Role::User, ""),
    };
    let mut conversation = Conversation::new(
        prompt::system(kit, style, role, question.session_id, room.window).await,
        unknown,
    );
    conversation.summary = summary;
    conversation.past = past.messages;
    Ok((conversation, past.question))
}

/// A run that this process does not know: read whole from the orchestrator.
async fn restore(
    kit: &Kit,
    setup: (&AssistantRole, &Style),
    work: &Work,
    place: &StepPlace,
    room: &Room,
) -> Result<Conversation, Refusal> {
    tracing::debug!(
        run_id = place.run_id,
        step = place.step,
        "reading a run that is not known here"
    );
    let run = kit.orchestrator.run(&place.run_id).await;
    let run = run.map_err(|error| refusal("the run cannot be read", &error))?;
    let question = history::Question {
        session_id: work.session_id(),
        message_id: Some(&run.message_id),
        text: None,
    };
    let (mut conversation, found) = begin(kit, setup, question, room).await?;
    conversation.question = found.ok_or_else(|| Refusal {
        code: "NOT_FOUND".into(),
        message: format!("the message {} of the run is not in its session", run.message_id),
        retryable: false,
        keeps_answer: false,
    })?;
    let before = |step: &nexus_proto::orchestrator::v1::RunStep| step.number < place.step && step.finished_at.is_some();
    conversation.restore(run.steps.into_iter().filter(before).collect());
    Ok(conversation)
}

impl StepRun<'_> {
    async fn run(&self, mut conversation: Conversation) -> Result<Option<Outbound>, Refusal> {
        compact::make_room(
            self.kit,
            self.style,
            self.work,
            self.sender,
            &mut conversation,
            &self.room,
        )
        .await?;
        let mut whole = match self.ask(&conversation).await {
            Err(Failure::Answer(error)) if is_empty(&error) => {
                let mut told = conversation.clone();
                match told.steps.last_mut() {
                    Some(step) => step.notes.push(EMPTY.into()),
                    None => told.notes.push(EMPTY.into()),
                }
                self.ask(&told).await
            }
            result => result,
        }
        .map_err(Failure::refusal)?;
        if self.last {
            whole.drop_calls();
            if whole.text.is_empty() {
                return Err(no_report());
            }
        }
        if whole.has_calls() {
            return self.finish(whole, HashMap::new(), Some(conversation)).await;
        }
        if self.place.step <= 1 {
            return Ok(Some(Outbound::Answer(whole)));
        }
        let calls = digest::of(conversation.steps.iter());
        let extra = [
            (words::extra::TOOL_CALLS, calls),
            (words::extra::CUT_SHORT, whole.cut_short.clone().unwrap_or_default()),
        ];
        let extra = extra.into_iter().filter(|(_, value)| !value.is_empty());
        let extra = extra.map(|(name, value)| (name.to_owned(), value)).collect();
        self.finish(whole, extra, None).await
    }

    async fn ask(&self, conversation: &Conversation) -> Result<CompleteAnswer, Failure> {
        let ask = Ask {
            max_tokens: self.room.answer,
            messages: conversation.messages(),
            tools: self.tools.clone(),
            ..self.kit.ask_for(self.style, self.work)
        };
        // The first step fails as an answer without tools does: nothing is lost with it.
        let attempts = if self.place.step > 1 { ATTEMPTS } else { 1 };
        let mut attempt = 1;
        loop {
            match request::complete(self.kit, self.style, &ask, Show::TextAndThoughts(self.sender)).await {
                Err(failure) if failure.broke_off() && attempt < attempts => {
                    tracing::info!(
                        run_id = self.place.run_id,
                        step = self.place.step,
                        attempt,
                        "asking the model again"
                    );
                    attempt += 1;
                    sleep(PAUSE).await;
                }
                result => return result,
            }
        }
    }

    /// Hands the answer to the orchestrator. The run is remembered if it goes on.
    async fn finish(
        &self,
        answer: CompleteAnswer,
        extra: HashMap<String, String>,
        conversation: Option<Conversation>,
    ) -> Result<Option<Outbound>, Refusal> {
        // Pieces that come after the end of their step are of no use to anyone.
        self.sender.drained().await;
        let finished = FinishedStep {
            agent_id: self.sender.agent_id().to_owned(),
            place: self.place.clone(),
            answer,
            extra,
        };
        // The next step may be offered before the call returns.
        if let Some(conversation) = conversation {
            self.kit
                .memory
                .keep(self.work.session_id(), &self.place.run_id, conversation);
        }
        let mut attempt = 1;
        loop {
            match self.kit.orchestrator.finish_step(finished.clone()).await {
                Ok(()) => return Ok(None),
                Err(error) if matches!(error.kind, Kind::Precondition | Kind::NotFound) => {
                    tracing::debug!(%error, run_id = self.place.run_id, "the step belongs to nobody any more, or to another");
                    return Ok(None);
                }
                Err(error) if error.is_retryable() && attempt < FINISH_ATTEMPTS => {
                    tracing::info!(%error, run_id = self.place.run_id, attempt, "a step could not be finished");
                    attempt += 1;
                    sleep(PAUSE).await;
                }
                Err(error) => return Err(refusal("the step could not be finished", &error)),
            }
        }
    }
}

/// Whether the model ended its answer of its own accord, without a word or a call.
fn is_empty(error: &answer::Error) -> bool {
    matches!(
        error,
        answer::Error::Empty {
            finish: Finish::Stop | Finish::ToolUses,
            ..
        }
    )
}

fn no_report() -> Refusal {
    Refusal {
        code: "RESOURCE_EXHAUSTED".into(),
        message: "the run reached its limit of steps or time, and the model gave no report".into(),
        retryable: false,
        keeps_answer: false,
    }
}
