//! `nexus doctor`: checks everything a tree depends on, and says how to fix what is wrong.
//!
//! A room for each subject; each gives [`Finding`]s and repairs, where it is asked to, only what cannot hurt: modes,
//! missing directories, sockets that nobody listens on. A check that cannot be made here is skipped and says why. A new
//! subject joins by one line in [`run`].

pub mod backends;
mod daemons;
mod databases;
mod host;
mod managers;
pub mod secrets;
mod settings;
mod sockets;
mod tree;

use clap::Args;
use serde::Serialize;

use crate::{
    context::Context,
    failure::{Exit, Failure},
    output::{Output, table::table},
};

const EXAMPLES: &str = "\
Exits with 0 if nothing failed; warnings do not count. --fix repairs only what is safe: modes, missing directories,
sockets that nobody listens on. It says what it did.

Examples:
  nexus doctor
  nexus doctor --fix
  nexus doctor --json | jq '.checks[] | select(.status != \"pass\")'";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DoctorArgs {
    /// Repair what is safe to repair
    #[arg(long)]
    pub fix: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Pass,
    Warn,
    Fail,
    Skip,
}

#[derive(Debug, Serialize)]
struct Finding {
    /// The subject and what of it: `tree.state`.
    id: String,
    status: Status,
    message: String,
    /// What a person can do.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
    /// What was done about it just now.
    #[serde(skip_serializing_if = "Option::is_none")]
    repaired: Option<String>,
}

impl Finding {
    fn new(id: impl Into<String>, status: Status, message: impl Into<String>) -> Finding {
        Finding {
            id: id.into(),
            status,
            message: message.into(),
            fix: None,
            repaired: None,
        }
    }

    fn pass(id: impl Into<String>, message: impl Into<String>) -> Finding {
        Finding::new(id, Status::Pass, message)
    }

    fn skip(id: impl Into<String>, message: impl Into<String>) -> Finding {
        Finding::new(id, Status::Skip, message)
    }

    fn warn(id: impl Into<String>, message: impl Into<String>, fix: impl Into<String>) -> Finding {
        Finding {
            fix: Some(fix.into()),
            ..Finding::new(id, Status::Warn, message)
        }
    }

    fn fail(id: impl Into<String>, message: impl Into<String>, fix: impl Into<String>) -> Finding {
        Finding {
            fix: Some(fix.into()),
            ..Finding::new(id, Status::Fail, message)
        }
    }

    fn repaired(id: impl Into<String>, message: impl Into<String>, done: impl Into<String>) -> Finding {
        Finding {
            repaired: Some(done.into()),
            ..Finding::new(id, Status::Pass, message)
        }
    }
}

pub async fn run(context: &Context, args: &DoctorArgs, output: &Output) -> Result<Exit, Failure> {
    let mut findings = tree::look(&context.root, args.fix);
    findings.extend(
        crate::upgrade::unfinished()
            .map(|told| Finding::fail("upgrade", told, "finish or undo it with: nexus upgrade")),
    );
    findings.extend(settings::look(context).await);
    findings.extend(secrets::look(&context.root, args.fix));
    findings.extend(sockets::look(context, args.fix).await);
    findings.extend(daemons::look(context).await);
    findings.extend(databases::look(context, args.fix).await);
    findings.extend(host::look(context).await);
    findings.extend(backends::look(context).await);
    findings.extend(managers::look(context).await);
    show(&findings, output)
}

fn show(findings: &[Finding], output: &Output) -> Result<Exit, Failure> {
    let count = |status| findings.iter().filter(|one| one.status == status).count();
    let (passed, warned, failed, skipped) = (
        count(Status::Pass),
        count(Status::Warn),
        count(Status::Fail),
        count(Status::Skip),
    );
    let exit = if failed == 0 { Exit::Ok } else { Exit::Failed };
    if output.json {
        output.value(
            &serde_json::json!({ "schema": 1, "ok": failed == 0, "pass": passed, "warn": warned,
            "fail": failed, "skip": skipped, "checks": findings }),
        )?;
        return Ok(exit);
    }
    let rows = findings.iter().map(|one| {
        let status = match one.status {
            Status::Pass if one.repaired.is_some() => "fixed",
            Status::Pass => "pass",
            Status::Warn => "WARN",
            Status::Fail => "FAIL",
            Status::Skip => "skip",
        };
        [status.to_owned(), one.id.clone(), one.message.clone()]
    });
    output.line(table(output, ["", "CHECK", "FOUND"], rows))?;
    for one in findings {
        if let Some(done) = &one.repaired {
            output.note(&format!("\nfixed {}: {done}", one.id));
        }
        if let Some(fix) = &one.fix {
            output.note(&format!("\n{}: {}\n  {fix}", one.id, one.message));
        }
    }
    output.note(&format!(
        "\n{passed} passed, {warned} warnings, {failed} failed, {skipped} skipped"
    ));
    Ok(exit)
}
