//! The orchestrator as a library over a real socket, with fakes for everyone who talks to it.

mod agents;
mod conversation;
mod events;
mod failing;
mod input;
mod once;
mod repeats;
mod restart;
mod sessions;
mod site;
mod streams;
mod tasks;
