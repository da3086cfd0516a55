//! Messages as bytes: the client neither encodes nor decodes, so that what is measured is the server.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::{Channel, Endpoint},
};

#[derive(Clone, Copy, Debug, Default)]
pub struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// One connection over a Unix socket.
pub async fn connect(socket: &Path) -> Result<Channel> {
    let path = socket.to_str().context("a socket path is not UTF-8")?;
    let endpoint = Endpoint::try_from(format!("unix://{path}"))?;
    let channel = endpoint.connect().await;
    channel.with_context(|| format!("failed to connect to {path}"))
}

/// One method at one socket.
#[derive(Clone, Debug)]
pub struct Target {
    pub socket: PathBuf,
    pub path: PathAndQuery,
}

impl Target {
    pub fn new(socket: &Path, path: &'static str) -> Self {
        Target {
            socket: socket.to_path_buf(),
            path: PathAndQuery::from_static(path),
        }
    }
}

pub async fn call(grpc: &mut Grpc<Channel>, path: &PathAndQuery, body: Bytes) -> Result<Bytes> {
    grpc.ready().await.context("the connection broke")?;
    let answer = grpc.unary(Request::new(body), path.clone(), Raw).await;
    let answer = answer.with_context(|| format!("{path} failed"))?;
    Ok(answer.into_inner())
}

/// One call on a connection of its own.
pub async fn call_once(target: &Target, body: Bytes) -> Result<Bytes> {
    let mut grpc = Grpc::new(connect(&target.socket).await?);
    call(&mut grpc, &target.path, body).await
}
