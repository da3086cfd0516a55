//! `nexus stop` and `nexus resume`.

use clap::Args;
use nexus_proto::orchestrator::v1::{ResumeRequest, StopRequest};
use serde_json::json;

use super::sessions;
use crate::{
    chat::stop::told,
    context::{Context, runs},
    failure::{Exit, Failure},
    output::Output,
};

const STOP: &str = "\
Ends runs and their calls, background processes too, and says within a second what was ended and what was not.
With --agent and --all nothing begins again, over restarts either, until: nexus resume

Examples:
  nexus stop 1a2b             what runs in a session
  nexus stop --run 0f3c       one run
  nexus stop --agent helper   everything of one assistant, until nexus resume --agent helper
  nexus stop --all            everything, until nexus resume";

const RESUME: &str = "\
What was stopped stays ended; messages that come from now on are answered.

Examples:
  nexus resume                  after nexus stop --all
  nexus resume --agent helper   after nexus stop --agent helper";

#[derive(Debug, Args)]
#[command(after_help = STOP, group = clap::ArgGroup::new("what").required(true).multiple(false))]
pub struct StopArgs {
    /// Stop what runs in this session
    #[arg(group = "what")]
    pub session: Option<String>,
    /// Stop this run only
    #[arg(long, value_name = "ID", group = "what")]
    pub run: Option<String>,
    /// Stop everything of this assistant, by its name or id, and keep it stopped
    #[arg(long, value_name = "NAME", group = "what")]
    pub agent: Option<String>,
    /// Stop everything, and keep it stopped
    #[arg(long, group = "what")]
    pub all: bool,
    /// Why, for the record
    #[arg(long, default_value = "stopped by nexus stop")]
    pub reason: String,
}

#[derive(Debug, Args)]
#[command(after_help = RESUME)]
pub struct ResumeArgs {
    /// Resume this agent, by its name or id
    #[arg(long, value_name = "NAME")]
    pub agent: Option<String>,
    /// Resume everything that --all stopped, as without --agent
    #[arg(long, conflicts_with = "agent")]
    pub all: bool,
}

pub async fn stop(context: &Context, args: &StopArgs, output: &Output) -> Result<Exit, Failure> {
    let connection = context.connection();
    let mut request = StopRequest {
        all: args.all,
        agent_id: args.agent.clone().unwrap_or_default(),
        run_id: args.run.clone().unwrap_or_default(),
        reason: args.reason.clone(),
        ..StopRequest::default()
    };
    if let Some(given) = &args.session {
        request.session_id = sessions::find(&connection, given).await?;
    }
    let stopped = runs(&connection).stop(request).await?.into_inner();
    if output.json {
        output.value(&json!({
            "runs": stopped.runs, "calls": stopped.calls, "survived": stopped.survived,
        }))?;
    } else {
        output.line(told(&stopped))?;
        match &args.agent {
            Some(name) => output.note(&format!("it stays stopped until: nexus resume --agent {name}")),
            None if args.all => output.note("everything stays stopped until: nexus resume"),
            None => {}
        }
    }
    match stopped.survived.is_empty() {
        true => Ok(Exit::Ok),
        false => Err(Failure::new(Exit::Failed, "not everything has ended")
            .hint("see what is wrong: nexus doctor; its log: nexus services logs agent-worker")),
    }
}

pub async fn resume(context: &Context, args: &ResumeArgs, output: &Output) -> Result<Exit, Failure> {
    let connection = context.connection();
    let request = ResumeRequest {
        agent_id: args.agent.clone().unwrap_or_default(),
        all: args.agent.is_none(),
    };
    let resumed = runs(&connection).resume(request).await?.into_inner().resumed;
    if output.json {
        output.value(&json!({ "resumed": resumed }))?;
    } else {
        output.line(if resumed { "resumed" } else { "nothing was stopped" })?;
    }
    Ok(Exit::Ok)
}
