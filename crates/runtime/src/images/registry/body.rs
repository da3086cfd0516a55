//! Reads bodies of answers within a bound: their length is decided by the server.

use std::time::Duration;

use reqwest::Response;

use super::failure::Failure;

/// Longest until a body that is read into memory is whole.
const WHOLE_WITHIN: Duration = Duration::from_secs(60);

/// A body of at most `most` bytes.
pub async fn read(response: Response, most: u64) -> Result<Vec<u8>, Failure> {
    let too_large = || {
        Failure::Final(format!(
            "the registry answered with more than {most} bytes where fewer are due"
        ))
    };
    let mut response = response;
    let reading = async {
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await? {
            if (body.len() + piece.len()) as u64 > most {
                return Err(too_large());
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    };
    let read = tokio::time::timeout(WHOLE_WITHIN, reading).await;
    read.unwrap_or_else(|_| {
        let within = WHOLE_WITHIN.as_secs();
        Err(Failure::Passing(format!(
            "the registry's answer was not whole within {within} s"
        )))
    })
}
