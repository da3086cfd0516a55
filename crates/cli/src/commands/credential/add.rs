//! Creates, replaces and deletes accounts.

use std::time::{Duration, SystemTime};

use nexus_credential::{Account, Entry, Moment, Reference, Resolver, State};
use serde_json::json;

use super::{
    args::{AddArgs, RemoveArgs, RotateArgs},
    ask, storage,
};
use crate::{
    failure::{Exit, Failure},
    output::Output,
};

pub async fn add(resolver: &Resolver, args: AddArgs, output: &Output) -> Result<Exit, Failure> {
    if args.value.is_some() {
        return Err(Failure::usage(
            "a secret must not be an argument: every user of this host can read the arguments of a process",
        )
        .hint(
            "leave --value out: the secret is asked for, or read from standard input; and replace the one just shown",
        ));
    }
    let account = match (&args.name, &args.service) {
        (Some(name), _) => name.clone(),
        (None, Some(service)) => Account::new(service, &args.account).map_err(Failure::usage)?,
        (None, None) => return Err(Failure::usage("which account? such as anthropic/default")),
    };
    if !args.replace && resolver.store().load()?.accounts.contains_key(&account) {
        return Err(exists(&account));
    }
    let pointer = pointer(&args)?;
    let reference = match pointer {
        Some(Reference::Account(_)) => return Err(Failure::usage("an account cannot point to another account")),
        Some(reference) => reference,
        None => {
            let secret = ask::secret(&account.to_string())?;
            storage::keep(resolver, &account, &secret, args.storage, output).await?
        }
    };
    let mut entry = Entry::new(reference.clone(), args.kind.into());
    entry.expires = expires(args.expires_in);
    // A store that is locked today can give it tomorrow: the account is made all the same, and says so.
    let asked = resolver.resolve(&reference).await;
    entry.note(asked.as_ref().map(|_| ()));
    let replace = args.replace;
    let put = entry.clone();
    let taken = resolver.store().change(|index| {
        let taken = !replace && index.accounts.contains_key(&account);
        if !taken {
            index.accounts.insert(account.clone(), put);
        }
        Ok(taken)
    })?;
    if taken {
        return Err(exists(&account));
    }
    if output.json {
        output.value(
            &json!({ "account": account, "reference": reference, "status": entry.status, "error": entry.error }),
        )?;
        return Ok(Exit::Ok);
    }
    output.line(format!("added {account}: {}", reference.label()))?;
    if let Err(error) = asked {
        output.note(&format!("but it does not resolve now: {}", error.advice()));
    }
    Ok(Exit::Ok)
}

fn exists(account: &Account) -> Failure {
    Failure::new(Exit::Failed, format!("there is an account {account} already")).hint(format!(
        "replace its secret with: nexus credential rotate {account}, or all of it with --replace"
    ))
}

fn pointer(args: &AddArgs) -> Result<Option<Reference>, Failure> {
    let of = |text: String| {
        text.parse()
            .map(Some)
            .map_err(|error: nexus_credential::BadReference| Failure::usage(error.to_string()))
    };
    match (&args.reference, &args.env_var, &args.item, &args.vault) {
        (Some(reference), ..) => Ok(Some(reference.clone())),
        (None, Some(name), ..) => of(format!("env:{name}")),
        (None, None, Some(item), Some(vault)) => of(format!("op://{vault}/{item}/{}", args.field)),
        _ => Ok(None),
    }
}

fn expires(after: Option<Duration>) -> Option<Moment> {
    after.map(|after| Moment(SystemTime::now() + after))
}

pub async fn rotate(resolver: &Resolver, args: &RotateArgs, output: &Output) -> Result<Exit, Failure> {
    let account = &args.name;
    let entry = known(resolver, account)?;
    let writable = matches!(
        entry.reference,
        Reference::Keyring { .. } | Reference::Vault(_) | Reference::File { key: None, .. }
    );
    if !writable {
        return Err(Failure::new(
            Exit::Refused,
            format!(
                "the secret of {account} is kept elsewhere ({})",
                entry.reference.label()
            ),
        )
        .hint("replace it there, then have the daemons ask again with: nexus credential sync"));
    }
    let secret = ask::secret(&account.to_string())?;
    storage::write(resolver, &entry.reference, &secret, output).await?;
    let until = expires(args.expires_in);
    let entry = resolver.store().change(|index| {
        let mut entry = index.accounts.get(account).cloned().unwrap_or(entry);
        entry.rotated = Some(Moment::now());
        entry.expires = until;
        entry.note(Ok(()));
        index.accounts.insert(account.clone(), entry.clone());
        Ok(entry)
    })?;
    if output.json {
        output.value(&json!({ "account": account, "rotated": entry.rotated, "expires": entry.expires }))?;
    } else {
        output.line(format!(
            "replaced the secret of {account}; running daemons use it from their next request on"
        ))?;
    }
    Ok(Exit::Ok)
}

pub async fn remove(resolver: &Resolver, args: &RemoveArgs, output: &Output) -> Result<Exit, Failure> {
    let account = &args.name;
    let entry = known(resolver, account)?;
    // The secret first: an account that is gone would leave nobody knowing of it.
    let discarded = !args.keep_secret && storage::discard(resolver, &entry.reference).await?;
    resolver.store().change(|index| {
        index.accounts.remove(account);
        Ok(())
    })?;
    if output.json {
        output.value(&json!({ "account": account, "removed": true, "secret_removed": discarded }))?;
    } else if discarded {
        output.line(format!("removed {account} and its secret"))?;
    } else {
        output.line(format!(
            "removed {account}; the secret, if there is one, stays at {}",
            entry.reference.label()
        ))?;
    }
    Ok(Exit::Ok)
}

pub fn known(resolver: &Resolver, account: &Account) -> Result<Entry, Failure> {
    let entry = resolver.store().load()?.accounts.remove(account);
    entry.ok_or_else(|| {
        Failure::new(Exit::NotFound, format!("there is no account {account}"))
            .hint("see which are with: nexus credential list")
    })
}

/// As a table and JSON show it.
pub fn status(entry: &Entry) -> &'static str {
    match entry.status {
        _ if entry.is_expired() => "expired",
        State::New => "new",
        State::Ready => "ready",
        State::Locked => "locked",
        State::Broken => "broken",
    }
}
