//! The environment that a login shell would give, for daemons that no shell started.
//!
//! Only the names that were asked for are kept, and only what stands between two marks of ours: whatever a profile
//! prints is not taken for a variable. The shell and all it starts have one time limit, and end with it.

use std::{
    collections::{BTreeMap, BTreeSet, hash_map::RandomState},
    env,
    ffi::OsString,
    fs::File,
    hash::{BuildHasher, Hasher},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::unistd::{User, getuid};

use crate::{
    Error, Kind, Secret,
    program::{Program, ProgramError},
};

const LIMIT: Duration = Duration::from_secs(15);
const MOST: usize = 2 * 1024 * 1024;

/// A login shell that is run to read the variables it exports.
#[derive(Debug, Clone)]
pub struct Shell {
    program: PathBuf,
    limit: Duration,
}

/// Why `NEXUS_LOAD_SHELL_ENV` or its time limit cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("environment {name}: {reason}")]
pub struct ShellError {
    name: &'static str,
    reason: &'static str,
}

/// The values that were asked for and that the shell has.
#[derive(Debug, Clone, Default)]
pub struct Imported {
    /// Values by the name of the variable.
    pub values: BTreeMap<String, Secret>,
}

impl Shell {
    /// This program, which may run for `limit`.
    pub fn new(program: impl Into<PathBuf>, limit: Duration) -> Shell {
        Shell {
            program: program.into(),
            limit,
        }
    }

    /// What `NEXUS_LOAD_SHELL_ENV` and `NEXUS_SHELL_ENV_TIMEOUT_MS` say; `None`: nothing is to be imported.
    pub fn from_environment() -> Result<Option<Shell>, ShellError> {
        Shell::told(|name| env::var_os(name))
    }

    fn told(environment: impl Fn(&str) -> Option<OsString>) -> Result<Option<Shell>, ShellError> {
        let text = |name| environment(name).map(|value| value.to_string_lossy().trim().to_ascii_lowercase());
        match text("NEXUS_LOAD_SHELL_ENV").as_deref() {
            None | Some("" | "0" | "false" | "no" | "off") => return Ok(None),
            Some("1" | "true" | "yes" | "on") => {}
            Some(_) => {
                return Err(ShellError {
                    name: "NEXUS_LOAD_SHELL_ENV",
                    reason: "expected 1 or 0",
                });
            }
        }
        let limit = match text("NEXUS_SHELL_ENV_TIMEOUT_MS").filter(|text| !text.is_empty()) {
            None => LIMIT,
            Some(text) => match text.parse() {
                Ok(number @ 1..=600_000) => Duration::from_millis(number),
                _ => {
                    return Err(ShellError {
                        name: "NEXUS_SHELL_ENV_TIMEOUT_MS",
                        reason: "expected milliseconds from 1 to 600000",
                    });
                }
            },
        };
        Ok(Some(Shell::new(program(environment("SHELL")), limit)))
    }

    /// This user's, whatever the environment says of importing.
    pub fn of_user() -> Shell {
        Shell::new(program(env::var_os("SHELL")), LIMIT)
    }

    /// The shell's program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Runs the shell once.
    pub async fn import(&self, names: &BTreeSet<String>) -> Result<Imported, Error> {
        let wrong =
            |kind, reason: String| Error::about(kind, format!("login shell {}", self.program.display()), reason);
        let mark = format!("nexus-{:016x}", RandomState::new().build_hasher().finish());
        // Many people export their keys in what only an interactive shell reads. One that finds a terminal would
        // fight for it; but who has a terminal has the shell's environment already.
        let how = if File::open("/dev/tty").is_ok() { "-lc" } else { "-lic" };
        let script = format!("printf '%s\\0' {mark}; /usr/bin/env -0; printf '%s\\0' {mark}");
        let mut run = Program::new(&self.program, self.limit)
            .args([how, &script])
            .env("TERM", "dumb")
            .env("NEXUS_LOADING_SHELL_ENV", "1");
        run.most = MOST;
        let said = run.run().await.map_err(|trouble| match trouble {
            ProgramError::Missing => wrong(Kind::MissingProvider, "was not found".into()).hint("set SHELL"),
            ProgramError::NotAllowed => wrong(Kind::Denied, "may not be started".into()).hint("set SHELL"),
            ProgramError::Start => wrong(Kind::Failed, "cannot be started".into()),
            ProgramError::Timeout => wrong(
                Kind::Timeout,
                format!("did not end within {} ms", self.limit.as_millis()),
            )
            .hint("something in its profile waits; NEXUS_SHELL_ENV_TIMEOUT_MS gives it longer"),
            ProgramError::TooMuch => wrong(Kind::Malformed, format!("says more than {MOST} bytes")),
        })?;
        let values = between(&said.output, &mark)
            .ok_or_else(|| wrong(Kind::Malformed, "ended before it printed its environment".into()))?;
        let values = values
            .split(|byte| *byte == 0)
            .filter_map(|entry| {
                let at = entry.iter().position(|byte| *byte == b'=')?;
                let name = std::str::from_utf8(&entry[..at])
                    .ok()
                    .filter(|name| names.contains(*name))?;
                Some((name.to_owned(), Secret::of_bytes(&entry[at + 1..])?))
            })
            .collect();
        Ok(Imported { values })
    }
}

fn program(named: Option<OsString>) -> PathBuf {
    let named = named.map(PathBuf::from).filter(|path| path.is_absolute());
    named
        .or_else(|| User::from_uid(getuid()).ok().flatten().map(|user| user.shell))
        .filter(|path| path.is_absolute())
        .unwrap_or_else(|| PathBuf::from("/bin/sh"))
}

/// Between the first mark and the last; a profile may have printed before the one and after the other.
fn between<'a>(output: &'a [u8], mark: &str) -> Option<&'a [u8]> {
    let mut marked = mark.as_bytes().to_vec();
    marked.push(0);
    let find = |bytes: &[u8]| bytes.windows(marked.len()).position(|window| window == marked);
    let begin = find(output)? + marked.len();
    let end = find(&output[begin..])?;
    Some(&output[begin..begin + end])
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    fn names(list: &[&str]) -> BTreeSet<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    /// A shell whose profile does as the script says.
    fn shell(dir: &Path, profile: &str, limit: Duration) -> Shell {
        let path = dir.join("shell");
        let text = format!("#!/bin/sh\n{profile}\nfor last; do :; done\neval \"$last\"\necho bye\n");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Shell::new(path, limit)
    }

    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn only_what_is_needed_is_taken_and_banners_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let profile = "printf 'welcome\\0FAKE=banner\\0'; echo hello; export A='one\ntwo' B=2 C=3 EMPTY=";
        let shell = shell(dir.path(), profile, PATIENCE);
        let got = shell
            .import(&names(&["A", "C", "EMPTY", "FAKE", "NONE"]))
            .await
            .unwrap();
        let seen: Vec<(&str, &str)> = got
            .values
            .iter()
            .map(|(name, value)| (name.as_str(), value.reveal()))
            .collect();
        assert_eq!(seen, [("A", "one\ntwo"), ("C", "3")]);
    }

    #[tokio::test]
    async fn a_profile_that_hangs_or_leaves_early_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let hangs = shell(dir.path(), "sleep 1000", Duration::from_millis(300));
        let error = hangs.import(&names(&["A"])).await.unwrap_err();
        assert_eq!(error.kind, Kind::Timeout);
        assert!(error.advice().contains("NEXUS_SHELL_ENV_TIMEOUT_MS"), "{error}");
        let leaves = shell(dir.path(), "exit 3", PATIENCE);
        assert_eq!(leaves.import(&names(&["A"])).await.unwrap_err().kind, Kind::Malformed);
        let none = Shell::new("/nowhere/shell", PATIENCE);
        assert_eq!(
            none.import(&names(&["A"])).await.unwrap_err().kind,
            Kind::MissingProvider
        );
    }

    #[test]
    fn the_environment_says_whether_and_how_long() {
        let told = |pairs: &[(&str, &str)]| {
            Shell::told(|name| {
                pairs
                    .iter()
                    .find(|(known, _)| *known == name)
                    .map(|(_, value)| (*value).into())
            })
        };
        assert!(told(&[]).unwrap().is_none());
        assert!(told(&[("NEXUS_LOAD_SHELL_ENV", "0")]).unwrap().is_none());
        let on = told(&[("NEXUS_LOAD_SHELL_ENV", "1"), ("SHELL", "/bin/zsh")])
            .unwrap()
            .unwrap();
        assert_eq!((on.program(), on.limit), (Path::new("/bin/zsh"), LIMIT));
        let quick = told(&[("NEXUS_LOAD_SHELL_ENV", "1"), ("NEXUS_SHELL_ENV_TIMEOUT_MS", "20")]);
        assert_eq!(quick.unwrap().unwrap().limit, Duration::from_millis(20));
        assert!(told(&[("NEXUS_LOAD_SHELL_ENV", "perhaps")]).is_err());
        assert!(told(&[("NEXUS_LOAD_SHELL_ENV", "1"), ("NEXUS_SHELL_ENV_TIMEOUT_MS", "soon")]).is_err());
    }
}
