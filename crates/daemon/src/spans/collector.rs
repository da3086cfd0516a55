//! The collector at the other end: OTLP over gRPC, one connection that is dialled when there is something to send.
//!
//! By hand on hyper, as a channel of tonic would make every daemon half a megabyte larger that traces nothing.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;
use tokio::net::TcpStream;

use crate::ends::GRPC_STATUS;

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// Where collectors listen.
const PORT: u16 = 4317;
/// What the field says a collector wants to have in its headers; tokens, say.
const HEADERS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"];
/// `grpc-status` of a call that was taken.
const OK: &str = "0";

pub(super) struct Collector {
    host: String,
    port: u16,
    uri: Uri,
    headers: HeaderMap,
    standing: Option<SendRequest<Full<Bytes>>>,
}

/// Where an endpoint is, if it is one.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check(endpoint: &str) -> Result<Authority, String> {
    let wrong = || format!("expected a URL such as \"http://127.0.0.1:4317\", found {endpoint:?}");
    let uri: Uri = endpoint.parse().map_err(|_| wrong())?;
    match (uri.scheme_str(), uri.authority()) {
        (Some("http"), Some(authority)) => Ok(authority.clone()),
        (Some("https"), _) => {
            Err("collectors are spoken to in the clear only: have one on this host pass the traces on".to_owned())
        }
        _ => Err(wrong()),
    }
}

impl Collector {
    pub fn new(endpoint: &str) -> Result<Collector, String> {
        let authority = check(endpoint)?;
        let (host, port) = (
            authority.host().trim_matches(['[', ']']).to_owned(),
            authority.port_u16(),
        );
        let uri = Uri::builder()
            .scheme(Scheme::HTTP)
            .authority(authority)
            .path_and_query(EXPORT)
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Collector {
            host,
            port: port.unwrap_or(PORT),
            uri,
            headers: wanted()?,
            standing: None,
        })
    }

    /// Whether the collector took it. To be given a time limit by the caller.
    pub async fn take(&mut self, spans: &ExportTraceServiceRequest) -> Result<(), String> {
        let length = spans.encoded_len();
        let mut frame = BytesMut::with_capacity(5 + length);
        frame.put_u8(0);
        frame.put_u32(u32::try_from(length).map_err(|_| "a batch is too large".to_owned())?);
        spans.encode(&mut frame).map_err(|error| error.to_string())?;
        let mut request = Request::post(self.uri.clone())
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .body(Full::new(frame.freeze()))
            .map_err(|error| error.to_string())?;
        request.headers_mut().extend(self.headers.clone());
        let sent = self.connected().await?.send_request(request).await;
        let answer = sent.map_err(|error| self.lost(&error))?;
        let head = answer.headers().clone();
        let end = answer.into_body().collect().await.map_err(|error| self.lost(&error))?;
        let status = [Some(&head), end.trailers()]
            .into_iter()
            .flatten()
            .find_map(|headers| headers.get(GRPC_STATUS));
        match status.map(HeaderValue::to_str) {
            Some(Ok(OK)) => Ok(()),
            Some(Ok(code)) => Err(format!("grpc-status {code}")),
            Some(Err(_)) | None => Err("it does not speak gRPC".to_owned()),
        }
    }

    /// A connection whose call was given up may hang.
    pub fn hang_up(&mut self) {
        self.standing = None;
    }

    fn lost(&mut self, error: &hyper::Error) -> String {
        self.hang_up();
        crate::daemon::chain(error)
    }

    async fn connected(&mut self) -> Result<&mut SendRequest<Full<Bytes>>, String> {
        if self.standing.as_ref().is_none_or(SendRequest::is_closed) {
            let stream = TcpStream::connect((self.host.as_str(), self.port))
                .await
                .map_err(|error| format!("failed to connect to {}:{}: {error}", self.host, self.port))?;
            let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .map_err(|error| crate::daemon::chain(&error))?;
            // How it ended is told by the next call on it.
            tokio::spawn(async move { drop(connection.await) });
            self.standing = Some(sender);
        }
        Ok(self.standing.as_mut().expect("it was made a line ago"))
    }
}

/// The first of the variables that is set, read.
fn wanted() -> Result<HeaderMap, String> {
    for name in HEADERS {
        if let Ok(text) = std::env::var(name) {
            // Not what it says: that may be a token.
            return headers(&text).ok_or_else(|| format!("environment {name}: expected name=value, by commas"));
        }
    }
    Ok(HeaderMap::new())
}

fn headers(text: &str) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=')?;
        let name = HeaderName::try_from(name.trim()).ok()?;
        let mut value = HeaderValue::try_from(decoded(value.trim())?).ok()?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Some(headers)
}

/// Percent signs stand before two hex digits.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend(rest.as_bytes());
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_url_in_the_clear() {
        assert_eq!(check("http://127.0.0.1:4317").unwrap().port_u16(), Some(4317));
        assert_eq!(check("http://collector/").unwrap().host(), "collector");
        for wrong in ["https://collector:4317", "collector:4317", "/run/x.sock", "ftp://x", ""] {
            assert!(check(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn headers_are_read_and_not_shown() {
        let read = headers("api-key=a%2Cb, x-team = blue,").unwrap();
        assert_eq!(
            (read["api-key"].as_bytes(), read["x-team"].as_bytes()),
            (&b"a,b"[..], &b"blue"[..])
        );
        assert_eq!(format!("{:?}", read["api-key"]), "Sensitive");
        for wrong in ["x", "=x", "a b=c", "a=%4", "a=%zz"] {
            assert_eq!(headers(wrong), None, "{wrong:?}");
        }
    }
}
