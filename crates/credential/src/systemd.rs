use std::{env, fs, io, path::PathBuf};

use zeroize::Zeroizing;

use crate::{Error, Kind, Reference, Secret};

/// Where systemd puts the credentials of this unit; nothing else may name it.
pub(crate) fn directory() -> Option<PathBuf> {
    let path = env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from)?;
    path.is_absolute().then_some(path)
}

pub(crate) fn resolve(reference: &Reference, name: &str) -> Result<Secret, Error> {
    let Some(directory) = directory() else {
        return Err(Error::new(
            Kind::MissingProvider,
            reference,
            "systemd gave this process no credentials",
        )
        .hint(format!(
            "add LoadCredential={name}:/path or LoadCredentialEncrypted= to the unit, then restart it"
        )));
    };
    let bytes = match fs::read(directory.join(name)) {
        Ok(bytes) => Zeroizing::new(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let error = Error::new(Kind::NotFound, reference, "the unit has no credential of that name");
            return Err(error.hint(format!("add LoadCredential={name}:/path to the unit, then restart it")));
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(Error::new(
                Kind::Denied,
                reference,
                "its file may not be read by this user",
            ));
        }
        Err(_) => return Err(Error::new(Kind::Failed, reference, "its file cannot be read")),
    };
    Secret::of_bytes(&bytes).ok_or_else(|| Error::new(Kind::Malformed, reference, "it is empty or no text"))
}
