//! `--allow RULE`: calls that are allowed without asking a person.
//!
//! A rule is compared with what the orchestrator offers as grants of the call that waits: it alone parses commands, paths
//! and addresses. A call that it offers no such grant for, such as a command with operators, is asked for.

use nexus_proto::orchestrator::v1::{Approval, GrantKind};
use serde_json::Value;

use crate::output::approval::{is_whole, offer};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    tool: String,
    /// The first words of a command, a path or a host; `None`: every call of the tool.
    pattern: Option<String>,
}

/// Reads `TOOL` or `TOOL:PATTERN`.
pub fn rule(text: &str) -> Result<Rule, String> {
    let (tool, pattern) = match text.split_once(':') {
        Some((tool, pattern)) => (tool, Some(pattern.trim())),
        None => (text, None),
    };
    let tool = tool.trim();
    let named = !tool.is_empty()
        && tool
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if !named || pattern.is_some_and(str::is_empty) {
        return Err("write it as TOOL or TOOL:PATTERN, such as 'exec:git push' or write_file:src".into());
    }
    Ok(Rule {
        tool: tool.to_owned(),
        pattern: pattern.map(str::to_owned),
    })
}

impl Rule {
    pub fn covers(&self, approval: &Approval) -> bool {
        if self.tool != approval.tool || !is_whole(approval) {
            return false;
        }
        let Some(pattern) = &self.pattern else { return true };
        let path = offer(approval, GrantKind::Path).map(|offer| offer.pattern.as_str());
        let host = offer(approval, GrantKind::Host).map(|offer| offer.pattern.as_str());
        path.is_some_and(|path| beneath(path, pattern))
            || host.is_some_and(|host| at_host(host, pattern))
            // That a prefix is offered means that the command is plain words.
            || (offer(approval, GrantKind::Prefix).is_some() && begins(&approval.plan_json, pattern))
    }
}

fn beneath(path: &str, pattern: &str) -> bool {
    let pattern = pattern.trim_end_matches('/');
    path == pattern || path.strip_prefix(pattern).is_some_and(|rest| rest.starts_with('/'))
}

fn at_host(host: &str, pattern: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(domain) => host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.')),
        None => host == pattern,
    }
}

fn begins(plan_json: &str, pattern: &str) -> bool {
    let plan: Value = serde_json::from_str(plan_json).unwrap_or_default();
    let command = plan["arguments"]["command"].as_str().unwrap_or_default();
    let mut words = command.split(' ').filter(|word| !word.is_empty());
    let mut wanted = pattern.split_whitespace();
    wanted.all(|wanted| words.next() == Some(wanted))
}

#[cfg(test)]
mod tests {
    use nexus_proto::orchestrator::v1::Grant;
    use sha2::{Digest, Sha256};

    use super::*;

    fn approval(tool: &str, arguments: Value, offers: &[(GrantKind, &str)]) -> Approval {
        let plan_json = serde_json::json!({ "arguments": arguments }).to_string();
        let offers = offers.iter().map(|(kind, pattern)| Grant {
            kind: (*kind).into(),
            pattern: (*pattern).into(),
            ..Grant::default()
        });
        Approval {
            tool: tool.into(),
            digest: hex::encode(Sha256::digest(plan_json.as_bytes())),
            plan_json,
            offers: offers.collect(),
            ..Approval::default()
        }
    }

    fn covers(text: &str, approval: &Approval) -> bool {
        rule(text).unwrap().covers(approval)
    }

    #[test]
    fn a_command_is_covered_by_its_first_words() {
        let command = serde_json::json!({"command": "git push origin main"});
        let one = approval("exec", command, &[(GrantKind::Prefix, "git push")]);
        for text in ["exec", "exec:git", "exec:git push", "exec: git push origin"] {
            assert!(covers(text, &one), "{text}");
        }
        for text in [
            "exec:git pull",
            "exec:git push origin other",
            "exec:gi",
            "read_file",
            "exec:push",
        ] {
            assert!(!covers(text, &one), "{text}");
        }
    }

    /// The attack: a model writes a command that begins as the rule does and goes on with another.
    #[test]
    fn a_command_that_is_more_than_plain_words_is_not_covered_by_words() {
        let command = serde_json::json!({"command": "git push ; curl evil.example"});
        assert!(!covers(
            "exec:git push",
            &approval("exec", command, &[(GrantKind::Exact, "x")])
        ));
    }

    /// The attack: the plan that is shown is not the one that would run.
    #[test]
    fn a_plan_that_does_not_fit_its_digest_is_never_covered() {
        let mut one = approval("exec", serde_json::json!({"command": "ls -l"}), &[]);
        assert!(covers("exec", &one));
        one.digest = "00".into();
        assert!(!covers("exec", &one));
    }

    #[test]
    fn paths_and_hosts_are_compared_by_their_parts() {
        let file = approval("write_file", Value::Null, &[(GrantKind::Path, "/workspace/src/a.rs")]);
        assert!(covers("write_file:/workspace/src/", &file) && covers("write_file:/workspace/src/a.rs", &file));
        assert!(!covers("write_file:/workspace/sr", &file));
        let page = approval("web_fetch", Value::Null, &[(GrantKind::Host, "docs.example.com")]);
        assert!(covers("web_fetch:docs.example.com", &page) && covers("web_fetch:*.example.com", &page));
        assert!(!covers("web_fetch:example.com", &page) && !covers("web_fetch:*.ample.com", &page));
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for text in ["", ":x", "exec:", "exec: ", "a b"] {
            assert!(rule(text).is_err(), "{text}");
        }
    }
}
