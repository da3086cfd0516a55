//! Shows a conversation: streamed text for people, one JSON object per line for programs.

use std::{
    io::{self, IsTerminal, Write},
    time::Instant,
};

use nexus_proto::orchestrator::v1::{Message, MessageRole};
use serde_json::json;

use crate::{
    failure::Failure,
    output::{Output, clean, ended::Ended, table::cut, view, wrap::Wrap},
};

/// What is new in an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Show {
    Append(String),
    /// All of it so far; what was shown before is void.
    Again(String),
}

pub struct Screen<'a> {
    output: &'a Output,
    /// Where the lines of a terminal break.
    wrap: Option<Wrap>,
    /// The last thing written did not end its line.
    open: bool,
    /// Standard error is a terminal: what runs now is shown in a line that changes.
    progress: bool,
    /// That line is there.
    drawn: bool,
    began: Instant,
}

/// Columns of a terminal that does not say how many it has.
const COLUMNS: usize = 80;
/// Its rows, likewise.
const ROWS: usize = 24;

impl<'a> Screen<'a> {
    pub fn new(output: &'a Output) -> Self {
        Screen {
            output,
            wrap: output.columns().map(Wrap::new),
            open: false,
            progress: !output.json && io::stderr().is_terminal(),
            drawn: false,
            began: Instant::now(),
        }
    }

    /// Lines that a person sees at once.
    pub fn rows(&self) -> usize {
        rows().unwrap_or(ROWS)
    }

    /// Seconds that this screen has been shown.
    pub fn age(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    pub fn is_json(&self) -> bool {
        self.output.json
    }

    pub fn output(&self) -> &Output {
        self.output
    }

    /// A line for people beside the answer; whatever others wrote in it is made harmless where it is shown.
    pub fn note(&mut self, text: &str) -> io::Result<()> {
        self.end_line()?;
        self.output.note(text);
        Ok(())
    }

    /// The line of what runs now, in the place of the one before. Text that has not ended its line is not cut in two.
    pub fn draw(&mut self, text: &str) {
        if !self.progress || (self.open && self.output.terminal) {
            return;
        }
        let columns = self.output.columns().unwrap_or(COLUMNS).saturating_sub(1);
        let line = self.output.dim(&cut(text, columns));
        let _gone = write!(io::stderr(), "\r\x1b[K{line}");
        self.drawn = true;
    }

    fn undraw(&mut self) {
        if std::mem::take(&mut self.drawn) {
            let _gone = write!(io::stderr(), "\r\x1b[K");
        }
    }

    pub fn wants_text(&self) -> bool {
        !self.output.json
    }

    pub fn text(&mut self, show: &Show) -> io::Result<()> {
        self.undraw();
        let text = match show {
            Show::Append(text) => text,
            Show::Again(text) => {
                self.end_line()?;
                self.output
                    .note(&self.output.dim("(the answer starts over; ignore the text above)"));
                text
            }
        };
        match &mut self.wrap {
            // Cleaned first: what takes the place of a character may be wider than it.
            Some(wrap) => self.output.piece(&wrap.piece(&clean(text)))?,
            None => self.output.piece(text)?,
        }
        if !text.is_empty() {
            self.open = !text.ends_with('\n');
        }
        Ok(())
    }

    pub fn delta(&self, session_id: &str, message_id: &str, index: usize, delta: &str) -> io::Result<()> {
        self.output.record(&json!({
            "type": "delta", "session_id": session_id, "message_id": message_id, "index": index, "delta": delta,
        }))
    }

    /// The end of a turn, or a message that somebody else wrote.
    pub fn message(&mut self, session_id: &str, message: &Message, ours: bool) -> io::Result<()> {
        if self.output.json {
            let mut value = serde_json::to_value(view::message(message))?;
            if let Some(fields) = value.as_object_mut() {
                fields.insert("type".into(), "message".into());
                fields.insert("session_id".into(), session_id.into());
            }
            return self.output.record(&value);
        }
        if ours {
            return self.end_line();
        }
        self.other(message.role(), &message.content)
    }

    /// From another participant of the conversation.
    pub fn other(&mut self, role: MessageRole, content: &str) -> io::Result<()> {
        if self.output.json {
            return Ok(());
        }
        self.end_line()?;
        let role = view::word(role.as_str_name(), "MESSAGE_ROLE_");
        self.output
            .note(&self.output.dim(&format!("[{role}, elsewhere] {}", clean(content))));
        Ok(())
    }

    pub fn failed(&mut self, session_id: &str, error: &str) -> io::Result<()> {
        if self.output.json {
            return self
                .output
                .record(&json!({ "type": "error", "session_id": session_id, "error": error }));
        }
        self.end_line()
    }

    /// The turn could not even be followed to its end.
    pub fn broken(&mut self, failure: &Failure) -> io::Result<()> {
        if failure.quiet {
            return Ok(());
        }
        if self.output.json {
            return self
                .output
                .record(&json!({ "type": "error", "error": failure.message, "hint": failure.hint }));
        }
        self.end_line()
    }

    /// Another end than the usual one, below the answer. Programs read it from the message itself.
    pub fn ended(&mut self, how: &Ended) -> io::Result<()> {
        self.end_line()?;
        if !self.output.json {
            self.output.note(&self.output.dim(&how.line()));
        }
        Ok(())
    }

    pub fn stopped(&mut self) -> io::Result<()> {
        self.end_line()?;
        self.output.note(&self.output.dim("(stopped)"));
        Ok(())
    }

    pub fn reconnecting(&mut self) -> io::Result<()> {
        self.end_line()?;
        self.output.note(&self.output.dim("(connection lost, trying again)"));
        Ok(())
    }

    pub fn greet(&self, recent: &[Message]) {
        for message in recent {
            let role = view::word(message.role().as_str_name(), "MESSAGE_ROLE_");
            self.output.note(&format!(
                "{} {}",
                self.output.dim(&format!("{role}>")),
                clean(&message.content)
            ));
        }
        self.output.note(
            &self
                .output
                .dim("Ctrl-C stops an answer, Ctrl-D leaves, /help says more."),
        );
    }

    pub fn end_line(&mut self) -> io::Result<()> {
        self.undraw();
        if let Some(wrap) = &mut self.wrap {
            self.output.piece(&wrap.end())?;
        }
        if std::mem::take(&mut self.open) {
            self.output.piece("\n")?;
        }
        Ok(())
    }
}

/// Rows of the terminal, as it says itself.
#[cfg(target_os = "linux")]
fn rows() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stderr()).ok()?;
    (size.ws_row > 0).then_some(size.ws_row.into())
}

#[cfg(not(target_os = "linux"))]
fn rows() -> Option<usize> {
    std::env::var("LINES").ok()?.parse().ok()
}
