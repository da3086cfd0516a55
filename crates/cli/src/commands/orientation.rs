//! Identity and capabilities of a tree: the parts of `nexus status` that other programs read too.
//!
//! It is told from files alone and starts nothing, so that a hook of an editor can ask at every session.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use nexus_config::Root;
use serde::Serialize;

use crate::{
    doctor::{backends, secrets},
    settings::ask::{is_program, places},
};

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// `None` if there are several and none was named.
    pub agent_id: Option<String>,
    /// Those there are.
    pub agents: Vec<String>,
    pub agent_name: Option<String>,
    pub user_name: Option<String>,
    pub has_identity: bool,
    pub agent_identity_path: Option<PathBuf>,
    pub agent_soul_path: Option<PathBuf>,
    pub agent_memory_path: Option<PathBuf>,
    pub user_identity_path: PathBuf,
    pub bootstrap_path: PathBuf,
}

#[derive(Debug, Serialize)]
pub struct Bootstrap {
    /// What an agent without an identity is told first; null once it has one.
    pub prompt: Option<String>,
}

/// From good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Active,
    Ready,
    NeedsInstall,
}

impl Status {
    pub fn word(self) -> &'static str {
        match self {
            Status::Active => "active",
            Status::Ready => "ready",
            Status::NeedsInstall => "needs-install",
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Provider {
    pub id: String,
}

#[derive(Debug, Serialize)]
pub struct Capability {
    pub id: &'static str,
    pub category: &'static str,
    pub status: Status,
    pub providers: Vec<Provider>,
}

pub fn identity(root: &Root) -> (Identity, Bootstrap) {
    let state = root.state();
    let agents = agents(&state.join("agents"));
    let named = env::var("NEXUS_AGENT_ID").ok().filter(|name| !name.is_empty());
    let agent_id = match (named, agents.as_slice()) {
        (Some(named), _) => Some(named),
        (None, [only]) => Some(only.clone()),
        (None, []) => Some("default".to_owned()),
        (None, _) => None,
    };
    let own = |name: &str| agent_id.as_ref().map(|id| state.join("agents").join(id).join(name));
    let agent_identity_path = own("IDENTITY.md");
    let user = ["IDENTITY.md", "PROFILE.md"].map(|name| state.join("user").join(name));
    let user_identity_path = user.iter().find(|path| path.is_file()).unwrap_or(&user[0]).clone();
    let has_identity = agent_identity_path.as_ref().is_some_and(|path| path.is_file());
    let bootstrap_path = env::var_os("NEXUS_BOOTSTRAP_PATH")
        .filter(|told| !told.is_empty())
        .map_or_else(|| state.join("agents/BOOTSTRAP.md"), PathBuf::from);
    let prompt = match has_identity {
        true => None,
        false => fs::read_to_string(&bootstrap_path).ok(),
    };
    let identity = Identity {
        agent_name: agent_identity_path.as_deref().and_then(name_in),
        user_name: name_in(&user_identity_path),
        agent_soul_path: own("SOUL.md"),
        agent_memory_path: own("MEMORY.md"),
        agent_id,
        agents,
        has_identity,
        agent_identity_path,
        user_identity_path,
        bootstrap_path,
    };
    (identity, Bootstrap { prompt })
}

fn agents(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> = folders
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// The line `name: X`, with or without the marks of a list or of bold text.
fn name_in(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| {
        let line = line.trim_start_matches(['-', '*', ' ']).replace("**", "");
        let (key, value) = line.split_once(':')?;
        let value = value.trim();
        (key.trim().eq_ignore_ascii_case("name") && !value.is_empty()).then(|| value.to_owned())
    })
}

/// `runs` says whether a service is ready.
pub fn capabilities(root: &Root, runs: impl Fn(&str) -> bool) -> Vec<Capability> {
    let installed = |name: &str| places().iter().any(|place| is_program(&place.join(name)));
    let availability = |programs: &[&str], services: &[&str]| {
        if !programs.iter().all(|program| installed(program)) {
            Status::NeedsInstall
        } else if services.iter().all(|service| runs(service)) {
            Status::Active
        } else {
            Status::Ready
        }
    };
    let provider = |id: &str| Provider { id: id.to_owned() };
    let mut models: Vec<Provider> = secrets::providers(root).iter().map(|name| provider(name)).collect();
    models.push(provider("offline"));
    let mut isolations: Vec<Provider> = backends::engines().into_iter().map(provider).collect();
    if installed(backends::SANDBOX) {
        isolations.insert(0, provider(backends::SANDBOX));
    }
    let code = if isolations.is_empty() {
        Status::NeedsInstall
    } else {
        Status::Ready
    };
    vec![
        Capability {
            id: "chat",
            category: "conversation",
            status: availability(
                &["nexus-orchestrator", "nexus-llm", "nexus-agent"],
                &["orchestrator", "llm", "agent-assistant"],
            ),
            providers: models,
        },
        Capability {
            id: "gateway",
            category: "conversation",
            status: availability(&["nexus-gateway"], &["orchestrator", "gateway"]),
            providers: vec![provider("nexus-gateway")],
        },
        Capability {
            id: "code-execution",
            category: "tools",
            status: code,
            providers: isolations,
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_agent_is_found_and_several_must_be_named() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        let agents = root.state().join("agents");
        fs::create_dir_all(&agents).unwrap();
        fs::write(agents.join("BOOTSTRAP.md"), "who are you?").unwrap();
        let (found, bootstrap) = identity(&root);
        assert_eq!(
            (found.agent_id.as_deref(), found.has_identity),
            (Some("default"), false)
        );
        assert_eq!(bootstrap.prompt.as_deref(), Some("who are you?"));
        fs::create_dir_all(agents.join("ada")).unwrap();
        fs::write(agents.join("ada/IDENTITY.md"), "# me\n- **Name:** Ada\n").unwrap();
        let (found, bootstrap) = identity(&root);
        assert_eq!(
            (found.agent_id.as_deref(), found.agent_name.as_deref()),
            (Some("ada"), Some("Ada"))
        );
        assert!(found.has_identity && bootstrap.prompt.is_none());
        fs::create_dir_all(agents.join("bob")).unwrap();
        let (found, _) = identity(&root);
        assert_eq!(
            (found.agent_id, found.agents),
            (None, vec!["ada".to_owned(), "bob".to_owned()])
        );
    }
}
