//! The command line, made from the settings table: what has a `flag` there is an option here.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use nexus_config::{Kind, Schema, Setting};

use crate::daemon::Daemon;
use crate::exit;
use crate::settings::schema;

/// What was asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Args {
    pub config: Option<PathBuf>,
    pub root: Option<PathBuf>,
    pub check_config: bool,
    pub dump_config: bool,
    pub schema: bool,
    pub json: bool,
    /// `section.key` to the text given for it.
    pub settings: BTreeMap<String, String>,
}

/// # Errors
/// The usage error, or the help or version that was asked for: clap knows where to print which.
pub(crate) fn parse<D: Daemon>(line: impl IntoIterator<Item = OsString>) -> Result<Args, clap::Error> {
    let schemas = [schema::<D>(), nexus_config::common()];
    let matches = command::<D>(&schemas).try_get_matches_from(line)?;
    let mut settings = BTreeMap::new();
    for pair in matches.get_many::<(String, String)>("set").into_iter().flatten() {
        settings.insert(full(&schemas, &pair.0), pair.1.clone());
    }
    for (schema, setting) in flagged(&schemas) {
        if let Some(value) = given(&matches, setting) {
            settings.insert(format!("{}.{}", schema.section, setting.key), value);
        }
    }
    Ok(Args {
        config: matches.get_one("config").cloned(),
        root: matches.get_one("root").cloned(),
        check_config: matches.get_flag("check-config"),
        dump_config: matches.get_flag("dump-config"),
        schema: matches.get_flag("schema"),
        json: matches.get_flag("json"),
        settings,
    })
}

fn command<D: Daemon>(schemas: &[Schema]) -> Command {
    let path = |name: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name("PATH")
            .value_parser(value_parser!(PathBuf))
            .help(help)
    };
    let switch =
        |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    let mut command = Command::new(format!("nexus-{}", D::NAME))
        .about(D::ABOUT)
        .version(env!("CARGO_PKG_VERSION"))
        .arg(path(
            "config",
            "settings file [default: state/nexus/config.toml in the root]",
        ))
        .arg(path("root", "where Nexus lives [env: NEXUS_ROOT] [default: ~/nexus]"))
        .arg(switch(
            "check-config",
            "say what is wrong with the settings, or ok, and exit",
        ))
        .arg(switch(
            "dump-config",
            "print the settings in force and where each comes from, and exit",
        ))
        .arg(switch(
            "schema",
            "print every setting there is, as JSON for programs, and exit",
        ))
        .arg(switch(
            "json",
            "with --check-config or --dump-config: answer in JSON, for programs",
        ))
        .arg(
            Arg::new("set")
                .long("set")
                .value_name("KEY=VALUE")
                .action(ArgAction::Append)
                .value_parser(pair)
                .help("any setting below, e.g. --set common.log_level=debug"),
        )
        // Old start scripts say `orchestrator serve`.
        .arg(Arg::new("command").hide(true).value_parser(["serve"]));
    for (_, setting) in flagged(schemas) {
        command = command.arg(option(setting));
    }
    if std::env::args_os().any(|arg| arg == "-h" || arg == "--help") || cfg!(test) {
        command = command.after_help(more::<D>(schemas));
    }
    command
}

fn flagged(schemas: &[Schema]) -> impl Iterator<Item = (&Schema, &Setting)> {
    schemas.iter().flat_map(|schema| {
        schema
            .settings
            .iter()
            .filter(|s| s.flag.is_some())
            .map(move |s| (schema, s))
    })
}

fn option(setting: &Setting) -> Arg {
    let name = setting.flag.expect("only settings with a flag become options");
    let mut help = setting.help.to_owned();
    if !setting.default.is_empty() {
        help.push_str(&format!(" [default: {}]", setting.default));
    }
    // Passing a flag twice is what wrapper scripts do: the last one holds.
    let arg = Arg::new(name)
        .long(name)
        .aliases(setting.flag_aliases)
        .help(help)
        .overrides_with(name);
    match setting.kind {
        Kind::Bool => arg
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_name("BOOL"),
        Kind::Choice(names) => arg.value_name(names.join("|")),
        kind => arg
            .value_name(kind.describe().split(' ').next().unwrap_or_default().to_uppercase())
            .allow_hyphen_values(matches!(kind, Kind::Int { .. })),
    }
}

fn given(matches: &ArgMatches, setting: &Setting) -> Option<String> {
    matches.get_one::<String>(setting.flag?).cloned()
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| "expected KEY=VALUE".to_owned())?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

/// `log_level` is `common.log_level`; what no table has stays as it is and is a mistake later.
fn full(schemas: &[Schema], key: &str) -> String {
    let owner = schemas
        .iter()
        .find_map(|schema| schema.find(key).map(|setting| (schema.section, setting.key)));
    owner.map_or_else(|| key.to_owned(), |(section, key)| format!("{section}.{key}"))
}

fn more<D: Daemon>(schemas: &[Schema]) -> String {
    let mut out = String::from("Settings (file, environment, --set; later ones win over earlier):\n");
    for schema in schemas {
        out.push_str(&format!(
            "\n[{}]  environment: NEXUS_{}__KEY\n",
            schema.section,
            schema.section.to_ascii_uppercase()
        ));
        for setting in &schema.settings {
            out.push_str(&format!("  {:<26} {}", setting.key, setting.help));
            if !setting.default.is_empty() {
                out.push_str(&format!(" [{}]", setting.default));
            }
            if !setting.env.is_empty() {
                out.push_str(&format!(" (also {})", setting.env.join(", ")));
            }
            if setting.live {
                out.push_str(" *");
            }
            out.push('\n');
        }
    }
    out.push_str("\n* applied by SIGHUP without a restart. RUST_LOG wins over log_level.\n");
    out.push_str("\nSignals: SIGTERM or SIGINT stops (a second one at once), SIGHUP reads the settings again.\n");
    out.push_str(&format!("\nExit codes:\n{}\n", exit::TABLE));
    out.push_str(&format!(
        "\nExamples:\n  nexus-{0} --check-config --config ./config.toml\n  nexus-{0} --root /srv/nexus --log-level debug\n",
        D::NAME
    ));
    out
}
