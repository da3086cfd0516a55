//! Answers on their way to one client: pieces come in as the orchestrator sends them, frames go out as fast as the
//! client takes them.
//!
//! ```text
//! delta, delta, ... , whole ──▶ what is new ──▶ queue (deltas grow together) ──pull──▶ chunks, statuses
//! ```
//!
//! The client sees every byte of an answer exactly once and in order. Deltas that come again after a reconnect or a
//! second attempt say nothing while they repeat what was sent; an answer that really starts over says so, and its
//! sequence begins at 0 again. Memory is bounded by the answers not yet taken, and the owner asks [`Answers::is_full`].

use nexus_proto::words;
use std::collections::{BTreeMap, VecDeque};

use super::{chunk, message::StoredMessage};

/// Beyond this many bytes nobody asks the orchestrator for more.
const MAX_QUEUED_BYTES: usize = 16 << 20;
const MAX_QUEUED_ITEMS: usize = 1024;

/// How a client wants its answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Tokens as they come, else the whole answer at its end.
    pub deltas: bool,
    /// Bytes at most in a chunk; 0 for any number.
    pub size: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Active,
    Paused,
    Complete,
    Error,
    Cancelled,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    Chunk(Chunk),
    Status(Status),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    pub id: String,
    pub sequence: u32,
    pub text: String,
    pub is_delta: bool,
    pub is_final: bool,
    /// Bytes of the whole answer, or sent so far if the end is not known.
    pub total_bytes: u64,
    pub progress: f64,
    pub extra: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    pub phase: Phase,
    pub message: String,
    pub bytes: u64,
    pub chunks: u64,
    pub started: Option<i64>,
    pub ended: Option<i64>,
}

#[derive(Debug)]
enum Item {
    Begin {
        answer: String,
        in_reply_to: String,
        started: i64,
    },
    Restart,
    Text(String),
    /// What is left of a whole answer, cut chunk by chunk.
    Whole {
        rest: String,
        end: End,
    },
    End(End),
    Say {
        phase: Phase,
        message: String,
    },
}

#[derive(Clone, Debug)]
struct End {
    total: u64,
    extra: BTreeMap<String, String>,
    phase: Phase,
    /// What a reader should know of it.
    message: String,
}

/// The answer that is being produced.
#[derive(Debug, Default)]
struct Current {
    id: String,
    /// What the client has or will get.
    pushed: String,
    /// What has come since it started over, until it says more or something else than `pushed`.
    again: Option<String>,
}

/// What was sent of the answer whose frames are being taken.
#[derive(Debug, Default)]
struct Taken {
    answer: String,
    in_reply_to: String,
    sequence: u32,
    bytes: u64,
    chunks: u64,
    started: Option<i64>,
}

#[derive(Debug)]
pub struct Answers {
    cut: Cut,
    current: Option<Current>,
    queue: VecDeque<Item>,
    queued_bytes: usize,
    taken: Taken,
}

impl Answers {
    pub fn new(cut: Cut) -> Self {
        Answers {
            cut,
            current: None,
            queue: VecDeque::new(),
            queued_bytes: 0,
            taken: Taken::default(),
        }
    }

    pub fn is_full(&self) -> bool {
        self.queued_bytes > MAX_QUEUED_BYTES || self.queue.len() > MAX_QUEUED_ITEMS
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The next frame is a chunk, which may have to wait its turn.
    pub fn is_chunk_next(&self) -> bool {
        matches!(
            self.queue.front(),
            Some(Item::Text(_) | Item::Whole { .. } | Item::End(_))
        )
    }

    /// An answer has begun and not ended.
    pub fn is_answering(&self) -> bool {
        self.current.is_some()
    }

    /// True if it is the first piece of an answer.
    pub fn delta(&mut self, answer: &str, in_reply_to: &str, index: usize, piece: &str, now: i64) -> bool {
        let first = self.begin(answer, in_reply_to, now);
        let Some(current) = &mut self.current else { return first };
        if current.id != answer {
            // The turn was given to another agent: another answer, which starts over.
            current.id = answer.into();
            current.again = Some(String::new());
        } else if index == 0 && !current.text().is_empty() {
            current.again = Some(String::new());
        }
        let text = current.again.as_mut().unwrap_or(&mut current.pushed);
        // A hole is filled by the whole answer at its end; what overlaps is here already.
        let Some(fresh) = text.len().checked_sub(index).and_then(|known| piece.get(known..)) else {
            return first;
        };
        if !self.cut.deltas || fresh.is_empty() {
            return first;
        }
        text.push_str(fresh);
        match current.again.take() {
            None => self.push_text(fresh.to_owned()),
            Some(again) => self.catch_up(again, false),
        }
        first
    }

    /// The answer is whole. True if nothing of it came before.
    pub fn finish(&mut self, said: StoredMessage, now: i64) -> bool {
        let in_reply_to = said.in_reply_to().to_owned();
        let first = self.begin(&said.id, &in_reply_to, now);
        let (phase, message) = match (said.broke_off(), said.cut_short()) {
            _ if said.is_cancelled() => (Phase::Cancelled, ""),
            (Some(error), _) => (Phase::Error, error),
            (None, Some(why)) => (Phase::Complete, why),
            (None, None) => (Phase::Complete, ""),
        };
        let message = message.to_owned();
        let mut extra = said.extra;
        extra.insert(words::data::MESSAGE_ID.into(), said.id);
        if said.sequence > 0 {
            extra.insert("sequence".into(), said.sequence.to_string());
        }
        let end = End {
            total: said.content.len() as u64,
            extra,
            phase,
            message,
        };
        if self.cut.deltas {
            self.catch_up(said.content, true);
            self.queue.push_back(Item::End(end));
        } else {
            self.queued_bytes += said.content.len();
            self.queue.push_back(Item::Whole {
                rest: said.content,
                end,
            });
        }
        self.current = None;
        first
    }

    /// The answer will not come, or not go on.
    pub fn fail(&mut self, error: &str) {
        self.current = None;
        self.say(Phase::Error, error);
    }

    pub fn say(&mut self, phase: Phase, message: &str) {
        self.queue.push_back(Item::Say {
            phase,
            message: message.into(),
        });
    }

    /// Leaves out what is queued.
    pub fn discard(&mut self) {
        self.current = None;
        self.queue.clear();
        self.queued_bytes = 0;
    }

    /// The next frame for the client.
    pub fn next(&mut self, now: i64) -> Option<Frame> {
        match self.queue.pop_front()? {
            Item::Begin {
                answer,
                in_reply_to,
                started,
            } => {
                self.taken = Taken {
                    answer,
                    in_reply_to,
                    started: Some(started),
                    ..Taken::default()
                };
                Some(self.status(Phase::Active, String::new(), None))
            }
            Item::Restart => {
                self.taken.sequence = 0;
                self.taken.bytes = 0;
                Some(self.status(Phase::Active, "the answer starts over".into(), None))
            }
            Item::Text(text) => {
                let (piece, rest) = text.split_at(chunk::cut(&text, self.cut.size));
                if !rest.is_empty() {
                    self.queue.push_front(Item::Text(rest.to_owned()));
                }
                self.queued_bytes -= piece.len();
                Some(self.chunk(piece.to_owned(), true, None))
            }
            Item::Whole { rest, end } => {
                let (piece, rest) = rest.split_at(chunk::cut(&rest, self.cut.size));
                self.queued_bytes -= piece.len();
                let last = rest.is_empty();
                let frame = self.chunk(piece.to_owned(), false, Some((&end, last)));
                if last {
                    self.complete(&end);
                } else {
                    self.queue.push_front(Item::Whole {
                        rest: rest.to_owned(),
                        end,
                    });
                }
                Some(frame)
            }
            Item::End(end) => {
                let frame = self.chunk(String::new(), false, Some((&end, true)));
                self.complete(&end);
                Some(frame)
            }
            Item::Say { phase, message } => {
                let ends = matches!(phase, Phase::Complete | Phase::Error | Phase::Cancelled);
                Some(self.status(phase, message, ends.then_some(now)))
            }
        }
    }

    fn begin(&mut self, answer: &str, in_reply_to: &str, now: i64) -> bool {
        if self.current.is_some() {
            return false;
        }
        self.current = Some(Current {
            id: answer.into(),
            ..Current::default()
        });
        let (answer, in_reply_to) = (answer.into(), in_reply_to.into());
        self.queue.push_back(Item::Begin {
            answer,
            in_reply_to,
            started: now,
        });
        true
    }

    /// `text` is the answer from its beginning, all of it if `whole`: says what the client does not have yet.
    fn catch_up(&mut self, text: String, whole: bool) {
        let Some(current) = &mut self.current else { return };
        if let Some(fresh) = text.strip_prefix(current.pushed.as_str()) {
            let fresh = fresh.to_owned();
            current.pushed = text;
            self.push_text(fresh);
        } else if !whole && current.pushed.starts_with(&text) {
            current.again = Some(text);
        } else {
            current.pushed.clone_from(&text);
            self.queue.push_back(Item::Restart);
            self.push_text(text);
        }
    }

    fn push_text(&mut self, text: String) {
        if text.is_empty() {
            return;
        }
        self.queued_bytes += text.len();
        match self.queue.back_mut() {
            Some(Item::Text(waiting)) => waiting.push_str(&text),
            _ => self.queue.push_back(Item::Text(text)),
        }
    }

    /// The status follows its last chunk at once, whatever else is queued.
    fn complete(&mut self, end: &End) {
        self.queue.push_front(Item::Say {
            phase: end.phase,
            message: end.message.clone(),
        });
    }

    fn chunk(&mut self, text: String, is_delta: bool, end: Option<(&End, bool)>) -> Frame {
        let taken = &mut self.taken;
        taken.bytes += text.len() as u64;
        let is_final = end.is_some_and(|(_, last)| last);
        let total_bytes = end.map_or(taken.bytes, |(end, _)| end.total);
        #[expect(clippy::cast_precision_loss, reason = "a fraction for a progress bar needs no more")]
        let progress = match end {
            Some((_, true)) => 1.0,
            Some((end, false)) => taken.bytes as f64 / end.total.max(1) as f64,
            None => 0.0,
        };
        let extra = match end {
            Some((end, true)) => end.extra.clone(),
            _ => BTreeMap::from([
                (words::data::MESSAGE_ID.into(), taken.answer.clone()),
                (words::extra::IN_REPLY_TO.into(), taken.in_reply_to.clone()),
            ]),
        };
        let chunk = Chunk {
            id: format!("{}-{}", taken.answer, taken.chunks),
            sequence: taken.sequence,
            text,
            is_delta,
            is_final,
            total_bytes,
            progress,
            extra,
        };
        taken.sequence += 1;
        taken.chunks += 1;
        Frame::Chunk(chunk)
    }

    fn status(&self, phase: Phase, message: String, ended: Option<i64>) -> Frame {
        let Taken {
            bytes, chunks, started, ..
        } = self.taken;
        Frame::Status(Status {
            phase,
            message,
            bytes,
            chunks,
            started,
            ended,
        })
    }
}

impl Current {
    fn text(&self) -> &str {
        self.again.as_deref().unwrap_or(&self.pushed)
    }
}

#[cfg(test)]
mod tests;
