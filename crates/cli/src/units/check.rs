//! Checks that must pass before an installation changes anything.

use std::{
    env,
    path::{Path, PathBuf},
};

use nexus_config::Root;

use super::{
    Installation, Kind, Scope,
    args::Which,
    claim::{self, Claim},
    files::{self, Entry, TABLE},
};
use crate::{
    context::Context,
    failure::{Exit, Failure},
};

const SYSTEM_ROOT: &str = "/var/lib/nexus";

pub fn unknown(service: &str) -> Failure {
    let known: Vec<&str> = TABLE.iter().map(|entry| entry.service).collect();
    Failure::new(Exit::NotFound, format!("there is no service {service:?}"))
        .hint(format!("there are: {}", known.join(", ")))
}

/// The entries asked for, in the table's order.
pub fn entries(which: &Which) -> Result<Vec<&'static Entry>, Failure> {
    if let Some(wrong) = which.services.iter().find(|name| files::find(name).is_none()) {
        return Err(unknown(wrong));
    }
    let asked = |entry: &&Entry| which.services.is_empty() || which.services.iter().any(|name| name == entry.service);
    Ok(TABLE.iter().filter(asked).collect())
}

pub fn may(which: &Which) -> Result<(), Failure> {
    let (scope, dry_run) = (which.scope(), which.dry_run);
    if which.kind() == Kind::Launchd && scope == Scope::System {
        return Err(Failure::usage("launchd keeps daemons of a user only").hint("leave --system out"));
    }
    if scope == Scope::User || dry_run || nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(Failure::new(Exit::Refused, "units of the system are root's to change")
        .hint("use sudo; or leave --system out: units of your own need no permission"))
}

/// This installation, with all that the units will need in place.
pub fn installation(context: &Context, entries: &[&Entry], scope: Scope) -> Result<Installation, Failure> {
    let bin = bin()?;
    let needed = entries.iter().map(|entry| entry.binary()).chain(["nexus"]);
    let missing: Vec<&str> = needed.filter(|name| !bin.join(name).is_file()).collect();
    if !missing.is_empty() {
        return Err(
            Failure::new(Exit::Failed, format!("{} lacks {}", bin.display(), missing.join(", ")))
                .hint("all programs must be in one directory, which NEXUS_BIN_DIR names"),
        );
    }
    let here = Installation {
        scope,
        bin,
        root: root(context, scope),
        socket: context.local()?.to_path_buf(),
        told: context.told.is_some(),
    };
    if scope == Scope::System {
        not_in_a_home(&here.bin, "the programs are", "install them to /usr/local/bin")?;
        not_in_a_home(&here.root, "the root is", "leave --root and NEXUS_ROOT out")?;
    }
    Ok(here)
}

/// Where the programs are: the units name them by their full path.
fn bin() -> Result<PathBuf, Failure> {
    if let Some(told) = env::var_os("NEXUS_BIN_DIR").filter(|told| !told.is_empty()) {
        return std::path::absolute(&told).map_err(|error| Failure::file("find", Path::new(&told), &error));
    }
    let own = env::current_exe()
        .map_err(|error| Failure::new(Exit::Failed, format!("failed to find this program: {error}")))?;
    // What is switched by an upgrade, and not the one version that runs now.
    let bin = own.parent().map(Path::to_path_buf).unwrap_or_default();
    Ok(crate::upgrade::layout::lasting(&bin))
}

/// The system's daemons have a place of their own, unless another one is asked for.
fn root(context: &Context, scope: Scope) -> PathBuf {
    let own = Root::resolve(None).is_ok_and(|default| default.path() == context.root.path());
    let asked = !own || env::var_os("NEXUS_ROOT").is_some_and(|root| !root.is_empty());
    match scope {
        Scope::System if !asked => PathBuf::from(SYSTEM_ROOT),
        Scope::User | Scope::System => context.root.path().to_path_buf(),
    }
}

fn not_in_a_home(path: &Path, what: &str, hint: &str) -> Result<(), Failure> {
    let private = ["/home", "/root", "/run/user"];
    if private.iter().all(|home| !path.starts_with(home)) {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "{what} in {}, and the system's units do not see anybody's home",
        path.display()
    ))
    .hint(hint))
}

/// Nobody but systemd may hold a socket that it is to hold.
pub fn sockets_are_free(here: &Installation, entries: &[&Entry]) -> Result<(), Failure> {
    for entry in entries {
        let path = socket(here, entry);
        let found = claim::look(&path).map_err(|error| Failure::file("look at", &path, &error))?;
        let problem = match found {
            Claim::Free => continue,
            Claim::Taken(Some(pid)) if claim::program(pid).starts_with("systemd") => continue,
            Claim::Taken(pid) => {
                let whose = pid.map_or_else(|| "another process".to_owned(), |pid| format!("pid {pid}"));
                format!("{} runs outside systemd already ({whose})", entry.service)
            }
            Claim::NotASocket => format!("{} exists and is not a socket", path.display()),
        };
        return Err(Failure::new(Exit::Refused, problem).hint("stop it first: nexus down"));
    }
    Ok(())
}

fn socket(here: &Installation, entry: &Entry) -> PathBuf {
    match entry.service {
        "orchestrator" => here.socket.clone(),
        service => Root::at(&here.root).socket(service),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_a_home_is_no_place_for_the_system() {
        assert!(not_in_a_home(Path::new("/usr/local/bin"), "", "").is_ok());
        assert!(not_in_a_home(Path::new("/homestead/bin"), "", "").is_ok());
        let failure = not_in_a_home(Path::new("/home/ada/bin"), "the programs are", "move them").unwrap_err();
        assert!(failure.message.contains("/home/ada/bin"), "{failure}");
    }
}
