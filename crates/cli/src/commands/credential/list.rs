use nexus_credential::{Account, Entry, Moment, Reference, State, Store, Type};
use serde::Serialize;

use super::{add::status, args::ListArgs};
use crate::{
    failure::{Exit, Failure},
    output::{Output, table::table},
};

/// An account as programs read it. Its status is what the index says and the clock adds.
#[derive(Debug, Serialize)]
pub struct Row<'a> {
    account: &'a Account,
    store: &'static str,
    reference: &'a Reference,
    #[serde(rename = "type")]
    kind: Type,
    status: &'static str,
    added: Moment,
    rotated: Option<Moment>,
    verified: Option<Moment>,
    expires: Option<Moment>,
    error: Option<&'a str>,
}

pub fn row<'a>(account: &'a Account, entry: &'a Entry) -> Row<'a> {
    Row {
        account,
        store: entry.reference.store(),
        reference: &entry.reference,
        kind: entry.kind,
        status: status(entry),
        added: entry.added,
        rotated: entry.rotated,
        verified: entry.verified,
        expires: entry.expires,
        error: entry.error.as_deref(),
    }
}

pub fn run(store: &Store, args: &ListArgs, output: &Output) -> Result<Exit, Failure> {
    let index = store.load()?;
    let wanted = index.accounts.iter().filter(|(account, entry)| {
        let service = args.service.as_ref().is_none_or(|service| account.service() == service);
        let broken = !args.broken || entry.is_expired() || matches!(entry.status, State::Broken | State::Locked);
        service && broken
    });
    let rows: Vec<Row<'_>> = wanted.map(|(account, entry)| row(account, entry)).collect();
    if output.json {
        output.value(&rows)?;
        return Ok(Exit::Ok);
    }
    if rows.is_empty() {
        output.note(if index.accounts.is_empty() {
            "no accounts; make one with: nexus credential add anthropic/default"
        } else {
            "none of the accounts is meant"
        });
        return Ok(Exit::Ok);
    }
    let or_dash = |moment: Option<Moment>| moment.map_or("-".to_owned(), |moment| moment.to_string());
    let cells = rows.iter().map(|row| {
        [
            row.account.to_string(),
            row.status.to_owned(),
            row.reference.label(),
            or_dash(row.verified),
            or_dash(row.expires),
        ]
    });
    output.line(table(
        output,
        ["ACCOUNT", "STATUS", "REFERENCE", "VERIFIED", "EXPIRES"],
        cells,
    ))?;
    Ok(Exit::Ok)
}
