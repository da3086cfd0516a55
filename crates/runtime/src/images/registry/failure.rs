//! Why a registry did not give what it was asked for. What it wrote itself is never repeated: of the body of an error
//! only the codes are told that the specification knows.

use std::error::Error as _;

use reqwest::{Response, StatusCode};
use serde::Deserialize;

use super::address::Refused;
use super::body;

/// The largest body of an error that is read, in bytes.
const MAX_ERROR: u64 = 64 << 10;
/// Codes of errors in the OCI distribution specification.
const CODES: [&str; 15] = [
    "BLOB_UNKNOWN",
    "BLOB_UPLOAD_INVALID",
    "BLOB_UPLOAD_UNKNOWN",
    "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "NOT_FOUND",
    "SIZE_INVALID",
    "UNAUTHORIZED",
    "DENIED",
    "UNSUPPORTED",
    "TOOMANYREQUESTS",
];
const UNKNOWN: [&str; 3] = ["MANIFEST_UNKNOWN", "NAME_UNKNOWN", "NOT_FOUND"];

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// There is no such image, or no such part of it.
    #[error("{0}")]
    Unknown(String),
    /// Asking again would not help.
    #[error("{0}")]
    Final(String),
    /// Nothing listens there, or it cannot be looked up.
    #[error("{0}")]
    Unreachable(String),
    /// It may work the next time.
    #[error("{0}")]
    Passing(String),
}

impl From<reqwest::Error> for Failure {
    fn from(error: reqwest::Error) -> Failure {
        // The URL may be the registry's own text, and hold a signature.
        let error = error.without_url();
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            if let Some(refused) = cause.downcast_ref::<Refused>() {
                return Failure::Final(refused.to_string());
            }
            let cause_text = cause.to_string();
            if !text.contains(&cause_text) {
                text = format!("{text}: {cause_text}");
            }
            source = cause.source();
        }
        match error.is_connect() {
            true => Failure::Unreachable(text),
            false => Failure::Passing(text),
        }
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Failure {
        Failure::Final(refused.to_string())
    }
}

#[derive(Deserialize)]
struct Envelope {
    errors: Vec<RegistryError>,
}

#[derive(Deserialize)]
struct RegistryError {
    code: String,
}

/// What an answer means that is neither a success nor a redirect.
pub async fn answered(asked: &str, response: Response) -> Failure {
    let status = response.status();
    let body = body::read(response, MAX_ERROR).await.unwrap_or_default();
    let said = serde_json::from_slice::<Envelope>(&body).map_or_else(|_| Vec::new(), |envelope| envelope.errors);
    let codes: Vec<&str> = CODES
        .into_iter()
        .filter(|code| said.iter().any(|one| one.code == *code))
        .collect();
    let mut text = format!("the registry answered {} for {asked}", status.as_u16());
    if !codes.is_empty() {
        text = format!("{text} ({})", codes.join(", "));
    }
    if status == StatusCode::NOT_FOUND || codes.iter().any(|code| UNKNOWN.contains(code)) {
        return Failure::Unknown(text);
    }
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failure::Final(format!(
            "{text}: it is private, not there, or wants another login (docker login, podman login)"
        )),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => Failure::Passing(text),
        status if status.is_server_error() => Failure::Passing(text),
        _ => Failure::Final(text),
    }
}
