//! Shows settings; nothing here changes a file.

use std::{collections::BTreeMap, env, time::Duration};

use nexus_config::{Described, EffectiveSetting, Origin};
use serde_json::json;

use super::{ListArgs, catalogue, sections};
use crate::{
    context::Context,
    failure::{Exit, Failure},
    output::{Output, table::cut, table::table},
    settings::{
        ask::{self, Program, Sees},
        catalogue::Catalogue,
    },
};

const WIDTH: usize = 48;

/// What holds, by name, for daemons started from this shell.
async fn effective(context: &Context, programs: &[Program]) -> Result<BTreeMap<String, EffectiveSetting>, Failure> {
    let answers = ask::values(programs, &context.root, None, Sees::Everything, false).await?;
    let all = answers.into_iter().flat_map(|answer| answer.settings);
    Ok(all.map(|one| (format!("{}.{}", one.section, one.key), one)).collect())
}

async fn one(context: &Context, catalogue: &Catalogue, setting: &Described) -> Result<EffectiveSetting, Failure> {
    // Any reader will do: they all lay the same sources over each other.
    let readers: Vec<Program> = catalogue.readers(&setting.section).into_iter().take(1).collect();
    let mut all = effective(context, &readers).await?;
    all.remove(&setting.name()).ok_or_else(|| {
        Failure::new(
            Exit::Failed,
            format!("no daemon reported the value of {}", setting.name()),
        )
    })
}

pub async fn get(context: &Context, key: &str, output: &Output) -> Result<Exit, Failure> {
    let catalogue = catalogue(output).await?;
    let setting = catalogue.find(key)?;
    let one = one(context, &catalogue, setting).await?;
    if output.json {
        output
            .value(&json!({ "key": setting.name(), "value": one.value, "origin": one.origin, "hidden": one.hidden }))?;
    } else if one.hidden {
        output.note(&format!("{} is set, and secret: it is not shown", setting.name()));
    } else {
        output.line(bare(&one))?;
    }
    Ok(Exit::Ok)
}

/// Without the quotes of a text, so that scripts can use it.
fn bare(one: &EffectiveSetting) -> String {
    match &one.value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Null => String::new(),
        _ => one.toml.clone().unwrap_or_default(),
    }
}

fn shown(one: &EffectiveSetting) -> String {
    match (&one.toml, one.hidden) {
        (_, true) => "(secret, set)".to_owned(),
        (Some(text), _) => text.clone(),
        (None, _) => "(not set)".to_owned(),
    }
}

pub async fn list(context: &Context, args: &ListArgs, output: &Output) -> Result<Exit, Failure> {
    let catalogue = catalogue(output).await?;
    if let Some(section) = &args.section
        && !sections(&catalogue).contains(&section.as_str())
    {
        return Err(
            Failure::new(Exit::NotFound, format!("there is no section named {section}"))
                .hint(format!("one of: {}", sections(&catalogue).join(", "))),
        );
    }
    let effective = effective(context, &catalogue.programs).await?;
    let wanted = |setting: &&Described| args.section.as_ref().is_none_or(|section| *section == setting.section);
    let lines: Vec<(&Described, &EffectiveSetting)> = catalogue
        .settings
        .iter()
        .filter(wanted)
        .filter_map(|setting| Some((setting, effective.get(&setting.name())?)))
        .filter(|(_, one)| !args.changed || one.origin != Origin::Default)
        .collect();
    if output.json {
        let all: Vec<_> = lines
            .iter()
            .map(|(setting, one)| {
                json!({ "key": setting.name(), "value": one.value, "origin": one.origin, "hidden": one.hidden,
                    "default": setting.default, "kind": setting.kind, "live": setting.live, "help": setting.help })
            })
            .collect();
        output.value(&json!({ "file": context.root.config_file(), "settings": all }))?;
        return Ok(Exit::Ok);
    }
    if lines.is_empty() {
        output.note("everything has its default");
        return Ok(Exit::Ok);
    }
    let rows = lines.iter().map(|(setting, one)| {
        let apply = if setting.live { "live" } else { "restart" };
        [
            setting.name(),
            cut(&shown(one), WIDTH),
            one.origin.to_string(),
            apply.to_owned(),
        ]
    });
    output.line(table(output, ["SETTING", "VALUE", "FROM", "APPLIES"], rows))?;
    output.note("\nmore about one with: nexus config explain SETTING");
    Ok(Exit::Ok)
}

pub async fn explain(context: &Context, key: &str, output: &Output) -> Result<Exit, Failure> {
    let catalogue = catalogue(output).await?;
    let setting = catalogue.find(key)?;
    let one = one(context, &catalogue, setting).await?;
    let set: Vec<&String> = setting
        .env
        .iter()
        .filter(|name| env::var_os(name).is_some_and(|value| !value.is_empty()))
        .collect();
    if output.json {
        output.value(
            &json!({ "setting": setting, "value": one.value, "toml": one.toml, "origin": one.origin,
            "hidden": one.hidden, "environment": set, "file": context.root.config_file() }),
        )?;
        return Ok(Exit::Ok);
    }
    let or_none = |text: &str| {
        if text.is_empty() {
            "(not set)".to_owned()
        } else {
            text.to_owned()
        }
    };
    let mut rows = vec![
        ("value", shown(&one)),
        ("from", one.origin.to_string()),
        ("default", or_none(&setting.default)),
        ("takes", setting.expects.clone()),
        (
            "applies",
            if setting.live {
                "live: SIGHUP, or nexus config set"
            } else {
                "after a restart of the daemon"
            }
            .to_owned(),
        ),
        ("file", format!("[{}] {}", setting.section, setting.key)),
        ("environment", setting.env.join(", ")),
    ];
    if !setting.flags.is_empty() {
        rows.push(("options", setting.flags.join(", ")));
    }
    if !setting.aliases.is_empty() {
        rows.push(("also called", setting.aliases.join(", ")));
    }
    if let Some(lender) = &setting.borrows {
        rows.push(("otherwise", format!("what {lender} says")));
    }
    output.line(format!("{}\n  {}\n", output.bold(&setting.name()), setting.help))?;
    for (name, text) in rows {
        output.line(format!("  {name:<12} {text}"))?;
    }
    if let Origin::Env(name) = &one.origin {
        output.note(&format!(
            "\n{name} is set in this shell and wins over the file. A daemon that runs already may have been started without it."
        ));
    } else if !set.is_empty() {
        output.note("\nvariables of this shell that name it are ignored");
    }
    Ok(Exit::Ok)
}

pub fn path(context: &Context, output: &Output) -> Result<Exit, Failure> {
    let file = context.root.config_file();
    let exists = file.symlink_metadata().is_ok();
    if output.json {
        output.value(&json!({ "path": file, "exists": exists }))?;
        return Ok(Exit::Ok);
    }
    output.line(file.display().to_string())?;
    if !exists {
        output.note("it does not exist yet: every setting has its default. Begin one with: nexus init");
    }
    Ok(Exit::Ok)
}

pub async fn check(context: &Context, output: &Output) -> Result<Exit, Failure> {
    let (programs, missing) = ask::programs()?;
    let begin = tokio::time::Instant::now();
    let answers = ask::values(&programs, &context.root, None, Sees::Everything, true).await?;
    let ok = answers.iter().all(|answer| answer.ok);
    if output.json {
        output
            .value(&json!({ "ok": ok, "file": context.root.config_file(), "daemons": answers, "missing": missing }))?;
    } else {
        let mut told: Vec<&str> = Vec::new();
        for answer in &answers {
            let verdict = if answer.ok { "ok" } else { "WRONG" };
            output.line(format!("{:<14} {verdict}", answer.daemon))?;
            for mistake in answer
                .mistakes
                .iter()
                .filter(|mistake| !told.contains(&mistake.as_str()))
                .collect::<Vec<_>>()
            {
                output.line(format!("  {mistake}"))?;
                told.push(mistake);
            }
        }
        if !missing.is_empty() {
            output.note(&format!("not installed here, so not asked: {}", missing.join(", ")));
        }
        if begin.elapsed() > Duration::from_secs(5) {
            output.note("the daemons took long to answer; the machine is busy");
        }
        if !ok {
            output.note("correct it with: nexus config edit");
        }
    }
    Ok(if ok { Exit::Ok } else { Exit::Config })
}
