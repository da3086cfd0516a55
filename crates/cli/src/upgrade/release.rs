//! A release as it was packed: checked against its checksums while it is copied, and nothing of it let outside of the
//! folder it is copied to.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Component, Path, PathBuf},
};

use flate2::read::GzDecoder;
use serde::{Deserialize, Serialize};

use super::layout::sync;
use crate::{
    backup::{
        create::hash,
        progress::{Progress, size},
        staging,
    },
    failure::{Exit, Failure},
};

pub const SUMS: &str = "SHA256SUMS";
const ABOUT: &str = "release.json";
/// Beside the release, for people; not part of what is installed.
const SCRIPT: &str = "install.sh";
const SHAPE: u32 = 1;
/// No release is larger, unpacked.
const LARGEST: u64 = 4 << 30;
const MOST_FILES: usize = 10_000;
/// Left free beside what is unpacked.
const SPARE: u64 = 64 << 20;

/// What a release says about itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct About {
    pub schema: u32,
    pub version: String,
    /// `linux-amd64`
    pub target: String,
}

/// A version that can be the name of a folder, and nothing else.
pub fn is_version(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+' | '~');
    text.starts_with(|c: char| c.is_ascii_digit()) && text.len() <= 64 && text.chars().all(plain)
}

/// The files of an unpacked release.
pub fn files(folder: &Path) -> Result<Vec<String>, Failure> {
    Ok(sums(folder)?.into_keys().collect())
}

pub fn about(folder: &Path) -> Result<About, Failure> {
    let path = folder.join(ABOUT);
    let text = fs::read(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => not_a_release(folder),
        _ => Failure::file("read", &path, &error),
    })?;
    let about: About = serde_json::from_slice(&text).map_err(|_| not_a_release(folder))?;
    if about.schema != SHAPE || !is_version(&about.version) {
        return Err(Failure::new(
            Exit::Failed,
            format!("{} says nothing that this version understands", path.display()),
        ));
    }
    Ok(about)
}

fn not_a_release(folder: &Path) -> Failure {
    Failure::new(Exit::NotFound, format!("{} is no release of nexus", folder.display()))
        .hint("a release is what cargo xtask dist builds: nexus-VERSION-TARGET.tar.gz, or the folder it unpacks to")
}

fn sums(folder: &Path) -> Result<BTreeMap<String, String>, Failure> {
    let path = folder.join(SUMS);
    let text = fs::read_to_string(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => not_a_release(folder),
        _ => Failure::file("read", &path, &error),
    })?;
    let lines = text.lines().map(|line| {
        let (sum, file) = line
            .split_once("  ")
            .filter(|(sum, file)| is_sum(sum) && is_plain(file))?;
        Some((file.to_owned(), sum.to_owned()))
    });
    lines
        .collect::<Option<_>>()
        .ok_or_else(|| Failure::new(Exit::Failed, format!("{} is damaged", path.display())))
}

fn is_sum(text: &str) -> bool {
    text.len() == 64 && text.chars().all(|c| c.is_ascii_hexdigit())
}

fn is_plain(path: &str) -> bool {
    !path.is_empty()
        && Path::new(path)
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
}

/// What a checksum file beside a tarball says of it, or what was told.
pub fn expected(tarball: &Path, told: Option<&str>) -> Result<String, Failure> {
    if let Some(told) = told {
        return match is_sum(told) {
            true => Ok(told.to_ascii_lowercase()),
            false => Err(Failure::usage("--sha256 is 64 hexadecimal digits")),
        };
    }
    let beside = tarball.with_file_name(SUMS);
    let name = tarball.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let text = fs::read_to_string(&beside).unwrap_or_default();
    let line = text
        .lines()
        .filter_map(|line| line.split_once("  "))
        .find(|(_, file)| *file == name);
    line.map(|(sum, _)| sum.to_owned()).ok_or_else(|| {
        Failure::new(
            Exit::NotFound,
            format!("there is no checksum of {name}: {} does not name it", beside.display()),
        )
        .hint("put the SHA256SUMS of the release beside it, or give the sum with --sha256")
    })
}

/// Copies a release to a new folder, whole and right, or not at all.
pub fn stage(
    source: &Path,
    sum: Option<&str>,
    to: &dyn Fn(&str) -> PathBuf,
    progress: &mut Progress,
) -> Result<(About, PathBuf), Failure> {
    let unread = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Failure {
            exit: Exit::NotFound,
            ..Failure::file("read", source, &error)
        },
        _ => Failure::file("read", source, &error),
    };
    let found = fs::metadata(source).map_err(unread)?;
    if found.is_dir() {
        let about = about(source)?;
        let into = to(&about.version);
        let done = from_folder(source, &into, progress);
        return tidy(done.and_then(|()| checked(&into)), &into);
    }
    let mut file = File::open(source).map_err(unread)?;
    progress.begin("checking", found.len());
    let (_, is) = hash(&mut file, &mut io::sink(), progress).map_err(unread)?;
    if Some(is.as_str()) != sum {
        return Err(Failure::new(
            Exit::Failed,
            format!("{} is not what it was when it was packed", source.display()),
        )
        .hint("its checksum differs: download it again, with its SHA256SUMS"));
    }
    let into = to("tarball");
    room(&into, unpacked(&mut file).map_err(unread)?)?;
    file.rewind().map_err(unread)?;
    let done = from_tarball(source, file, &into, progress);
    tidy(
        done.and_then(|sums| compare(source, &into, &sums))
            .and_then(|()| checked(&into)),
        &into,
    )
}

/// What was begun goes if it came to nothing.
fn tidy(done: Result<About, Failure>, into: &Path) -> Result<(About, PathBuf), Failure> {
    match done {
        Ok(about) => Ok((about, into.to_path_buf())),
        Err(failure) => {
            let _gone = staging::remove(into);
            Err(failure)
        }
    }
}

fn checked(folder: &Path) -> Result<About, Failure> {
    sync(folder).map_err(|error| Failure::file("write", folder, &error))?;
    about(folder)
}

/// gzip has the length of what it packed as its last word, up to 4 GiB.
fn unpacked(file: &mut File) -> io::Result<u64> {
    let mut last = [0; 4];
    file.seek(SeekFrom::End(-4))?;
    file.read_exact(&mut last)?;
    Ok(u64::from(u32::from_le_bytes(last)))
}

fn room(into: &Path, bytes: u64) -> Result<(), Failure> {
    let parent = into.parent().expect("it lies among the versions");
    enough(parent, bytes + SPARE)
}

/// Whether the disk of a folder has this much space left.
pub fn enough(folder: &Path, needed: u64) -> Result<(), Failure> {
    let stat = nix::sys::statvfs::statvfs(folder).map_err(|errno| Failure::file("look at", folder, &errno.into()))?;
    #[expect(clippy::useless_conversion, reason = "the width differs between platforms")]
    let free = u64::from(stat.blocks_available()) * u64::from(stat.fragment_size());
    if free >= needed {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Failed,
        format!(
            "{} is free at {}, and {} is needed",
            size(free),
            folder.display(),
            size(needed)
        ),
    )
    .hint("make room; nexus upgrade --list shows what older versions there are"))
}

fn from_folder(source: &Path, into: &Path, progress: &mut Progress) -> Result<(), Failure> {
    let sums = sums(source)?;
    let length = |file: &String| fs::metadata(source.join(file)).map_or(0, |found| found.len());
    let total = sums.keys().map(length).sum();
    room(into, total)?;
    fresh(into)?;
    progress.begin("copying", total);
    for (name, sum) in &sums {
        let path = source.join(name);
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(&path)
            .map_err(|error| Failure::file("read", &path, &error))?;
        if write(file, into, name, progress)? != *sum {
            return Err(changed(source, name));
        }
    }
    let path = source.join(SUMS);
    let file = File::open(&path).map_err(|error| Failure::file("read", &path, &error))?;
    write(file, into, SUMS, progress).map(drop)
}

fn from_tarball(
    source: &Path,
    file: File,
    into: &Path,
    progress: &mut Progress,
) -> Result<BTreeMap<String, String>, Failure> {
    let broken = |error: io::Error| Failure::file("read", source, &error);
    let strange = |what: String| Failure::new(Exit::Failed, format!("{} holds {what}", source.display()));
    fresh(into)?;
    progress.begin("unpacking", 0);
    let mut archive = tar::Archive::new(GzDecoder::new(io::BufReader::new(file)).take(LARGEST));
    let mut found = BTreeMap::new();
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let path = entry.path().map_err(broken)?.into_owned();
        if entry.header().entry_type() == tar::EntryType::Directory {
            continue;
        }
        // All of it lies in one folder, whose name says what it is.
        let name: PathBuf = path.components().skip(1).collect();
        let name = name.to_str().unwrap_or_default().to_owned();
        let inside = is_plain(&path.to_string_lossy()) && !name.is_empty();
        if entry.header().entry_type() != tar::EntryType::Regular || !inside {
            return Err(strange(format!(
                "{}, which is no plain file of a release",
                path.display()
            )));
        }
        if found.len() >= MOST_FILES {
            return Err(strange(format!("more than {MOST_FILES} files")));
        }
        if name == SCRIPT {
            continue;
        }
        let sum = write(&mut entry, into, &name, progress)?;
        if found.insert(name.clone(), sum).is_some() {
            return Err(strange(format!("{name} twice")));
        }
    }
    Ok(found)
}

/// What was unpacked is what the release's own list says, no more and no less.
fn compare(source: &Path, into: &Path, found: &BTreeMap<String, String>) -> Result<(), Failure> {
    let listed = sums(into)?;
    for (name, sum) in &listed {
        if found.get(name) != Some(sum) {
            return Err(changed(source, name));
        }
    }
    let other = found.keys().find(|name| *name != SUMS && !listed.contains_key(*name));
    match other {
        Some(name) => Err(changed(source, name)),
        None => Ok(()),
    }
}

fn changed(source: &Path, name: &str) -> Failure {
    Failure::new(
        Exit::Failed,
        format!("{name} in {} is not what it was when it was packed", source.display()),
    )
    .hint("download the release again")
}

fn fresh(into: &Path) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::file("make", into, &error);
    staging::remove(into).map_err(failed)?;
    DirBuilder::new().mode(0o755).create(into).map_err(failed)
}

/// Writes one file, and gives its checksum.
fn write(mut from: impl Read, into: &Path, name: &str, progress: &mut Progress) -> Result<String, Failure> {
    let path = into.join(name);
    let failed = |error: io::Error| Failure::file("write", &path, &error);
    let parent = path.parent().expect("it lies in the folder");
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(parent)
        .map_err(failed)?;
    let mode = if name.starts_with("bin/") { 0o755 } else { 0o644 };
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&path)
        .map_err(failed)?;
    let (_, sum) = hash(&mut from, &mut file, progress).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_the_name_of_a_folder_and_of_nothing_else() {
        assert!(is_version("0.1.0") && is_version("1.2.3-rc.1+build-7"));
        for bad in ["", "..", "../x", ".new-1", "v1", "1/2", "1 2", "current", "1\n"] {
            assert!(!is_version(bad), "{bad:?}");
        }
        for bad in ["", "/etc/passwd", "../x", "a/../b", "./a"] {
            assert!(!is_plain(bad), "{bad:?}");
        }
    }
}
