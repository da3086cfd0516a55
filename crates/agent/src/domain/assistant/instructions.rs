//! What an assistant with tools is told before every conversation.

/// The parts of a system text.
#[derive(Clone, Copy, Debug, Default)]
pub struct Instructions<'a> {
    /// Of the role.
    pub role: &'a str,
    /// Of the settings.
    pub prompt: &'a str,
    /// The instruction file of the whole installation.
    pub root: Option<&'a str>,
    /// The instruction file of the session's workspace.
    pub workspace: Option<&'a str>,
    /// The catalogue of skills.
    pub skills: Option<&'a str>,
}

pub fn system_text(parts: &Instructions<'_>) -> String {
    let mut text = parts.role.to_owned();
    if !parts.prompt.trim().is_empty() {
        text.push_str("\n\n");
        text.push_str(parts.prompt.trim());
    }
    for (whose, file) in [("this installation", parts.root), ("the workspace", parts.workspace)] {
        if let Some(file) = file {
            text.push_str(&format!("\n\n# AGENTS.md of {whose}\n\n{}", file.trim()));
        }
    }
    if let Some(skills) = parts.skills {
        text.push_str("\n\n");
        text.push_str(skills);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_speaks_after_the_installation_and_the_front_never_changes() {
        let text = system_text(&Instructions {
            role: "You are kind.",
            prompt: "Be brief.",
            root: Some("use tabs"),
            workspace: Some("use spaces"),
            skills: Some("# Skills"),
        });
        let parts = ["You are kind.", "Be brief.", "use tabs", "use spaces", "# Skills"];
        assert!(parts.map(|part| text.find(part).unwrap()).is_sorted(), "{text}");
    }
}
