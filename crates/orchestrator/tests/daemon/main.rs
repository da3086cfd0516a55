//! The orchestrator as a library over a real socket, with fakes for everyone who talks to it.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod agents;
mod conversation;
mod events;
mod failing;
mod input;
mod once;
mod repeats;
mod restart;
mod runs;
mod sessions;
mod site;
mod streams;
mod tasks;
