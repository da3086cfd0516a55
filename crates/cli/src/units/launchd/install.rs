//! Installs and removes launchd agents.

use super::{SERVICES, domain, file, label, plist, target};
use crate::{
    failure::{Exit, Failure},
    output::{Output, table::table},
    units::{
        Installation,
        args::Which,
        check,
        steps::{self, Step},
    },
};

fn asked(which: &Which) -> Result<Vec<(&'static str, &'static str)>, Failure> {
    let known = |name: &String| SERVICES.iter().any(|(service, _)| service == name);
    if let Some(wrong) = which.services.iter().find(|name| !known(name)) {
        return Err(check::unknown(wrong));
    }
    let all = which.services.is_empty();
    let wanted = |service: &&(&str, &str)| all || which.services.iter().any(|name| name == service.0);
    Ok(SERVICES.iter().filter(wanted).copied().collect())
}

fn launchctl(args: &[&str]) -> (&'static str, Vec<String>) {
    ("launchctl", args.iter().map(|arg| (*arg).to_owned()).collect())
}

pub async fn install(here: &Installation, which: &Which, start: bool, output: &Output) -> Result<Exit, Failure> {
    let services = asked(which)?;
    let mut steps = Vec::new();
    for (service, text) in &services {
        let path = file(service)?;
        let (program, args) = launchctl(&["bootout", &target(service)]);
        steps.push(Step::run_if_possible(program, args));
        steps.push(Step::Write {
            path: path.clone(),
            text: plist::render(text, here),
        });
        let (program, args) = launchctl(&["enable", &target(service)]);
        steps.push(Step::run(program, args));
        if start {
            let (program, args) = launchctl(&["bootstrap", &domain(), &path.display().to_string()]);
            steps.push(Step::run(program, args));
        }
    }
    steps::take(&steps, which.dry_run, output).await?;
    if which.dry_run {
        return Ok(Exit::Ok);
    }
    let mut rows = Vec::new();
    let mut shown = Vec::new();
    for (service, _) in services {
        let state = super::state(service).await?;
        let word = state
            .as_ref()
            .map_or("not loaded", |state| state.state.as_str())
            .to_owned();
        let pid = state.and_then(|state| state.pid);
        shown.push(serde_json::json!({ "service": service, "label": label(service), "state": word, "pid": pid }));
        rows.push([
            service.to_owned(),
            label(service),
            word,
            pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
        ]);
    }
    if output.json {
        output.value(&serde_json::json!({ "services": shown }))?;
    } else {
        output.line("")?;
        output.line(table(output, ["SERVICE", "LABEL", "STATE", "PID"], rows))?;
    }
    Ok(Exit::Ok)
}

pub async fn uninstall(which: &Which, output: &Output) -> Result<Exit, Failure> {
    let mut steps = Vec::new();
    for (service, _) in asked(which)? {
        let path = file(service)?;
        if !path.exists() {
            continue;
        }
        let (program, args) = launchctl(&["bootout", &target(service)]);
        steps.push(Step::run_if_possible(program, args));
        steps.push(Step::Remove { path });
    }
    if steps.is_empty() {
        return crate::units::uninstall::nothing(output);
    }
    steps::take(&steps, which.dry_run, output).await?;
    if output.json && !which.dry_run {
        output.value(&serde_json::json!({ "steps": steps }))?;
    } else if !which.dry_run {
        output.note("what the daemons keep is left where it is; to remove it, remove NEXUS_ROOT");
    }
    Ok(Exit::Ok)
}
