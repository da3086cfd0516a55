//! The Secret Service protocol over the session bus, as gnome-keyring, KWallet and KeePassXC serve it.
//!
//! It never asks for a prompt: a daemon has nobody to answer one. What is locked is told as locked. The session is the
//! plain one: the bus is a socket that only this user can use, and whoever can listen there can ask the keyring too.

use std::collections::HashMap;

use zbus::{
    Connection, Message,
    zvariant::{DynamicType, ObjectPath, OwnedObjectPath, OwnedValue, Value},
};
use zeroize::Zeroizing;

use super::KeyringEntry;
use crate::{Error, Kind, Secret};

const BUS_NAME: &str = "org.freedesktop.secrets";
const SERVICE: &str = "/org/freedesktop/secrets";
const SERVICE_INTERFACE: &str = "org.freedesktop.Secret.Service";
const COLLECTION: &str = "org.freedesktop.Secret.Collection";
const ITEM: &str = "org.freedesktop.Secret.Item";
/// What stands for "no object".
const NONE: &str = "/";
/// What others call the account: the second is Python's keyring and what follows it.
const ACCOUNT_NAMES: [&str; 2] = ["account", "username"];

/// As the protocol has it: session, parameters, value, content type.
type Wire = (OwnedObjectPath, Vec<u8>, Vec<u8>, String);

struct Keyring<'a> {
    place: &'a KeyringEntry<'a>,
    bus: Connection,
}

pub(super) async fn get(place: &KeyringEntry<'_>) -> Result<Secret, Error> {
    let keyring = Keyring::open(place).await?;
    let item = match keyring.find().await? {
        Found::Open(item) => item,
        Found::Locked => return Err(locked(place)),
        Found::Nothing => return Err(keyring.missing().await),
    };
    let session = keyring.session().await?;
    let answer = keyring.call(item.as_str(), ITEM, "GetSecret", &(session,)).await?;
    let secret: Wire = keyring.read(&answer)?;
    let value = Zeroizing::new(secret.2);
    Secret::of_bytes(&value).ok_or_else(|| place.wrong(Kind::Malformed, "the entry is empty or no text"))
}

pub(super) async fn put(place: &KeyringEntry<'_>, secret: &Secret) -> Result<(), Error> {
    let keyring = Keyring::open(place).await?;
    // An entry that somebody else made under these names is replaced, not doubled.
    if let Found::Open(item) = keyring.find().await? {
        let wire = keyring.wire(secret).await?;
        keyring.call(item.as_str(), ITEM, "SetSecret", &(wire,)).await?;
        return Ok(());
    }
    let collection = keyring.collection().await?;
    let attributes = HashMap::from([("service", place.service), ("account", place.account)]);
    let properties = HashMap::from([
        (
            "org.freedesktop.Secret.Item.Label",
            Value::from(format!("{} ({})", place.service, place.account)),
        ),
        ("org.freedesktop.Secret.Item.Attributes", Value::from(attributes)),
    ]);
    let wire = keyring.wire(secret).await?;
    let answer = keyring
        .call(collection.as_str(), COLLECTION, "CreateItem", &(properties, wire, true))
        .await?;
    let (_, prompt): (OwnedObjectPath, OwnedObjectPath) = keyring.read(&answer)?;
    keyring.without(&prompt)
}

pub(super) async fn remove(place: &KeyringEntry<'_>) -> Result<bool, Error> {
    let keyring = Keyring::open(place).await?;
    match keyring.find().await? {
        Found::Nothing => Ok(false),
        Found::Locked => Err(locked(place)),
        Found::Open(item) => {
            let answer = keyring.call(item.as_str(), ITEM, "Delete", &()).await?;
            let prompt: OwnedObjectPath = keyring.read(&answer)?;
            keyring.without(&prompt).map(|()| true)
        }
    }
}

enum Found {
    Open(OwnedObjectPath),
    Locked,
    Nothing,
}

impl<'a> Keyring<'a> {
    async fn open(place: &'a KeyringEntry<'a>) -> Result<Keyring<'a>, Error> {
        let bus = Connection::session().await.map_err(|_| {
            place
                .wrong(Kind::MissingProvider, "there is no session bus to reach a keyring on")
                .hint("a host without a desktop keeps secrets in the vault: nexus credential add --storage vault")
        })?;
        Ok(Keyring { place, bus })
    }

    async fn find(&self) -> Result<Found, Error> {
        for name in ACCOUNT_NAMES {
            let attributes = HashMap::from([("service", self.place.service), (name, self.place.account)]);
            let answer = self
                .call(SERVICE, SERVICE_INTERFACE, "SearchItems", &(attributes,))
                .await?;
            let (open, locked): (Vec<OwnedObjectPath>, Vec<OwnedObjectPath>) = self.read(&answer)?;
            if let Some(item) = open.into_iter().next() {
                return Ok(Found::Open(item));
            }
            if !locked.is_empty() {
                return Ok(Found::Locked);
            }
        }
        Ok(Found::Nothing)
    }

    /// Some keyrings do not even tell what they hold while they are locked.
    async fn missing(&self) -> Error {
        match self.collection().await {
            Err(error) if error.kind == Kind::Locked => error,
            _ => self
                .place
                .wrong(Kind::NotFound, "the keyring has no entry of that service and account"),
        }
    }

    /// The one that new entries go to, if it is open.
    async fn collection(&self) -> Result<OwnedObjectPath, Error> {
        let answer = self
            .call(SERVICE, SERVICE_INTERFACE, "ReadAlias", &("default",))
            .await?;
        let collection: OwnedObjectPath = self.read(&answer)?;
        if collection.as_str() == NONE {
            let error = self
                .place
                .wrong(Kind::MissingProvider, "the keyring has no default collection");
            return Err(error.hint("make one with your desktop's password program"));
        }
        let answer = self
            .call(
                collection.as_str(),
                "org.freedesktop.DBus.Properties",
                "Get",
                &(COLLECTION, "Locked"),
            )
            .await?;
        let value: OwnedValue = self.read(&answer)?;
        match bool::try_from(value) {
            Ok(false) => Ok(collection),
            Ok(true) => Err(locked(self.place)),
            Err(_) => Err(self
                .place
                .wrong(Kind::Malformed, "the keyring does not say whether it is locked")),
        }
    }

    async fn session(&self) -> Result<OwnedObjectPath, Error> {
        let answer = self
            .call(SERVICE, SERVICE_INTERFACE, "OpenSession", &("plain", Value::from("")))
            .await?;
        let (_, session): (OwnedValue, OwnedObjectPath) = self.read(&answer)?;
        Ok(session)
    }

    async fn wire(&self, secret: &Secret) -> Result<Wire, Error> {
        let bytes = secret.reveal().as_bytes().to_vec();
        Ok((self.session().await?, Vec::new(), bytes, "text/plain".to_owned()))
    }

    /// Where an answer would need somebody to be asked, it did not happen.
    fn without(&self, prompt: &ObjectPath<'_>) -> Result<(), Error> {
        if prompt.as_str() == NONE {
            Ok(())
        } else {
            Err(locked(self.place))
        }
    }

    async fn call<B>(&self, path: &str, interface: &str, method: &str, body: &B) -> Result<Message, Error>
    where
        B: serde::Serialize + DynamicType,
    {
        self.bus
            .call_method(Some(BUS_NAME), path, Some(interface), method, body)
            .await
            .map_err(|error| self.failure(&error))
    }

    fn read<T>(&self, answer: &Message) -> Result<T, Error>
    where
        T: for<'de> serde::Deserialize<'de> + zbus::zvariant::Type,
    {
        let wrong = |_| {
            self.place
                .wrong(Kind::Malformed, "the keyring gave an answer that is none")
        };
        answer.body().deserialize().map_err(wrong)
    }

    fn failure(&self, error: &zbus::Error) -> Error {
        let zbus::Error::MethodError(name, ..) = error else {
            return self.place.wrong(Kind::Failed, "the connection to the keyring broke");
        };
        match name.as_str() {
            "org.freedesktop.Secret.Error.IsLocked" => locked(self.place),
            "org.freedesktop.Secret.Error.NoSuchObject" | "org.freedesktop.DBus.Error.UnknownObject" => {
                self.place.wrong(Kind::NotFound, "the keyring has it no more")
            }
            "org.freedesktop.DBus.Error.AccessDenied" => self.place.wrong(Kind::Denied, "the keyring refuses it"),
            "org.freedesktop.DBus.Error.Timeout" | "org.freedesktop.DBus.Error.NoReply" => {
                self.place.wrong(Kind::Timeout, "the keyring did not answer")
            }
            "org.freedesktop.DBus.Error.ServiceUnknown"
            | "org.freedesktop.DBus.Error.NameHasNoOwner"
            | "org.freedesktop.DBus.Error.Spawn.ServiceNotFound" => self
                .place
                .wrong(Kind::MissingProvider, "no keyring serves this session")
                .hint("install and start gnome-keyring, KWallet or KeePassXC, or use another store"),
            other => self.place.wrong(Kind::Failed, format!("the keyring failed ({other})")),
        }
    }
}

fn locked(place: &KeyringEntry<'_>) -> Error {
    place
        .wrong(Kind::Locked, "the keyring is locked")
        .hint("log in to the desktop or unlock it there; it is tried again by itself")
}
