//! A summary in the place of older steps and messages: an entry of the session's log, with its range.

use nexus_daemon::Caller;
use nexus_proto::orchestrator::v1::CompactRequest;
use nexus_proto::words;

use super::cancel::run_not_found;
use crate::domain::event;
use crate::domain::sessions::about;
use crate::domain::{Error, Fact, State, Step};

/// Longest summary, in bytes.
const SUMMARY_BYTES: usize = 1 << 20;

impl State {
    pub fn compact_run(
        &mut self,
        step: &mut Step<'_>,
        caller: &Caller,
        (key, n): (u64, u64),
        request: CompactRequest,
    ) -> Result<(), Error> {
        self.agents.owned(&request.agent_id, caller)?;
        if self.open_run(&request.run_id) != Some((key, n)) {
            return Err(run_not_found(&request.run_id));
        }
        if request.summary.is_empty() {
            return Err(Error::Required("summary"));
        }
        if request.summary.len() > SUMMARY_BYTES {
            return Err(Error::Invalid(format!("summary is longer than {SUMMARY_BYTES} bytes")));
        }
        let session = self.sessions.get(key).ok_or_else(|| run_not_found(&request.run_id))?;
        let (sequence, through_step) = (request.through_sequence.to_string(), request.through_step.to_string());
        let data = [
            ("run_id", &*request.run_id),
            ("session_id", &*session.id),
            ("through_sequence", &sequence),
            ("through_step", &through_step),
            ("summary", &request.summary),
        ];
        let event = event::build(
            step,
            words::event::SESSION_COMPACTED,
            event::SYSTEM,
            about(session),
            &data,
        );
        step.fact(Fact::Event { session: key, event });
        Ok(())
    }
}
