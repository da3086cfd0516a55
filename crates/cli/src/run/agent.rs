//! Makes sure that a run is answered by the assistant that was asked for.
//!
//! The orchestrator gives a turn to the assistant that has least to do. So the one that was asked for has to be there, and
//! has to be the only one.

use nexus_client::Connection;
use nexus_proto::agent::v1::{Agent, AgentState, ListAgentsRequest};

use crate::{
    failure::{Exit, Failure},
    output::table::one_line,
};

pub async fn check(connection: &Connection, name: &str) -> Result<(), Failure> {
    let answer = connection.agent().list_agents(ListAgentsRequest::default()).await?;
    let agents = answer.into_inner().agents;
    let assistants: Vec<&Agent> = agents.iter().filter(|agent| is_assistant(agent)).collect();
    let wanted = |agent: &&&Agent| agent.id == name || agent.name == name;
    if !assistants.iter().any(|agent| wanted(&agent)) {
        return Err(
            Failure::new(Exit::NotFound, format!("no assistant {name} is connected"))
                .hint("see those there are: nexus agents"),
        );
    }
    let others: Vec<String> = assistants
        .iter()
        .filter(|agent| !wanted(agent))
        .map(|agent| one_line(&agent.name))
        .collect();
    if !others.is_empty() {
        return Err(Failure::new(
            Exit::Failed,
            format!(
                "{name} may not be the one that answers: {} is connected too",
                others.join(", ")
            ),
        )
        .hint("stop the others, or leave --agent out"));
    }
    Ok(())
}

fn is_assistant(agent: &Agent) -> bool {
    let role = agent.metadata.as_ref().and_then(|metadata| metadata.labels.get("role"));
    let said = role.is_some_and(|role| role.eq_ignore_ascii_case("assistant"));
    let gone = matches!(agent.state(), AgentState::Unregistering | AgentState::Terminated);
    (said || agent.name.eq_ignore_ascii_case("assistant")) && !gone
}

#[cfg(test)]
mod tests {
    use nexus_proto::agent::v1::AgentMetadata;

    use super::*;

    #[test]
    fn assistants_are_told_from_other_agents() {
        let agent = |name: &str, role: &str| Agent {
            name: name.into(),
            metadata: Some(AgentMetadata {
                labels: [("role".to_owned(), role.to_owned())].into(),
                ..AgentMetadata::default()
            }),
            ..Agent::default()
        };
        assert!(is_assistant(&agent("helper", "Assistant")));
        assert!(is_assistant(&agent("assistant", "")));
        assert!(!is_assistant(&agent("worker", "worker")));
    }
}
