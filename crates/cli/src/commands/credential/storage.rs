//! Stores a secret that the user entered.

use nexus_credential::{Account, Kind, Reference, Resolver, Secret};

use super::args::Storage;
use crate::{
    failure::{Exit, Failure},
    output::Output,
};

/// Stores it and gives the reference to it.
pub async fn keep(
    resolver: &Resolver,
    account: &Account,
    secret: &Secret,
    storage: Storage,
    output: &Output,
) -> Result<Reference, Failure> {
    let reference = match storage {
        Storage::Keyring => keyring(account),
        Storage::Vault => Reference::Vault(account.to_string()),
        Storage::File => Reference::File {
            path: resolver.store().secret_file(account),
            key: None,
        },
        Storage::Auto => return automatic(resolver, account, secret, output).await,
    };
    write(resolver, &reference, secret, output).await?;
    Ok(reference)
}

fn keyring(account: &Account) -> Reference {
    Reference::Keyring {
        service: format!("nexus.{}", account.service()),
        account: account.account().to_owned(),
    }
}

/// Never the plain file: that is asked for by name or not at all.
async fn automatic(
    resolver: &Resolver,
    account: &Account,
    secret: &Secret,
    output: &Output,
) -> Result<Reference, Failure> {
    let reference = keyring(account);
    match write(resolver, &reference, secret, output).await {
        Ok(()) => return Ok(reference),
        Err(error) if error.exit == Exit::NoProvider => {}
        Err(error) => return Err(error),
    }
    if resolver.vault().is_set_up() {
        let reference = Reference::Vault(account.to_string());
        write(resolver, &reference, secret, output).await?;
        return Ok(reference);
    }
    Err(
        Failure::new(Exit::NoProvider, "there is no keyring here; nothing was stored").hint(
            "choose a place: --storage vault (encrypted, by the program age), --storage file (mode 0600, not encrypted), \
             or --reference to where it is",
        ),
    )
}

/// Writes it and reads it back: what a store says it kept, it must also give.
pub async fn write(
    resolver: &Resolver,
    reference: &Reference,
    secret: &Secret,
    output: &Output,
) -> Result<(), Failure> {
    if let Some(made) = resolver.keep(reference, secret).await? {
        output.note(&format!(
            "made the vault's identity {}: keep a copy of it somewhere safe, nothing else opens the vault",
            made.display()
        ));
    }
    let back = resolver.resolve(reference).await?;
    if back.secret == *secret {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Malformed,
        format!(
            "{}: the store gave another secret back than it was given",
            reference.label()
        ),
    ))
}

/// Removes what was stored for an account; a store that has it no more is as good.
pub async fn discard(resolver: &Resolver, reference: &Reference) -> Result<bool, Failure> {
    match resolver.discard(reference).await {
        Ok(was_there) => Ok(was_there),
        Err(error) if error.kind == Kind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}
