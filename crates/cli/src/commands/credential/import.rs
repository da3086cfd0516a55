//! Imports secrets that are stored elsewhere.

use std::{
    env, fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use nexus_credential::{Account, Entry, Reference, Resolver, Type, parse_dotenv, scan};
use serde_json::json;
use zeroize::Zeroizing;

use super::{
    args::{ImportArgs, Storage},
    scan::Found,
    storage,
};
use crate::{
    failure::{Exit, Failure},
    output::{Output, table::table},
};

const LARGEST: u64 = 1 << 20;

pub async fn run(resolver: &Resolver, args: &ImportArgs, output: &Output) -> Result<Exit, Failure> {
    match args.from.to_str() {
        Some("claude-cli") => return pointer(resolver, &claude()?, output).await,
        Some("codex-cli") => return pointer(resolver, &codex()?, output).await,
        _ => {}
    }
    let text = read(&args.from)?;
    let place = args.from.display().to_string();
    let lines = parse_dotenv(&text).map_err(|line| {
        Failure::new(
            Exit::Malformed,
            format!("{place} is not made of NAME=value lines (line {line})"),
        )
    })?;
    if let Some(missing) = args
        .names
        .iter()
        .find(|name| !lines.iter().any(|(known, _)| known == *name))
    {
        return Err(Failure::new(Exit::NotFound, format!("{place} has no {missing}")));
    }
    let wanted = |name: &str, value: &str| match args.names.is_empty() {
        true => scan::is_known(name) || scan::looks_secret(name, value),
        false => args.names.iter().any(|one| one == name),
    };
    let found: Vec<Found> = lines
        .into_iter()
        .filter(|(name, secret)| wanted(name, secret.reveal()))
        .map(|(name, secret)| Found {
            name,
            secret,
            place: place.clone(),
        })
        .collect();
    let done = store(resolver, found, args.storage, args.replace, output).await?;
    if place != "-" {
        output.note(&format!("the secrets are in {place} too: remove them there"));
    }
    Ok(done)
}

fn read(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let failed = |error: io::Error| Failure::file("read", path, &error);
    let mut text = Zeroizing::new(String::new());
    let mut input: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(fs::File::open(path).map_err(failed)?)
    };
    input.by_ref().take(LARGEST).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// Stores each and makes an account of it; those of a name that is taken are left alone.
pub async fn store(
    resolver: &Resolver,
    found: Vec<Found>,
    place: Storage,
    replace: bool,
    output: &Output,
) -> Result<Exit, Failure> {
    let mut rows = Vec::new();
    for one in found {
        let account = Account::new(&scan::service_of(&one.name), "default").map_err(Failure::usage)?;
        let taken = resolver.store().load()?.accounts.contains_key(&account);
        if taken && !replace {
            rows.push((one.name, account, "kept as it was".to_owned()));
            continue;
        }
        let reference = storage::keep(resolver, &account, &one.secret, place, output).await?;
        let mut entry = Entry::new(reference.clone(), Type::ApiKey);
        entry.note(Ok(()));
        resolver.store().change(|index| {
            index.accounts.insert(account.clone(), entry);
            Ok(())
        })?;
        rows.push((one.name, account, reference.label()));
    }
    if output.json {
        let said: Vec<_> = rows
            .iter()
            .map(|(name, account, reference)| json!({ "name": name, "account": account, "reference": reference }))
            .collect();
        output.value(&said)?;
    } else if rows.is_empty() {
        output.note("nothing that looks like a secret was found");
    } else {
        let cells = rows
            .into_iter()
            .map(|(name, account, reference)| [name, account.to_string(), reference]);
        output.line(table(output, ["NAME", "ACCOUNT", "STORED"], cells))?;
    }
    Ok(Exit::Ok)
}

/// What another program keeps and renews stays there; the account points to it.
struct Theirs {
    account: Account,
    reference: Reference,
    kind: Type,
}

fn home() -> Result<PathBuf, Failure> {
    env::var_os("HOME")
        .filter(|home| !home.is_empty())
        .map(PathBuf::from)
        .ok_or_else(|| Failure::new(Exit::Config, "HOME is not set"))
}

fn theirs(service: &str, account: &str, path: PathBuf, key: &str, kind: Type) -> Result<Theirs, Failure> {
    let account = Account::new(service, account).map_err(Failure::usage)?;
    let key = Some(key.to_owned());
    Ok(Theirs {
        account,
        reference: Reference::File { path, key },
        kind,
    })
}

fn claude() -> Result<Theirs, Failure> {
    let path = home()?.join(".claude/.credentials.json");
    theirs(
        "anthropic",
        "claude-cli",
        path,
        "claudeAiOauth.accessToken",
        Type::Oauth,
    )
}

fn codex() -> Result<Theirs, Failure> {
    let folder = match env::var_os("CODEX_HOME").filter(|folder| !folder.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => home()?.join(".codex"),
    };
    theirs(
        "openai",
        "codex-cli",
        folder.join("auth.json"),
        "tokens.access_token",
        Type::Oauth,
    )
}

async fn pointer(resolver: &Resolver, theirs: &Theirs, output: &Output) -> Result<Exit, Failure> {
    resolver.resolve(&theirs.reference).await?;
    let mut entry = Entry::new(theirs.reference.clone(), theirs.kind);
    entry.note(Ok(()));
    resolver.store().change(|index| {
        index.accounts.insert(theirs.account.clone(), entry);
        Ok(())
    })?;
    if output.json {
        output.value(&json!({ "account": theirs.account, "reference": theirs.reference }))?;
    } else {
        output.line(format!("added {}: {}", theirs.account, theirs.reference.label()))?;
    }
    Ok(Exit::Ok)
}
