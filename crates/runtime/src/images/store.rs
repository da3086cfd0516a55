//! Images on disk, each under the digest of its config, and the names they go by.
//!
//! ```text
//!   images/index.json            names, as they are asked for in full, to digests
//!   images/<hex>/image.json      what is known of it
//!   images/<hex>/rootfs/         its files
//!   images/new-*/                an image that is being made; the next start throws it away
//!   removed-images/              what was thrown away, and is removed meanwhile (`sweep.rs`)
//! ```
//!
//! All of it is reached from one handle of `images/`: nothing that a layer holds leads anywhere else.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nexus_walk::Dir;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::config::{ConfigFile, ImageConfig, Resolved};
use super::document::Platform;
use super::layers::{Hashed, digest, hex as digest_hex, unpacked};
use super::sweep::Sweep;
use super::unpack::{Bounds, Unpack};
use super::{HOST, Image, name};
use crate::{Error, Result};

/// The directory of an image that holds its files.
const ROOT: &str = "rootfs";
/// The largest of our own files that is read, in bytes.
const MAX_FILE: u64 = 64 << 20;
/// What an archive may have after its last file, in bytes.
const MAX_REST: u64 = 1 << 30;

#[derive(Debug)]
pub struct Store {
    /// For the programs that are told where an image is.
    path: PathBuf,
    dir: Dir,
    sweep: Arc<Sweep>,
    index: Mutex<Index>,
    /// Another process keeps the images: the names are read anew each time, and nothing is changed.
    shared: bool,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Index {
    references: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Known {
    digest: String,
    bytes: u64,
    created_ms: u64,
    config: ImageConfig,
    /// Digests that registries know it by.
    #[serde(default)]
    manifests: Vec<String>,
}

/// What an image is made of, all of it here already.
pub struct Parts {
    pub config: Vec<u8>,
    /// The lowest first.
    pub layers: Vec<File>,
    pub manifest: Option<String>,
}

pub fn failed(why: impl ToString) -> Error {
    Error::Failed {
        engine: "sandbox",
        why: why.to_string(),
    }
}

fn bad(image: &str, why: impl ToString) -> Error {
    Error::Pull {
        image: image.into(),
        why: why.to_string(),
    }
}

/// A directory that is thrown away with this, unless it was given a name.
pub struct Workplace {
    pub dir: Dir,
    name: String,
    images: Dir,
    sweep: Arc<Sweep>,
}

impl Workplace {
    /// From now on it is an image under this name. `false` if there is one already.
    fn keep(&self, name: &str) -> io::Result<bool> {
        match self.images.rename(&self.name, &self.images, name) {
            Ok(()) => Ok(true),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        self.sweep.throw_away(&self.images, OsStr::new(&self.name));
    }
}

impl Store {
    pub fn open(path: &Path) -> Result<Store> {
        Store::open_as(path, false)
    }

    /// The images that another process keeps there. Only looked at.
    pub fn open_shared(path: &Path) -> Result<Store> {
        Store::open_as(path, true)
    }

    fn open_as(path: &Path, shared: bool) -> Result<Store> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| at(path, &error))?;
        let dir = Dir::open(path).map_err(|error| at(path, &error))?;
        let beside = Dir::of(path).map_err(|error| at(path, &error))?.0;
        let sweep = Sweep::open(&beside).map_err(|error| at(path, &error))?;
        if !shared {
            for entry in dir.entries().map_err(|error| at(path, &error))?.flatten() {
                if entry.name.to_string_lossy().starts_with("new-") {
                    sweep.throw_away(&dir, &entry.name);
                }
            }
            sweep.start();
        }
        let index = read(&dir, "index.json").map_err(|error| at(&path.join("index.json"), &error))?;
        Ok(Store {
            path: path.into(),
            dir,
            sweep,
            index: Mutex::new(index.unwrap_or_default()),
            shared,
        })
    }

    pub fn workplace(&self) -> Result<Workplace> {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).map_err(failed)?;
        let name = format!("new-{}", hex::encode(bytes));
        let made = || Ok((self.dir.create_dir(&name, 0o700)?, self.dir.try_clone()?));
        let (dir, images) = made().map_err(|error: io::Error| at(&self.path.join(&name), &error))?;
        Ok(Workplace {
            dir,
            name,
            images,
            sweep: Arc::clone(&self.sweep),
        })
    }

    /// An image by its name or digest, if it is here.
    pub fn resolve(&self, reference: &str) -> Result<Resolved> {
        if reference.is_empty() || reference == HOST {
            return Ok(Resolved::host());
        }
        let missing = || Error::ImageNotFound {
            image: reference.into(),
            why: "it was neither pulled nor imported".into(),
        };
        let digest = self.digest_of(reference)?.ok_or_else(missing)?;
        let known = self.known(&digest)?.ok_or_else(missing)?;
        let rootfs = self.path.join(digest_hex(&digest).unwrap_or_default()).join(ROOT);
        Ok(Resolved {
            digest,
            rootfs: Some(rootfs),
            config: known.config,
        })
    }

    fn digest_of(&self, reference: &str) -> Result<Option<String>> {
        if digest_hex(reference).is_some() {
            return Ok(Some(reference.into()));
        }
        let full = name::full(reference)?;
        if self.shared {
            let index: Option<Index> =
                read(&self.dir, "index.json").map_err(|error| at(&self.path.join("index.json"), &error))?;
            *self.index.lock() = index.unwrap_or_default();
        }
        Ok(self.index.lock().references.get(&full).cloned())
    }

    fn known(&self, digest: &str) -> Result<Option<Known>> {
        let Some(hex) = digest_hex(digest) else { return Ok(None) };
        let dir = match self.dir.open_dir(hex) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(|error| at(&self.path.join(hex), &error))?,
        };
        read(&dir, "image.json").map_err(|error| at(&self.path.join(hex), &error))
    }

    /// The digest under which a registry last gave this image.
    pub fn manifest_of(&self, reference: &str) -> Result<Vec<String>> {
        let Some(digest) = self.digest_of(reference)? else {
            return Ok(Vec::new());
        };
        Ok(self.known(&digest)?.map(|known| known.manifests).unwrap_or_default())
    }

    pub fn image(&self, reference: &str) -> Result<Option<Image>> {
        let Some(digest) = self.digest_of(reference)? else {
            return Ok(None);
        };
        let Some(known) = self.known(&digest)? else {
            return Ok(None);
        };
        Ok(Some(self.describe(known)))
    }

    fn describe(&self, known: Known) -> Image {
        let index = self.index.lock();
        let names = index.references.iter().filter(|(_, digest)| **digest == known.digest);
        Image {
            references: names.map(|(full, _)| name::short(full).to_string()).collect(),
            id: known.digest,
            bytes: known.bytes,
            created: Some(UNIX_EPOCH + Duration::from_millis(known.created_ms)),
        }
    }

    /// That of the host first.
    pub fn list(&self) -> Result<Vec<Image>> {
        let mut images = vec![Image {
            id: HOST.into(),
            references: vec![HOST.into()],
            bytes: 0,
            created: None,
        }];
        for digest in self.digests()? {
            if let Some(known) = self.known(&digest)? {
                images.push(self.describe(known));
            }
        }
        Ok(images)
    }

    fn digests(&self) -> Result<Vec<String>> {
        let entries = self.dir.entries().map_err(|error| at(&self.path, &error))?;
        let names = entries
            .flatten()
            .map(|entry| format!("sha256:{}", entry.name.to_string_lossy()));
        let mut digests: Vec<String> = names.filter(|digest| digest_hex(digest).is_some()).collect();
        digests.sort();
        Ok(digests)
    }

    /// Unpacks an image and gives it a name. Blocks for as long as that takes; ends early once `stop` is raised.
    pub fn install(&self, reference: &str, parts: Parts, unpacking: Unpacking<'_>) -> Result<Image> {
        let full = name::full(reference)?;
        let digest = digest(&parts.config);
        let file: ConfigFile =
            serde_json::from_slice(&parts.config).map_err(|_| bad(reference, "its config cannot be read"))?;
        check(reference, &file, parts.layers.len())?;
        let mut known = match self.known(&digest)? {
            Some(known) => known,
            None => self.unpack(reference, &digest, file, parts.layers, unpacking)?,
        };
        if let Some(manifest) = parts.manifest
            && !known.manifests.contains(&manifest)
        {
            known.manifests.push(manifest);
            self.write_known(&digest, &known)?;
        }
        self.change(|index| drop(index.references.insert(full, digest)))?;
        Ok(self.describe(known))
    }

    fn unpack(
        &self,
        reference: &str,
        digest: &str,
        file: ConfigFile,
        layers: Vec<File>,
        unpacking: Unpacking<'_>,
    ) -> Result<Known> {
        let hex = digest_hex(digest).expect("made just now");
        let work = self.workplace()?;
        let bytes = unpack(&work.dir, &file, layers, unpacking).map_err(|error| bad(reference, error))?;
        let known = Known {
            digest: digest.to_owned(),
            bytes,
            created_ms: now_ms(),
            config: file.config,
            manifests: Vec::new(),
        };
        let kept = write(&work.dir, "image.json", &known).and_then(|()| work.keep(hex));
        if kept.map_err(|error| at(&self.path.join(hex), &error))? {
            return Ok(known);
        }
        // Somebody else unpacked the same image meanwhile, and that one is there.
        self.known(digest)?.ok_or_else(|| {
            failed(format!(
                "{}: it is there and cannot be read",
                self.path.join(hex).display()
            ))
        })
    }

    fn write_known(&self, digest: &str, known: &Known) -> Result<()> {
        let hex = digest_hex(digest).unwrap_or_default();
        let written = self.dir.open_dir(hex).and_then(|dir| write(&dir, "image.json", known));
        written.map_err(|error| at(&self.path.join(hex), &error))
    }

    fn change(&self, change: impl FnOnce(&mut Index)) -> Result<()> {
        let mut index = self.index.lock();
        let mut changed = index.clone();
        change(&mut changed);
        write(&self.dir, "index.json", &changed).map_err(|error| at(&self.path.join("index.json"), &error))?;
        *index = changed;
        Ok(())
    }

    /// Takes away a name, and the image with its last one unless something `uses` it.
    pub fn remove(&self, reference: &str, uses: &dyn Fn(&str) -> bool, force: bool) -> Result<()> {
        if reference.is_empty() || reference == HOST {
            return Err(Error::Invalid(format!(
                "{HOST} is the host itself: it cannot be removed"
            )));
        }
        let missing = || Error::ImageNotFound {
            image: reference.into(),
            why: "there is none to remove".into(),
        };
        let digest = self.digest_of(reference)?.ok_or_else(missing)?;
        self.known(&digest)?.ok_or_else(missing)?;
        let used = uses(&digest);
        if used && !force {
            return Err(Error::State {
                id: reference.into(),
                why: "is the image of a container; remove that first".into(),
            });
        }
        let whole = digest_hex(reference).is_some();
        let full = if whole { String::new() } else { name::full(reference)? };
        self.change(|index| {
            index
                .references
                .retain(|name, known| *known != digest || !(whole || *name == full))
        })?;
        let named = self.index.lock().references.values().any(|known| *known == digest);
        if !named && !used {
            self.delete(&digest)?;
        }
        Ok(())
    }

    /// Bytes that are free again.
    pub fn prune(&self, uses: &dyn Fn(&str) -> bool, all: bool) -> Result<u64> {
        let mut freed = 0;
        for digest in self.digests()? {
            let named = self.index.lock().references.values().any(|known| *known == digest);
            if uses(&digest) || (named && !all) {
                continue;
            }
            self.change(|index| index.references.retain(|_, known| *known != digest))?;
            freed += self.known(&digest)?.map_or(0, |known| known.bytes);
            self.delete(&digest)?;
        }
        Ok(freed)
    }

    /// From now on nobody finds it; its files are removed meanwhile.
    fn delete(&self, digest: &str) -> Result<()> {
        let hex = digest_hex(digest).unwrap_or_default();
        let moved = self.sweep.take(&self.dir, OsStr::new(hex));
        self.sweep.start();
        moved.map_err(|error| at(&self.path.join(hex), &error))
    }
}

/// How an image is unpacked.
#[derive(Clone, Copy)]
pub struct Unpacking<'a> {
    pub bounds: Bounds,
    /// Hears of each layer before it is unpacked, by its place from zero.
    pub told: &'a dyn Fn(usize),
    /// Raised by whoever does not want the image any more.
    pub stop: &'a Arc<AtomicBool>,
}

/// Whether an image of this config can be used here.
fn check(reference: &str, file: &ConfigFile, layers: usize) -> Result<()> {
    let own = Platform::own();
    let platform = Platform::of(file);
    if !platform.fits() {
        return Err(bad(reference, format!("it is made for {platform}, not {own}")));
    }
    if file.rootfs.diff_ids.len() != layers {
        return Err(bad(
            reference,
            "its config and its manifest name different numbers of layers",
        ));
    }
    Ok(())
}

type Plain<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn unpack(work: &Dir, file: &ConfigFile, layers: Vec<File>, unpacking: Unpacking<'_>) -> Plain<u64> {
    let mut unpack = Unpack::beneath(work, ROOT, unpacking.bounds)?.stopped_by(Arc::clone(unpacking.stop));
    for (index, (layer, expected)) in layers.into_iter().zip(&file.rootfs.diff_ids).enumerate() {
        (unpacking.told)(index);
        let packed = layer.metadata()?.len();
        let open = || {
            io::Seek::rewind(&mut &layer)?;
            Ok(Hashed::new(unpacked(&layer)?))
        };
        let found = unpack.layer(open, packed)?.finish(MAX_REST)?;
        if found != *expected {
            return Err(format!("a layer has digest {found}, and its config names another").into());
        }
    }
    Ok(unpack.finish()?)
}

fn at(path: &Path, error: &dyn std::fmt::Display) -> Error {
    failed(format!("{}: {error}", path.display()))
}

fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

fn read<T: serde::de::DeserializeOwned>(dir: &Dir, name: &str) -> io::Result<Option<T>> {
    match dir.open_file(name) {
        Ok((file, _)) => Ok(Some(serde_json::from_slice(&nexus_walk::read_bounded(
            &file, MAX_FILE,
        )?)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn write(dir: &Dir, name: &str, what: &impl Serialize) -> io::Result<()> {
    dir.write(name, &serde_json::to_vec_pretty(what)?, 0o600)
}
