//! The file of provider keys, which only the model daemon reads and only this command writes.
//!
//! A key comes from the terminal without echo or from standard input, and goes nowhere but into the file. The file is
//! replaced whole, 0600, so the daemon sees the old one or the new one.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, BufRead, IsTerminal},
    path::Path,
};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    args::KeyCommand,
    context::Context,
    failure::{Exit, Failure},
    output::Output,
};

/// The longest key that is believed to be one.
const LONGEST: usize = 4096;

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    #[serde(default)]
    keys: BTreeMap<String, Zeroizing<String>>,
}

pub fn run(context: &Context, command: KeyCommand, output: &Output) -> Result<Exit, Failure> {
    context
        .root
        .create()
        .map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    let path = context.root.key_file();
    match command {
        KeyCommand::Set { provider } => set(&path, &provider, output),
        KeyCommand::Remove { provider } => remove(&path, &provider, output),
        KeyCommand::List => list(&path, output),
    }
}

fn set(path: &Path, provider: &str, output: &Output) -> Result<Exit, Failure> {
    let provider = name(provider)?;
    let mut keys = read(path)?;
    let key = ask(&provider)?;
    let replaced = keys.keys.insert(provider.clone(), key).is_some();
    write(path, &keys)?;
    if output.json {
        output.value(&serde_json::json!({ "provider": provider, "replaced": replaced }))?;
    } else {
        let what = if replaced { "replaced" } else { "stored" };
        output.line(format!(
            "{what} the key of {provider}; the model daemon uses it from its next request on"
        ))?;
        output.note("see its models with: nexus models");
    }
    Ok(Exit::Ok)
}

fn remove(path: &Path, provider: &str, output: &Output) -> Result<Exit, Failure> {
    let provider = name(provider)?;
    let mut keys = read(path)?;
    if keys.keys.remove(&provider).is_none() {
        return Err(Failure::new(Exit::NotFound, format!("no key of {provider} is stored"))
            .hint("see which are with: nexus models key list"));
    }
    write(path, &keys)?;
    if output.json {
        output.value(&serde_json::json!({ "provider": provider, "removed": true }))?;
    } else {
        output.line(format!("removed the key of {provider}"))?;
    }
    Ok(Exit::Ok)
}

fn list(path: &Path, output: &Output) -> Result<Exit, Failure> {
    let keys = read(path)?;
    if output.json {
        output.value(&keys.keys.keys().collect::<Vec<_>>())?;
        return Ok(Exit::Ok);
    }
    if keys.keys.is_empty() {
        output.note("no keys stored; store one with: nexus models key set anthropic");
    }
    for provider in keys.keys.keys() {
        output.line(provider)?;
    }
    Ok(Exit::Ok)
}

fn name(provider: &str) -> Result<String, Failure> {
    let name = provider.trim().to_ascii_lowercase();
    let fits = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if fits {
        Ok(name)
    } else {
        Err(Failure::usage(
            "a provider's name has letters, digits, '-', '_' and '.' only",
        ))
    }
}

fn ask(provider: &str) -> Result<Zeroizing<String>, Failure> {
    let failed = |error: io::Error| Failure::new(Exit::Failed, format!("failed to read the key: {error}"));
    let text = if io::stdin().is_terminal() {
        Zeroizing::new(rpassword::prompt_password(format!("Key of {provider} (not shown): ")).map_err(failed)?)
    } else {
        let mut line = Zeroizing::new(String::new());
        io::stdin().lock().read_line(&mut line).map_err(failed)?;
        line
    };
    let key = Zeroizing::new(text.trim().to_owned());
    if key.is_empty() {
        return Err(Failure::usage("no key was given; nothing changed"));
    }
    if key.len() > LONGEST || key.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return Err(Failure::usage(
            "that is not a key: it is too long, or has blanks in it; nothing changed",
        ));
    }
    Ok(key)
}

/// The parser's own words would quote the line, and with it a key.
fn read(path: &Path) -> Result<Keys, Failure> {
    let text = match fs::read_to_string(path) {
        Ok(text) => Zeroizing::new(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Keys::default()),
        Err(error) => return Err(Failure::file("read", path, &error)),
    };
    toml::from_str(&text).map_err(|_| {
        Failure::new(
            Exit::Config,
            format!("{} is not a table [keys] with name = \"key\"", path.display()),
        )
        .hint("correct it by hand, or move it away and set the keys again")
    })
}

fn write(path: &Path, keys: &Keys) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::file("write", path, &error);
    let text = toml::to_string(keys).map_err(|_| failed(io::Error::other("a key that TOML cannot hold")))?;
    let text = Zeroizing::new(text);
    nexus_walk::write_file(path, text.as_bytes(), 0o600).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn keys_are_kept_beside_each_other_in_a_private_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.toml");
        let mut keys = read(&path).unwrap();
        keys.keys.insert("anthropic".into(), Zeroizing::new("sk-1".into()));
        write(&path, &keys).unwrap();
        let mut keys = read(&path).unwrap();
        keys.keys.insert("openai".into(), Zeroizing::new("sk-2".into()));
        write(&path, &keys).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, "[keys]\nanthropic = \"sk-1\"\nopenai = \"sk-2\"\n");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_file_is_never_quoted_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.toml");
        fs::write(&path, "[keys\nanthropic = \"sk-canary\"").unwrap();
        let Err(failure) = read(&path) else { panic!("read") };
        assert!(!format!("{failure} {:?}", failure.hint).contains("canary"));
    }

    #[test]
    fn names_are_plain() {
        assert_eq!(name(" Anthropic ").unwrap(), "anthropic");
        for bad in ["", "a b", "a\"b", "a\nb", "../x"] {
            assert!(name(bad).is_err(), "{bad:?}");
        }
    }
}
