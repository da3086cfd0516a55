use std::{collections::BTreeSet, env};

use nexus_credential::{Index, Reference, Resolver, Secret, Shell, scan};
use serde_json::json;

use super::{args::ScanArgs, import};
use crate::{
    failure::{Exit, Failure},
    output::{Output, table::table},
};

pub struct Found {
    pub name: String,
    pub secret: Secret,
    /// Where, in words.
    pub place: String,
}

pub async fn run(resolver: &Resolver, args: &ScanArgs, output: &Output) -> Result<Exit, Failure> {
    let mut found = environment(args.deep);
    if args.shell {
        let shell = Shell::of_user();
        let names: BTreeSet<String> = scan::KNOWN.iter().map(|(name, _)| (*name).to_owned()).collect();
        let place = format!("login shell {}", shell.program().display());
        let values = shell.import(&names).await?.values.into_iter();
        let unseen: Vec<Found> = values
            .filter(|(name, secret)| !found.iter().any(|one| one.name == *name && one.secret == *secret))
            .map(|(name, secret)| Found {
                name,
                secret,
                place: place.clone(),
            })
            .collect();
        found.extend(unseen);
    }
    if args.import {
        return import::store(resolver, found, args.storage, false, output).await;
    }
    let index = resolver.store().load()?;
    if output.json {
        let rows: Vec<_> = found
            .iter()
            .map(|one| {
                json!({
                    "name": one.name, "service": scan::service_of(&one.name), "masked": one.secret.masked(),
                    "place": one.place, "account": account_of(&index, &one.name),
                })
            })
            .collect();
        output.value(&rows)?;
        return Ok(Exit::Ok);
    }
    if found.is_empty() {
        output.note("nothing found; --deep looks at variables of any name, --shell asks the login shell");
        return Ok(Exit::Ok);
    }
    let rows = found.iter().map(|one| {
        [
            one.name.clone(),
            scan::service_of(&one.name),
            one.secret.masked(),
            one.place.clone(),
            account_of(&index, &one.name).unwrap_or_else(|| "-".to_owned()),
        ]
    });
    output.line(table(output, ["NAME", "SERVICE", "VALUE", "PLACE", "ACCOUNT"], rows))?;
    output.note("\na daemon sees no shell's environment; store these with: nexus credential scan --import");
    Ok(Exit::Ok)
}

fn environment(deep: bool) -> Vec<Found> {
    let mut found: Vec<Found> = env::vars()
        .filter(|(name, value)| scan::is_known(name) || deep && scan::looks_secret(name, value))
        .filter_map(|(name, value)| {
            Some(Found {
                secret: Secret::of(&zeroize::Zeroizing::new(value))?,
                name,
                place: "environment".to_owned(),
            })
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// The account that points to the variable.
fn account_of(index: &Index, name: &str) -> Option<String> {
    let variable = Reference::Env(name.to_owned());
    let known = index.accounts.iter().find(|(_, entry)| entry.reference == variable);
    known.map(|(account, _)| account.to_string())
}
