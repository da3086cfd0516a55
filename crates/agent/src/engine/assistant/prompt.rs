//! The system text of a run: the role, what people wrote down for the assistant, and the skills there are. Read when a
//! run begins, and not changed within it.

use std::{
    io,
    path::{Path, PathBuf},
};

use nexus_walk::{Dir, Kind};

use super::{Style, kit::Kit};
use crate::domain::assistant::{
    instructions::{self, Instructions},
    role::{AssistantRole, is_name},
    skill::{self, Skill},
};

/// The file with instructions, in the root and in a workspace.
const FILE: &str = "AGENTS.md";
/// More of one is not shown.
const FILE_BYTES: u64 = 32 * 1024;
/// Folders of skills that are looked at.
const SKILLS: usize = 2_000;
/// A SKILL.md is not longer.
const SKILL_BYTES: u64 = 64 * 1024;
/// The catalogue of skills may take this part of the window.
const SKILL_SHARE: u64 = 50;
/// Bytes of a token: a careful guess.
const BYTES_PER_TOKEN: u64 = 3;

/// Where instructions lie.
#[derive(Clone, Debug)]
pub struct Places {
    pub root: PathBuf,
    pub workspaces: PathBuf,
    pub skills: PathBuf,
    pub roles: PathBuf,
}

/// The role that the settings name: its file, or the one that is built in.
pub(super) async fn role(kit: &Kit, style: &Style) -> Result<AssistantRole, String> {
    let (places, name) = (kit.places.clone(), style.assistant_role.clone());
    let read = tokio::task::spawn_blocking(move || read_role(&places.roles, &name));
    read.await.unwrap_or_else(|error| Err(error.to_string()))
}

fn read_role(roles: &Path, name: &str) -> Result<AssistantRole, String> {
    if !is_name(name) {
        return Err(format!("agent.assistant_role: {name:?} is not the name of a role"));
    }
    let file = roles.join(format!("{name}.toml"));
    let wrong = |what: String| format!("{}: {what}", file.display());
    match std::fs::File::open(&file) {
        Ok(open) => {
            let bytes = nexus_walk::read_bounded(&open, FILE_BYTES).map_err(|error| wrong(error.to_string()))?;
            let text = String::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8 text".into()))?;
            AssistantRole::parse(&text).map_err(wrong)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => AssistantRole::built_in(name).ok_or_else(|| {
            format!(
                "agent.assistant_role: there is no role {name:?}: write {}, or choose one of {}",
                file.display(),
                AssistantRole::NAMES.join(", ")
            )
        }),
        Err(error) => Err(wrong(error.to_string())),
    }
}

pub(super) async fn system(kit: &Kit, style: &Style, role: &AssistantRole, session_id: &str, window: u64) -> String {
    let places = kit.places.clone();
    let workspace = places.workspaces.join(session_id);
    // An id that is no plain name leads nowhere.
    let plain = !session_id.contains(['/', '\0']) && !session_id.starts_with('.');
    let read = tokio::task::spawn_blocking(move || {
        let workspace = plain.then(|| read(&workspace)).flatten();
        (read(&places.root), workspace, skills(&places.skills))
    });
    let (root, workspace, skills) = read.await.unwrap_or_default();
    let room = usize::try_from(window / SKILL_SHARE * BYTES_PER_TOKEN).unwrap_or(usize::MAX);
    instructions::system_text(&Instructions {
        role: &role.instructions(),
        prompt: &style.system_prompt,
        root: root.as_deref(),
        workspace: workspace.as_deref(),
        skills: skill::catalogue(&skills, room).as_deref(),
    })
}

/// The text, or what can be shown of it. A workspace belongs to others: its file is opened beneath its directory, never
/// through a link, and read only so far.
fn read(dir: &Path) -> Option<String> {
    let (file, meta) = Dir::open(dir).and_then(|dir| dir.open_file(FILE)).ok()?;
    if meta.bytes > FILE_BYTES {
        return Some(format!(
            "[{FILE} is larger than {FILE_BYTES} bytes and is not shown; read it with a tool]"
        ));
    }
    let bytes = nexus_walk::read_bounded(&file, FILE_BYTES).ok()?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    (!text.trim().is_empty()).then_some(text)
}

/// The skills that can be used, by name. Links that lead out of the folder are not followed.
fn skills(dir: &Path) -> Vec<Skill> {
    let Ok(dir) = Dir::open(dir) else {
        return Vec::new();
    };
    let Ok(entries) = dir.entries() else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in entries.take(SKILLS).flatten() {
        let Some(folder) = entry.name.to_str().filter(|name| !name.starts_with('.')) else {
            continue;
        };
        if !matches!(entry.hint, Kind::Dir | Kind::Unknown) {
            continue;
        }
        let opened = dir.open_file(Path::new(folder).join("SKILL.md"));
        let Ok(bytes) = opened.and_then(|(file, _)| nexus_walk::read_bounded(&file, SKILL_BYTES)) else {
            continue;
        };
        match skill::read(folder, &String::from_utf8_lossy(&bytes)) {
            Ok(skill) => {
                if let Some(warning) = &skill.warning {
                    tracing::debug!(folder, warning, "a skill is not as it should be");
                }
                found.push(skill);
            }
            Err(error) => tracing::info!(folder, %error, "a skill is left out"),
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}
