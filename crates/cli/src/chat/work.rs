//! Shows the calls of a run: as they begin, while they run, and how they ended.

use std::io;

use nexus_proto::orchestrator::v1::{Approval, RunCall, RunEvent, run_event::Kind};
use serde_json::{Value, json};

use super::{following::Following, limits::total, screen::Screen};
use crate::output::{
    approval, calls,
    runs::{self, usage},
    table::{cut, one_line},
    time::exact,
};

/// Lines of a difference that are shown; the rest is counted.
const DIFFERENCE: usize = 60;
/// Characters of an error of a call.
const ERROR: usize = 300;

impl Screen<'_> {
    pub fn call_began(&mut self, call: &RunCall) -> io::Result<()> {
        let line = format!("> {}", calls::title(&call.tool, &call.arguments_json));
        let line = self.output().dim(&line);
        self.note(&line)
    }

    pub fn call_ended(&mut self, call: &RunCall) -> io::Result<()> {
        let told = calls::text(&call.result);
        for line in differing(&calls::difference(&call.tool, &told)) {
            let shown = match line.chars().next() {
                Some('+') => self.output().bold(&format!("    {line}")),
                Some('-' | '@') => self.output().dim(&format!("    {line}")),
                _ => format!("    {line}"),
            };
            self.note(&shown)?;
        }
        let mut line = format!("< {}: {}", one_line(&call.tool), calls::state(call));
        if let Some(took) = calls::took(call) {
            line.push_str(&format!(", {}", calls::seconds(took)));
        }
        if call.output_bytes > 0 {
            line.push_str(&format!(", {} bytes", call.output_bytes));
        }
        if !call.code.is_empty() {
            let first = told.lines().next().unwrap_or_default();
            let first = first.strip_prefix("error ").unwrap_or(first);
            line.push_str(&format!(" ({})", cut(first, ERROR)));
        }
        let line = self.output().dim(&line);
        self.note(&line)
    }

    /// What runs now, in one line.
    pub fn running(&mut self, following: &Following) {
        let running: Vec<_> = following.running().collect();
        let Some(first) = running.first() else { return };
        let title = calls::title(&first.call.tool, &first.call.arguments_json);
        let took = calls::took(&first.call).map(calls::seconds).unwrap_or_default();
        let others = match running.len() {
            1 => String::new(),
            more => format!(" and {} more", more - 1),
        };
        let output = match first.bytes {
            0 => String::new(),
            bytes => format!("  {bytes} bytes  {}", one_line(&first.last_line)),
        };
        self.draw(&format!("  {}{others}  {took}{output}", cut(&title, 50)));
    }

    pub fn asked(&mut self, lines: &[String]) -> io::Result<()> {
        for (number, line) in lines.iter().enumerate() {
            let line = if number == 0 {
                self.output().bold(line)
            } else {
                line.clone()
            };
            self.note(&line)?;
        }
        self.note("your answer, then Enter:")
    }

    pub fn elsewhere(&mut self, one: &Approval) -> io::Result<()> {
        let title = match serde_json::from_str::<Value>(&one.plan_json) {
            Ok(plan) => calls::title(&one.tool, &plan["arguments"].to_string()),
            Err(_) => one_line(&one.tool),
        };
        self.note(&format!(
            "waits for approval: {title}\n  see it: nexus approvals show {0}   then: nexus approvals allow {0}, or deny {0}",
            one_line(&one.id)
        ))
    }

    pub fn decided(&mut self, one: &Approval, why: &str) -> io::Result<()> {
        let said = match why {
            "" => format!("approval of {}: {}", one_line(&one.tool), approval::decided(one)),
            why => format!("approval of {}: {why}", one_line(&one.tool)),
        };
        let said = self.output().dim(&said);
        self.note(&said)
    }

    /// What the turn has used, below it.
    pub fn used(&mut self, following: &Following) -> io::Result<()> {
        let Some(used) = following.usage() else { return Ok(()) };
        let steps = match following.steps() {
            0 | 1 => String::new(),
            steps => format!("{steps} steps, "),
        };
        let line = format!(
            "({steps}{} tokens in, {} out, {} in all)",
            used.input_tokens,
            used.output_tokens,
            total(&used)
        );
        let line = self.output().dim(&line);
        self.note(&line)
    }

    /// A piece of news as a line of JSON. Text comes with the messages in `nexus chat`.
    pub fn event(&self, event: &RunEvent, with_text: bool) -> io::Result<()> {
        let mut value = match &event.kind {
            Some(Kind::Run(run)) => json!({ "type": "run", "run": runs::run(run) }),
            Some(Kind::Step(step)) => json!({ "type": "step", "step": runs::step(step) }),
            Some(Kind::Call(update)) => json!({
                "type": "call", "step": update.step, "call": update.call.as_ref().map(runs::call),
            }),
            Some(Kind::Output(output)) => json!({
                "type": "output", "call_id": output.call_id, "stream": output.stream, "offset": output.offset,
                "text": String::from_utf8_lossy(&output.data),
            }),
            Some(Kind::Approval(one)) => json!({ "type": "approval", "approval": runs::approval(one) }),
            Some(Kind::Text(text)) if with_text => json!({
                "type": if text.thinking { "thinking" } else { "text" }, "step": text.step, "index": text.index,
                "text": text.text,
            }),
            Some(Kind::Gap(gap)) => json!({ "type": "gap", "first": gap.first, "last": gap.last }),
            Some(Kind::Text(_)) | None => return Ok(()),
        };
        if let Some(members) = value.as_object_mut() {
            members.insert("run_id".into(), event.run_id.as_str().into());
            members.insert("session_id".into(), event.session_id.as_str().into());
            members.insert("timestamp".into(), exact(event.timestamp.as_ref()).into());
        }
        self.output().record(&value)
    }

    /// A piece of the text of an orchestrator that shows no news of runs.
    pub fn piece(&self, index: usize, text: &str) -> io::Result<()> {
        self.output()
            .record(&json!({ "type": "text", "step": null, "index": index, "text": text }))
    }

    /// The last line of JSON of `nexus run`.
    pub fn end(
        &self,
        session_id: &str,
        following: &Following,
        end: &str,
        error: Option<&str>,
        exit: u8,
    ) -> io::Result<()> {
        self.output().record(&json!({
            "type": "end", "end": end, "error": error, "exit": exit, "session_id": session_id,
            "run_id": following.id(), "steps": following.steps(), "usage": usage(following.usage().as_ref()),
            "seconds": self.age(),
        }))
    }
}

/// As many lines as are shown.
fn differing(lines: &[String]) -> Vec<String> {
    if lines.len() <= DIFFERENCE {
        return lines.to_vec();
    }
    let mut shown = lines[..DIFFERENCE].to_vec();
    shown.push(format!("... {} more lines", lines.len() - DIFFERENCE));
    shown
}
