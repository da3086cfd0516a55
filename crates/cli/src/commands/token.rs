//! `nexus token`: bearer tokens. Their text is shown once, when created; the file keeps hashes.

use nexus_daemon::{
    Role,
    token::{self, Fresh, TokenError},
};
use serde_json::json;

use crate::{
    args::{TokenArgs, TokenCommand, TokenRole},
    context::Context,
    failure::{Exit, Failure},
    output::{Output, table::table},
};

pub fn run(context: &Context, command: TokenCommand, output: &Output) -> Result<Exit, Failure> {
    match command {
        TokenCommand::New(args) => new(context, &args, output),
        TokenCommand::List => list(context, output),
        TokenCommand::Revoke { name } => revoke(context, &name, output),
    }
}

fn new(context: &Context, args: &TokenArgs, output: &Output) -> Result<Exit, Failure> {
    let role = match args.role {
        TokenRole::Admin => Role::Admin,
        TokenRole::Agent => Role::Agent,
        TokenRole::User => Role::User,
    };
    context
        .root
        .create()
        .map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    let Fresh { id, text } = token::new(
        &context.root.token_file(),
        &args.name,
        role,
        &args.scopes,
        args.expires_in,
    )
    .map_err(failure)?;
    if output.json {
        output.value(
            &json!({ "name": args.name, "id": id, "role": role.as_str(), "scopes": args.scopes,
            "token": text }),
        )?;
    } else {
        output.line(&text)?;
        output.note(&format!("its id is {id}: what its holder makes belongs to token:{id}"));
        output.note("this is shown only once; send it as metadata `authorization: Bearer ...`, or set NEXUS_TOKEN");
    }
    Ok(Exit::Ok)
}

fn list(context: &Context, output: &Output) -> Result<Exit, Failure> {
    let tokens = token::list(&context.root.token_file()).map_err(failure)?;
    if output.json {
        let shown: Vec<_> = tokens
            .iter()
            .map(|token| {
                json!({ "name": token.name, "id": token.id(), "role": token.role.as_str(), "scopes": token.scopes,
                    "created": token.created, "expires": token.expires })
            })
            .collect();
        output.value(&shown)?;
        return Ok(Exit::Ok);
    }
    if tokens.is_empty() {
        output.note("no tokens; make one with: nexus token new NAME");
        return Ok(Exit::Ok);
    }
    let rows = tokens.into_iter().map(|token| {
        let scopes = if token.scopes.is_empty() {
            "all".to_owned()
        } else {
            token.scopes.join(" ")
        };
        [
            token.name.clone(),
            token.id().to_owned(),
            token.role.to_string(),
            scopes,
            token.created,
            token.expires.unwrap_or_else(|| "never".to_owned()),
        ]
    });
    output.line(table(
        output,
        ["NAME", "ID", "ROLE", "SCOPES", "CREATED", "EXPIRES"],
        rows,
    ))?;
    Ok(Exit::Ok)
}

fn revoke(context: &Context, name: &str, output: &Output) -> Result<Exit, Failure> {
    if !token::revoke(&context.root.token_file(), name).map_err(failure)? {
        return Err(
            Failure::new(Exit::NotFound, format!("there is no token with the name or id {name}"))
                .hint("see them with: nexus token list"),
        );
    }
    if output.json {
        output.value(&json!({ "name": name, "revoked": true }))?;
    } else {
        output.line(format!("revoked {name}; running daemons refuse it within a second"))?;
    }
    Ok(Exit::Ok)
}

fn failure(error: TokenError) -> Failure {
    let exit = match error {
        TokenError::Exists(_) | TokenError::Locked { .. } | TokenError::Io { .. } | TokenError::Random => Exit::Failed,
        TokenError::Name(_) | TokenError::Scope(_) | TokenError::Lifetime => Exit::Usage,
        TokenError::Damaged { .. } => Exit::Config,
    };
    let mut message = error.to_string();
    if let Some(cause) = std::error::Error::source(&error) {
        message.push_str(&format!(": {cause}"));
    }
    Failure::new(exit, message)
}
