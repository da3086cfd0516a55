//! Checks the settings, as each daemon reads them itself.

use super::Finding;
use crate::{
    context::Context,
    settings::ask::{self, Sees},
};

pub(super) async fn look(context: &Context) -> Vec<Finding> {
    let (programs, missing) = match ask::programs() {
        Ok(found) => found,
        Err(failure) => {
            return vec![Finding::fail(
                "settings",
                failure.message,
                failure.hint.unwrap_or_default(),
            )];
        }
    };
    let mut findings = Vec::new();
    for program in &programs {
        let id = format!("settings.{}", program.daemon);
        let one = std::slice::from_ref(program);
        findings.push(
            match ask::values(one, &context.root, None, Sees::Everything, true).await {
                Ok(answers) => match answers
                    .iter()
                    .flat_map(|answer| &answer.mistakes)
                    .collect::<Vec<_>>()
                    .as_slice()
                {
                    [] => Finding::pass(id, "right"),
                    [mistake] => Finding::fail(id, (*mistake).clone(), "nexus config edit"),
                    [first, more @ ..] => Finding::fail(
                        id,
                        format!("{first}; and {} more", more.len()),
                        "nexus config check, nexus config edit",
                    ),
                },
                Err(failure) => Finding::fail(id, failure.message, failure.hint.unwrap_or_default()),
            },
        );
    }
    for name in missing {
        let id = format!("settings.{}", name.trim_start_matches("nexus-"));
        findings.push(Finding::skip(id, format!("{name} is not installed here")));
    }
    findings
}
