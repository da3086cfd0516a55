//! `nexus services install`: writes and enables the units, and starts everything.

use std::path::PathBuf;

use super::{
    Installation, Kind, Scope,
    args::InstallArgs,
    check,
    files::{Entry, File, SYSUSERS, TABLE, TARGET, TMPFILES},
    launchd, render,
    steps::{self, Step, unwritable},
};
use crate::{
    context::Context,
    failure::{Exit, Failure},
    output::{Output, table::table},
};

pub const SYSUSERS_FILE: &str = "/etc/sysusers.d/nexus.conf";
pub const TMPFILES_FILE: &str = "/etc/tmpfiles.d/nexus.conf";

pub async fn install(context: &Context, args: &InstallArgs, output: &Output) -> Result<Exit, Failure> {
    let scope = args.which.scope();
    let entries = check::entries(&args.which)?;
    check::may(&args.which)?;
    let here = check::installation(context, &entries, scope)?;
    if args.which.kind() == Kind::Launchd {
        return launchd::install::install(&here, &args.which, !args.no_start, output).await;
    }
    let systemd = scope.systemd();
    if !args.which.dry_run {
        systemd.answers().await?;
    }
    let version = systemd.version().await?;
    check::sockets_are_free(&here, &entries)?;
    let steps = plan(&here, &entries, version, !args.no_start)?;
    steps::take(&steps, args.which.dry_run, output).await?;
    if args.which.dry_run {
        return Ok(Exit::Ok);
    }
    report(&here, &entries, output).await
}

fn plan(here: &Installation, entries: &[&Entry], version: u32, start: bool) -> Result<Vec<Step>, Failure> {
    let systemctl = |args: &[&str]| Step::run("systemctl", here.scope.systemd().words(args));
    let mut steps = Vec::new();
    if here.scope == Scope::System {
        steps.extend(account(here)?);
    }
    let files = units(here, entries, version)?;
    let units: Vec<String> = entries
        .iter()
        .flat_map(|entry| [entry.socket_unit(), entry.service_unit()])
        .collect();
    let units: Vec<&str> = units.iter().map(String::as_str).collect();
    // A socket that is held cannot learn a new path; so what changes is stopped first.
    if start && files.iter().any(|(path, text)| is_other(path, text)) {
        steps.push(systemctl(&[&["stop"], &units[..]].concat()));
    }
    steps.extend(files.into_iter().map(|(path, text)| Step::Write { path, text }));
    steps.push(systemctl(&["daemon-reload"]));
    steps.push(systemctl(&[&["enable", "nexus.target"], &units[..]].concat()));
    if start {
        let words = here.scope.systemd().words(&[&["reset-failed"], &units[..]].concat());
        steps.push(Step::run_if_possible("systemctl", words));
        steps.push(systemctl(&[&["start", "nexus.target"], &units[..]].concat()));
    }
    Ok(steps)
}

fn is_other(path: &PathBuf, text: &str) -> bool {
    std::fs::read_to_string(path).is_ok_and(|there| there != text)
}

/// The user that the system's daemons run as, and the folders that the sockets lie in.
fn account(here: &Installation) -> Result<Vec<Step>, Failure> {
    let write = |path: &str, text| {
        render::table(text, here)
            .map(|text| Step::Write {
                path: path.into(),
                text,
            })
            .map_err(|error| unwritable(&error))
    };
    Ok(vec![
        write(SYSUSERS_FILE, SYSUSERS)?,
        Step::run("systemd-sysusers", vec![SYSUSERS_FILE.to_owned()]),
        write(TMPFILES_FILE, TMPFILES)?,
        Step::run(
            "systemd-tmpfiles",
            vec!["--create".to_owned(), TMPFILES_FILE.to_owned()],
        ),
    ])
}

fn units(here: &Installation, entries: &[&Entry], version: u32) -> Result<Vec<(PathBuf, String)>, Failure> {
    let folder = here.scope.folder()?;
    let mut files: Vec<&File> = entries.iter().flat_map(|entry| entry.files()).collect();
    files.push(&TARGET);
    let one = |file: &File| {
        let mut text = render::unit(file.text(here.scope), here, version).map_err(|error| unwritable(&error))?;
        if file.name == TARGET.name {
            // It enables all that a package has; here each service is enabled by itself.
            text = text
                .lines()
                .filter(|line| !line.starts_with("Also="))
                .map(|line| format!("{line}\n"))
                .collect();
        }
        Ok((folder.join(file.name), text))
    };
    files.into_iter().map(one).collect()
}

async fn report(here: &Installation, entries: &[&Entry], output: &Output) -> Result<Exit, Failure> {
    let systemd = here.scope.systemd();
    let mut rows = Vec::new();
    let mut services = Vec::new();
    for entry in TABLE
        .iter()
        .filter(|entry| entries.iter().any(|asked| asked.service == entry.service))
    {
        let Some(state) = systemd.state(entry.service).await? else {
            return Err(Failure::new(
                Exit::Failed,
                format!("systemd does not know {}", entry.service_unit()),
            ));
        };
        services.push(serde_json::json!({
            "service": entry.service, "unit": state.unit, "active": state.active, "enabled": state.enabled,
            "pid": state.pid,
        }));
        let pid = state.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        rows.push([entry.service.to_owned(), state.unit, state.active, pid]);
    }
    let linger = lingers(here.scope);
    if output.json {
        output.value(&serde_json::json!({ "services": services, "survivesLogout": linger }))?;
        return Ok(Exit::Ok);
    }
    output.line("")?;
    output.line(table(output, ["SERVICE", "UNIT", "STATE", "PID"], rows))?;
    if !linger {
        output.note("\nthey end when you log out; to have them stay: loginctl enable-linger");
    }
    Ok(Exit::Ok)
}

/// Whether a user's manager goes on when nobody is logged in.
fn lingers(scope: Scope) -> bool {
    let name = || Some(nix::unistd::User::from_uid(nix::unistd::getuid()).ok()??.name);
    scope == Scope::System || name().is_some_and(|name| PathBuf::from("/var/lib/systemd/linger").join(name).exists())
}
