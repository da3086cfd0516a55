//! Shows an approval whole, and reads what a person answers.
//!
//! A person decides about exactly the text that is shown: every member of the plan is there, empty ones too, characters
//! that hide or reorder are escapes, and what does not hash to the approval's digest cannot be allowed.

use nexus_proto::orchestrator::v1::{Approval, ApprovalState, Grant, GrantKind, GrantScope};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{escape::visible, time::exact, view::word};

/// Whether the digest is that of the plan that is shown.
pub fn is_whole(approval: &Approval) -> bool {
    hex::encode(Sha256::digest(approval.plan_json.as_bytes())) == approval.digest
}

/// Every line of it.
pub fn lines(approval: &Approval) -> Vec<String> {
    let mut lines = vec![format!(
        "approval {}: {} wants to run",
        visible(&approval.id),
        visible(&approval.tool)
    )];
    for risk in &approval.risks {
        add(&mut lines, "risk", &Value::String(risk.clone()));
    }
    if !approval.supersedes.is_empty() {
        let said = format!("the plan changed since {} was approved", approval.supersedes);
        add(&mut lines, "note", &Value::String(said));
    }
    match serde_json::from_str::<Value>(&approval.plan_json) {
        Ok(Value::Object(plan)) => {
            if let Some(Value::Object(arguments)) = plan.get("arguments") {
                for (name, value) in arguments {
                    add(&mut lines, name, value);
                }
            }
            lines.push("  in full:".to_owned());
            for (name, value) in plan
                .iter()
                .filter(|(name, value)| *name != "arguments" || !value.is_object())
            {
                add(&mut lines, name, value);
            }
        }
        _ => add(&mut lines, "plan", &Value::String(approval.plan_json.clone())),
    }
    add(&mut lines, "digest", &Value::String(approval.digest.clone()));
    if !is_whole(approval) {
        lines.push("  this digest is not that of the plan above: it cannot be allowed".to_owned());
    }
    add(&mut lines, "session", &Value::String(approval.session_id.clone()));
    if let Some(expires) = exact(approval.expires_at.as_ref()) {
        lines.push(format!("  {:<12} {expires}", "expires"));
    }
    if approval.state() != ApprovalState::Pending {
        lines.push(format!("  {:<12} {}", "state", decided(approval)));
    }
    lines
}

fn add(lines: &mut Vec<String>, name: &str, value: &Value) {
    let text = match value {
        Value::String(text) if text.is_empty() => "(empty)".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let name = visible(name);
    // A line end within the name would begin a line that looks like ours.
    let name = name.replace('\n', "\\n");
    for (number, line) in visible(&text).split('\n').enumerate() {
        match number {
            0 => lines.push(format!("  {name:<12} {line}")),
            _ => lines.push(format!("  {:<12} {line}", "|")),
        }
    }
}

/// How it was decided, by whom and where.
pub fn decided(approval: &Approval) -> String {
    let mut said = word(approval.state().as_str_name(), "APPROVAL_STATE_");
    if !approval.decided_by.is_empty() {
        said.push_str(&format!(" by {}", visible(&approval.decided_by)));
    }
    if !approval.decided_on.is_empty() {
        said.push_str(&format!(" on {}", visible(&approval.decided_on)));
    }
    if !approval.reason.is_empty() {
        said.push_str(&format!(": {}", visible(&approval.reason).replace('\n', "\\n")));
    }
    said
}

/// What may be answered, below the plan.
pub fn choices(approval: &Approval) -> Vec<String> {
    if !is_whole(approval) {
        return vec!["  n  no; words after it are told to the model".to_owned()];
    }
    let mut lines = vec![
        "  y  yes, this once".to_owned(),
        "  n  no; words after it are told to the model".to_owned(),
    ];
    for (number, offer) in approval.offers.iter().enumerate() {
        let said = visible(&offer.description).replace('\n', "\\n");
        lines.push(format!("  {}  yes, and always {said}", number + 1));
    }
    if !approval.offers.is_empty() {
        let run = if approval.run_id.is_empty() {
            ""
        } else {
            "r for this run, "
        };
        lines.push(format!(
            "     a letter after the number: {run}s for this session (the default), d for 30 days everywhere; as in 1d"
        ));
    }
    lines
}

/// What a person answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Choice {
    Once,
    No(String),
    Always(Box<Grant>),
    /// Nothing that can be followed.
    Unclear,
}

/// Reads an answer to [`choices`].
pub fn choice(line: &str, approval: &Approval) -> Choice {
    let line = line.trim();
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    match word {
        "n" | "no" | "N" | "No" => return Choice::No(rest.trim().to_owned()),
        _ if !is_whole(approval) || !rest.trim().is_empty() => return Choice::Unclear,
        "y" | "yes" | "Y" | "Yes" => return Choice::Once,
        _ => {}
    }
    let digits = word.trim_end_matches(|c: char| !c.is_ascii_digit());
    let scope = match &word[digits.len()..] {
        "" | "s" => GrantScope::Session,
        "r" if !approval.run_id.is_empty() => GrantScope::Run,
        "d" => GrantScope::Owner,
        _ => return Choice::Unclear,
    };
    let offer = digits
        .parse::<usize>()
        .ok()
        .and_then(|number| approval.offers.get(number.checked_sub(1)?));
    match offer {
        Some(offer) => Choice::Always(Box::new(Grant {
            scope: scope.into(),
            ..offer.clone()
        })),
        None => Choice::Unclear,
    }
}

/// How long a grant holds, in words.
pub fn scope(grant: &Grant) -> &'static str {
    match grant.scope() {
        GrantScope::Unspecified => "unknown",
        GrantScope::Run => "run",
        GrantScope::Session => "session",
        GrantScope::Owner => "everywhere",
    }
}

pub fn kind(grant: &Grant) -> String {
    word(grant.kind().as_str_name(), "GRANT_KIND_")
}

/// The offer of a kind that an approval has.
pub fn offer(approval: &Approval, kind: GrantKind) -> Option<&Grant> {
    approval.offers.iter().find(|offer| offer.kind() == kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn approval(plan: &str) -> Approval {
        Approval {
            id: "ap1".into(),
            run_id: "r1".into(),
            tool: "exec".into(),
            plan_json: plan.into(),
            digest: hex::encode(Sha256::digest(plan.as_bytes())),
            risks: vec!["runs with network access".into()],
            state: ApprovalState::Pending.into(),
            offers: vec![
                Grant {
                    kind: GrantKind::Exact.into(),
                    description: "exec with exactly these arguments".into(),
                    ..Grant::default()
                },
                Grant {
                    kind: GrantKind::Prefix.into(),
                    pattern: "git push".into(),
                    ..Grant::default()
                },
            ],
            ..Approval::default()
        }
    }

    /// The attack: a command hides its end behind characters that turn text around, or behind lines that look like ours.
    #[test]
    fn the_whole_plan_is_shown_and_nothing_in_it_hides() {
        let plan = serde_json::json!({
            "arguments": {"command": "echo ok\u{202e} ; x\u{200b}\nrisk none\nrm -rf /", "od\nd": 1},
            "directory": "/workspace", "stdin": "", "mounts": [], "new_member": {"a": 1},
        });
        let shown = lines(&approval(&plan.to_string())).join("\n");
        for part in [
            "runs with network access",
            "echo ok\\u{202e} ; x\\u{200b}",
            "  |            rm -rf /",
            "od\\nd",
            "/workspace",
            "(empty)",
            "[]",
            r#"{"a":1}"#,
        ] {
            assert!(shown.contains(part), "{part} is not in:\n{shown}");
        }
        assert!(!shown.lines().any(|line| line.starts_with("risk")), "{shown}");
        assert!(!shown.contains(['\u{202e}', '\u{200b}']));
    }

    /// The attack: what is shown is another plan than the one that would be approved.
    #[test]
    fn a_plan_that_does_not_fit_its_digest_can_only_be_denied() {
        let mut one = approval("{}");
        one.plan_json = r#"{"arguments":{"command":"true"}}"#.into();
        assert_eq!(choice("y", &one), Choice::Unclear);
        assert_eq!(choice("1", &one), Choice::Unclear);
        assert_eq!(choice("n", &one), Choice::No(String::new()));
        assert_eq!(choices(&one).len(), 1);
        assert!(lines(&one).join("\n").contains("cannot be allowed"));
    }

    #[test]
    fn answers_are_read_and_others_decide_nothing() {
        let one = approval("{}");
        assert_eq!(choice(" yes ", &one), Choice::Once);
        assert_eq!(choice("n too dangerous", &one), Choice::No("too dangerous".into()));
        let given = |line: &str| match choice(line, &one) {
            Choice::Always(grant) => (grant.kind(), grant.scope()),
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(given("1"), (GrantKind::Exact, GrantScope::Session));
        assert_eq!(given("2r"), (GrantKind::Prefix, GrantScope::Run));
        assert_eq!(given("2d"), (GrantKind::Prefix, GrantScope::Owner));
        for unclear in ["", "0", "3", "1x", "yes please", "yn", "ok", "d", "y\u{200b}"] {
            assert_eq!(choice(unclear, &one), Choice::Unclear, "{unclear}");
        }
    }
}
