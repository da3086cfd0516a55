//! What tools are and what their calls may do: everything about tools that can be decided without running anything. The
//! daemon that decides about calls and the worker that executes them use the same code.
//!
//! ```text
//!  a model's text ─▶ Definition::check ─▶ arguments ─▶ Call (typed) ─▶ executed elsewhere ─▶ Collector ─▶ text for the model
//!                                             │
//!                                             ├─▶ lock_of, effects_of: what it holds, what it may reach
//!                                             └─▶ plan::Plan, grant: what a person is asked, and what it may consent to
//! ```
//!
//! Everything that comes in was written by a model, a server or a program, and is hostile: its size, depth and cost are
//! bounded while it is read. No function here waits, opens a file, reads a clock or draws a random number.

#![warn(missing_docs)]

mod arguments;
mod builtin;
mod call;
pub mod canonical;
mod coerce;
mod definition;
pub mod edit;
mod error;
pub mod escape;
pub mod grant;
pub mod json;
pub mod lock;
mod loop_guard;
pub mod media;
pub mod net;
pub mod output;
pub mod patch;
pub mod path;
pub mod plan;
mod risk;
mod schema;
mod suggest;
pub mod untrusted;

pub use arguments::{Checked, Clamp};
pub use builtin::{MAX_COMMAND_BYTES, MAX_CONTENT_BYTES, MAX_PATCH_BYTES, builtin, builtins, delegate, skill};
pub use call::{
    ApplyPatch, AskUser, Call, Delegate, EditFile, Exec, Find, Format, Grep, ListDir, Message, Process, ProcessAction,
    ReadFile, Skill, Until, WebFetch, WebSearch, WriteFile, effects_of, lock_of,
};
pub use definition::{
    Definition, Effects, Foreign, LockKind, MAX_NAME_BYTES, Source, list_digest, mcp_name, unknown_tool, valid_name,
};
pub use error::{Code, Error};
pub use loop_guard::{LoopGuard, Verdict};
pub use risk::risks;
pub use schema::{MAX_SCHEMA_BYTES, MAX_SCHEMA_DEPTH, SchemaError};
pub use suggest::nearest;
