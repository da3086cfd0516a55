//! Images from files: an OCI layout as a directory or archive, what `docker save` writes, or the tar of a root.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use nexus_walk::{Dir, Kind};
use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};
use rustix::io::Errno;
use serde::Deserialize;

use super::config::ConfigFile;
use super::document::{Descriptor, MAX_LAYERS, Platform, Search};
use super::layers::{Hashed, digest_file, hex, unpacked};
use super::store::{Parts, Store, Unpacking};
use super::unpack::{Allowance, Bounds, Unpack, each};
use super::{Image, name};
use crate::{Error, Result};

/// The largest manifest or config that is read, in bytes.
const MAX_DOCUMENT: u64 = 8 << 20;
/// The directory of a workplace where an archive with images is unpacked.
const LAYOUT: &str = "layout";

/// Takes an image from a file or directory. Blocks for as long as it takes; ends early once `stop` is raised.
pub fn import(store: &Store, from: &Path, reference: &str, bounds: Bounds, stop: &Arc<AtomicBool>) -> Result<Image> {
    name::parse(reference)?;
    let wrong = |why: &dyn std::fmt::Display| Error::Pull {
        image: reference.into(),
        why: format!("{}: {why}", from.display()),
    };
    let unpacking = Unpacking {
        bounds,
        told: &|_| {},
        stop,
    };
    let work = store.workplace()?;
    let layout = match opened(from).map_err(|error| Error::Invalid(format!("{}: {error}", from.display())))? {
        From::Directory(root) => Layout { root },
        From::File(file) => {
            if !is_layout(&file, bounds, stop).map_err(|error| wrong(&error))? {
                let parts = root_archive(file, bounds).map_err(|error| wrong(&error))?;
                return store.install(reference, parts, unpacking);
            }
            unpacked_layout(&file, &work.dir, bounds, stop).map_err(|error| wrong(&error))?
        }
    };
    let parts = layout.parts().map_err(|error| wrong(&error))?;
    store.install(reference, parts, unpacking)
}

enum From {
    Directory(Dir),
    File(File),
}

/// What a path leads to, by its handle: nothing that would be waited for, such as a named pipe.
fn opened(from: &Path) -> std::io::Result<From> {
    let fd = open(from, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
    let found = nexus_walk::Meta::from(rustix::fs::fstat(&fd)?);
    match found.kind {
        Kind::Dir => Ok(From::Directory(Dir::from_fd(fd)?)),
        Kind::File => Ok(From::File(File::from(fd))),
        other => Err(std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            format!("it is {}, neither a file nor a directory", other.name()),
        )),
    }
}

fn unpacked_layout(file: &File, work: &Dir, bounds: Bounds, stop: &Arc<AtomicBool>) -> Plain<Layout> {
    let mut unpack = Unpack::beneath(work, LAYOUT, bounds)?.stopped_by(Arc::clone(stop));
    let open = || {
        (&mut &*file).rewind()?;
        unpacked(file)
    };
    unpack.layer(open, file.metadata()?.len())?;
    unpack.finish()?;
    Ok(Layout {
        root: work.open_dir(LAYOUT)?,
    })
}

type Plain<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Whether an archive holds images, rather than a root.
fn is_layout(file: &File, bounds: Bounds, stop: &AtomicBool) -> Plain<bool> {
    let allowance = Allowance {
        bytes: bounds.bytes.saturating_mul(2),
        exceeded: || std::io::Error::other("the archive is too large"),
        stop,
    };
    let mut found = false;
    each(unpacked(file)?, allowance, |entry| {
        let path = entry.path_bytes();
        let path = path.strip_prefix(b"./").unwrap_or(&path);
        found = path == b"oci-layout" || path == b"manifest.json";
        Ok(!found)
    })?;
    (&mut &*file).rewind()?;
    Ok(found)
}

/// One layer without a config: it gets the plainest.
fn root_archive(file: File, bounds: Bounds) -> Plain<Parts> {
    let diff_id = Hashed::new(unpacked(&file)?).finish(bounds.bytes.saturating_mul(2))?;
    (&mut &file).rewind()?;
    let own = Platform::own();
    let config = serde_json::json!({
        "architecture": own.architecture(),
        "os": "linux",
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
    });
    Ok(Parts {
        config: serde_json::to_vec(&config)?,
        layers: vec![file],
        manifest: None,
    })
}

/// A directory as the OCI lays it out, or as `docker save` did before.
struct Layout {
    root: Dir,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    layers: Vec<String>,
}

impl Layout {
    /// A plain file of it, wherever its links lead inside.
    fn file(&self, path: &str) -> Plain<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let shown = path.escape_debug();
        // A rename anywhere on the system may make the kernel give up a resolution.
        let mut tries = 0..32;
        let file = loop {
            match openat2(&self.root, path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) if tries.next().is_some() => {}
                opened => break opened.map_err(|error| format!("{shown}: {error}"))?,
            }
        };
        let file = File::from(file);
        if !file.metadata()?.is_file() {
            return Err(format!("{shown} is not a file").into());
        }
        Ok(file)
    }

    fn document(&self, path: &str) -> Plain<Vec<u8>> {
        whole(&self.file(path)?)
    }

    /// A file that is what its digest says.
    fn blob(&self, digest: &str) -> Plain<File> {
        let hex = hex(digest).ok_or("a digest in it is not SHA-256")?;
        let mut file = self.file(&format!("blobs/sha256/{hex}"))?;
        let found = digest_file(&mut file)?;
        if found != digest {
            return Err(format!("a blob has digest {found}, not {digest}").into());
        }
        file.rewind()?;
        Ok(file)
    }

    fn blob_document(&self, digest: &str) -> Plain<Vec<u8>> {
        whole(&self.blob(digest)?)
    }

    fn parts(&self) -> Plain<Parts> {
        if let Ok(index) = self.document("index.json") {
            return self.chosen(Search::among(&index)?);
        }
        let saved: Vec<Saved> = serde_json::from_slice(&self.document("manifest.json")?)?;
        let [saved] = &saved[..] else {
            return Err(format!("there are {} images in it; save one", saved.len()).into());
        };
        if saved.layers.len() > MAX_LAYERS {
            return Err(format!(
                "it has {} layers, and at most {MAX_LAYERS} are taken",
                saved.layers.len()
            )
            .into());
        }
        let layers = saved.layers.iter().map(|path| self.file(path)).collect::<Plain<_>>()?;
        Ok(Parts {
            config: self.document(&saved.config)?,
            layers,
            manifest: None,
        })
    }

    fn chosen(&self, mut search: Search) -> Plain<Parts> {
        loop {
            let (Descriptor { digest, .. }, depth) = search.next()?;
            let Some(manifest) = search.take(&self.blob_document(&digest)?, depth)? else {
                continue;
            };
            let config = self.blob_document(&manifest.config.digest)?;
            let file: ConfigFile = serde_json::from_slice(&config)?;
            if search.fits(&file) {
                let layers = manifest.layers.iter().map(|layer| self.blob(&layer.digest));
                return Ok(Parts {
                    config,
                    layers: layers.collect::<Plain<_>>()?,
                    manifest: Some(digest),
                });
            }
        }
    }
}

fn whole(file: &File) -> Plain<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_DOCUMENT {
        return Err(format!("a document in it is larger than {MAX_DOCUMENT} bytes").into());
    }
    Ok(bytes)
}
