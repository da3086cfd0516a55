//! Where things live, and how one daemon's layered settings are loaded, checked and explained.
//!
//! A daemon describes its settings as a table ([`Schema`]); [`load`] lays the sources over each other
//!
//! ```text
//! built-in default  <  file  <  environment  <  flag
//! ```
//!
//! and either gives [`Settings`], each value with where it came from, or every mistake at once ([`Errors`]).
//! It never starts anything, never logs, never writes the file, and never reads a secret: a setting marked
//! [`Setting::secret`] shows in no dump and in no error.

#![warn(missing_docs)]

mod common;
mod describe;
mod error;
mod extract;
mod file;
mod kind;
mod layers;
mod load;
mod nearest;
mod root;
pub mod services;
mod setting;
mod settings;
mod socket_path;
mod value;

pub use common::common;
pub use describe::{DaemonSchema, DaemonValues, Described, EffectiveSetting};
pub use error::{Error, Errors, Mistake, Origin};
pub use kind::Kind;
pub use load::{Loaded, Sources, check_file, load, load_all, read};
pub use nearest::nearest;
pub use root::Root;
pub use setting::{Schema, Setting};
pub use settings::{Change, Settings};
pub use socket_path::{MAX_SOCKET_PATH, socket_path_too_long};
pub use value::{Value, parse_size};

/// Where the orchestrator listens unless told otherwise; existing clients have this path built in.
pub const ORCHESTRATOR_SOCKET: &str = "/tmp/baaaht-grpc.sock";
