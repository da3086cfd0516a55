//! Reports one task to the orchestrator over StreamTask, over as many streams as it takes.
//!
//! ```text
//!   open ─▶ RUNNING ─▶ output* ─▶ result ─▶ told that the task is over: done
//!     ▲                   │ lost
//!     └───── pause ◀──────┘           a result is kept for ten minutes while nobody takes it
//! ```

use std::sync::Arc;
use std::time::Duration;

use nexus_client::{Error, Kind};
use nexus_proto::agent::v1::{StreamTaskRequest, StreamTaskResponse, TaskState};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::wire::{Frame, News, is_over};
use crate::engine::worker::{Cancel, Output};
use crate::remote::Orchestrator;

/// How long a result is kept for an orchestrator that is away.
const KEPT: Duration = Duration::from_secs(600);
/// A sign of life on a stream on which nothing else is said.
const HEARTBEAT: Duration = Duration::from_secs(20);
/// Frames under way.
const AHEAD: usize = 4;
/// Between a stream that the orchestrator ended and the next.
const PAUSE: Duration = Duration::from_millis(100);

/// What a task is reported with.
pub struct Subject {
    pub orchestrator: Orchestrator,
    /// The id that we are registered with; another one after the orchestrator forgot us.
    pub agent: watch::Receiver<Option<String>>,
    pub task_id: String,
    pub cancel: Cancel,
    /// The task was offered once more: whoever offers it does not know of our stream.
    pub reopen: Arc<Notify>,
}

pub struct Reporter {
    output: Output,
    result: watch::Sender<Option<Frame>>,
    reporting: JoinHandle<()>,
}

impl Reporter {
    pub fn start(subject: Subject) -> Reporter {
        let output = Output::default();
        let (result, given) = watch::channel(None);
        let report = Report {
            subject,
            output: output.clone(),
            result: given,
            until: None,
        };
        Reporter {
            output,
            result,
            reporting: tokio::spawn(report.run()),
        }
    }

    pub fn output(&self) -> Output {
        self.output.clone()
    }

    /// Until the orchestrator has the result, or nobody took it in time.
    pub async fn finish(self, result: Frame) {
        self.result.send_replace(Some(result));
        if let Err(error) = self.reporting.await {
            tracing::error!(%error, "a report ended with an error");
        }
    }
}

struct Report {
    subject: Subject,
    output: Output,
    result: watch::Receiver<Option<Frame>>,
    /// When a result that nobody takes is given up.
    until: Option<Instant>,
}

/// How a stream ended.
enum End {
    /// Nothing more is to be said.
    Told,
    /// The orchestrator ended it, or asked for another.
    Again,
    Lost(Error),
}

impl Report {
    async fn run(mut self) {
        let mut backoff = self.subject.orchestrator.backoff();
        loop {
            let mut result = self.result.clone();
            let end = tokio::select! {
                end = Self::stream(&self.subject, &self.output, &mut result) => end,
                () = given_up(&mut self.result, &mut self.until) => {
                    tracing::warn!(task = self.subject.task_id, "nobody took the result of a task");
                    return;
                }
            };
            match end {
                End::Told => return,
                End::Again => {
                    if self.is_over().await {
                        return;
                    }
                    sleep(PAUSE).await;
                }
                End::Lost(error) => {
                    tracing::debug!(task = self.subject.task_id, %error, "a report was interrupted");
                    // It may be over, or nobody's: or it is still held by the id that we had before.
                    let refused = matches!(error.kind, Kind::NotFound | Kind::Precondition | Kind::Denied);
                    if refused && self.is_over().await {
                        return;
                    }
                    tokio::select! {
                        _more = backoff.wait() => {}
                        () = self.subject.reopen.notified() => {}
                        () = given_up(&mut self.result, &mut self.until) => return,
                    }
                }
            }
        }
    }

    /// Whether the task is over for the orchestrator. Unless it has a result, the work ends too.
    async fn is_over(&self) -> bool {
        match self.subject.orchestrator.task(&self.subject.task_id).await {
            Ok(task) if is_over(&task) => {
                if task.state() != TaskState::Completed {
                    self.subject.cancel.cancel(false);
                }
                true
            }
            Ok(_) => false,
            Err(error) if error.kind == Kind::NotFound => {
                self.subject.cancel.cancel(false);
                true
            }
            Err(_) => false,
        }
    }

    async fn stream(subject: &Subject, output: &Output, result: &mut watch::Receiver<Option<Frame>>) -> End {
        let Some(agent_id) = known(&subject.agent).await else {
            return End::Lost(Error::new(Kind::Cancelled, "the worker stops"));
        };
        let (frames, receiver) = mpsc::channel(AHEAD);
        let hello = Frame::Running(String::new()).encode(&subject.task_id);
        // There is room for the first one.
        let _ = frames.try_send(hello);
        let opened = subject
            .orchestrator
            .work_on(&agent_id, ReceiverStream::new(receiver))
            .await;
        let mut stream = match opened {
            Ok(stream) => stream,
            Err(error) => return End::Lost(error),
        };
        let mut told = false;
        loop {
            let ready = !told && (!output.is_empty() || result.borrow().is_some());
            tokio::select! {
                biased;
                news = next(&mut stream) => match news {
                    Ok(Some(news)) => match News::of_task(news, &subject.task_id) {
                        News::Cancel { force, .. } => subject.cancel.cancel(force),
                        // Also of a task that was over before, whose process may go on.
                        News::Over => return End::Told,
                        _ => {}
                    },
                    Ok(None) if told => return End::Told,
                    Ok(None) => return End::Again,
                    Err(error) => return End::Lost(error),
                },
                permit = frames.reserve(), if ready => match permit {
                    Ok(permit) => told = send(permit, subject, output, result),
                    // The stream ended; how is read above.
                    Err(_) => sleep(PAUSE).await,
                },
                () = subject.reopen.notified() => return End::Again,
                () = output.more(), if !told => {}
                _changed = result.changed(), if !told => {}
                () = sleep(HEARTBEAT) => {
                    let _full = frames.try_send(Frame::Heartbeat.encode(&subject.task_id));
                }
            }
        }
    }
}

/// Output first, the result behind it. Whether that was the result.
fn send(
    permit: mpsc::Permit<'_, StreamTaskRequest>,
    subject: &Subject,
    output: &Output,
    result: &watch::Receiver<Option<Frame>>,
) -> bool {
    if let Some((message, sent)) = output.announced() {
        permit.send(Frame::Running(message).encode(&subject.task_id));
        let _gone = sent.try_send(());
        return false;
    }
    let result = result.borrow().clone();
    if let Some(piece) = output.take() {
        let frame = Frame::Output {
            sequence: piece.sequence,
            bytes: piece.bytes,
        };
        permit.send(frame.encode(&subject.task_id));
        return false;
    }
    let Some(result) = result else { return false };
    permit.send(result.encode(&subject.task_id));
    true
}

async fn next(stream: &mut Streaming<StreamTaskResponse>) -> Result<Option<StreamTaskResponse>, Error> {
    Ok(stream.message().await?)
}

/// The id that we are registered with; `None` when the worker has stopped.
async fn known(agent: &watch::Receiver<Option<String>>) -> Option<String> {
    let mut agent = agent.clone();
    agent.wait_for(Option::is_some).await.ok().and_then(|id| id.clone())
}

/// Once there has been a result for too long. Never before there is one.
async fn given_up(result: &mut watch::Receiver<Option<Frame>>, until: &mut Option<Instant>) {
    if result.wait_for(Option::is_some).await.is_err() {
        std::future::pending::<()>().await;
    }
    let until = *until.get_or_insert_with(|| Instant::now() + KEPT);
    sleep_until(until).await;
}
