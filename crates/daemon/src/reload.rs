//! SIGHUP: reads the sources again, applies live settings, and logs which need a restart. A mistake changes nothing.

use std::path::PathBuf;

use nexus_config::{Change, Settings, Sources};

use crate::args::Args;
use crate::daemon::{Daemon, Reload};
use crate::settings::{self, Plan, Shown};
use crate::trace::Level;

/// What a reload did, by `section.key`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub applied: Vec<String>,
    pub needs_restart: Vec<String>,
}

/// The sources of this process; `--config` must exist, the root's own file need not.
pub(crate) fn sources<'a>(args: &Args, root: &'a nexus_config::Root) -> Sources<'a> {
    let mut sources = Sources::new(root).with_process_env();
    sources.file = args.config.clone().or(sources.file);
    sources.flags = args.settings.clone();
    sources
}

/// Brings `plan` up to date with the sources; the new values of settings that are not live stay out of it.
pub(crate) fn reload<D: Daemon>(
    plan: &mut Plan<D>,
    sources: &Sources<'_>,
    apply: Option<&Reload<D::Config>>,
) -> Result<Outcome, Vec<String>> {
    let newer = settings::load::<D>(sources)?;
    let mut outcome = Outcome::default();
    let merged = Shown {
        common: merge(&plan.shown.common, &newer.shown.common, &mut outcome),
        own: merge(&plan.shown.own, &newer.shown.own, &mut outcome),
    };
    let own_changed = !plan.shown.own.diff(&merged.own).is_empty();
    // Live values beside older ones may contradict each other where the whole new file would not.
    let mut mistakes = Vec::new();
    let next = settings::plan::<D>(&plan.root, merged, &mut mistakes).filter(|_| mistakes.is_empty());
    let beside = |mistake: String| format!("beside settings that change only with a restart: {mistake}");
    let next = next.ok_or_else(|| mistakes.into_iter().map(beside).collect::<Vec<_>>())?;
    if own_changed && let Some(apply) = apply {
        apply(&next.config);
    }
    *plan = next;
    Ok(outcome)
}

fn merge(present: &Settings, newer: &Settings, outcome: &mut Outcome) -> Settings {
    for Change { key, live } in present.diff(newer) {
        let list = if live {
            &mut outcome.applied
        } else {
            &mut outcome.needs_restart
        };
        list.push(format!("{}.{key}", present.section()));
    }
    present.with_live_of(newer)
}

/// As the running process does it: with the log level, and told in the log.
pub(crate) fn on_hangup<D: Daemon>(plan: &mut Plan<D>, args: &Args, apply: Option<&Reload<D::Config>>, level: &Level) {
    let root = plan.root.clone();
    let file: Option<PathBuf> = sources(args, &root).file;
    match reload(plan, &sources(args, &root), apply) {
        Ok(outcome) => {
            let log_level = outcome.applied.iter().any(|key| key == "common.log_level");
            if log_level && !level.set(&plan.common.log_level) {
                tracing::warn!("log_level has no effect while RUST_LOG is set");
            }
            let file = file.map(|f| f.display().to_string()).unwrap_or_default();
            tracing::info!(file, applied = outcome.applied.join(" "), "settings read again");
            if !outcome.needs_restart.is_empty() {
                tracing::warn!(
                    settings = outcome.needs_restart.join(" "),
                    "changed but not in force before a restart"
                );
            }
        }
        Err(mistakes) => {
            for mistake in &mistakes {
                tracing::error!(mistake, "the settings are wrong");
            }
            tracing::error!(
                mistakes = mistakes.len(),
                "nothing was changed, the old settings stay in force"
            );
        }
    }
}
