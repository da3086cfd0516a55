//! How every part of Nexus speaks to another: connect by service name or address, and get generated stubs over a
//! channel with deadlines.
//!
//! A [`Connection`] dials when first used, checks whose process answers at a Unix socket before it says a word, and
//! dials again after a loss. A call never waits longer than its deadline; a call that finds nobody fails at once with
//! an [`Error`] that names the next step. What must outlive a restart of the other side does so explicitly: [`events`]
//! resumes by cursor and [`register_forever`] registers again.
//!
//! Architecture invariant: no call is ever sent twice. Only a request that provably never left this process is given
//! to a fresh connection; whether to repeat anything else is the caller's decision.

#![warn(missing_docs)]

mod address;
mod backoff;
mod body;
mod channel;
mod connection;
mod details;
mod dial;
mod error;
mod events;
mod method;
mod options;
mod redial;
mod register;
mod tls;

pub use address::{Address, BadAddress};
pub use backoff::Backoff;
pub use channel::Channel;
pub use connection::Connection;
pub use error::{DialError, Error, Kind};
pub use events::{Events, LOG_ID, events};
pub use options::{Options, ServerUid};
pub use redial::Redial;
pub use register::{HEARTBEAT_EVERY, register_forever};
