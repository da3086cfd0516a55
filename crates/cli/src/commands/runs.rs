//! `nexus runs`: lists runs, and shows what one did, step by step.

use clap::{Args, Subcommand, ValueEnum};
use nexus_client::Connection;
use nexus_proto::{
    llm::v1::block,
    orchestrator::v1::{GetRunRequest, ListRunsRequest, Run, RunState, RunStep},
};
use serde_json::json;

use super::sessions;
use crate::{
    chat::limits::total,
    context::{Context, runs},
    failure::{Exit, Failure},
    output::{
        Output, calls, clean, runs as shown,
        table::{cut, one_line, table},
        time::ago,
        view::word,
    },
};

const EXAMPLES: &str = "\
Examples:
  nexus runs list                     those that are not over, in all sessions
  nexus runs list 1a2b                all of a session, newest first
  nexus runs show 0f3c                every step, call and result
  nexus runs show 0f3c --json | jq '.steps[].calls[] | {tool, state}'";

#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum RunsCommand {
    /// List the runs of a session, newest first; without one, all that are not over
    List(ListArgs),
    /// Show one run with its steps, calls and their results
    Show(ShowArgs),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum State {
    Queued,
    Model,
    Tools,
    Waiting,
    Ended,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// The session
    pub session: Option<String>,
    /// Show only runs in this state
    #[arg(long)]
    pub state: Option<State>,
    /// Show at most N runs
    #[arg(long, value_name = "N", default_value = "50", value_parser = clap::value_parser!(i32).range(1..=1_000))]
    pub limit: i32,
    /// Continue where a list ended
    #[arg(long, value_name = "TOKEN", requires = "session")]
    pub page: Option<String>,
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The run's id
    pub id: String,
    /// Show results whole; without it, their first lines
    #[arg(long)]
    pub full: bool,
}

/// Lines of a result that are shown.
const LINES: usize = 12;

pub async fn run(context: &Context, command: RunsCommand, output: &Output) -> Result<Exit, Failure> {
    let connection = context.connection();
    match command {
        RunsCommand::List(args) => list(&connection, args, output).await,
        RunsCommand::Show(args) => show(&connection, args, output).await,
    }
}

async fn list(connection: &Connection, args: ListArgs, output: &Output) -> Result<Exit, Failure> {
    let session_id = match &args.session {
        Some(given) => sessions::find(connection, given).await?,
        None => String::new(),
    };
    let state = args.state.map_or(RunState::Unspecified, |state| match state {
        State::Queued => RunState::Queued,
        State::Model => RunState::Model,
        State::Tools => RunState::Tools,
        State::Waiting => RunState::Waiting,
        State::Ended => RunState::Ended,
    });
    let request = ListRunsRequest {
        session_id,
        state: state.into(),
        page_size: args.limit,
        page_token: args.page.unwrap_or_default(),
        ..ListRunsRequest::default()
    };
    let answer = runs(connection).list_runs(request).await?.into_inner();
    if output.json {
        let all: Vec<_> = answer.runs.iter().map(shown::run).collect();
        output.value(&json!({ "runs": all, "next_page": answer.next_page_token }))?;
        return Ok(Exit::Ok);
    }
    if answer.runs.is_empty() {
        output.note(match args.session {
            Some(_) => "no runs here",
            None => "nothing runs; those of a session: nexus runs list SESSION",
        });
    } else {
        let rows = answer.runs.iter().map(|run| {
            [
                run.id.clone(),
                state_of(run),
                run.step_count.to_string(),
                run.usage
                    .as_ref()
                    .map_or_else(|| "-".into(), |usage| total(usage).to_string()),
                ago(run.started_at.as_ref().or(run.created_at.as_ref())),
                run.session_id.clone(),
            ]
        });
        let header = ["ID", "STATE", "STEPS", "TOKENS", "BEGAN", "SESSION"];
        output.line(table(output, header, rows))?;
    }
    if !answer.next_page_token.is_empty() {
        output.note(&format!("more with: --page {}", one_line(&answer.next_page_token)));
    }
    Ok(Exit::Ok)
}

/// `tools`, or how it ended.
fn state_of(run: &Run) -> String {
    shown::end(run).unwrap_or_else(|| word(run.state().as_str_name(), "RUN_STATE_"))
}

async fn show(connection: &Connection, args: ShowArgs, output: &Output) -> Result<Exit, Failure> {
    let request = GetRunRequest { run_id: args.id };
    let run = runs(connection)
        .get_run(request)
        .await?
        .into_inner()
        .run
        .unwrap_or_default();
    if output.json {
        output.value(&shown::run(&run))?;
        return Ok(Exit::Ok);
    }
    let facts = [
        ("id", run.id.clone()),
        ("session", run.session_id.clone()),
        ("state", state_of(&run)),
        ("error", run.error.clone()),
        ("agent", run.agent_id.clone()),
        ("parent", run.parent_id.clone()),
        ("began", ago(run.started_at.as_ref())),
        (
            "untrusted",
            if run.tainted {
                "it read content that is not to be trusted".into()
            } else {
                String::new()
            },
        ),
    ];
    for (name, fact) in facts.iter().filter(|(_, fact)| !fact.is_empty()) {
        output.line(format!("{} {}", output.dim(&format!("{name:<12}")), cut(fact, 400)))?;
    }
    if let Some(usage) = &run.usage {
        let said = format!(
            "{} in, {} out, {} in all",
            usage.input_tokens,
            usage.output_tokens,
            total(usage)
        );
        output.line(format!("{} {said}", output.dim(&format!("{:<12}", "tokens"))))?;
    }
    for step in &run.steps {
        show_step(step, args.full, output)?;
    }
    Ok(Exit::Ok)
}

fn show_step(step: &RunStep, full: bool, output: &Output) -> Result<(), Failure> {
    let mut head = format!("step {}", step.number);
    if !step.model.is_empty() {
        head.push_str(&format!(", {}", one_line(&step.model)));
    }
    if step.attempt > 1 {
        head.push_str(&format!(", attempt {}", step.attempt));
    }
    output.line(format!("\n{}", output.bold(&head)))?;
    for block in &step.blocks {
        if let Some(block::Kind::Text(text)) = &block.kind {
            output.line(clean(text.trim_end()))?;
        }
    }
    for call in &step.calls {
        let took = calls::took(call)
            .map(|took| format!(", {}", calls::seconds(took)))
            .unwrap_or_default();
        let line = format!(
            "> {}   {}{took}",
            calls::title(&call.tool, &call.arguments_json),
            calls::state(call)
        );
        output.line(output.dim(&line))?;
        let text = calls::text(&call.result);
        let all: Vec<&str> = text.lines().collect();
        let few = if full { all.len() } else { LINES };
        for line in all.iter().take(few) {
            output.line(format!("    {}", clean(line)))?;
        }
        if all.len() > few {
            output.line(output.dim(&format!("    ({} more lines: --full)", all.len() - few)))?;
        }
    }
    for note in &step.notes {
        output.line(output.dim(&format!("note: {}", one_line(note))))?;
    }
    Ok(())
}
