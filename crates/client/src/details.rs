//! The stable reason in a status' details: `google.rpc.Status` with a `google.rpc.ErrorInfo` in it.

use prost::Message as _;

#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
}

/// Details of another kind, or damaged ones, are no reason.
pub(crate) fn reason(details: &[u8]) -> Option<String> {
    let status = RpcStatus::decode(details).ok()?;
    let info = status
        .details
        .iter()
        .find(|any| any.type_url.ends_with("google.rpc.ErrorInfo"))?;
    let info = ErrorInfo::decode(info.value.as_slice()).ok()?;
    (!info.reason.is_empty()).then_some(info.reason)
}

#[cfg(test)]
pub(crate) fn encode(reason: &str) -> Vec<u8> {
    RpcStatus {
        details: vec![prost_types::Any {
            type_url: "type.googleapis.com/google.rpc.ErrorInfo".into(),
            value: ErrorInfo { reason: reason.into() }.encode_to_vec(),
        }],
    }
    .encode_to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_found_and_garbage_is_none() {
        assert_eq!(reason(&encode("session_limit")).as_deref(), Some("session_limit"));
        assert_eq!(reason(b""), None);
        assert_eq!(reason(&[0xff, 0xff, 0xff]), None);
    }
}
