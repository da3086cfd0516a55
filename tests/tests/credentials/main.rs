//! Secrets from the stores that people have: a real keyring, age, a command that behaves as 1Password's does, shells
//! that hang; and that no secret shows anywhere it should not.

#![expect(clippy::unwrap_used, reason = "what fails here fails its test")]

mod canaries;
mod keyring;
mod kit;
mod onepassword;
mod shell;
mod stores;
mod vault;
