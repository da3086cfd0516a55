//! Resolves a reference to a secret: environment, file, keyring, 1Password, command, systemd credential, vault.
//!
//! ```text
//! settings ──"keyring:nexus/anthropic"──▶ Reference ──▶ Resolver ──▶ Secret   or an Error of one of eight kinds
//! nexus credential ──▶ Store (state/credentials/index.json: names and references, no secret)
//! ```
//!
//! It never logs, never writes a secret where it was not asked to, never puts one on a command line, and never looks
//! for one where the reference does not point. What it hands out is wiped when it is dropped. A program that it runs
//! has a process group of its own, a deadline, a bound on what it may say, and an environment made for it.

#![warn(missing_docs)]

mod account;
mod dotenv;
mod error;
mod file;
mod keyring;
mod onepassword;
mod pick;
mod program;
pub mod protect;
mod reference;
mod resolve;
pub mod scan;
mod secret;
mod shell;
mod store;
mod systemd;
mod vault;

pub use account::Account;
pub use dotenv::parse as parse_dotenv;
pub use error::{Error, Kind};
pub use file::{read_private, write_private};
pub use reference::{BadReference, Reference};
pub use resolve::{Resolved, Resolver};
pub use secret::Secret;
pub use shell::{Imported, Shell, ShellError};
pub use store::{Entry, Index, Moment, Stamp, State, Store, Type};
pub use vault::{Identity, Vault};
