use nexus_proto::agent::v1::ListAgentsRequest;

use crate::{
    context::Context,
    failure::{Exit, Failure},
    output::{Output, table::table, time::ago, view},
};

pub async fn run(context: &Context, output: &Output) -> Result<Exit, Failure> {
    let answer = context
        .connection()
        .agent()
        .list_agents(ListAgentsRequest::default())
        .await?;
    let agents: Vec<_> = answer.into_inner().agents;
    if output.json {
        output.value(&agents.iter().map(view::agent).collect::<Vec<_>>())?;
        return Ok(Exit::Ok);
    }
    if agents.is_empty() {
        output.note("no agent is registered");
        return Ok(Exit::Ok);
    }
    let rows = agents.iter().map(|agent| {
        let shown = view::agent(agent);
        [
            shown.name,
            shown.r#type,
            shown.state,
            shown.version,
            shown.active_tasks.len().to_string(),
            ago(agent.last_heartbeat.as_ref()),
            shown.id,
        ]
    });
    output.line(table(
        output,
        ["NAME", "TYPE", "STATE", "VERSION", "TASKS", "HEARD", "ID"],
        rows,
    ))?;
    Ok(Exit::Ok)
}
