//! Selects the environment variables that each child process gets.
//!
//! A shell in which somebody types `nexus up` often holds secrets: provider keys, tokens of other tools. What stands in a
//! process's environment stays readable in `/proc/PID/environ` for as long as the process lives, and every child
//! inherits it. So each daemon gets a short list that holds no secret, and beside it only the variables that its own
//! settings name. The supervisor keeps the rest in memory, for the daemons that it will start again, and has none of it
//! in its own environment: before anything else it hands its variables to itself through an anonymous file and executes
//! itself anew.
//!
//! ```text
//!   nexus up ── every variable, in an anonymous file ──▶ supervisor ── those that one daemon reads ──▶ daemon
//!            └─ the short list, as its environment ────▶
//! ```

use std::{
    collections::BTreeSet,
    env,
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::{
            ffi::OsStrExt,
            fs::{FileTypeExt, MetadataExt},
            process::CommandExt,
        },
    },
    process::Command,
};

use nexus_config::{
    Root,
    services::{self, LLM, Service},
};
use nexus_credential::{Reference, Store};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use zeroize::Zeroizing;

/// Names the descriptor of the file that holds the variables.
pub const VARIABLE: &str = "NEXUS_ENVIRONMENT";
/// More than the kernel lets a process be started with.
const LONGEST: u64 = 8 << 20;

/// Variables with their values, wiped from memory when it is dropped.
pub struct Environment {
    /// `NAME=value`, each ended by a zero byte, as in `/proc/PID/environ`.
    block: Zeroizing<Vec<u8>>,
}

impl Environment {
    /// This process's own.
    pub fn of_process() -> Environment {
        let mut block = Zeroizing::new(Vec::new());
        for (name, value) in env::vars_os().filter(|(name, _)| name != VARIABLE) {
            for part in [name.as_bytes(), b"=", value.as_bytes(), b"\0"] {
                block.extend_from_slice(part);
            }
        }
        Environment { block }
    }

    fn variables(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        let entries = self.block.split(|byte| *byte == 0);
        entries.filter_map(|entry| {
            let at = entry.iter().skip(1).position(|byte| *byte == b'=')? + 1;
            Some((OsStr::from_bytes(&entry[..at]), OsStr::from_bytes(&entry[at + 1..])))
        })
    }

    #[cfg(test)]
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.variables()
            .find(|(found, _)| *found == name)
            .map(|(_, value)| value)
    }

    fn only(&self, wanted: impl Fn(&str) -> bool) -> Vec<(OsString, OsString)> {
        let known = self.variables();
        let known = known.filter(|(name, _)| name.to_str().is_some_and(&wanted));
        known.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// What a daemon gets: what it reads in any case, and what its settings name as `env:NAME`.
    pub fn for_service(&self, service: &Service, root: &Root) -> Vec<(OsString, OsString)> {
        let named = self.named(service, root);
        self.only(|name| service.reads(name) || named.contains(name))
    }

    /// What the supervisor reads itself. Never a secret.
    pub fn for_supervisor(&self) -> Vec<(OsString, OsString)> {
        self.only(is_for_supervisor)
    }

    /// What a program that judges settings gets: the settings in the environment, wrong names among them.
    pub fn settings(&self) -> Vec<(OsString, OsString)> {
        self.only(|name| {
            let is_setting = name.starts_with("NEXUS_") && name.contains("__");
            is_setting || (services::SERVICES.iter().any(|service| service.reads(name)) && !is_key(name))
        })
    }

    /// The names in every `env:NAME` that stands in the service's settings, and in the index of accounts for the one
    /// daemon that reads it.
    fn named(&self, service: &Service, root: &Root) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        let file = std::fs::read_to_string(root.config_file()).unwrap_or_default();
        // A file that is wrong is the daemon's to report.
        let table: toml::Table = file.parse().unwrap_or_default();
        let mut values: Vec<&toml::Value> = table.get(service.section).into_iter().collect();
        while let Some(value) = values.pop() {
            match value {
                toml::Value::String(text) => names.extend(references(text)),
                toml::Value::Array(all) => values.extend(all),
                toml::Value::Table(all) => values.extend(all.values()),
                _ => {}
            }
        }
        let prefix = format!("NEXUS_{}__", service.section.to_ascii_uppercase());
        for (_, value) in self.variables().filter(|(name, _)| {
            name.to_str()
                .is_some_and(|name| name.to_ascii_uppercase().starts_with(&prefix))
        }) {
            names.extend(value.to_str().into_iter().flat_map(references));
        }
        if service.name == LLM
            && let Ok(index) = Store::at(root.credential_dir()).load()
        {
            names.extend(index.accounts.into_values().filter_map(|entry| match entry.reference {
                Reference::Env(name) => Some(name),
                _ => None,
            }));
        }
        names
    }

    /// An anonymous file that holds them, to be inherited by a child.
    ///
    /// # Errors
    /// The system has no memory or descriptor for it.
    pub fn sealed(&self) -> io::Result<OwnedFd> {
        anonymous(&self.block)
    }

    fn handed() -> Option<Environment> {
        let number: RawFd = env::var(VARIABLE).ok()?.parse().ok()?;
        let file = inherited(number)?;
        let mut block = Zeroizing::new(Vec::new());
        file.take(LONGEST).read_to_end(&mut block).ok()?;
        Some(Environment { block })
    }
}

/// The variables that this process was started with. From then on none that may be a secret is in its environment, and no
/// other process of the same user may read its memory.
///
/// # Errors
/// This program cannot be executed again.
pub fn seclude() -> io::Result<Environment> {
    let environment = match Environment::handed() {
        Some(handed) => handed,
        None => {
            let own = Environment::of_process();
            if own.variables().any(|(name, _)| !name.to_str().is_some_and(is_kept)) {
                return Err(execute_anew(&own));
            }
            own
        }
    };
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_dumpable(false)?;
    Ok(environment)
}

/// Gives the reason if it could not be done.
fn execute_anew(own: &Environment) -> io::Error {
    let handed = match own.sealed() {
        Ok(handed) => handed,
        Err(error) => return error,
    };
    let program = match env::current_exe().ok().filter(|path| path.exists()) {
        Some(path) => path,
        None => match crate::supervise::own_program() {
            Ok(path) => path,
            Err(error) => return error,
        },
    };
    let mut command = Command::new(program);
    if let Err(error) = hand_to(&mut command, own, &handed) {
        return error;
    }
    if let Some(first) = env::args_os().next() {
        command.arg0(first);
    }
    for kept in OF_A_SUPERVISOR {
        command.envs(env::var_os(kept).map(|value| (kept, value)));
    }
    command.args(env::args_os().skip(1)).exec()
}

/// The environment of a supervisor that this process becomes or is replaced by: the short list, and the rest in a file.
pub fn hand_to(command: &mut Command, environment: &Environment, sealed: &OwnedFd) -> io::Result<()> {
    fcntl(sealed, FcntlArg::F_SETFD(FdFlag::empty()))?;
    command
        .env_clear()
        .envs(environment.for_supervisor())
        .env(VARIABLE, sealed.as_raw_fd().to_string());
    Ok(())
}

/// What one supervisor tells the next, by name of the variable.
const OF_A_SUPERVISOR: [&str; 1] = ["NEXUS_HANDED"];

fn is_kept(name: &str) -> bool {
    is_for_supervisor(name) || name == VARIABLE || OF_A_SUPERVISOR.contains(&name)
}

/// The supervisor reads the settings of supervision and where each daemon listens.
fn is_for_supervisor(name: &str) -> bool {
    let socket = ["__SOCKET_PATH", "__SOCKET_MODE", "__SOCKET_GROUP"];
    let upper = name.to_ascii_uppercase();
    (services::is_for_every_daemon(name) && !name.starts_with("OTEL_"))
        || upper.starts_with("NEXUS_CLI__")
        || (upper.starts_with("NEXUS_") && socket.iter().any(|end| upper.ends_with(end)))
        || (services::is_common(name) && !name.starts_with("OTEL_"))
}

/// Whether the variable of this name holds a secret and no setting.
fn is_key(name: &str) -> bool {
    name.starts_with("NEXUS_LLM_KEY_") || name.ends_with("_API_KEY") || name.starts_with("OP_")
}

/// The names after every `env:` in a text.
fn references(text: &str) -> impl Iterator<Item = String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split("env:").skip(1).filter_map(move |rest| {
        let end = rest.find(|c| !fits(c)).unwrap_or(rest.len());
        (end > 0).then(|| rest[..end].to_owned())
    })
}

/// The inherited descriptor of this number, if it can be what [`anonymous`] makes: nothing with a name on any disk.
fn inherited(number: RawFd) -> Option<File> {
    let found = std::fs::metadata(format!("/dev/fd/{number}")).ok()?;
    let anonymous = found.is_file() && found.nlink() == 0 && found.uid() == nix::unistd::geteuid().as_raw();
    let pipe = !cfg!(target_os = "linux") && found.file_type().is_fifo();
    if number < 0 || !(anonymous || pipe) {
        return None;
    }
    // Opened again, from its beginning; the inherited descriptor is closed, so that no child gets it.
    let file = File::open(format!("/dev/fd/{number}")).ok();
    let _closed = nix::unistd::close(number);
    file
}

#[cfg(target_os = "linux")]
fn anonymous(bytes: &[u8]) -> io::Result<OwnedFd> {
    use rustix::fs::{MemfdFlags, memfd_create};
    let mut file = File::from(memfd_create("nexus-environment", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    Ok(file.into())
}

/// Other systems have no file without a name that never reaches a disk; a pipe holds as much as it has room for.
#[cfg(not(target_os = "linux"))]
fn anonymous(bytes: &[u8]) -> io::Result<OwnedFd> {
    use nix::fcntl::OFlag;
    let (read, mut write) = io::pipe()?;
    fcntl(&write, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    write
        .write_all(bytes)
        .map_err(|error| io::Error::other(format!("the environment of {} bytes has no room: {error}", bytes.len())))?;
    Ok(read.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Environment {
        let entries = variables.iter().map(|(name, value)| format!("{name}={value}\0"));
        Environment {
            block: Zeroizing::new(entries.collect::<String>().into_bytes()),
        }
    }

    fn names(given: &[(OsString, OsString)]) -> Vec<&str> {
        given.iter().map(|(name, _)| name.to_str().unwrap()).collect()
    }

    #[test]
    fn each_daemon_gets_what_its_settings_name_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        std::fs::create_dir_all(root.config_file().parent().unwrap()).unwrap();
        let settings = "[llm]\nanthropic_key = \"env:WORK_KEY\"\nendpoint_keys = { rack = \"env:RACK_KEY\" }\n";
        std::fs::write(root.config_file(), settings).unwrap();
        let environment = of(&[
            ("PATH", "/bin"),
            ("GITHUB_TOKEN", "secret"),
            ("WORK_KEY", "secret"),
            ("RACK_KEY", "secret"),
            ("FROM_SETTING", "secret"),
            ("NEXUS_LLM__ENDPOINT_KEYS", "rack=env:FROM_SETTING"),
            ("NEXUS_LLM__SOCKET_PATH", "/s"),
            ("ANTHROPIC_API_KEY", "secret"),
            ("ODD", "a=b"),
        ]);
        let for_service = |name| names(&environment.for_service(services::find(name).unwrap(), &root)).join(" ");
        assert_eq!(
            for_service("llm"),
            "PATH WORK_KEY RACK_KEY FROM_SETTING NEXUS_LLM__ENDPOINT_KEYS NEXUS_LLM__SOCKET_PATH ANTHROPIC_API_KEY"
        );
        for other in ["orchestrator", "agent-assistant", "agent-worker", "gateway"] {
            assert_eq!(for_service(other), "PATH", "{other}");
        }
        assert_eq!(names(&environment.for_supervisor()), ["PATH", "NEXUS_LLM__SOCKET_PATH"]);
        assert_eq!(environment.get("ODD").unwrap(), "a=b");
    }

    #[test]
    fn what_is_sealed_is_read_back_and_a_file_of_another_kind_is_not() {
        let environment = of(&[("A", "1"), ("B", "two\nlines")]);
        let sealed = environment.sealed().unwrap();
        let mut file = inherited(std::os::fd::IntoRawFd::into_raw_fd(sealed)).unwrap();
        let mut read = Vec::new();
        file.read_to_end(&mut read).unwrap();
        assert_eq!(read, *environment.block);
        let named = tempfile::NamedTempFile::new().unwrap();
        let number = nix::unistd::dup(named.as_file()).unwrap();
        assert!(inherited(number.as_raw_fd()).is_none());
        assert!(inherited(-1).is_none());
    }
}
