//! The command line of `nexus tools`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};

const EXAMPLES: &str = "\
Examples:
  nexus tools list
  nexus tools show edit_file                     its arguments
  nexus tools call exec command='uname -a'       in a session of its own, in the sandbox
  nexus tools call --session 1a2b read_file '{\"path\": \"src/main.rs\"}'
  nexus tools add weather --description 'Weather of a city' --schema weather.json -- python3 weather.py
  nexus tools disable exec                       no agent calls it any more";

#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum ToolsCommand {
    /// List tools
    List(ListArgs),
    /// Show one tool with its arguments
    Show { name: String },
    /// Call a tool yourself, by the rules that hold for agents
    Call(CallArgs),
    /// Let agents call these tools
    Enable(NamesArgs),
    /// Keep agents from calling these tools
    Disable(DisableArgs),
    /// Add a tool of your own: a command that gets its arguments as JSON on standard input
    Add(AddArgs),
    /// Remove tools of your own
    Remove(RemoveArgs),
    /// Show how often tools were called, and how that ended
    Stats(StatsArgs),
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Show only tools of this name; * and ? stand for any characters
    pub pattern: Option<String>,
    /// Show only tools that are enabled
    #[arg(long)]
    pub enabled: bool,
}

#[derive(Debug, Args)]
pub struct CallArgs {
    pub tool: String,
    /// The arguments, as one JSON object or as name=value for each
    pub arguments: Vec<String>,
    /// Read the arguments, a JSON object, from this file; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "arguments")]
    pub file: Option<PathBuf>,
    /// Call it in this session; by default in a new one, which is closed afterwards
    #[arg(long, short = 's', value_name = "ID")]
    pub session: Option<String>,
    /// Show what it writes as it appears, before its result
    #[arg(long)]
    pub stream: bool,
    /// How long it may take
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub timeout: Option<Duration>,
}

#[derive(Debug, Args)]
pub struct NamesArgs {
    #[arg(required = true)]
    pub names: Vec<String>,
}

#[derive(Debug, Args)]
pub struct DisableArgs {
    #[arg(required = true)]
    pub names: Vec<String>,
    /// Cancel calls that run
    #[arg(long)]
    pub cancel: bool,
}

#[derive(Debug, Args)]
pub struct AddArgs {
    /// Its name: letters, digits, _ and -
    pub name: String,
    /// What it does, for the model
    #[arg(long, short = 'd')]
    pub description: String,
    /// A file with the JSON Schema of its arguments; without one it takes none
    #[arg(long, value_name = "FILE")]
    pub schema: Option<PathBuf>,
    /// The image to run it in; by default this host's own programs
    #[arg(long)]
    pub image: Option<String>,
    /// Declare that it changes nothing; this is not checked
    #[arg(long)]
    pub read_only: bool,
    /// Declare that calling it twice is the same as calling it once, so that it may be called again when a worker died; this is
    /// not checked
    #[arg(long)]
    pub idempotent: bool,
    /// How long a call may take
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub timeout: Option<Duration>,
    /// A version to show
    #[arg(long)]
    pub version: Option<String>,
    /// Replace a tool of this name
    #[arg(long)]
    pub replace: bool,
    /// Do not let agents call it yet
    #[arg(long)]
    pub disabled: bool,
    /// The command and its fixed arguments
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct RemoveArgs {
    #[arg(required = true)]
    pub names: Vec<String>,
    /// Cancel calls that run
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Show only this tool
    pub name: Option<String>,
    /// Show tools too that were never called
    #[arg(long)]
    pub all: bool,
}
