//! A file or directory that an image is made of, on its way to the engine.
//!
//! An OCI layout is sent as a tar that holds the list of the older format too: Docker before 25 knows only that one, and
//! both say the same of the same blobs.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use serde::Deserialize;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc;

use crate::{Error, Result};

const BLOCK: usize = 512;
const PIECE: usize = 128 << 10;

pub(super) struct Archive {
    /// Whether it says what image it is; otherwise it is a root filesystem.
    pub holds_image: bool,
    pub bytes: Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>,
}

pub(super) async fn open(path: &Path) -> Result<Archive> {
    let unreadable = |error: io::Error| Error::Invalid(format!("{}: {error}", path.display()));
    if tokio::fs::metadata(path).await.map_err(unreadable)?.is_dir() {
        return layout(path).await;
    }
    let mut file = File::open(path).await.map_err(unreadable)?;
    let holds_image = holds_image(&mut file).await.map_err(unreadable)?;
    file.rewind().await.map_err(unreadable)?;
    let bytes = futures_util::stream::try_unfold(file, |mut file| async move {
        let mut piece = BytesMut::with_capacity(PIECE);
        let read = file.read_buf(&mut piece).await?;
        Ok((read > 0).then(|| (piece.freeze(), file)))
    });
    Ok(Archive {
        holds_image,
        bytes: Box::pin(bytes),
    })
}

/// Looks at the names in a tar: an image has one of two files at its top.
async fn holds_image(file: &mut File) -> io::Result<bool> {
    let mut head = [0; BLOCK];
    loop {
        match file.read_exact(&mut head).await {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        }
        if head.iter().all(|byte| *byte == 0) {
            return Ok(false);
        }
        if &head[257..262] != b"ustar" {
            let what = "is not a plain tar archive; a compressed one has to be unpacked first";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let name = head[..100].split(|byte| *byte == 0).next().unwrap_or_default();
        let name = name.strip_prefix(b"./").unwrap_or(name);
        if name == b"manifest.json" || name == b"oci-layout" {
            return Ok(true);
        }
        let size = head[124..136].iter().filter(|byte| (b'0'..=b'7').contains(byte));
        let size = size.fold(0u64, |size, digit| size * 8 + u64::from(digit - b'0'));
        let skip = size.div_ceil(BLOCK as u64) * BLOCK as u64;
        file.seek(io::SeekFrom::Current(i64::try_from(skip).unwrap_or(i64::MAX)))
            .await?;
    }
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// An OCI layout directory as a tar.
async fn layout(directory: &Path) -> Result<Archive> {
    let wrong = |why: String| Error::Invalid(format!("{} is no OCI layout: {why}", directory.display()));
    let read = |name: String| async move {
        let text = tokio::fs::read(directory.join(&name)).await;
        text.map_err(|error| format!("{name}: {error}"))
    };
    let index = read("index.json".into()).await.map_err(wrong)?;
    let index: Index = serde_json::from_slice(&index).map_err(|error| wrong(error.to_string()))?;
    let [one] = &index.manifests[..] else {
        return Err(wrong(format!(
            "it holds {} images, and one is needed",
            index.manifests.len()
        )));
    };
    let at = blob(&one.digest).ok_or_else(|| wrong(one.digest.clone()))?;
    let manifest = read(at.clone()).await.map_err(wrong)?;
    let manifest: Manifest = serde_json::from_slice(&manifest).map_err(|error| wrong(error.to_string()))?;
    let config = blob(&manifest.config.digest).ok_or_else(|| wrong(manifest.config.digest.clone()))?;
    let layers: Option<Vec<String>> = manifest.layers.iter().map(|layer| blob(&layer.digest)).collect();
    let layers = layers.ok_or_else(|| wrong("a layer has no digest".into()))?;
    let list = serde_json::json!([{ "Config": config, "RepoTags": null, "Layers": layers }]).to_string();

    let mut files = vec!["oci-layout".to_owned(), "index.json".to_owned(), at, config];
    files.extend(layers);
    files.sort_unstable();
    files.dedup();
    let (send, receive) = mpsc::channel(4);
    tokio::spawn(pack(directory.to_owned(), files, list, send));
    let bytes = futures_util::stream::unfold(receive, |mut receive| async move {
        receive.recv().await.map(|piece| (piece, receive))
    });
    Ok(Archive {
        holds_image: true,
        bytes: Box::pin(bytes),
    })
}

/// `sha256:ab..` is the file `blobs/sha256/ab..`.
fn blob(digest: &str) -> Option<String> {
    let (kind, hash) = digest.split_once(':')?;
    let plain = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (plain(kind) && plain(hash)).then(|| format!("blobs/{kind}/{hash}"))
}

type Pieces = mpsc::Sender<io::Result<Bytes>>;

/// A reader that went away ends it.
async fn pack(directory: PathBuf, files: Vec<String>, list: String, to: Pieces) {
    let packed = async {
        for name in &files {
            let mut file = File::open(directory.join(name)).await?;
            let size = file.metadata().await?.len();
            put(&to, head(name, size)).await?;
            let mut left = size;
            while left > 0 {
                let mut piece = BytesMut::zeroed(PIECE.min(usize::try_from(left).unwrap_or(PIECE)));
                file.read_exact(&mut piece).await?;
                left -= piece.len() as u64;
                put(&to, piece.freeze()).await?;
            }
            put(&to, padding(size)).await?;
        }
        put(&to, head("manifest.json", list.len() as u64)).await?;
        put(&to, Bytes::from(list.clone())).await?;
        put(&to, padding(list.len() as u64)).await?;
        put(&to, Bytes::from(vec![0; 2 * BLOCK])).await
    };
    if let Err(error) = packed.await {
        let _gone = to.send(Err(error)).await;
    }
}

async fn put(to: &Pieces, piece: Bytes) -> io::Result<()> {
    to.send(Ok(piece)).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
}

fn padding(size: u64) -> Bytes {
    let over = size as usize % BLOCK;
    Bytes::from(vec![0; (BLOCK - over) % BLOCK])
}

/// The head of a plain file in a tar.
fn head(name: &str, size: u64) -> Bytes {
    let mut head = [0; BLOCK];
    head[..name.len()].copy_from_slice(name.as_bytes());
    head[100..108].copy_from_slice(b"0000644\0");
    head[108..116].copy_from_slice(b"0000000\0");
    head[116..124].copy_from_slice(b"0000000\0");
    head[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    head[136..148].copy_from_slice(b"00000000000\0");
    head[148..156].copy_from_slice(b"        ");
    head[156] = b'0';
    head[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
    head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Bytes::copy_from_slice(&head)
}
