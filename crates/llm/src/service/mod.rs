//! `llm.v1` on the wire: decodes, calls the engine, encodes. Nothing is decided here.

mod blocks;
mod convert;
mod llm;
mod status;
mod stream;
mod usage;

pub use self::llm::Llm;
