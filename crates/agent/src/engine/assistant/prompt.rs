//! The system text of a run: what the assistant is, and what people wrote down for it. Read when a run begins, and not
//! changed within it.

use std::path::{Path, PathBuf};

use nexus_walk::Dir;

use super::{Style, kit::Kit};
use crate::domain::assistant::instructions::{self, Instructions};

/// The file with instructions, in the root and in a workspace.
const FILE: &str = "AGENTS.md";
/// More of one is not shown.
const FILE_BYTES: u64 = 32 * 1024;

pub(super) async fn system(kit: &Kit, style: &Style, session_id: &str) -> String {
    let (root, workspace) = (kit.places.root.clone(), kit.places.workspaces.join(session_id));
    // An id that is no plain name leads nowhere.
    let plain = !session_id.contains(['/', '\0']) && !session_id.starts_with('.');
    let read = tokio::task::spawn_blocking(move || {
        let workspace = plain.then(|| read(&workspace)).flatten();
        (read(&root), workspace)
    });
    let (root, workspace) = read.await.unwrap_or_default();
    instructions::system_text(&Instructions {
        prompt: &style.system_prompt,
        root: root.as_deref(),
        workspace: workspace.as_deref(),
    })
}

/// Where instruction files lie.
#[derive(Clone, Debug)]
pub struct Places {
    pub root: PathBuf,
    pub workspaces: PathBuf,
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
