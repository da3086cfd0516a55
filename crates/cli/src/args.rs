//! The arguments of commands, beside those that a command keeps in its own file.

use std::{
    ffi::OsString,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Args)]
pub struct Global {
    /// The directory that holds state and files [env: NEXUS_ROOT] [default: ~/nexus]
    #[arg(long, global = true, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// The orchestrator: a socket's path, host:port or https://host:port [env: GRPC_SOCKET_PATH]
    #[arg(long, global = true, value_name = "ADDRESS")]
    pub socket: Option<String>,
    /// Print JSON instead of tables and text
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct UpArgs {
    /// How long to wait until everything is ready
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_value = "30s", default_missing_value = "30s",
        value_parser = humantime::parse_duration)]
    pub wait: Duration,
}

#[derive(Debug, Args)]
pub struct DownArgs {
    /// How long a daemon may take to stop before it is killed
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
}

#[derive(Debug, Args)]
pub struct ServiceStatusArgs {
    /// Show only these services; exits with 3 if one does not run and 4 if it is unknown
    pub services: Vec<String>,
    /// Ask the daemons now instead of showing their last known status
    #[arg(long)]
    pub deep: bool,
    /// Keep running and show every change
    #[arg(long, short = 'w')]
    pub watch: bool,
}

#[derive(Debug, Args)]
pub struct ServiceChangeArgs {
    /// The services; all if none is named
    pub services: Vec<String>,
    /// How long to wait for completion [default: 1m]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub wait: Option<Duration>,
    /// How long a daemon may take to stop before it is killed [default: stop_timeout under [cli] in the config]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub timeout: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Level {
    /// 0 is the worst.
    pub fn rank(self) -> u8 {
        self as u8
    }
}

#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Show only the logs of these services; all logs if none is named
    pub services: Vec<String>,
    /// Keep running and show new lines
    #[arg(long, short = 'f')]
    pub follow: bool,
    /// Show only lines written since: a time such as 2026-11-21T15:00:00Z, or how long ago, such as 10m
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub since: Option<SystemTime>,
    /// Show only lines of this level or worse
    #[arg(long, value_name = "LEVEL")]
    pub level: Option<Level>,
    /// Show only lines that contain this text, ignoring case
    #[arg(long, value_name = "TEXT")]
    pub grep: Option<String>,
    /// Show at most the newest N lines; 200 unless --since is given
    #[arg(long, short = 'n', value_name = "N")]
    pub lines: Option<usize>,
}

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct ForegroundArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<OsString>,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Show only these services; exits with 3 if one does not run and 4 if it is unknown
    pub services: Vec<String>,
    /// Print one line
    #[arg(long)]
    pub brief: bool,
    /// Print nothing; only set the exit code
    #[arg(long, conflicts_with = "brief")]
    pub quiet: bool,
}

#[derive(Debug, Args)]
pub struct ChatArgs {
    /// The message to send; without one, start a conversation, or send all of standard input as one message
    pub message: Vec<String>,
    /// Continue the latest conversation
    #[arg(long = "continue", short = 'c', conflicts_with = "session")]
    pub latest: bool,
    /// Continue this conversation
    #[arg(long, short = 's', value_name = "ID")]
    pub session: Option<String>,
    /// Use this model
    #[arg(long, short = 'm')]
    pub model: Option<String>,
    /// Give up after this time without any sign of an answer
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
}

#[derive(Debug, Subcommand)]
pub enum SessionCommand {
    /// List conversations, oldest first
    List(ListArgs),
    /// Show one conversation
    Show(ShowArgs),
    /// Find messages that contain a text, newest first; exits with 4 if there are none
    Search(SearchArgs),
    /// Close conversations; they stay readable
    Close(CloseArgs),
    /// Delete conversations permanently, with their messages and events
    Delete(DeleteArgs),
    /// Delete old conversations; only lists them unless --yes is given
    Prune(PruneArgs),
    /// Export a conversation
    Export(ExportArgs),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum State {
    Active,
    Idle,
    Closed,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    #[arg(long)]
    pub state: Option<State>,
    /// Show only sessions of this owner
    #[arg(long)]
    pub owner: Option<String>,
    /// Show only sessions with this label; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    pub label: Vec<(String, String)>,
    /// Show at most N sessions; all by default
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=10_000))]
    pub limit: Option<i32>,
    /// Continue where a list with --limit ended
    #[arg(long, value_name = "TOKEN")]
    pub page: Option<String>,
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The session's id, or an unambiguous prefix of it
    pub id: String,
    /// Show only the newest N messages; 0 shows all
    #[arg(long, value_name = "N", default_value = "20", value_parser = clap::value_parser!(i32).range(0..))]
    pub limit: i32,
}

#[derive(Debug, Args)]
pub struct SearchArgs {
    /// What to look for, in any case of letters
    pub text: String,
    /// Show at most N messages
    #[arg(long, value_name = "N", default_value = "50")]
    pub limit: usize,
}

#[derive(Debug, Args)]
pub struct CloseArgs {
    #[arg(required = true)]
    pub ids: Vec<String>,
    #[arg(long, default_value = "")]
    pub reason: String,
}

#[derive(Debug, Args)]
pub struct DeleteArgs {
    #[arg(required = true)]
    pub ids: Vec<String>,
    /// Do not ask for confirmation
    #[arg(long)]
    pub yes: bool,
}

#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Select sessions unchanged for this long, such as 30d
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub older_than: Duration,
    /// Select only sessions in this state
    #[arg(long, default_value = "closed")]
    pub state: State,
    /// Delete the selected sessions
    #[arg(long)]
    pub yes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One JSON object per line: the session, then its messages
    Jsonl,
    Markdown,
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    pub id: String,
    #[arg(long, default_value = "jsonl")]
    pub format: Format,
    /// Write to this new file instead of standard output
    #[arg(long, short = 'o', value_name = "FILE")]
    pub output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Keep running and show events as they happen; only new ones unless --after is given
    #[arg(long, short = 'f')]
    pub follow: bool,
    /// Show all events after this sequence number; 0 shows all events
    #[arg(long, value_name = "N")]
    pub after: Option<u64>,
    /// Show only events of this name, such as session.created; may be repeated
    #[arg(long = "type", value_name = "NAME")]
    pub names: Vec<String>,
    /// Show only events of this session
    #[arg(long, value_name = "ID")]
    pub session: Option<String>,
    /// End after N events
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
}

#[derive(Debug, Args)]
pub struct ModelsArgs {
    /// Show only models of this provider
    #[arg(long)]
    pub provider: Option<String>,
    #[command(subcommand)]
    pub command: Option<ModelsCommand>,
}

#[derive(Debug, Subcommand)]
pub enum ModelsCommand {
    /// List models
    List,
    /// Manage the keys of model providers
    #[command(subcommand)]
    Key(KeyCommand),
}

#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Store a key: typed without echo, or the first line of standard input; never an argument
    Set { provider: String },
    /// Delete a key
    Remove { provider: String },
    /// Show which providers have a key, never the key
    List,
}

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Create a token and show it once
    New(TokenArgs),
    /// List tokens, never their text
    List,
    /// Revoke a token now
    Revoke {
        /// Its name or id
        name: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TokenRole {
    Admin,
    Agent,
    User,
}

#[derive(Debug, Args)]
pub struct TokenArgs {
    /// A name for the token, such as laptop
    pub name: String,
    /// The role that its bearer gets
    #[arg(long, default_value = "user")]
    pub role: TokenRole,
    /// Only this service or package (llm.v1), or only this action: read, write, approve or control; may be repeated; all that
    /// the role may by default
    #[arg(long = "scope", value_name = "SCOPE")]
    pub scopes: Vec<String>,
    /// When it expires; never by default
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub expires_in: Option<Duration>,
}

fn moment(text: &str) -> Result<SystemTime, String> {
    if let Ok(time) = humantime::parse_rfc3339_weak(text) {
        return Ok(time);
    }
    let ago = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    SystemTime::now()
        .checked_sub(ago)
        .ok_or_else(|| "that is too long ago".to_owned())
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as key=value".to_owned()),
    }
}
