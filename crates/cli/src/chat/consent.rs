//! Decides about the calls of a turn that wait for consent: by rules, by a person at this terminal, or not here.

use std::collections::VecDeque;

use nexus_client::Connection;
use nexus_proto::orchestrator::v1::{Approval, ApprovalState, DecideApprovalRequest};

use super::rules::Rule;
use crate::{
    context::approvals,
    failure::Failure,
    output::approval::{Choice, choice, choices, lines},
};

/// What becomes of a call that waits for consent and that no rule covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Manner {
    /// Ask the person at this terminal; without one, wait until it is decided elsewhere
    #[default]
    Ask,
    /// Deny it at once; the model is told and goes on
    Deny,
}

#[derive(Debug)]
pub struct Consent {
    manner: Manner,
    rules: Vec<Rule>,
    /// For the record: where it was decided.
    surface: &'static str,
    /// The first is the one that is asked now.
    waiting: VecDeque<Approval>,
    /// Of the one that is asked: what is still to be shown before an answer counts.
    pages: VecDeque<Vec<String>>,
}

/// What is to be done about an approval.
#[derive(Debug, PartialEq)]
pub enum Todo {
    Nothing,
    /// Decide it so; the text says why, for a person.
    Decide(Box<DecideApprovalRequest>, &'static str),
    /// Show these lines to the person who types.
    Show(Vec<String>),
    /// Nobody can be asked here: say where it can be decided.
    Elsewhere,
}

/// What a typed line was.
#[derive(Debug, PartialEq)]
pub enum Typed {
    /// Nothing is asked.
    NotAsked,
    Decide(Box<DecideApprovalRequest>),
    Show(Vec<String>),
}

impl Consent {
    pub fn new(manner: Manner, rules: Vec<Rule>, surface: &'static str) -> Consent {
        Consent {
            manner,
            rules,
            surface,
            waiting: VecDeque::new(),
            pages: VecDeque::new(),
        }
    }

    /// Another turn begins.
    pub fn clear(&mut self) {
        self.waiting.clear();
        self.pages.clear();
    }

    /// An approval was asked for, decided, or told of once more. `rows` of a terminal are shown at a time.
    pub fn came(&mut self, approval: &Approval, somebody: bool, rows: usize) -> Todo {
        let known = self.waiting.iter().position(|waiting| waiting.id == approval.id);
        if approval.state() != ApprovalState::Pending {
            let Some(at) = known else { return Todo::Nothing };
            self.waiting.remove(at);
            return match at {
                0 => self.ask(rows),
                _ => Todo::Nothing,
            };
        }
        if known.is_some() {
            return Todo::Nothing;
        }
        if self.rules.iter().any(|rule| rule.covers(approval)) {
            return Todo::Decide(Box::new(self.decision(approval, true)), "allowed by --allow");
        }
        match (self.manner, somebody) {
            (Manner::Deny, _) => {
                let mut decision = self.decision(approval, false);
                decision.reason = "nobody can be asked in this run".into();
                Todo::Decide(Box::new(decision), "denied by --approve deny")
            }
            (Manner::Ask, true) => {
                self.waiting.push_back(approval.clone());
                match self.waiting.len() {
                    1 => self.ask(rows),
                    _ => Todo::Nothing,
                }
            }
            (Manner::Ask, false) => Todo::Elsewhere,
        }
    }

    /// What a person typed.
    pub fn typed(&mut self, line: &str) -> Typed {
        if self.waiting.is_empty() {
            return Typed::NotAsked;
        }
        if let Some(page) = self.pages.pop_front() {
            return Typed::Show(page);
        }
        let approval = &self.waiting[0];
        let decision = match choice(line, approval) {
            Choice::Once => self.decision(approval, true),
            Choice::No(reason) => DecideApprovalRequest {
                reason,
                ..self.decision(approval, false)
            },
            Choice::Always(grant) => DecideApprovalRequest {
                grant: Some(*grant),
                ..self.decision(approval, true)
            },
            Choice::Unclear => {
                let mut lines = vec!["that is no answer; what can be answered:".to_owned()];
                lines.extend(choices(approval));
                return Typed::Show(lines);
            }
        };
        Typed::Decide(Box::new(decision))
    }

    /// The one that is asked is not asked any more; the next one is.
    pub fn answered(&mut self, rows: usize) -> Todo {
        self.waiting.pop_front();
        self.ask(rows)
    }

    fn ask(&mut self, rows: usize) -> Todo {
        self.pages.clear();
        let Some(approval) = self.waiting.front() else {
            return Todo::Nothing;
        };
        let mut all = lines(approval);
        all.extend(choices(approval));
        let rows = rows.saturating_sub(3).max(5);
        let last = all.len().div_ceil(rows);
        for (number, page) in all.chunks(rows).enumerate() {
            let mut page = page.to_vec();
            if number + 1 < last {
                page.push(format!("  -- page {} of {last}, Enter shows the next --", number + 1));
            }
            self.pages.push_back(page);
        }
        self.pages.pop_front().map_or(Todo::Nothing, Todo::Show)
    }

    fn decision(&self, approval: &Approval, allow: bool) -> DecideApprovalRequest {
        DecideApprovalRequest {
            approval_id: approval.id.clone(),
            allow,
            digest: approval.digest.clone(),
            surface: self.surface.into(),
            ..DecideApprovalRequest::default()
        }
    }
}

/// Tells the orchestrator. The first decision wins, wherever it was made.
pub async fn decide(connection: &Connection, request: DecideApprovalRequest) -> Result<Approval, Failure> {
    let answer = approvals(connection).decide(request).await?.into_inner();
    Ok(answer.approval.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::super::rules::rule;
    use super::*;

    fn approval(id: &str, command: &str) -> Approval {
        let plan_json = serde_json::json!({"arguments": {"command": command}}).to_string();
        Approval {
            id: id.into(),
            tool: "exec".into(),
            digest: hex::encode(Sha256::digest(plan_json.as_bytes())),
            plan_json,
            state: ApprovalState::Pending.into(),
            ..Approval::default()
        }
    }

    fn decided(todo: Todo) -> DecideApprovalRequest {
        match todo {
            Todo::Decide(decision, _) => *decision,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn rules_and_deny_need_nobody() {
        let mut consent = Consent::new(Manner::Deny, vec![rule("exec").unwrap()], "cli");
        let allowed = decided(consent.came(&approval("a", "ls"), false, 24));
        assert!(allowed.allow && allowed.surface == "cli" && !allowed.digest.is_empty());
        let other = Approval {
            tool: "message".into(),
            ..approval("b", "x")
        };
        assert!(!decided(consent.came(&other, true, 24)).allow);
        let mut consent = Consent::new(Manner::Ask, Vec::new(), "cli");
        assert_eq!(consent.came(&approval("a", "ls"), false, 24), Todo::Elsewhere);
    }

    #[test]
    fn a_long_plan_is_answered_only_after_its_last_page() {
        let mut consent = Consent::new(Manner::Ask, Vec::new(), "chat");
        let long = (0..40).map(|n| format!("echo {n}")).collect::<Vec<_>>().join("\n");
        let Todo::Show(first) = consent.came(&approval("a", &long), true, 20) else {
            panic!("it is asked")
        };
        assert!(first.last().unwrap().contains("page 1 of"), "{first:?}");
        let mut pages = 1;
        let decision = loop {
            match consent.typed("y") {
                Typed::Show(page) => {
                    assert!(page.len() <= 19, "{page:?}");
                    pages += 1;
                }
                Typed::Decide(decision) => break decision,
                Typed::NotAsked => panic!("it is asked"),
            }
        };
        assert!(pages >= 3 && decision.allow);
    }

    #[test]
    fn one_is_asked_at_a_time_and_one_decided_elsewhere_is_not_asked_any_more() {
        let mut consent = Consent::new(Manner::Ask, Vec::new(), "chat");
        assert!(matches!(consent.came(&approval("a", "ls"), true, 60), Todo::Show(_)));
        assert_eq!(consent.came(&approval("b", "pwd"), true, 60), Todo::Nothing);
        assert_eq!(
            consent.came(&approval("a", "ls"), true, 60),
            Todo::Nothing,
            "told again"
        );
        let elsewhere = Approval {
            state: ApprovalState::Denied.into(),
            ..approval("a", "ls")
        };
        let Todo::Show(next) = consent.came(&elsewhere, true, 60) else {
            panic!("the next one is asked")
        };
        assert!(next.join("\n").contains("pwd"));
        assert!(matches!(consent.typed("maybe"), Typed::Show(_)));
        let Typed::Decide(decision) = consent.typed("n it is late") else {
            panic!("it is answered")
        };
        assert_eq!(
            (decision.approval_id.as_str(), decision.reason.as_str()),
            ("b", "it is late")
        );
        assert_eq!(consent.answered(60), Todo::Nothing);
        assert_eq!(consent.typed("y"), Typed::NotAsked);
    }
}
