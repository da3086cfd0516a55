//! What every daemon shares: command line, settings, logs, listener, callers, health, limits, stop.
//!
//! A daemon implements [`Daemon`]; its `main` calls [`main`], a test calls [`start`].
//!
//! ```text
//! args ─▶ settings ─▶ log ─▶ bind ─▶ Daemon::build ─▶ READY ─▶ serve ─▶ stop: drain ─▶ flush ─▶ exit
//!   64       78                75       65 70 78                                              0
//! ```
//!
//! It knows no daemon's rules, opens no store, and dials nobody.

#![warn(missing_docs)]

mod activation;
mod args;
pub mod authority;
mod boot;
pub mod caller;
mod daemon;
mod deflate;
mod ends;
pub mod exit;
mod explain;
mod gathered;
mod guard;
mod guard_body;
pub mod health;
mod inbound;
mod inflate;
pub mod listener;
mod logfile;
mod memory;
mod methods;
pub mod metrics;
mod metrics_process;
mod own_token;
mod panics;
mod peer;
mod pressure;
mod ready;
mod reflection;
mod reload;
mod room;
mod run;
mod running;
pub mod scope;
pub mod serve;
pub mod services;
mod settings;
mod shares;
mod signals;
mod slots;
mod socket_file;
pub mod spans;
pub mod status;
mod status_file;
pub mod stop;
pub mod tls;
pub mod token;
mod token_check;
mod trace;
pub mod wake;

pub use caller::{Access, Caller, Role};
pub use daemon::{Boot, BootError, Built, Daemon, Reload};
pub use health::Health;
pub use own_token::OwnToken;
pub use run::main;
pub use running::{Running, start, start_by};
pub use services::{MAX_MESSAGE_BYTES, Services};
pub use settings::{Common, schema};
pub use status::status;
pub use status_file::{Credential, StatusFile};
pub use stop::Stop;
pub use wake::Wake;
