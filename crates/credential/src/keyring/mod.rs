//! The keyring of this user: Secret Service on Linux, the keychain on macOS.

#[cfg(any(test, not(target_os = "linux")))]
mod keychain;
#[cfg(target_os = "linux")]
mod secret_service;

use std::time::Duration;

use crate::{Error, Kind, Reference, Secret};

/// One entry of the keyring.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyringEntry<'a> {
    pub reference: &'a Reference,
    pub service: &'a str,
    pub account: &'a str,
    pub deadline: Duration,
}

impl KeyringEntry<'_> {
    fn wrong(&self, kind: Kind, reason: impl Into<String>) -> Error {
        Error::new(kind, self.reference, reason)
    }

    pub async fn get(&self) -> Result<Secret, Error> {
        #[cfg(target_os = "linux")]
        return self.within(secret_service::get(self)).await;
        #[cfg(not(target_os = "linux"))]
        keychain::get(keychain::SECURITY, self).await
    }

    pub async fn put(&self, secret: &Secret) -> Result<(), Error> {
        #[cfg(target_os = "linux")]
        return self.within(secret_service::put(self, secret)).await;
        #[cfg(not(target_os = "linux"))]
        keychain::put(keychain::SECURITY, self, secret).await
    }

    /// Whether there was one.
    pub async fn remove(&self) -> Result<bool, Error> {
        #[cfg(target_os = "linux")]
        return self.within(secret_service::remove(self)).await;
        #[cfg(not(target_os = "linux"))]
        keychain::remove(keychain::SECURITY, self).await
    }

    #[cfg(target_os = "linux")]
    async fn within<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        match tokio::time::timeout(self.deadline, work).await {
            Ok(done) => done,
            Err(_) => Err(self.wrong(Kind::Timeout, "the keyring did not answer in time")),
        }
    }
}
