//! Changes settings: checks them with the daemons, replaces the file by one rename, then notifies running daemons.

use std::{
    env, fs,
    io::{IsTerminal, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
};

use nexus_config::{Described, Origin};
use serde_json::json;

use super::catalogue;
use crate::{
    context::Context,
    failure::{Exit, Failure},
    output::Output,
    settings::{
        ask::{self, Program, Sees},
        catalogue::Catalogue,
        edit, tell,
        tell::{Applies, Notified},
        trial, write,
    },
};

pub async fn set(context: &Context, key: &str, value: &str, output: &Output) -> Result<Exit, Failure> {
    let catalogue = catalogue(output).await?;
    let setting = catalogue.find(key)?;
    if setting.secret {
        return Err(Failure::usage(format!(
            "{} is secret: a command line can be read by others",
            setting.name()
        ))
        .hint("write it with: nexus config edit"));
    }
    let value = edit::value(setting, value)?;
    prepare(context)?;
    let file = context.root.config_file();
    let _lock = write::lock(&file)?;
    let before = write::read(&file)?;
    let after = edit::set(&before, setting, value)?;
    commit(context, &catalogue, setting, &before, &after, output).await
}

pub async fn unset(context: &Context, key: &str, output: &Output) -> Result<Exit, Failure> {
    let catalogue = catalogue(output).await?;
    let setting = catalogue.find(key)?;
    prepare(context)?;
    let file = context.root.config_file();
    let _lock = write::lock(&file)?;
    let before = write::read(&file)?;
    let after = edit::unset(&before, setting)?.unwrap_or_else(|| before.clone());
    commit(context, &catalogue, setting, &before, &after, output).await
}

fn prepare(context: &Context) -> Result<(), Failure> {
    context
        .root
        .create()
        .map_err(|error| Failure::new(Exit::Failed, error.to_string()))
}

async fn commit(
    context: &Context,
    catalogue: &Catalogue,
    setting: &Described,
    before: &str,
    after: &str,
    output: &Output,
) -> Result<Exit, Failure> {
    let file = context.root.config_file();
    let readers = readers(catalogue, setting);
    let old = trial::mistakes(&readers, &context.root, before).await?;
    let new = trial::mistakes(&readers, &context.root, after).await?;
    let added = trial::new_ones(&file, &old, &new);
    if !added.is_empty() {
        return Err(
            Failure::new(Exit::Config, format!("nothing was changed:\n  {}", added.join("\n  "))).hint(format!(
                "see what it takes with: nexus config explain {}",
                setting.name()
            )),
        );
    }
    if before != after {
        write::replace(&file, after.as_bytes())?;
    }
    let told = if before == after {
        Vec::new()
    } else {
        tell::tell(context, catalogue, &[setting]).await?
    };
    let one: Vec<Program> = readers.into_iter().take(1).collect();
    let answers = ask::values(&one, &context.root, None, Sees::Everything, false).await?;
    let effective = answers
        .into_iter()
        .flat_map(|answer| answer.settings)
        .find(|one| one.section == setting.section && one.key == setting.key);
    let (value, origin) = effective.map_or((None, Origin::Default), |one| (one.toml, one.origin));
    if output.json {
        output.value(
            &json!({ "key": setting.name(), "value": value, "origin": origin, "changed": before != after,
            "file": file, "running": told, "mistakes": new }),
        )?;
        return Ok(Exit::Ok);
    }
    let value = value.unwrap_or_else(|| "(not set)".to_owned());
    output.line(format!("{} = {value}  # {origin}", setting.name()))?;
    if before == after {
        output.note("it had this value already; nothing was changed");
    }
    if let Origin::Env(name) = &origin {
        output.note(&format!(
            "{name} in this shell wins over the file, for daemons that are started from it"
        ));
    }
    say(&told, output);
    for mistake in &new {
        output.note(&format!("still wrong: {mistake}"));
    }
    Ok(Exit::Ok)
}

/// A setting that others borrow is checked by them too.
fn readers(catalogue: &Catalogue, setting: &Described) -> Vec<Program> {
    let name = Some(setting.name());
    if catalogue.settings.iter().any(|other| other.borrows == name) {
        catalogue.programs.clone()
    } else {
        catalogue.readers(&setting.section)
    }
}

fn say(told: &[Notified], output: &Output) {
    for Notified { service, pid, applies } in told {
        output.note(&match applies {
            Applies::Live => format!("{service} (pid {pid}) was told and applies it now"),
            Applies::Restart => format!("{service} (pid {pid}) needs a restart: nexus services restart {service}"),
            Applies::Unreached => {
                format!("{service} (pid {pid}) could not be notified: nexus services restart {service}")
            }
        });
    }
}

pub async fn edit(context: &Context, output: &Output) -> Result<Exit, Failure> {
    let editor = editor()?;
    let catalogue = catalogue(output).await?;
    prepare(context)?;
    let file = context.root.config_file();
    let before = write::read(&file)?;
    let begin = if before.is_empty() {
        super::super::init::EXAMPLE
    } else {
        &before
    };
    let parent = file.parent().expect("the file lies in the tree");
    let failed = |error: std::io::Error| Failure::file("write beside", &file, &error);
    let mut draft = tempfile::Builder::new()
        .prefix("draft.")
        .suffix(".toml")
        .permissions(fs::Permissions::from_mode(0o600))
        .tempfile_in(parent)
        .map_err(failed)?;
    draft.write_all(begin.as_bytes()).map_err(failed)?;
    let draft = draft.into_temp_path();
    let after = loop {
        run_editor(&editor, &draft)?;
        let after = write::read(&draft)?;
        if after == before || (before.is_empty() && after == super::super::init::EXAMPLE) {
            output.note("nothing was changed");
            return Ok(Exit::Ok);
        }
        let wrong = trial::mistakes(&catalogue.programs, &context.root, &after).await?;
        if wrong.is_empty() {
            break after;
        }
        output.warn(&format!("that is not right yet:\n  {}", wrong.join("\n  ")));
        if !(std::io::stdin().is_terminal() && again()?) {
            let kept = draft.keep().map_err(|error| failed(error.error))?;
            return Err(Failure::new(Exit::Config, "the settings stay as they were")
                .hint(format!("your text is kept in {}", kept.display())));
        }
    };
    let _lock = write::lock(&file)?;
    if write::read(&file)? != before {
        let kept = draft.keep().map_err(|error| failed(error.error))?;
        return Err(Failure::new(
            Exit::Failed,
            "the settings were changed by another while you edited them",
        )
        .hint(format!("your text is kept in {}", kept.display())));
    }
    let old = values(&catalogue, context).await?;
    write::replace(&file, after.as_bytes())?;
    let new = values(&catalogue, context).await?;
    let changed: Vec<&Described> = catalogue
        .settings
        .iter()
        .filter(|setting| old.get(&setting.name()) != new.get(&setting.name()))
        .collect();
    let told = tell::tell(context, &catalogue, &changed).await?;
    let names: Vec<String> = changed.iter().map(|setting| setting.name()).collect();
    if output.json {
        output.value(&json!({ "file": file, "changed": names, "running": told }))?;
        return Ok(Exit::Ok);
    }
    let count = match names.len() {
        0 => "no value in force has changed".to_owned(),
        _ => format!("changed: {}", names.join(", ")),
    };
    output.line(format!("wrote {}; {count}", file.display()))?;
    say(&told, output);
    Ok(Exit::Ok)
}

async fn values(
    catalogue: &Catalogue,
    context: &Context,
) -> Result<std::collections::BTreeMap<String, serde_json::Value>, Failure> {
    let answers = ask::values(&catalogue.programs, &context.root, None, Sees::FileOnly, false).await?;
    let all = answers.into_iter().flat_map(|answer| answer.settings);
    Ok(all
        .map(|one| (format!("{}.{}", one.section, one.key), one.value))
        .collect())
}

fn editor() -> Result<String, Failure> {
    let told = ["VISUAL", "EDITOR"]
        .iter()
        .find_map(|name| env::var(name).ok().filter(|told| !told.trim().is_empty()));
    if let Some(told) = told {
        return Ok(told);
    }
    let there = |name: &&&str| {
        env::split_paths(&env::var_os("PATH").unwrap_or_default())
            .any(|directory| ask::is_program(&directory.join(name)))
    };
    ["editor", "nano", "vim", "vi"]
        .iter()
        .find(there)
        .map(|name| (*name).to_owned())
        .ok_or_else(|| {
            Failure::new(Exit::Failed, "no editor found")
                .hint("name one in EDITOR, or change single values with: nexus config set KEY VALUE")
        })
}

/// The variable may bring options of its own, as `code --wait` does.
fn run_editor(editor: &str, draft: &Path) -> Result<(), Failure> {
    let mut words = editor.split_whitespace();
    let program = words.next().expect("it is not blank");
    let status = Command::new(program)
        .args(words)
        .arg(draft)
        .status()
        .map_err(|error| Failure::file("run", Path::new(program), &error))?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Failed,
        format!("{program} ended with {status}; nothing was changed"),
    ))
}

fn again() -> Result<bool, Failure> {
    let mut out = std::io::stderr().lock();
    write!(out, "edit it again? [Y/n] ")?;
    out.flush()?;
    let mut line = String::new();
    std::io::stdin()
        .read_line(&mut line)
        .map_err(|error| Failure::new(Exit::Failed, format!("failed to read the answer: {error}")))?;
    Ok(!line.trim().to_ascii_lowercase().starts_with('n'))
}
