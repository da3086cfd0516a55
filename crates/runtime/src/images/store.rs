//! Images on disk, each under the digest of its config, and the names they go by.
//!
//! ```text
//!   images/index.json            names, as they are asked for in full, to digests
//!   images/<hex>/image.json      what is known of it
//!   images/<hex>/rootfs/         its files
//!   images/new-*/                being made; never used, and removed at the next start
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::config::{ConfigFile, ImageConfig, Resolved};
use super::layers::{Hashed, digest, hex, unpacked};
use super::unpack::{Bounds, Unpack};
use super::{HOST, Image, name};
use crate::{Error, Result};

#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    index: Mutex<Index>,
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

/// A directory that is gone with this, unless it was given a name.
pub struct Workplace {
    pub dir: PathBuf,
}

impl Drop for Workplace {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Store {
    pub fn open(dir: &Path) -> Result<Store> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|error| place(dir, &error))?;
        for entry in fs::read_dir(dir).map_err(|error| place(dir, &error))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with("new-") {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let index = read(&dir.join("index.json")).map_err(|error| place(dir, &error))?;
        Ok(Store {
            dir: dir.into(),
            index: Mutex::new(index.unwrap_or_default()),
        })
    }

    pub fn workplace(&self) -> Result<Workplace> {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).map_err(failed)?;
        let dir = self.dir.join(format!("new-{:016x}", u64::from_le_bytes(bytes)));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&dir)
            .map_err(|error| place(&dir, &error))?;
        Ok(Workplace { dir })
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
        let (known, dir) = self.known(&digest)?.ok_or_else(missing)?;
        Ok(Resolved {
            digest,
            rootfs: Some(dir.join("rootfs")),
            config: known.config,
        })
    }

    fn digest_of(&self, reference: &str) -> Result<Option<String>> {
        if hex(reference).is_some() {
            return Ok(Some(reference.into()));
        }
        let full = name::full(reference)?;
        Ok(self.index.lock().references.get(&full).cloned())
    }

    fn known(&self, digest: &str) -> Result<Option<(Known, PathBuf)>> {
        let Some(hex) = hex(digest) else { return Ok(None) };
        let dir = self.dir.join(hex);
        let known = read(&dir.join("image.json")).map_err(|error| place(&dir, &error))?;
        Ok(known.map(|known| (known, dir)))
    }

    /// The digest under which a registry last gave this image.
    pub fn manifest_of(&self, reference: &str) -> Result<Vec<String>> {
        let Some(digest) = self.digest_of(reference)? else {
            return Ok(Vec::new());
        };
        Ok(self
            .known(&digest)?
            .map(|(known, _)| known.manifests)
            .unwrap_or_default())
    }

    pub fn image(&self, reference: &str) -> Result<Option<Image>> {
        let Some(digest) = self.digest_of(reference)? else {
            return Ok(None);
        };
        let Some((known, _)) = self.known(&digest)? else {
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
            if let Some((known, _)) = self.known(&digest)? {
                images.push(self.describe(known));
            }
        }
        Ok(images)
    }

    fn digests(&self) -> Result<Vec<String>> {
        let entries = fs::read_dir(&self.dir).map_err(|error| place(&self.dir, &error))?;
        let names = entries
            .flatten()
            .map(|entry| format!("sha256:{}", entry.file_name().to_string_lossy()));
        let mut digests: Vec<String> = names.filter(|digest| hex(digest).is_some()).collect();
        digests.sort();
        Ok(digests)
    }

    /// Unpacks an image and gives it a name. Blocks for as long as that takes.
    pub fn install(&self, reference: &str, parts: Parts, bounds: Bounds, told: &dyn Fn(usize)) -> Result<Image> {
        let full = name::full(reference)?;
        let digest = digest(&parts.config);
        let hex = hex(&digest).expect("made just now");
        let dir = self.dir.join(hex);
        let file: ConfigFile = serde_json::from_slice(&parts.config)
            .map_err(|error| bad(reference, format!("its config cannot be read: {error}")))?;
        if !file.os.is_empty() && file.os != "linux" {
            return Err(bad(reference, format!("it is made for {}", file.os)));
        }
        if !file.architecture.is_empty() && file.architecture != architecture() {
            return Err(bad(
                reference,
                format!("it is made for {}, not {}", file.architecture, architecture()),
            ));
        }
        if file.rootfs.diff_ids.len() != parts.layers.len() {
            return Err(bad(
                reference,
                "its config and its manifest name different numbers of layers",
            ));
        }
        let mut known = match self.known(&digest)? {
            Some((known, _)) => known,
            None => {
                let work = self.workplace()?;
                let bytes = unpack(reference, &work.dir.join("rootfs"), &file, parts.layers, bounds, told)?;
                let known = Known {
                    digest: digest.clone(),
                    bytes,
                    created_ms: now_ms(),
                    config: file.config,
                    manifests: Vec::new(),
                };
                write(&work.dir, "image.json", &known).map_err(|error| place(&work.dir, &error))?;
                fs::rename(&work.dir, &dir).map_err(|error| place(&dir, &error))?;
                known
            }
        };
        if let Some(manifest) = parts.manifest
            && !known.manifests.contains(&manifest)
        {
            known.manifests.push(manifest);
            write(&dir, "image.json", &known).map_err(|error| place(&dir, &error))?;
        }
        self.change(|index| drop(index.references.insert(full, digest)))?;
        Ok(self.describe(known))
    }

    fn change(&self, change: impl FnOnce(&mut Index)) -> Result<()> {
        let mut index = self.index.lock();
        let mut changed = index.clone();
        change(&mut changed);
        write(&self.dir, "index.json", &changed).map_err(|error| place(&self.dir, &error))?;
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
        let whole = hex(reference).is_some();
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
            freed += self.known(&digest)?.map_or(0, |(known, _)| known.bytes);
            self.delete(&digest)?;
        }
        Ok(freed)
    }

    fn delete(&self, digest: &str) -> Result<()> {
        let dir = self.dir.join(hex(digest).unwrap_or_default());
        // Under another name first: half of an image is never found.
        let work = self.workplace()?;
        let gone = work.dir.join("gone");
        fs::rename(&dir, &gone).map_err(|error| place(&dir, &error))
    }
}

fn unpack(
    reference: &str,
    rootfs: &Path,
    file: &ConfigFile,
    layers: Vec<File>,
    bounds: Bounds,
    told: &dyn Fn(usize),
) -> Result<u64> {
    let wrong = |error: &dyn std::fmt::Display| bad(reference, error);
    fs::DirBuilder::new()
        .mode(0o755)
        .create(rootfs)
        .map_err(|error| place(rootfs, &error))?;
    let mut unpack = Unpack::into(rootfs, bounds).map_err(|error| wrong(&error))?;
    for (index, (layer, expected)) in layers.into_iter().zip(&file.rootfs.diff_ids).enumerate() {
        told(index);
        if index > 0 {
            let again = layer.try_clone().map_err(|error| wrong(&error))?;
            unpack
                .whiteouts(unpacked(again).map_err(|error| wrong(&error))?)
                .map_err(|error| wrong(&error))?;
            io::Seek::rewind(&mut &layer).map_err(|error| wrong(&error))?;
        }
        let mut stream = Hashed::new(unpacked(layer).map_err(|error| wrong(&error))?);
        unpack.apply(&mut stream).map_err(|error| wrong(&error))?;
        let found = stream.finish(1 << 30).map_err(|error| wrong(&error))?;
        if found != *expected {
            return Err(bad(
                reference,
                format!("a layer has digest {found}, its config says {expected}"),
            ));
        }
    }
    Ok(unpack.bytes())
}

/// As images name it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn place(path: &Path, error: &dyn std::fmt::Display) -> Error {
    failed(format!("{}: {error}", path.display()))
}

fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn write(dir: &Path, name: &str, what: &impl Serialize) -> io::Result<()> {
    let partial = dir.join(format!(".{name}.new"));
    fs::write(&partial, serde_json::to_vec_pretty(what)?)?;
    fs::rename(&partial, dir.join(name))
}
