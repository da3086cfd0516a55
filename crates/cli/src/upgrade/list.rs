//! Lists installed versions and interrupted upgrades.

use serde_json::json;

use super::{
    journal::{Journal, Step},
    layout::Layout,
};
use crate::{
    failure::{Exit, Failure},
    output::{Output, table::table},
};

pub fn show(layout: &Layout, output: &Output) -> Result<Exit, Failure> {
    let (current, previous) = (layout.current(), layout.previous());
    let unfinished = Journal::read(layout)?;
    let time =
        |since: Option<std::time::SystemTime>| since.map(|since| humantime::format_rfc3339_seconds(since).to_string());
    let versions = layout.versions();
    if output.json {
        let each: Vec<_> = versions
            .iter()
            .map(|one| {
                json!({ "version": one.version, "installedAt": time(one.since),
                    "current": Some(&one.version) == current.as_ref(),
                    "previous": Some(&one.version) == previous.as_ref() })
            })
            .collect();
        output.value(
            &json!({ "schema": 1, "prefix": layout.prefix(), "current": current, "previous": previous,
            "versions": each, "unfinished": unfinished }),
        )?;
        return Ok(Exit::Ok);
    }
    let rows = versions.iter().map(|one| {
        let role = match () {
            () if Some(&one.version) == current.as_ref() => "current",
            () if Some(&one.version) == previous.as_ref() => "previous",
            () => "-",
        };
        [
            one.version.clone(),
            role.to_owned(),
            time(one.since).unwrap_or_else(|| "-".to_owned()),
        ]
    });
    output.line(table(output, ["VERSION", "", "INSTALLED"], rows))?;
    if let Some(journal) = unfinished {
        let failure = told(&journal);
        output.note(&format!(
            "\n{}\n  {}",
            failure.message,
            failure.hint.unwrap_or_default()
        ));
    }
    Ok(Exit::Ok)
}

pub fn told(journal: &Journal) -> Failure {
    let said = match journal.step {
        Step::Unpack | Step::Check | Step::Backup => {
            format!(
                "an upgrade of {} was cut off at `{}`; nothing has changed",
                journal.from,
                journal.word()
            )
        }
        _ => format!(
            "an upgrade from {} to {} was cut off at `{}`",
            journal.from,
            journal.to,
            journal.word()
        ),
    };
    Failure::new(Exit::Failed, said).hint("finish or undo it with: nexus upgrade")
}

/// Whether an upgrade of the installation that this program is of was cut off, in words; `None` also where there is no
/// such installation, or an upgrade is under way.
pub fn look() -> Option<String> {
    let layout = Layout::find(None).ok()?;
    let _idle = layout.lock().ok()?;
    match Journal::read(&layout) {
        Ok(journal) => journal.map(|journal| told(&journal).message),
        Err(failure) => Some(failure.message),
    }
}
