//! Images from files: an OCI layout as a directory or archive, what `docker save` writes, or the tar of a root.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use serde::Deserialize;

use super::layers::{Hashed, digest_file, hex, unpacked};
use super::store::{Parts, Store, architecture};
use super::unpack::{Bounds, Unpack};
use super::{Image, name};
use crate::{Error, Result};

/// The largest manifest or config that is read.
const MAX_DOCUMENT: u64 = 8 << 20;

/// Blocks for as long as it takes.
pub fn import(store: &Store, from: &Path, reference: &str, bounds: Bounds) -> Result<Image> {
    name::parse(reference)?;
    let wrong = |why: &dyn std::fmt::Display| Error::Pull {
        image: reference.into(),
        why: format!("{}: {why}", from.display()),
    };
    let is_dir = fs::metadata(from)
        .map_err(|error| Error::Invalid(format!("{}: {error}", from.display())))?
        .is_dir();
    let work = store.workplace()?;
    let layout = if is_dir {
        Layout::open(from).map_err(|error| wrong(&error))?
    } else {
        let file = File::open(from).map_err(|error| wrong(&error))?;
        if !is_layout(&file).map_err(|error| wrong(&error))? {
            let parts = root_archive(file).map_err(|error| wrong(&error))?;
            return store.install(reference, parts, bounds, &|_| {});
        }
        let stream = unpacked(file).map_err(|error| wrong(&error))?;
        let mut unpack = Unpack::into(&work.dir, bounds).map_err(|error| wrong(&error))?;
        unpack.apply(stream).map_err(|error| wrong(&error))?;
        Layout::open(&work.dir).map_err(|error| wrong(&error))?
    };
    let parts = layout.parts().map_err(|error| wrong(&error))?;
    store.install(reference, parts, bounds, &|_| {})
}

type Plain<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Whether an archive holds images, rather than a root.
fn is_layout(file: &File) -> Plain<bool> {
    let again = file.try_clone()?;
    let mut archive = tar::Archive::new(unpacked(again)?);
    let mut found = false;
    for entry in archive.entries()? {
        let entry = entry?;
        let path = entry.path()?;
        let path = path.strip_prefix("./").unwrap_or(&path);
        found |= path == Path::new("oci-layout") || path == Path::new("manifest.json");
        if found {
            break;
        }
    }
    (&mut &*file).rewind()?;
    Ok(found)
}

/// One layer without a config: it gets the plainest.
fn root_archive(file: File) -> Plain<Parts> {
    let again = file.try_clone()?;
    let diff_id = Hashed::new(unpacked(again)?).finish(u64::MAX)?;
    (&mut &file).rewind()?;
    let config = serde_json::json!({
        "architecture": architecture(),
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
    root: OwnedFd,
}

#[derive(Deserialize)]
struct IndexFile {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Deserialize)]
struct Manifest {
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    layers: Vec<String>,
}

impl Layout {
    fn open(dir: &Path) -> Plain<Layout> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Layout {
            root: openat(CWD, dir, flags, Mode::empty())?,
        })
    }

    /// A plain file of it, wherever its links lead inside.
    fn file(&self, path: &str) -> Plain<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let file =
            openat2(&self.root, path, flags, Mode::empty(), resolve).map_err(|error| format!("{path}: {error}"))?;
        let file = File::from(file);
        if !file.metadata()?.is_file() {
            return Err(format!("{path} is not a file").into());
        }
        Ok(file)
    }

    fn document(&self, path: &str) -> Plain<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file(path)?.take(MAX_DOCUMENT).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// A file that is what its digest says.
    fn blob(&self, digest: &str) -> Plain<File> {
        let hex = hex(digest).ok_or_else(|| format!("{digest} is no digest that can be checked"))?;
        let mut file = self.file(&format!("blobs/sha256/{hex}"))?;
        let found = digest_file(&mut file)?;
        if found != digest {
            return Err(format!("a blob has digest {found}, not {digest}").into());
        }
        file.rewind()?;
        Ok(file)
    }

    fn blob_document(&self, digest: &str) -> Plain<Vec<u8>> {
        let mut bytes = Vec::new();
        self.blob(digest)?.take(MAX_DOCUMENT).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn parts(&self) -> Plain<Parts> {
        if let Ok(index) = self.document("index.json") {
            let index: IndexFile = serde_json::from_slice(&index)?;
            return self.choose(&index.manifests, 0);
        }
        let saved: Vec<Saved> = serde_json::from_slice(&self.document("manifest.json")?)?;
        let [saved] = &saved[..] else {
            return Err(format!("there are {} images in it; save one", saved.len()).into());
        };
        let layers = saved.layers.iter().map(|path| self.file(path)).collect::<Plain<_>>()?;
        Ok(Parts {
            config: self.document(&saved.config)?,
            layers,
            manifest: None,
        })
    }

    fn choose(&self, choices: &[Descriptor], depth: u32) -> Plain<Parts> {
        let fits = |choice: &&Descriptor| {
            let platform = choice.platform.as_ref();
            platform.is_none_or(|platform| platform.os == "linux" && platform.architecture == architecture())
        };
        let fitting: Vec<&Descriptor> = choices.iter().filter(fits).collect();
        let chosen = match &fitting[..] {
            [one] => one,
            [] => return Err(format!("there is no image for linux/{} in it", architecture()).into()),
            several => return Err(format!("there are {} images in it; save one", several.len()).into()),
        };
        let manifest: Manifest = serde_json::from_slice(&self.blob_document(&chosen.digest)?)?;
        match manifest.config {
            Some(config) => Ok(Parts {
                config: self.blob_document(&config.digest)?,
                layers: manifest
                    .layers
                    .iter()
                    .map(|layer| self.blob(&layer.digest))
                    .collect::<Plain<_>>()?,
                manifest: Some(chosen.digest.clone()),
            }),
            None if depth < 4 => self.choose(&manifest.manifests, depth + 1),
            None => Err("its indexes go in circles".into()),
        }
    }
}
