use nexus_credential::{Reference, Resolver};
use serde_json::json;

use super::{add, args::GetArgs, list};
use crate::{
    failure::{Exit, Failure},
    output::Output,
};

pub async fn run(resolver: &Resolver, args: &GetArgs, output: &Output) -> Result<Exit, Failure> {
    if args.record {
        let Reference::Account(account) = &args.reference else {
            return Err(Failure::usage("only an account has a record"));
        };
        let entry = add::known(resolver, account)?;
        output.value(&list::row(account, &entry))?;
        return Ok(Exit::Ok);
    }
    let found = resolver.resolve(&args.reference).await?;
    let shown = args.reveal || !(output.terminal || output.json);
    if output.json {
        let value = if shown { found.secret.reveal() } else { "" };
        let mut said = json!({
            "reference": args.reference.label(), "source": found.source, "masked": found.secret.masked(),
        });
        if shown {
            said["value"] = value.into();
        }
        output.value(&said)?;
    } else if shown {
        output.exact(found.secret.reveal())?;
    } else {
        output.line(found.secret.masked())?;
        output.note(&format!(
            "from {}; all of it with --reveal, or into a pipe",
            found.source
        ));
    }
    Ok(Exit::Ok)
}
