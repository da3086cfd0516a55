//! The command line of `nexus run`.

use std::{
    io::{self, IsTerminal},
    path::PathBuf,
    time::Duration,
};

use clap::Args;

use crate::chat::{
    consent::Manner,
    limits::tokens,
    rules::{Rule, rule},
};

const MORE: &str = "\
The text of the agent goes to standard output as it is written; what it does, calls of tools and their results, goes to
standard error. Ctrl-C ends the run and everything that it started, but for its background processes; nexus stop SESSION
ends those too.

Examples:
  nexus run \"write fizzbuzz in Python, run it, and mend it until it is right\"
  nexus run --workspace . \"find out why the tests fail\"        works on a copy of this directory
  nexus run --workspace . --in-place \"mend the tests\"          the changes are shown, and made here after your yes
  nexus run --session 1a2b \"now in Rust\"                       goes on with an earlier run
  git diff | nexus run --stdin \"review this change\"
  nexus run --allow 'exec:git push' --allow weather --approve deny \"...\"
  nexus run --json \"...\" | jq -r 'select(.type == \"call\").call.tool'
  nexus run --max-steps 20 --budget 200k --output-last report.md \"...\"

A rule of --allow is TOOL, or TOOL:PATTERN with the first words of a plain command, a path, or a host.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not running, 6 no sign of life in time, 13 stopped, 14 a limit was reached,
130 cancelled; all of them: nexus --help";

#[derive(Debug, Args)]
#[command(after_help = MORE)]
pub struct RunArgs {
    /// What to do; without it, or as `-`, all of standard input
    #[arg(value_name = "TASK")]
    pub task: Vec<String>,
    /// Continue in this session, with what was said and done there
    #[arg(long, short = 's', value_name = "ID")]
    pub session: Option<String>,
    /// Use this model, as provider/model
    #[arg(long, short = 'm')]
    pub model: Option<String>,
    /// Fail unless this assistant answers (its name or id, see nexus agents)
    #[arg(long, value_name = "NAME")]
    pub agent: Option<String>,
    /// Give the agent a copy of this directory to work on, as /workspace
    #[arg(long, short = 'w', value_name = "DIR")]
    pub workspace: Option<PathBuf>,
    /// Leave files and directories of this name out of the copy; may be repeated
    #[arg(long, value_name = "NAME", requires = "workspace")]
    pub exclude: Vec<String>,
    /// After the run, show the changes to the files, and make them in the directory itself once you agree
    #[arg(long, requires = "workspace")]
    pub in_place: bool,
    /// Make the changes of --in-place without asking
    #[arg(long, requires = "in_place")]
    pub yes: bool,
    /// Allow calls of this kind without asking; may be repeated
    #[arg(long, value_name = "RULE", value_parser = rule)]
    pub allow: Vec<Rule>,
    /// What becomes of other calls that need an approval [default: ask at a terminal, else deny]
    #[arg(long, value_name = "HOW")]
    approve: Option<Manner>,
    /// Append all of standard input to the task
    #[arg(long)]
    pub stdin: bool,
    /// Write the agent's last message to this file
    #[arg(long, short = 'o', value_name = "FILE")]
    pub output_last: Option<PathBuf>,
    /// End the run when it begins more than N requests to the model
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    pub max_steps: Option<i32>,
    /// End the run when it has used more tokens, such as 50k
    #[arg(long, value_name = "TOKENS", value_parser = tokens)]
    pub budget: Option<i64>,
    /// Give up after this time without any sign of life
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
}

impl RunArgs {
    pub fn approve(&self) -> Manner {
        let somebody = io::stdin().is_terminal() && io::stderr().is_terminal();
        self.approve
            .unwrap_or(if somebody { Manner::Ask } else { Manner::Deny })
    }
}
