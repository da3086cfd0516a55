//! What the gateway decides, as plain values: no runtime, no clock, no randomness. Times are nanoseconds since the
//! epoch, handed in by the caller.

pub mod answers;
pub mod chunk;
pub mod conversation;
mod error;
pub mod event;
pub mod filter;
pub mod message;
pub mod session;

pub use error::Error;
