//! The command line of `nexus containers`.

use clap::{Args, Subcommand};
use nexus_proto::orchestrator::v1::{Mount, MountType};

const EXAMPLES: &str = "\
Examples:
  nexus containers run -- echo hello            in the built-in sandbox, on this host's own programs
  nexus containers run alpine:3 sh -c 'id'      in an image; `--` before the command is optional then
  nexus containers run -d -l of=web alpine:3 sleep 600
  nexus containers logs -f 1a2b
  nexus containers exec 1a2b -- cat /etc/os-release";

#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum ContainersCommand {
    /// List containers
    List(ListArgs),
    /// Run a command in a new container; exits with the command's exit code
    Run(RunArgs),
    /// Show the output of a container
    Logs(LogsArgs),
    /// Run a command in a running container; exits with the command's exit code
    Exec(ExecArgs),
    /// Stop containers with SIGTERM, and with SIGKILL after the timeout
    Stop(StopArgs),
    /// Remove containers
    Rm(RmArgs),
    /// Show the resource usage of running containers
    Stats(StatsArgs),
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Show only containers of this session
    #[arg(long, value_name = "ID")]
    pub session: Option<String>,
    /// Show only running containers
    #[arg(long)]
    pub running: bool,
    /// Show only containers with this label
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub label: Vec<(String, String)>,
}

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, override_usage = "nexus containers run [OPTIONS] [IMAGE] [--] [COMMAND]...")]
pub struct RunArgs {
    /// The image; without one, the built-in sandbox with this host's own programs
    pub image: Option<String>,
    /// The command and its arguments, after the options of `nexus`; without an image it stands after `--`
    #[arg(value_name = "COMMAND", num_args = 0.., allow_hyphen_values = true)]
    words: Vec<String>,
    /// The same, after `--`
    #[arg(last = true, hide = true)]
    after_dashes: Vec<String>,
    /// Run in this session; by default in a new session, which is closed when the command ends
    #[arg(long, value_name = "ID")]
    pub session: Option<String>,
    /// Print the container's id and leave it running
    #[arg(short, long)]
    pub detach: bool,
    /// Keep the container after it exits
    #[arg(long)]
    pub keep: bool,
    /// Set an environment variable
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = pair)]
    pub env: Vec<(String, String)>,
    /// Set a label
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = pair)]
    pub label: Vec<(String, String)>,
    /// Mount a directory or file of the host at a path in the container
    #[arg(short = 'v', long, value_name = "SOURCE:TARGET[:ro]", value_parser = mount)]
    pub mount: Vec<Mount>,
    /// Allow network access
    #[arg(long)]
    pub network: bool,
    /// Working directory in the container [default: /workspace]
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Run as this `uid` or `uid:gid`
    #[arg(short, long)]
    pub user: Option<String>,
    /// Memory limit, such as 256MiB
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub memory: Option<i64>,
    /// CPU limit in cores, such as 0.5
    #[arg(long, value_name = "NUMBER")]
    pub cpus: Option<f64>,
    /// Limit on the number of processes
    #[arg(long, value_name = "NUMBER")]
    pub pids: Option<i64>,
    /// Restart policy: no, on-failure, always, unless-stopped
    #[arg(long, value_name = "POLICY", default_value = "no")]
    pub restart: String,
}

impl RunArgs {
    /// The command and its arguments, whether they stood after `--` or not.
    pub fn command(&self) -> Vec<String> {
        match self.words.is_empty() {
            true => self.after_dashes.clone(),
            // Whatever stands after the first word of the command is the command's, `--` included.
            false if self.after_dashes.is_empty() => self.words.clone(),
            false => [&self.words[..], &["--".to_owned()], &self.after_dashes[..]].concat(),
        }
    }
}

#[derive(Debug, Args)]
pub struct LogsArgs {
    pub id: String,
    /// Keep running and show new output until the container exits
    #[arg(short, long)]
    pub follow: bool,
    /// Show only the newest N lines
    #[arg(long, value_name = "LINES")]
    pub tail: Option<i32>,
}

#[derive(Debug, Args)]
pub struct ExecArgs {
    pub id: String,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
    /// Pass standard input to the command
    #[arg(short, long)]
    pub interactive: bool,
    /// Working directory in the container
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// How long the command may run
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    pub timeout: std::time::Duration,
}

#[derive(Debug, Args)]
pub struct StopArgs {
    #[arg(required = true)]
    pub ids: Vec<String>,
    /// Time between SIGTERM and SIGKILL
    #[arg(short, long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub timeout: Option<std::time::Duration>,
}

#[derive(Debug, Args)]
pub struct RmArgs {
    #[arg(required = true)]
    pub ids: Vec<String>,
    /// Also remove running containers
    #[arg(short, long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct StatsArgs {
    /// The containers; all running ones by default
    pub ids: Vec<String>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.into(), value.into()))
}

fn mount(text: &str) -> Result<Mount, String> {
    let (text, read_only) = text.strip_suffix(":ro").map_or((text, false), |text| (text, true));
    let (source, target) = text
        .split_once(':')
        .ok_or("expected SOURCE:TARGET or SOURCE:TARGET:ro")?;
    let source = std::path::absolute(source).map_err(|error| error.to_string())?;
    Ok(Mount {
        r#type: MountType::Bind.into(),
        source: source.to_string_lossy().into_owned(),
        target: target.into(),
        read_only,
    })
}

fn size(text: &str) -> Result<i64, String> {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0), ("", 0)];
    let (number, shift) = units
        .iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)))
        .ok_or("expected a size such as 256MiB")?;
    let number: i64 = number.trim().parse().map_err(|_| "expected a size such as 256MiB")?;
    number
        .checked_mul(1 << shift)
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| "expected a size such as 256MiB".into())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::RunArgs;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        run: RunArgs,
    }

    fn parsed(words: &[&str]) -> (Option<String>, Vec<String>, bool) {
        let line = Line::try_parse_from([&["run"], words].concat()).unwrap();
        let command = line.run.command();
        (line.run.image, command, line.run.detach)
    }

    #[test]
    fn a_command_is_taken_as_docker_takes_it() {
        for (words, image, command, detach) in [
            (
                &["alpine", "sh", "-c", "id"][..],
                Some("alpine"),
                &["sh", "-c", "id"][..],
                false,
            ),
            (
                &["alpine", "--", "sh", "-c", "id"],
                Some("alpine"),
                &["sh", "-c", "id"],
                false,
            ),
            (
                &["-d", "alpine", "sleep", "-d", "1"],
                Some("alpine"),
                &["sleep", "-d", "1"],
                true,
            ),
            (&["alpine", "ls", "--help"], Some("alpine"), &["ls", "--help"], false),
            (
                &["alpine", "grep", "--", "-x", "f"],
                Some("alpine"),
                &["grep", "--", "-x", "f"],
                false,
            ),
            (&["--", "echo", "-n", "x"], None, &["echo", "-n", "x"], false),
            (&["alpine"], Some("alpine"), &[], false),
            (
                &["-e", "A=b", "-w", "/x", "alpine", "env"],
                Some("alpine"),
                &["env"],
                false,
            ),
        ] {
            let (found_image, found, detached) = parsed(words);
            assert_eq!((found_image.as_deref(), detached), (image, detach), "{words:?}");
            assert_eq!(found, command, "{words:?}");
        }
        assert!(Line::try_parse_from(["run", "--no-such-option", "alpine"]).is_err());
    }
}
