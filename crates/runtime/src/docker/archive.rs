//! Packs a file or directory that an image is made from, for upload to the engine.
//!
//! An OCI layout is sent as a tar that holds the list of the older format too: Docker before 25 knows only that one, and
//! both say the same of the same blobs.

use std::io;
use std::path::Path;
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use nexus_walk::Dir;
use serde::Deserialize;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc;

use crate::{Error, Result};

const BLOCK: usize = 512;
const PIECE: usize = 128 << 10;
/// The largest index or manifest that is read, in bytes.
const MAX_DOCUMENT: u64 = 8 << 20;
const NO_DIGEST: &str = "a digest in it is not SHA-256";

pub(super) struct Archive {
    /// Whether it says what image it is; otherwise it is a root filesystem.
    pub holds_image: bool,
    pub bytes: Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>,
}

pub(super) async fn open(path: &Path) -> Result<Archive> {
    let unreadable = |error: io::Error| Error::Invalid(format!("{}: {error}", path.display()));
    let mut file = match opened(path).map_err(unreadable)? {
        From::Directory(root) => return layout(path, root).await,
        From::File(file) => File::from_std(file),
    };
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

enum From {
    Directory(Dir),
    File(std::fs::File),
}

/// What a path leads to, by its handle: nothing that would be waited for, such as a named pipe.
fn opened(path: &Path) -> io::Result<From> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty())?;
    let file = std::fs::File::from(fd);
    let kind = file.metadata()?.file_type();
    if kind.is_dir() {
        return Ok(From::Directory(Dir::from_fd(file.into())?));
    }
    if !kind.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is neither a file nor a directory",
        ));
    }
    Ok(From::File(file))
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
async fn layout(directory: &Path, root: Dir) -> Result<Archive> {
    let wrong = |why: String| Error::Invalid(format!("{} is not an OCI layout: {why}", directory.display()));
    let read = |name: &str| {
        let text = root
            .open_file(name)
            .and_then(|(file, _)| nexus_walk::read_bounded(&file, MAX_DOCUMENT));
        text.map_err(|error| format!("{name}: {error}"))
    };
    let index = read("index.json").map_err(wrong)?;
    let index: Index = serde_json::from_slice(&index).map_err(|error| wrong(error.to_string()))?;
    let [one] = &index.manifests[..] else {
        return Err(wrong(format!(
            "it holds {} images, and one is needed",
            index.manifests.len()
        )));
    };
    let at = blob(&one.digest).ok_or_else(|| wrong(NO_DIGEST.into()))?;
    let manifest = read(&at).map_err(wrong)?;
    let manifest: Manifest = serde_json::from_slice(&manifest).map_err(|error| wrong(error.to_string()))?;
    let config = blob(&manifest.config.digest).ok_or_else(|| wrong(NO_DIGEST.into()))?;
    let layers: Option<Vec<String>> = manifest.layers.iter().map(|layer| blob(&layer.digest)).collect();
    let layers = layers.ok_or_else(|| wrong(NO_DIGEST.into()))?;
    let list = serde_json::json!([{ "Config": config, "RepoTags": null, "Layers": layers }]).to_string();

    let mut files = vec!["oci-layout".to_owned(), "index.json".to_owned(), at, config];
    files.extend(layers);
    files.sort_unstable();
    files.dedup();
    let (send, receive) = mpsc::channel(4);
    tokio::spawn(pack(root, files, list, send));
    let bytes = futures_util::stream::unfold(receive, |mut receive| async move {
        receive.recv().await.map(|piece| (piece, receive))
    });
    Ok(Archive {
        holds_image: true,
        bytes: Box::pin(bytes),
    })
}

/// `sha256:ab..` is the file `blobs/sha256/ab..`. Its length is that of every other: names in a tar have 100 bytes.
fn blob(digest: &str) -> Option<String> {
    let hash = digest.strip_prefix("sha256:")?;
    let plain = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    plain.then(|| format!("blobs/sha256/{hash}"))
}

type Pieces = mpsc::Sender<io::Result<Bytes>>;

/// A reader that went away ends it.
async fn pack(root: Dir, files: Vec<String>, list: String, to: Pieces) {
    let packed = async {
        for name in &files {
            let (file, found) = root.open_file(name)?;
            let (mut file, size) = (File::from_std(file), found.bytes);
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::{blob, open};

    /// Whoever wrote a layout names a digest that is a path, or one that is longer than the name of a file in a tar.
    #[test]
    fn a_digest_is_nothing_else() {
        let good = format!("sha256:{}", "a".repeat(64));
        assert_eq!(blob(&good), Some(format!("blobs/sha256/{}", "a".repeat(64))));
        for odd in [
            "",
            "sha256:",
            "sha256:../../etc/passwd",
            "other:aa",
            &format!("{good}a"),
            &"a".repeat(600),
        ] {
            assert_eq!(blob(odd), None, "{odd}");
        }
    }

    /// A layout is made of links that lead out of it, to have a secret sent to the engine.
    #[tokio::test]
    async fn a_layout_leads_nowhere_else() {
        let place = tempfile::tempdir().unwrap();
        let layout = place.path().join("layout");
        std::fs::create_dir(&layout).unwrap();
        let index = format!(r#"{{"manifests": [{{"digest": "sha256:{}"}}]}}"#, "a".repeat(64));
        std::fs::write(place.path().join("secret"), &index).unwrap();
        symlink(place.path().join("secret"), layout.join("index.json")).unwrap();
        let Err(error) = open(&layout).await else {
            panic!("the link was followed")
        };
        assert!(error.to_string().contains("index.json"), "{error}");
        let pipe = place.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        assert!(open(&pipe).await.is_err(), "nobody writes to it");
    }
}
