//! A gRPC call as bytes that a person can read and a fuzzer can change:
//!
//! ```text
//! /orchestrator.v1.OrchestratorService/CreateSession
//! grpc-timeout: 1S
//!
//! (the body: one message, to be put into a frame; after `raw` as the first header the frames themselves)
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Request, Uri};

const RAW: &[u8] = b"raw";

pub struct Call {
    pub request: Request<()>,
    pub body: Bytes,
}

impl Call {
    /// `None`: no HTTP client could send it.
    pub fn read(data: &[u8]) -> Option<Call> {
        let (path, mut rest) = line(data)?;
        let uri = Uri::builder()
            .scheme("http")
            .authority("localhost")
            .path_and_query(path)
            .build()
            .ok()?;
        let mut request = Request::post(uri).body(()).ok()?;
        let headers = request.headers_mut();
        headers.insert("te", HeaderValue::from_static("trailers"));
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        let mut raw = false;
        while let Some((header, after)) = line(rest) {
            rest = after;
            if header.is_empty() {
                break;
            }
            if header == RAW {
                raw = true;
                continue;
            }
            let mut parts = header.splitn(2, |byte| *byte == b':');
            let name = HeaderName::from_bytes(parts.next()?).ok()?;
            let value = HeaderValue::from_bytes(parts.next()?.trim_ascii()).ok()?;
            request.headers_mut().append(name, value);
        }
        Some(Call {
            request,
            body: if raw { Bytes::copy_from_slice(rest) } else { frame(rest) },
        })
    }
}

fn line(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = data.iter().position(|byte| *byte == b'\n')?;
    Some((&data[..end], &data[end + 1..]))
}

fn frame(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).expect("inputs are short"));
    framed.put_slice(message);
    framed.freeze()
}
