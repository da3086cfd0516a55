//! `nexus config`: the settings file, read and changed with the daemons' own knowledge of it.

mod change;
mod show;

use std::collections::BTreeSet;

use clap::{Args, Subcommand};

use crate::{
    context::Context,
    failure::{Exit, Failure},
    output::Output,
    settings::catalogue::Catalogue,
};

const LAYERS: &str = "\
A value comes from, later ones win over earlier:
    the daemon's default, state/nexus/config.toml, the environment (NEXUS_<SECTION>__<KEY>), an option

A key is section.key, such as orchestrator.max_sessions; the section may be left out where only one has that key.

Examples:
  nexus config list llm                        every setting of the model daemon and its value
  nexus config explain log_level               what it does, and where its value comes from
  nexus config set orchestrator.max_sessions 500
  nexus config unset orchestrator.max_sessions
  nexus config edit                            in $VISUAL or $EDITOR, checked before it counts";

#[derive(Debug, Args)]
#[command(after_help = LAYERS)]
pub struct ConfigArgs {
    #[command(subcommand)]
    pub command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print one value that is in force
    Get { key: String },
    /// Change one value in the file; the daemons check it first, and are told
    Set {
        key: String,
        /// As in the environment: 30s, 100MiB, true, a,b,c
        #[arg(allow_hyphen_values = true)]
        value: String,
    },
    /// Take one value out of the file: its default holds again
    Unset { key: String },
    /// List settings with their values and where those come from
    List(ListArgs),
    /// Change the file in an editor; the daemons check it before it counts
    Edit,
    /// Say all about one setting: what it does, what it takes, what sets it and who wins
    Explain { key: String },
    /// Print where the file is
    Path,
    /// Ask every daemon whether its settings are right; exits with 78 if not
    Check,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only this section, such as llm
    pub section: Option<String>,
    /// Only what is not the default
    #[arg(long)]
    pub changed: bool,
}

pub async fn run(context: &Context, args: ConfigArgs, output: &Output) -> Result<Exit, Failure> {
    match args.command {
        ConfigCommand::Get { key } => show::get(context, &key, output).await,
        ConfigCommand::List(args) => show::list(context, &args, output).await,
        ConfigCommand::Explain { key } => show::explain(context, &key, output).await,
        ConfigCommand::Path => show::path(context, output),
        ConfigCommand::Check => show::check(context, output).await,
        ConfigCommand::Set { key, value } => change::set(context, &key, &value, output).await,
        ConfigCommand::Unset { key } => change::unset(context, &key, output).await,
        ConfigCommand::Edit => change::edit(context, output).await,
    }
}

async fn catalogue(output: &Output) -> Result<Catalogue, Failure> {
    let catalogue = Catalogue::load().await?;
    if !catalogue.missing.is_empty() {
        output.note(&format!(
            "not installed here, so not asked: {}",
            catalogue.missing.join(", ")
        ));
    }
    Ok(catalogue)
}

fn sections(catalogue: &Catalogue) -> Vec<&str> {
    let mut seen = BTreeSet::new();
    let all = catalogue.settings.iter().map(|setting| setting.section.as_str());
    all.filter(|section| seen.insert(*section)).collect()
}
