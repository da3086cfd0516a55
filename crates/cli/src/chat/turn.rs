//! One turn under way: takes what both streams bring, and tells the screen.

use std::{collections::HashSet, time::Duration};

use nexus_client::Connection;
use nexus_proto::{
    orchestrator::v1::{
        Approval, Event, GetRunRequest, Message, MessageRole, RunEnd, RunEvent, StreamMessageResponse, TextDelta,
        run_event::Kind, stream_message_response::Payload,
    },
    words,
};
use tokio::time::{Instant, timeout};

use super::{
    answer::Answer,
    consent::{self, Todo, Typed},
    following::{Change, Following, Whose},
    limits::Limits,
    news::{News, NewsStream},
    screen::Screen,
    session::Session,
    talk::{End, Style},
};
use crate::{
    context::runs,
    failure::Failure,
    output::{
        calls,
        ended::{Ended, ended},
    },
};

/// Where the pieces of the text come from.
#[derive(Debug)]
enum Pieces {
    /// Not known yet: those that came with the messages wait.
    Unknown(Vec<(String, usize, String)>),
    News,
    Messages,
}

/// How long the end of a run is waited for, which says what it used.
const SETTLE: Duration = Duration::from_millis(300);
/// Nothing more comes of a run without calls after so much silence: its message has all of the text.
const QUIET: Duration = Duration::from_millis(5);
/// The same where the message has nothing, and the run may say more.
const QUIET_ERROR: Duration = Duration::from_millis(100);

/// What may be the last message of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// The answer of a run that called tools.
    OfCalls,
    OfText,
    Error,
}

impl Last {
    /// `None`: the turn goes on after it.
    pub fn of(frame: &StreamMessageResponse) -> Option<Last> {
        match &frame.payload {
            Some(Payload::Message(message)) if message.role() == MessageRole::Assistant => {
                let extra = message.metadata.as_ref().map(|metadata| &metadata.extra);
                let calls = extra.is_some_and(|extra| extra.contains_key(words::extra::TOOL_CALLS));
                Some(if calls { Last::OfCalls } else { Last::OfText })
            }
            Some(Payload::Event(event)) if event.data.contains_key("error") => Some(Last::Error),
            Some(Payload::Message(_) | Payload::Event(_) | Payload::Heartbeat(())) | None => None,
        }
    }
}

/// Pieces that wait until it is known where they come from.
const WAITING: usize = 256;

pub struct Turn {
    pub message: Message,
    pub cancelled: Option<Instant>,
    /// By `/stop`.
    pub stopped: bool,
    pub heard: Instant,
    pub following: Following,
    /// The final message.
    pub content: String,
    answer: Answer,
    /// The step that `answer` is the text of; zero: whatever comes.
    step: i32,
    /// That text is whole: what comes next is the text of another step.
    closed: bool,
    pieces: Pieces,
    /// JSON has the pieces of the text as news of the run.
    news_text: bool,
    limit: Option<String>,
}

impl Turn {
    /// `sole`: no other run can be in the session.
    pub fn new(message: Message, sole: bool, news_text: bool) -> Turn {
        Turn {
            following: Following::new(&message.id, sole),
            message,
            cancelled: None,
            stopped: false,
            heard: Instant::now(),
            content: String::new(),
            answer: Answer::default(),
            step: 0,
            closed: false,
            news_text,
            pieces: Pieces::Unknown(Vec::new()),
            limit: None,
        }
    }

    /// News are asked for again.
    pub fn news_begin(&mut self) {
        self.pieces = Pieces::Unknown(Vec::new());
    }

    /// The limit that was passed just now: the run is to be ended.
    pub fn passed(&mut self, limits: &Limits) -> Option<String> {
        if self.limit.is_some() || self.cancelled.is_some() {
            return None;
        }
        self.limit = self.following.beyond(limits);
        if self.limit.is_some() {
            self.cancelled = Some(Instant::now());
        }
        self.limit.clone()
    }

    /// How it ended, with what is known of the run.
    pub fn ended(&mut self, end: End) -> End {
        let by_run = self.following.end();
        if let Some(limit) = &self.limit {
            return End::Limit(limit.clone());
        }
        match (end, by_run) {
            (End::Answered, _) => End::Answered,
            (_, Some((RunEnd::Stopped, _))) => End::Stopped,
            (End::Cancelled, _) if self.stopped => End::Stopped,
            (End::Failed(_), Some((RunEnd::Cancelled, _))) => End::Cancelled,
            // Elsewhere, before anything was said. That nothing may start at all has to be told.
            (End::Failed(error), _) if error.starts_with("CANCEL") && !error.contains("is stopped") => End::Cancelled,
            (end, _) => end,
        }
    }

    /// Before its last message: takes the news that came before it, which travel beside it.
    pub async fn settle(
        &mut self,
        last: &Last,
        news: &mut NewsStream,
        connection: &Connection,
        style: &mut Style,
        screen: &mut Screen<'_>,
    ) -> Result<(), Failure> {
        let until = Instant::now() + SETTLE;
        while matches!(self.pieces, Pieces::News) && self.following.end().is_none() {
            let quiet = match last {
                // Its run says that it has ended.
                _ if self.following.is_told() => SETTLE,
                Last::OfCalls => SETTLE,
                Last::OfText => QUIET,
                Last::Error => QUIET_ERROR,
            };
            let left = until.saturating_duration_since(Instant::now()).min(quiet);
            match timeout(left, news.next()).await {
                Ok(News::Lost) | Err(_) => break,
                Ok(one) => self.take_news(one, connection, style, screen, false).await?,
            }
        }
        Ok(())
    }

    pub async fn take_news(
        &mut self,
        news: News,
        connection: &Connection,
        style: &mut Style,
        screen: &mut Screen<'_>,
        somebody: bool,
    ) -> Result<(), Failure> {
        match news {
            News::Opened => self.pieces = Pieces::News,
            News::Absent | News::Lost => {
                let before = std::mem::replace(&mut self.pieces, Pieces::Messages);
                if let Pieces::Unknown(waiting) = before {
                    for (id, index, delta) in waiting {
                        self.piece(&id, index, &delta, screen)?;
                    }
                }
            }
            News::Event(event) => self.take_run_event(*event, connection, style, screen, somebody).await?,
        }
        Ok(())
    }

    async fn take_run_event(
        &mut self,
        event: RunEvent,
        connection: &Connection,
        style: &mut Style,
        screen: &mut Screen<'_>,
        somebody: bool,
    ) -> Result<(), Failure> {
        if let Some(Kind::Approval(approval)) = &event.kind {
            // Also those of runs that ours has delegated to.
            if screen.is_json() {
                screen.event(&event, style.news_text)?;
            }
            return self.approval(approval, connection, style, screen, somebody).await;
        }
        let mut whose = self.following.whose(&event);
        if whose == Whose::Unknown {
            let request = GetRunRequest {
                run_id: event.run_id.clone(),
            };
            if let Ok(found) = runs(connection).get_run(request).await {
                self.following.learn(&found.into_inner().run.unwrap_or_default());
            }
            whose = self.following.whose(&event);
        }
        let is_gap = matches!(event.kind, Some(Kind::Gap(_)));
        if whose != Whose::Ours && !is_gap {
            return Ok(());
        }
        if screen.is_json() {
            screen.event(&event, style.news_text)?;
        }
        match event.kind {
            Some(Kind::Run(run)) => self.following.run(&run),
            Some(Kind::Step(step)) => {
                self.following.step(&step);
                // What was said of it before this stream began.
                let text = calls::text(&step.blocks);
                if step.finished_at.is_none() && !text.is_empty() {
                    let so_far = TextDelta {
                        step: step.number,
                        text,
                        ..TextDelta::default()
                    };
                    self.text(&so_far, screen)?;
                }
            }
            Some(Kind::Text(text)) => self.text(&text, screen)?,
            Some(Kind::Call(update)) => {
                let call = update.call.unwrap_or_default();
                let change = self.following.call(&call);
                self.closed = true;
                if screen.wants_text() {
                    match change {
                        Change::Began => screen.call_began(&call)?,
                        Change::Ended => screen.call_ended(&call)?,
                        Change::Nothing => {}
                    }
                }
            }
            Some(Kind::Output(output)) => self.following.output(&output.call_id, output.offset, &output.data),
            Some(Kind::Gap(_)) if screen.wants_text() => screen.note("(some of what happened is not shown)")?,
            Some(Kind::Gap(_) | Kind::Approval(_)) | None => {}
        }
        Ok(())
    }

    /// A piece of the text of a step, from the news.
    fn text(&mut self, text: &TextDelta, screen: &mut Screen<'_>) -> Result<(), Failure> {
        self.following.text(text.step);
        if text.thinking || !screen.wants_text() {
            return Ok(());
        }
        // Each step has a text of its own.
        if self.closed || self.step != text.step {
            self.step = text.step;
            self.another_text(screen)?;
        }
        let index = usize::try_from(text.index).unwrap_or(usize::MAX);
        if let Some(show) = self.answer.delta("", index, &text.text) {
            screen.text(&show)?;
        }
        Ok(())
    }

    fn another_text(&mut self, screen: &mut Screen<'_>) -> Result<(), Failure> {
        self.closed = false;
        self.answer = Answer::default();
        if screen.wants_text() {
            screen.end_line()?;
        }
        Ok(())
    }

    /// A piece of the text that came with the messages: shown if none come with the news.
    fn message_piece(&mut self, id: &str, index: usize, delta: &str, screen: &mut Screen<'_>) -> Result<(), Failure> {
        match &mut self.pieces {
            Pieces::News => Ok(()),
            Pieces::Messages => self.piece(id, index, delta, screen),
            Pieces::Unknown(waiting) => {
                if waiting.len() < WAITING {
                    waiting.push((id.to_owned(), index, delta.to_owned()));
                }
                Ok(())
            }
        }
    }

    fn piece(&mut self, id: &str, index: usize, delta: &str, screen: &mut Screen<'_>) -> Result<(), Failure> {
        if !screen.wants_text() {
            return Ok(screen.piece(index, delta)?);
        }
        if let Some(show) = self.answer.delta(id, index, delta) {
            screen.text(&show)?;
        }
        Ok(())
    }

    async fn approval(
        &mut self,
        approval: &Approval,
        connection: &Connection,
        style: &mut Style,
        screen: &mut Screen<'_>,
        somebody: bool,
    ) -> Result<(), Failure> {
        let over = approval.state() != nexus_proto::orchestrator::v1::ApprovalState::Pending;
        if over && screen.wants_text() {
            screen.decided(approval, "")?;
        }
        match style.consent.came(approval, somebody, screen.rows()) {
            Todo::Nothing => {}
            Todo::Show(lines) => screen.asked(&lines)?,
            Todo::Elsewhere => screen.elsewhere(approval)?,
            Todo::Decide(request, why) => match consent::decide(connection, *request).await {
                Ok(_) => screen.decided(approval, why)?,
                // Somebody else was faster; the news says who.
                Err(failure) => screen.note(&format!("not decided here: {failure}"))?,
            },
        }
        Ok(())
    }

    /// A line that a person typed. `Some`: it answers nothing that was asked.
    pub async fn typed(
        &mut self,
        line: String,
        connection: &Connection,
        style: &mut Style,
        screen: &mut Screen<'_>,
    ) -> Result<Option<String>, Failure> {
        match style.consent.typed(&line) {
            Typed::NotAsked => return Ok((!line.trim().is_empty()).then_some(line)),
            Typed::Show(lines) => screen.asked(&lines)?,
            Typed::Decide(request) => {
                if let Err(failure) = consent::decide(connection, *request).await {
                    screen.note(&format!("not decided here: {failure}"))?;
                }
                if let Todo::Show(lines) = style.consent.answered(screen.rows()) {
                    screen.asked(&lines)?;
                }
            }
        }
        Ok(None)
    }

    /// `Some`: the turn is over.
    pub fn take(
        &mut self,
        frame: StreamMessageResponse,
        session: &mut Session,
        own: &HashSet<String>,
        screen: &mut Screen<'_>,
    ) -> Result<Option<End>, Failure> {
        match frame.payload {
            Some(Payload::Message(message)) => self.take_message(&message, session, own, screen),
            Some(Payload::Event(event)) => self.take_event(&event, session, screen),
            Some(Payload::Heartbeat(())) | None => Ok(None),
        }
    }

    fn take_message(
        &mut self,
        message: &Message,
        session: &mut Session,
        own: &HashSet<String>,
        screen: &mut Screen<'_>,
    ) -> Result<Option<End>, Failure> {
        if message.sequence != 0 && message.sequence <= session.cursor {
            return Ok(None);
        }
        session.cursor = session.cursor.max(message.sequence);
        if own.contains(&message.id) {
            return Ok(None);
        }
        let extra = message.metadata.as_ref().map(|metadata| &metadata.extra);
        // A server without that extension answers one message at a time, so the next answer is ours.
        let replies_to = extra.and_then(|extra| extra.get(words::extra::IN_REPLY_TO));
        let ours = message.role() == MessageRole::Assistant && replies_to.is_none_or(|id| *id == self.message.id);
        if !ours {
            screen.message(&session.id, message, false)?;
            return Ok(None);
        }
        self.content.clone_from(&message.content);
        self.following.answered(message);
        if self.closed {
            self.another_text(screen)?;
        }
        if screen.wants_text()
            && let Some(show) = self.answer.whole(&message.content)
        {
            screen.text(&show)?;
        }
        screen.message(&session.id, message, true)?;
        let stopped = extra.is_some_and(|extra| extra.contains_key(words::extra::CANCELLED));
        if stopped || self.cancelled.is_some() {
            screen.stopped()?;
            return Ok(Some(End::Cancelled));
        }
        match ended(message) {
            Some(Ended::Incomplete(error)) => {
                screen.failed(&session.id, &error)?;
                return Ok(Some(End::BrokeOff(error)));
            }
            Some(how) => screen.ended(&how)?,
            None => {}
        }
        Ok(Some(End::Answered))
    }

    fn take_event(
        &mut self,
        event: &Event,
        session: &mut Session,
        screen: &mut Screen<'_>,
    ) -> Result<Option<End>, Failure> {
        let data = |key: &str| event.data.get(key).map(String::as_str);
        if let Some(error) = data("error") {
            if data(words::data::MESSAGE_ID).is_some_and(|id| id != self.message.id) {
                return Ok(None);
            }
            if self.cancelled.is_some() {
                screen.stopped()?;
                return Ok(Some(End::Cancelled));
            }
            screen.failed(&session.id, error)?;
            return Ok(Some(End::Failed(error.to_owned())));
        }
        if let (Some(delta), Some(id)) = (data("delta"), data(words::data::MESSAGE_ID)) {
            let index = data("index").and_then(|index| index.parse().ok()).unwrap_or_default();
            if !screen.wants_text() && !self.news_text {
                screen.delta(&session.id, id, index, delta)?;
            } else {
                self.message_piece(id, index, delta, screen)?;
            }
            return Ok(None);
        }
        if let (Some(_), Some(content)) = (data("role"), data("content")) {
            screen.other(MessageRole::User, content)?;
        }
        Ok(None)
    }
}
