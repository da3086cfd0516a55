//! The calls: each is decoded, handed to the engine, and its answer encoded. No rule, no clock, no storage here.

pub mod agent;
pub mod approvals;
pub mod containers;
pub mod driver;
pub mod messages;
pub mod orchestrator;
pub mod raw;
pub mod runs;
pub mod status;
pub mod tool;

use nexus_proto::words;
use std::sync::{Arc, OnceLock};

use nexus_daemon::Caller;
use prost::Message;
use tonic::{Request, Status};

use crate::domain::Error;
use crate::engine::Once;

pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Why a frame could not be decoded: sent at the end of its stream, after the answers to earlier frames.
pub type DecodeFailure = Arc<OnceLock<Status>>;

/// The idempotency key of a call, if it carries one.
pub fn once<T: Message + Default + PartialEq>(request: &Request<T>, method: &str) -> Result<Option<Once>, Error> {
    let Some(name) = request.metadata().get(words::metadata::IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    let name = name
        .to_str()
        .map_err(|_| Error::Invalid("idempotency-key must be visible ASCII".into()))?;
    let caller = Caller::of(request);
    Once::new(&caller.principal, method, name, request.get_ref()).map(Some)
}

/// The epoch plus how long this has run, as clients read it.
pub fn uptime(since: std::time::SystemTime) -> nexus_proto::Timestamp {
    let up = since.elapsed().unwrap_or_default();
    nexus_proto::Timestamp {
        seconds: up.as_secs() as i64,
        nanos: up.subsec_nanos() as i32,
    }
}

/// An error as it stands inside a stream: `CODE: message`.
pub fn in_band(error: &Error) -> String {
    let status = Status::from(status::Refusal(error.clone()));
    format!("{}: {}", status::name(status.code()), status.message())
}
