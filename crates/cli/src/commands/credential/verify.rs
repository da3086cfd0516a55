//! Checks that each account's secret can be read.

use nexus_credential::{Error, Reference, Resolved, Resolver};
use serde_json::{Value, json};

use super::args::VerifyArgs;
use crate::{
    failure::{Exit, Failure},
    output::{Output, table::table},
};

type Answers = Vec<(Reference, Result<Resolved, Error>)>;

pub async fn run(resolver: &Resolver, args: &VerifyArgs, output: &Output) -> Result<Exit, Failure> {
    let references = if args.references.is_empty() {
        accounts(resolver)?
    } else {
        args.references.clone()
    };
    let answers = ask(resolver, references).await?;
    show(&answers, output)?;
    // One that was asked for by name ends with its own code, several with a common one.
    match answers.iter().find_map(|(_, answer)| answer.as_ref().err()) {
        None => Ok(Exit::Ok),
        Some(error) if answers.len() == 1 => Ok(Failure::from(error.clone()).exit),
        Some(_) => Ok(Exit::Failed),
    }
}

/// The index is written in any case, and daemons take that as the sign to ask again.
pub async fn sync(resolver: &Resolver, output: &Output) -> Result<Exit, Failure> {
    let answers = ask(resolver, accounts(resolver)?).await?;
    show(&answers, output)?;
    output.note("running daemons read their secrets again");
    let sound = answers.iter().all(|(_, answer)| answer.is_ok());
    Ok(if sound { Exit::Ok } else { Exit::Failed })
}

fn accounts(resolver: &Resolver) -> Result<Vec<Reference>, Failure> {
    Ok(resolver
        .store()
        .load()?
        .accounts
        .into_keys()
        .map(Reference::Account)
        .collect())
}

/// One after the other: a person may be asked by a store, and can answer one question at a time.
async fn ask(resolver: &Resolver, references: Vec<Reference>) -> Result<Answers, Failure> {
    let mut answers = Vec::with_capacity(references.len());
    for reference in references {
        let answer = resolver.resolve(&reference).await;
        answers.push((reference, answer));
    }
    resolver.store().change(|index| {
        for (reference, answer) in &answers {
            let Reference::Account(account) = reference else {
                continue;
            };
            if let Some(entry) = index.accounts.get_mut(account) {
                entry.note(answer.as_ref().map(|_| ()));
            }
        }
        Ok(())
    })?;
    Ok(answers)
}

fn show(answers: &Answers, output: &Output) -> Result<(), Failure> {
    if output.json {
        let said: Vec<Value> = answers
            .iter()
            .map(|(reference, answer)| match answer {
                Ok(found) => json!({ "reference": reference.label(), "ok": true, "source": found.source }),
                Err(error) => json!({
                    "reference": reference.label(), "ok": false, "kind": error.kind.name(),
                    "error": error.to_string(), "hint": error.hint,
                }),
            })
            .collect();
        output.value(&said)?;
        return Ok(());
    }
    if answers.is_empty() {
        output.note("no accounts; make one with: nexus credential add anthropic/default");
        return Ok(());
    }
    let rows = answers.iter().map(|(reference, answer)| match answer {
        Ok(found) => [reference.label(), "ok".to_owned(), format!("from {}", found.source)],
        Err(error) => [reference.label(), error.kind.name().to_owned(), error.advice()],
    });
    output.line(table(output, ["CREDENTIAL", "RESULT", "DETAILS"], rows))?;
    Ok(())
}
