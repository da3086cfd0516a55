//! The orchestrator's side of a run: its tools, its steps, and the summaries of it.

use std::{sync::Arc, time::SystemTime};

use nexus_client::{Error, Kind};
use nexus_proto::{
    common::v1::TokenUsage,
    llm::v1::Tool,
    orchestrator::v1::{
        CompactRequest, EventFilter, FinishStepRequest, GetRunRequest, GetToolsRequest, Run, SubscribeEventsRequest,
    },
    words,
};

use super::Orchestrator;
use crate::domain::assistant::{
    compaction::{StoredSummary, Summary},
    work::{FinishedStep, StepPlace},
};

impl Orchestrator {
    /// The tools of a run, with their digest.
    pub async fn tools(&self, run_id: &str, session_id: &str) -> Result<(String, Arc<Vec<Tool>>), Error> {
        let request = GetToolsRequest {
            run_id: run_id.to_owned(),
            session_id: session_id.to_owned(),
        };
        let answer = self.connection().driver().get_tools(request).await?.into_inner();
        Ok((answer.digest, Arc::new(answer.tools)))
    }

    /// A run with all its steps.
    pub async fn run(&self, run_id: &str) -> Result<Run, Error> {
        let request = GetRunRequest {
            run_id: run_id.to_owned(),
        };
        let answer = self.connection().runs().get_run(request).await?.into_inner();
        answer
            .run
            .ok_or_else(|| Error::new(Kind::Internal, "the orchestrator gave no run"))
    }

    /// Repeating it is safe: the second time the step is over.
    pub async fn finish_step(&self, finished: FinishedStep) -> Result<(), Error> {
        let FinishedStep {
            agent_id,
            place,
            answer,
            extra,
        } = finished;
        let count = |tokens: u32| i32::try_from(tokens).unwrap_or(i32::MAX);
        let (input, output) = (count(answer.input_tokens), count(answer.output_tokens));
        let request = FinishStepRequest {
            agent_id,
            run_id: place.run_id,
            step: place.step,
            attempt: place.attempt,
            provider: answer.provider,
            model: answer.model,
            blocks: answer.blocks,
            usage: Some(TokenUsage {
                input_tokens: input,
                output_tokens: output,
                total_tokens: input.saturating_add(output),
            }),
            stop_reason: answer.finish.name().to_owned(),
            error: String::new(),
            extra,
        };
        self.connection().driver().finish_step(request).await?;
        Ok(())
    }

    /// Stores a summary of a run.
    pub async fn compact(
        &self,
        agent_id: &str,
        place: &StepPlace,
        session_id: &str,
        summary: &Summary,
    ) -> Result<(), Error> {
        let request = CompactRequest {
            agent_id: agent_id.to_owned(),
            run_id: place.run_id.clone(),
            session_id: session_id.to_owned(),
            through_sequence: summary.through_sequence,
            through_step: summary.through_step,
            summary: summary.render(),
        };
        self.connection().driver().compact(request).await?;
        Ok(())
    }

    /// The newest summary in the log of a session.
    pub async fn stored_summary(&self, session_id: &str) -> Result<Option<StoredSummary>, Error> {
        let request = SubscribeEventsRequest {
            filter: Some(EventFilter {
                session_id: session_id.to_owned(),
                names: vec![words::event::SESSION_COMPACTED.to_owned()],
                end_time: Some(SystemTime::now().into()),
                ..EventFilter::default()
            }),
            after_sequence: Some(0),
        };
        let mut events = self
            .connection()
            .orchestrator()
            .subscribe_events(request)
            .await?
            .into_inner();
        let mut newest = None;
        while let Some(event) = events.message().await? {
            let mut data = event.data;
            if let Some(text) = data.remove("summary").filter(|_| event.gap.is_none()) {
                let number = |name: &str| data.get(name).map(String::as_str).unwrap_or_default();
                newest = Some(StoredSummary {
                    through_sequence: number("through_sequence").parse().unwrap_or_default(),
                    through_step: number("through_step").parse().unwrap_or_default(),
                    run_id: number("run_id").to_owned(),
                    text,
                });
            }
        }
        Ok(newest)
    }
}
