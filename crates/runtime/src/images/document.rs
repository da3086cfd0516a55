//! Manifests and indexes, from a registry or a file, and the search for the image of this machine among them.

use std::collections::{BTreeSet, VecDeque};

use serde::Deserialize;

use super::config::{ConfigFile, absent};

/// Indexes within each other.
const MAX_DEPTH: u32 = 4;
/// Documents that one search reads.
const MAX_DOCUMENTS: u32 = 32;
/// Entries of an index that are looked at.
const MAX_ENTRIES: usize = 1_000;
/// Layers of an image.
pub const MAX_LAYERS: usize = 256;
/// Platforms that an error names.
const TOLD: usize = 12;

/// A part of an image by its digest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Descriptor {
    pub digest: String,
    /// Bytes.
    #[serde(default)]
    pub size: u64,
    /// What it runs on, where an index says so.
    #[serde(default)]
    pub platform: Option<Platform>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Platform {
    #[serde(default, deserialize_with = "absent")]
    architecture: String,
    #[serde(default, deserialize_with = "absent")]
    os: String,
}

/// What an image is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub config: Descriptor,
    /// The lowest first.
    pub layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Any {
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("a manifest cannot be read")]
    Unreadable,
    #[error("its format is older than 2016 and is not supported")]
    Old,
    #[error("it has {0} layers, and at most {MAX_LAYERS} are allowed")]
    Layers(usize),
    #[error("its indexes are nested too deep")]
    Deep,
    #[error("its indexes name too many manifests")]
    Many,
    #[error("there is no image for {wanted} in it; it has {found}")]
    Platform { wanted: Platform, found: Platforms },
    #[error("there are {0} images in it; save one")]
    Several(usize),
}

/// Those that were found, for an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Platforms(BTreeSet<Platform>);

impl std::fmt::Display for Platforms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        let names: Vec<String> = self.0.iter().take(TOLD).map(ToString::to_string).collect();
        f.write_str(&names.join(", "))?;
        match self.0.len().checked_sub(TOLD) {
            None | Some(0) => Ok(()),
            Some(more) => write!(f, " and {more} more"),
        }
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", plain(&self.os), plain(&self.architecture))
    }
}

/// That of this machine, as images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A foreign word as an error may show it.
fn plain(word: &str) -> String {
    let fine = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match word.chars().filter(fine).take(24).collect::<String>() {
        empty if empty.is_empty() => "unknown".into(),
        word => word,
    }
}

impl Platform {
    /// That of this machine.
    pub fn own() -> Platform {
        Platform {
            architecture: architecture().into(),
            os: "linux".into(),
        }
    }

    /// That of an image.
    pub fn of(config: &ConfigFile) -> Platform {
        Platform {
            architecture: config.architecture.clone(),
            os: config.os.clone(),
        }
    }

    /// As images name it.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// Whether commands of this platform run here. What a writer left out is taken to fit.
    pub fn fits(&self) -> bool {
        let own = Platform::own();
        (self.os.is_empty() || self.os == own.os)
            && (self.architecture.is_empty() || self.architecture == own.architecture)
    }

    /// As writers mark what is no image, such as the record of a build.
    fn is_no_image(&self) -> bool {
        self.os == "unknown" || self.architecture == "unknown"
    }
}

/// A search through indexes for the image of this machine. It asks for documents by their digests and is given them, so
/// that it serves a registry and a directory alike.
pub struct Search {
    queue: VecDeque<(Descriptor, u32)>,
    read: u32,
    seen: Platforms,
}

impl Search {
    /// Begins with one document by its tag or digest, which may be a manifest already.
    pub fn of(first: &str) -> Search {
        let first = Descriptor {
            digest: first.to_owned(),
            ..Descriptor::default()
        };
        Search {
            queue: VecDeque::from([(first, 0)]),
            read: 0,
            seen: Platforms::default(),
        }
    }

    /// Begins with the index of a directory, which must not leave a choice.
    ///
    /// # Errors
    ///
    /// [`Error::Several`] if more than one of its entries fits.
    pub fn among(index: &[u8]) -> Result<Search, Error> {
        let any: Any = serde_json::from_slice(index).map_err(|_| Error::Unreadable)?;
        let entries = any.manifests.ok_or(Error::Unreadable)?;
        let fits = |entry: &&Descriptor| entry.platform.as_ref().is_none_or(Platform::fits);
        let fitting = entries.iter().filter(fits).count();
        if fitting > 1 {
            return Err(Error::Several(fitting));
        }
        let mut search = Search {
            queue: VecDeque::new(),
            read: 0,
            seen: Platforms::default(),
        };
        search.queue_entries(entries, 0)?;
        Ok(search)
    }

    /// The next document to read, with how deep it lies: hand both to [`Search::take`].
    ///
    /// # Errors
    ///
    /// [`Error::Platform`] when all were read, [`Error::Many`] if they do not end.
    pub fn next(&mut self) -> Result<(Descriptor, u32), Error> {
        let Some(next) = self.queue.pop_front() else {
            return Err(Error::Platform {
                wanted: Platform::own(),
                found: std::mem::take(&mut self.seen),
            });
        };
        self.read += 1;
        if self.read > MAX_DOCUMENTS {
            return Err(Error::Many);
        }
        Ok(next)
    }

    /// A document that was asked for. `None` if it was an index: the search goes on.
    ///
    /// # Errors
    ///
    /// What makes the whole image unusable.
    pub fn take(&mut self, document: &[u8], depth: u32) -> Result<Option<Manifest>, Error> {
        let any: Any = serde_json::from_slice(document).map_err(|_| Error::Unreadable)?;
        match (any.manifests, any.config, any.layers) {
            (Some(entries), ..) if depth < MAX_DEPTH => {
                self.queue_entries(entries, depth + 1)?;
                Ok(None)
            }
            (Some(_), ..) => Err(Error::Deep),
            (None, Some(config), layers) => {
                let layers = layers.unwrap_or_default();
                if layers.len() > MAX_LAYERS {
                    return Err(Error::Layers(layers.len()));
                }
                Ok(Some(Manifest { config, layers }))
            }
            (None, None, _) => Err(Error::Old),
        }
    }

    /// Whether the image of this config runs here. If not, the search goes on.
    pub fn fits(&mut self, config: &ConfigFile) -> bool {
        let platform = Platform::of(config);
        let fits = platform.fits();
        if !fits {
            self.seen.0.insert(platform);
        }
        fits
    }

    /// Those that fit by name come first, then those that do not say.
    fn queue_entries(&mut self, entries: Vec<Descriptor>, depth: u32) -> Result<(), Error> {
        if entries.len() > MAX_ENTRIES {
            return Err(Error::Many);
        }
        let (mut fitting, mut silent) = (Vec::new(), Vec::new());
        for entry in entries {
            match &entry.platform {
                None => silent.push((entry, depth)),
                Some(platform) if platform.is_no_image() => {}
                Some(platform) if platform.fits() => fitting.push((entry, depth)),
                Some(platform) => drop(self.seen.0.insert(platform.clone())),
            }
        }
        for next in fitting.into_iter().chain(silent).rev() {
            self.queue.push_front(next);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::config::ConfigFile;
    use super::{Error, MAX_DEPTH, Search, architecture};

    fn bytes(value: &Value) -> Vec<u8> {
        serde_json::to_vec(value).unwrap()
    }

    fn config(architecture: &str) -> ConfigFile {
        serde_json::from_value(json!({ "architecture": architecture, "os": "linux", "rootfs": { "diff_ids": [] } }))
            .unwrap()
    }

    #[test]
    fn an_index_within_an_index_and_entries_without_a_platform_are_searched() {
        let mut search = Search::of("first");
        let (_, depth) = search.next().unwrap();
        let outer = json!({ "manifests": [
            { "digest": "other", "platform": { "os": "linux", "architecture": "s390x" } },
            { "digest": "silent" },
            { "digest": "record", "platform": { "os": "unknown", "architecture": "unknown" } },
            { "digest": "inner", "platform": { "os": "linux", "architecture": architecture() } },
        ]});
        assert_eq!(search.take(&bytes(&outer), depth).unwrap(), None);
        let (inner, depth) = search.next().unwrap();
        assert_eq!(inner.digest, "inner");
        let within = json!({ "manifests": [{ "digest": "wrong" }] });
        assert_eq!(search.take(&bytes(&within), depth).unwrap(), None);
        let (wrong, depth) = search.next().unwrap();
        let manifest = json!({ "config": { "digest": "c" }, "layers": [{ "digest": "l", "size": 5 }] });
        let found = search.take(&bytes(&manifest), depth).unwrap().unwrap();
        assert_eq!((wrong.digest.as_str(), found.layers[0].size), ("wrong", 5));
        assert!(!search.fits(&config("riscv64")));
        let (silent, _) = search.next().unwrap();
        assert_eq!(silent.digest, "silent");
        assert!(search.fits(&config(architecture())));
        // Had it not fitted, all that there are would be named.
        let error = search.next().unwrap_err().to_string();
        assert!(error.contains("it has linux/riscv64, linux/s390x"), "{error}");
    }

    /// A registry nests indexes without end, or names more manifests than anybody reads.
    #[test]
    fn indexes_without_end_are_refused() {
        let mut search = Search::of("first");
        let index = bytes(&json!({ "manifests": [{ "digest": "again" }] }));
        let mut depths = 0;
        let error = loop {
            let (_, depth) = search.next().unwrap();
            match search.take(&index, depth) {
                Ok(None) => depths += 1,
                Ok(Some(_)) => unreachable!("it is an index"),
                Err(error) => break error,
            }
        };
        assert_eq!((depths, error), (MAX_DEPTH, Error::Deep));

        let many: Vec<Value> = (0..900).map(|n| json!({ "digest": n.to_string() })).collect();
        let mut search = Search::of("first");
        let (_, depth) = search.next().unwrap();
        search.take(&bytes(&json!({ "manifests": many })), depth).unwrap();
        let manifest = bytes(&json!({ "config": { "digest": "c" }, "layers": [] }));
        let error = loop {
            match search.next() {
                Ok((_, depth)) => drop(search.take(&manifest, depth).unwrap()),
                Err(error) => break error,
            }
        };
        assert_eq!(error, Error::Many);
    }

    /// An image writes control characters where its architecture is told.
    #[test]
    fn what_an_error_shows_of_an_image_is_plain() {
        let mut search = Search::of("first");
        let (_, depth) = search.next().unwrap();
        let odd = json!({ "manifests": [{ "digest": "d", "platform": { "os": "\u{1b}[2J", "architecture": "x\u{202e}y" } }] });
        search.take(&bytes(&odd), depth).unwrap();
        let error = search.next().unwrap_err().to_string();
        assert!(error.ends_with("it has 2J/xy"), "{error:?}");
    }

    #[test]
    fn what_is_no_manifest_is_an_error() {
        let mut search = Search::of("first");
        for (document, wanted) in [("", Error::Unreadable), ("[]", Error::Unreadable), ("{}", Error::Old)] {
            assert_eq!(search.take(document.as_bytes(), 0), Err(wanted), "{document}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(search.take(deep.as_bytes(), 0), Err(Error::Unreadable));
        let layers: Vec<Value> = (0..300).map(|_| json!({ "digest": "l" })).collect();
        let many = bytes(&json!({ "config": { "digest": "c" }, "layers": layers }));
        assert_eq!(search.take(&many, 0), Err(Error::Layers(300)));
    }
}
