//! The macOS keychain by its own command `security`. A secret goes to it by standard input, never as an argument.

use zeroize::Zeroizing;

use super::KeyringEntry;
use crate::{
    Error, Kind, Secret,
    program::{Program, ProgramError, ProgramOutput},
};

#[cfg_attr(target_os = "linux", expect(dead_code, reason = "tests have one of their own"))]
pub(super) const SECURITY: &str = "/usr/bin/security";

pub(super) async fn get(security: &str, place: &KeyringEntry<'_>) -> Result<Secret, Error> {
    let find = Program::new(security, place.deadline).args([
        "find-generic-password",
        "-w",
        "-s",
        place.service,
        "-a",
        place.account,
    ]);
    let said = run(place, find).await?;
    Secret::of_bytes(&said.output).ok_or_else(|| place.wrong(Kind::Malformed, "the entry is empty or no text"))
}

pub(super) async fn put(security: &str, place: &KeyringEntry<'_>, secret: &Secret) -> Result<(), Error> {
    // Its interactive mode reads commands from standard input; hexadecimal needs no quotes.
    let plain = |name: &str| !name.contains(['"', '\\', '\n', '\r']);
    if !plain(place.service) || !plain(place.account) {
        return Err(place.wrong(Kind::Malformed, "a name with quotes or backslashes cannot be stored"));
    }
    let mut line = Zeroizing::new(String::with_capacity(secret.reveal().len() * 2 + 1024));
    line.push_str("add-generic-password -U -s \"");
    line.push_str(place.service);
    line.push_str("\" -a \"");
    line.push_str(place.account);
    line.push_str("\" -X ");
    for byte in secret.reveal().bytes() {
        for digit in [byte >> 4, byte & 15] {
            line.push(char::from_digit(u32::from(digit), 16).expect("four bits are one digit"));
        }
    }
    line.push('\n');
    let mut add = Program::new(security, place.deadline).args(["-i"]);
    add.input = Some(Zeroizing::new(line.as_bytes().to_vec()));
    run(place, add).await.map(|_| ())
}

pub(super) async fn remove(security: &str, place: &KeyringEntry<'_>) -> Result<bool, Error> {
    let delete = Program::new(security, place.deadline).args([
        "delete-generic-password",
        "-s",
        place.service,
        "-a",
        place.account,
    ]);
    match run(place, delete).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind == Kind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

async fn run(place: &KeyringEntry<'_>, program: Program) -> Result<ProgramOutput, Error> {
    let said = program.run().await.map_err(|trouble| match trouble {
        ProgramError::Missing | ProgramError::NotAllowed => {
            place.wrong(Kind::MissingProvider, "the command security was not found")
        }
        ProgramError::Start => place.wrong(Kind::Failed, "the command security cannot be started"),
        ProgramError::Timeout => place.wrong(
            Kind::Timeout,
            "the keychain did not answer; it may be waiting for a confirmation on the desktop",
        ),
        ProgramError::TooMuch => place.wrong(Kind::Malformed, "the entry is far too long"),
    })?;
    // The last byte of the status of Security.framework: -25300, -25308, -25293, -128.
    match said.status.code() {
        Some(0) => Ok(said),
        Some(44) => Err(place.wrong(Kind::NotFound, "the keychain has no entry of that service and account")),
        Some(36) => Err(place
            .wrong(Kind::Locked, "the keychain is locked")
            .hint("unlock it with: security unlock-keychain")),
        Some(51 | 128) => Err(place.wrong(Kind::Denied, "the keychain refuses it")),
        _ => Err(place.wrong(Kind::Failed, "the command security failed")),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

    use super::*;
    use crate::Reference;

    /// Behaves as the real one where we meet it: its exit codes, and commands on standard input after `-i`.
    const LIKE_IT: &str = r#"#!/bin/sh
dir=$(dirname "$0")
echo "$@" >>"$dir/argv"
[ -e "$dir/locked" ] && exit 36
case "$1" in
-i)
    read -r _ _ _ service _ account _ hex
    printf "$(echo "$hex" | sed 's/../\\x&/g')" >"$dir/$(echo "$service.$account" | tr -d '"')"
    ;;
find-generic-password) cat "$dir/$4.$6" 2>/dev/null || exit 44 ;;
delete-generic-password) rm "$dir/$3.$5" 2>/dev/null || exit 44 ;;
esac
"#;

    #[tokio::test]
    async fn secrets_are_kept_found_and_removed_and_never_arguments() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("security");
        // dash has no \\x in printf.
        fs::write(&path, LIKE_IT.replace("#!/bin/sh", "#!/bin/bash")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let security = path.to_str().unwrap();
        let reference: Reference = "keyring:nexus.anthropic/default".parse().unwrap();
        let place = KeyringEntry {
            reference: &reference,
            service: "nexus.anthropic",
            account: "default",
            deadline: Duration::from_secs(30),
        };
        assert_eq!(get(security, &place).await.unwrap_err().kind, Kind::NotFound);
        let secret = Secret::of("sk-canary \"quoted\" $HOME").unwrap();
        put(security, &place, &secret).await.unwrap();
        assert_eq!(get(security, &place).await.unwrap(), secret);
        assert!(remove(security, &place).await.unwrap());
        assert!(!remove(security, &place).await.unwrap());
        fs::write(dir.path().join("locked"), "").unwrap();
        assert_eq!(get(security, &place).await.unwrap_err().kind, Kind::Locked);
        let argv = fs::read_to_string(dir.path().join("argv")).unwrap();
        assert!(argv.contains("-i") && !argv.contains("canary"), "{argv}");
        assert!(!argv.contains("736b2d63616e617279"), "{argv}");
        let gone = get("/nowhere/security", &place).await.unwrap_err();
        assert_eq!(gone.kind, Kind::MissingProvider);
    }
}
