//! `gateway.v1` on the wire: decode, call, encode.

mod convert;
mod gateway;
mod status;

pub use gateway::Service;
