//! Checks of a new version that run before anything is changed.

use std::{env, fs, path::Path};

use nexus_config::services;

use super::{
    gate::{self, ASK},
    release::{self, About, enough},
    stores::Facts,
};
use crate::{
    backup::{self, pick},
    context::Context,
    failure::{Exit, Failure},
    services::table::TABLE,
    settings::ask::{self, Sees},
    units::{self, manager::Manager},
};

/// Left free beside a backup.
const SPARE: u64 = 4 << 20;
const CONFIG_WRONG: i32 = 78;

/// What must hold before a release is even unpacked.
pub fn beforehand() -> Result<(), Failure> {
    match env::var_os("NEXUS_BIN_DIR").filter(|told| !told.is_empty()) {
        Some(told) => Err(Failure::usage(format!(
            "NEXUS_BIN_DIR names {}: whatever is installed, that would be run",
            Path::new(&told).display()
        ))
        .hint("take it out of the environment")),
        None => Ok(()),
    }
}

/// Whether the version in `folder` would run here, with these settings and these stores. `from` is the folder of the
/// one that it is to replace. What its programs call themselves comes back.
pub async fn all(context: &Context, about: &About, folder: &Path, from: &Path, save: bool) -> Result<String, Failure> {
    let target = format!("{}-{}", env::consts::OS, arch());
    if about.target != target {
        return Err(Failure::new(
            Exit::Refused,
            format!("nexus {} is for {}, and this is {target}", about.version, about.target),
        ));
    }
    let bin = folder.join("bin");
    let said = programs(about, &bin).await?;
    settings(context, about, &bin).await?;
    stores(context, about, &bin, &from.join("bin")).await?;
    units(context)?;
    if save {
        room(context)?;
    }
    Ok(said)
}

fn arch() -> &'static str {
    match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Each program runs, and is of this version; what follows a `+` only says which build of it.
async fn programs(about: &About, bin: &Path) -> Result<String, Failure> {
    let needed = ["nexus"].into_iter().chain(TABLE.iter().map(|entry| entry.binary));
    let mut names: Vec<String> = needed.map(str::to_owned).collect();
    let files = release::files(bin.parent().unwrap_or(bin))?;
    names.extend(
        files
            .iter()
            .filter_map(|file| file.strip_prefix("bin/"))
            .map(str::to_owned),
    );
    names.sort();
    names.dedup();
    let own = about.version.split('+').next().unwrap_or_default();
    for name in names {
        let path = bin.join(&name);
        let unfit = |why: String| {
            Failure::new(
                Exit::Failed,
                format!("{name} of nexus {} cannot be used: {why}", about.version),
            )
            .hint("download the release again, or one that is made for this system")
        };
        let ended = ask::run(&path, ["--version"], Sees::Everything)
            .await
            .map_err(|failure| unfit(failure.message))?;
        let said = String::from_utf8_lossy(&ended.stdout);
        let version = said.split_whitespace().nth(1).unwrap_or_default();
        if !ended.status.success() || version != own {
            return Err(unfit(format!(
                "--version ended with {} and said {:?}",
                ended.status,
                said.trim()
            )));
        }
    }
    Ok(own.to_owned())
}

/// Each daemon judges the settings that are in force.
async fn settings(context: &Context, about: &About, bin: &Path) -> Result<(), Failure> {
    for section in services::daemon_sections() {
        let path = bin.join(format!("nexus-{section}"));
        if !path.is_file() {
            continue;
        }
        let args = [
            "--check-config".as_ref(),
            "--root".as_ref(),
            context.root.path().as_os_str(),
        ];
        let ended = ask::run(&path, args, Sees::Everything).await?;
        let said = String::from_utf8_lossy(&ended.stderr);
        match ended.status.code() {
            Some(0) => {}
            Some(CONFIG_WRONG) => {
                let said = format!("nexus {} does not take the settings: {}", about.version, said.trim());
                return Err(Failure::new(Exit::Config, said).hint("correct them (nexus config edit), then try again"));
            }
            _ => {
                let said = format!(
                    "nexus-{section} of nexus {} ended with {} when it was asked about the settings: {}",
                    about.version,
                    ended.status,
                    said.trim()
                );
                return Err(Failure::new(Exit::Failed, said));
            }
        }
    }
    Ok(())
}

async fn stores(context: &Context, about: &About, bin: &Path, from: &Path) -> Result<(), Failure> {
    let (new, old) = (facts(context, bin).await?, facts(context, from).await?);
    let new = Facts {
        version: about.version.clone(),
        ..new
    };
    match new.objection(&old) {
        Some((said, hint)) => Err(Failure::new(Exit::Data, said).hint(hint)),
        None => Ok(()),
    }
}

async fn facts(context: &Context, bin: &Path) -> Result<Facts, Failure> {
    let done = gate::ask(&bin.join("nexus"), context, &["upgrade", "--stores", "--json"], ASK).await?;
    serde_json::from_slice(&done.stdout).map_err(|_| {
        let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
        Failure::new(
            Exit::Failed,
            format!(
                "{} does not report whether it can read the stores: {said}",
                bin.display()
            ),
        )
    })
}

/// Units must name the programs by what is switched, or they would start the old ones for ever.
fn units(context: &Context) -> Result<(), Failure> {
    let Some(Manager::Systemd(scope)) = units::manager::of(context) else {
        return Ok(());
    };
    let folder = scope.folder()?;
    for entry in units::programs() {
        let path = folder.join(entry);
        let text = fs::read_to_string(&path).unwrap_or_default();
        let fixed = |line: &&str| line.starts_with("ExecStart=") && line.contains("/lib/nexus/versions/");
        if text.lines().any(|line| fixed(&line)) {
            let said = format!("{} names one version of the programs for good", path.display());
            return Err(Failure::new(Exit::Refused, said).hint("write it again with: nexus services install"));
        }
    }
    Ok(())
}

/// A backup is staged beside itself: it takes its room twice.
fn room(context: &Context) -> Result<(), Failure> {
    let state = context.root.state();
    let Ok(bytes) = pick::measure(&state) else {
        return Ok(());
    };
    let mut folder = backup::directory(context.root.path());
    while !folder.is_dir() && folder.pop() {}
    enough(&folder, bytes.saturating_mul(2).saturating_add(SPARE))
}
