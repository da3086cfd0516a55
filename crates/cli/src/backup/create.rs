//! Creates a backup: everything is copied and hashed first, then packed, so that the manifest can come first.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, FileExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use flate2::{Compression, write::GzEncoder};
use nexus_backup::{Database, Entry, Kind, Manifest, Range, digest, manifest};
use nexus_store::copy;
use nexus_walk::{Dir, Identity, Meta, Step, Walk};
use sha2::{Digest, Sha256};

use super::{
    pick::{self, LeftOuts, Verdict},
    progress::Progress,
    staging::{self, Staging},
};
use crate::failure::{Exit, Failure};

const PIECE: usize = 256 * 1024;
/// Holes that are shorter are copied as zeros.
const HOLE_LEAST: u64 = 64 * 1024;
/// What one container's files may take in the manifest, and all of them together, in bytes: it has to stay readable.
const AREA_COST: u64 = 32 << 20;
const AREAS_COST: u64 = manifest::LONGEST / 2;

#[derive(Debug)]
pub struct Job {
    pub root: PathBuf,
    /// Databases that the settings keep outside of `state/`, with their names in the archive.
    pub elsewhere: Vec<(PathBuf, String)>,
    pub with_keys: bool,
    /// Must not exist yet.
    pub target: PathBuf,
}

pub fn create(job: Job, progress: &mut Progress) -> Result<Manifest, Failure> {
    let folder = job
        .target
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|error| Failure::file("create", folder, &error))?;
    if job.target.symlink_metadata().is_ok() {
        return Err(taken(&job.target));
    }
    // What a backup that was killed has left takes the room that this one needs.
    for place in [folder, job.root.as_path()] {
        staging::sweep(place).map_err(|error| Failure::file("tidy up", place, &error))?;
    }
    // So that the tree knows of what a kill would leave in a folder that is none of its own.
    let _known = Staging::new(&job.root, staging::BACKUP)
        .and_then(|known| known.points_to(folder).map(|()| known))
        .map_err(|error| Failure::file("create a directory in", &job.root, &error))?;
    // Beside the target: the same disk has to have room for it, and nobody else may look in.
    let staged = Staging::new(folder, staging::BACKUP)
        .map_err(|error| Failure::file("create a directory in", folder, &error))?;
    progress.begin("copying", 0);
    let mut copier = Copier::new(&job, &staged, folder, progress)?;
    copier.state()?;
    copier.elsewhere()?;
    let Copier {
        entries,
        places,
        left_out,
        spool,
        ..
    } = copier;
    let manifest = Manifest {
        schema: manifest::SHAPE,
        created_at: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        nexus: env!("CARGO_PKG_VERSION").to_owned(),
        root: job.root.clone(),
        with_keys: job.with_keys,
        files: entries,
        left_out: left_out.finish(),
    };
    progress.begin("packing", manifest.bytes());
    pack(&manifest, &places, &spool, &staged, &job.target, progress)?;
    Ok(manifest)
}

fn taken(target: &Path) -> Failure {
    Failure::new(Exit::Failed, format!("{} exists already", target.display())).hint("name another file with --output")
}

/// Where the copy of a file lies until it is packed.
#[derive(Debug)]
enum StagedCopy {
    Directory,
    /// In the file that all copies share, from this byte on.
    Spool(u64),
    /// In a file of its own.
    File(String),
}

/// Why a file could not be copied.
enum Stop {
    /// It can be left out.
    Unreadable(io::Error),
    Holes,
    /// Nothing can be copied any more.
    Whole(Failure),
}

/// The files of one container.
struct Area {
    path: PathBuf,
    /// Who they are read as.
    reader: Identity,
    cost: u64,
    full: bool,
}

struct Copier<'a> {
    job: &'a Job,
    staged: &'a Staging,
    folder: &'a Path,
    progress: &'a mut Progress,
    state: Dir,
    secrets: HashSet<(u64, u64)>,
    spool: File,
    spooled: u64,
    entries: Vec<Entry>,
    /// Of each entry.
    places: Vec<StagedCopy>,
    left_out: LeftOuts,
    area: Option<Area>,
    areas_cost: u64,
}

impl<'a> Copier<'a> {
    fn new(job: &'a Job, staged: &'a Staging, folder: &'a Path, progress: &'a mut Progress) -> Result<Self, Failure> {
        let path = job.root.join("state");
        let failed = |error: io::Error| Failure::file("read", &path, &error);
        let state = Dir::open(&path).map_err(failed)?;
        let secrets = if job.with_keys {
            HashSet::new()
        } else {
            pick::secrets(&state).map_err(failed)?
        };
        let spool = staged.dir().create_file("spool", 0o600);
        Ok(Self {
            job,
            staged,
            folder,
            progress,
            state,
            secrets,
            spool: spool.map_err(|error| Failure::file("create a file in", folder, &error))?,
            spooled: 0,
            entries: Vec::new(),
            places: Vec::new(),
            left_out: LeftOuts::default(),
            area: None,
            areas_cost: 0,
        })
    }

    fn state(&mut self) -> Result<(), Failure> {
        let whole = self.job.root.join("state");
        let mut walk = Walk::new(&self.state).map_err(|error| Failure::file("read", &whole, &error))?;
        while let Some(step) = walk.step() {
            self.progress
                .add(0)
                .map_err(|error| Failure::file("read", &whole, &error))?;
            match step {
                Step::Problem(problem) if pick::area(&problem.path).is_some() => {
                    self.left_out.add(&problem.path, unreadable(&problem.error));
                }
                Step::Problem(problem) => {
                    return Err(Failure::file("read", &whole.join(problem.path), &problem.error));
                }
                Step::Entry(entry) => {
                    if !self.one(walk.path(), walk.dir(), &entry)? {
                        walk.skip();
                    }
                }
            }
        }
        Ok(())
    }

    /// One entry; whether a directory is gone into.
    fn one(&mut self, path: &Path, dir: &Dir, entry: &nexus_walk::Entry) -> Result<bool, Failure> {
        self.enter(path, &entry.meta);
        if self.area.as_ref().is_some_and(|area| area.full) {
            return Ok(false);
        }
        let database = match pick::verdict(path, entry.meta.kind, self.job.with_keys) {
            Verdict::Pass => return Ok(false),
            Verdict::Leave(reason) => {
                self.left_out.add(path, reason);
                return Ok(false);
            }
            Verdict::TakeDatabase => true,
            Verdict::Take => false,
        };
        let whole = self.job.root.join("state").join(path);
        let name = format!(
            "state/{}",
            path.to_str().expect("the verdict is to leave what is not text")
        );
        let taken = if entry.meta.kind == nexus_walk::Kind::Dir {
            self.directory(path, dir, entry, name)
        } else if database && copy::is_database(&whole).unwrap_or(false) {
            return self.database(&whole, name, None, Some(&entry.meta)).map(|()| false);
        } else {
            self.file(dir, entry, name)
        };
        match taken {
            Ok(true) => Ok(entry.meta.kind == nexus_walk::Kind::Dir),
            Ok(false) => {
                self.left_out.add(path, "it is another name of a file with secrets");
                Ok(false)
            }
            Err(Stop::Whole(failure)) => Err(failure),
            // Gone since it was seen.
            Err(Stop::Unreadable(error)) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(Stop::Unreadable(error)) if self.area.is_some() => {
                self.left_out.add(path, unreadable(&error));
                Ok(false)
            }
            Err(Stop::Unreadable(error)) => Err(Failure::file("read", &whole, &error)),
            Err(Stop::Holes) => {
                self.left_out.add(path, "it has too many holes");
                Ok(false)
            }
        }
    }

    /// Which container's files these are.
    fn enter(&mut self, path: &Path, meta: &Meta) {
        let path = pick::area(path);
        if self.area.as_ref().map(|area| &area.path) == path.as_ref() {
            return;
        }
        self.area = path.map(|path| Area {
            path,
            reader: Identity::of(meta.uid),
            cost: 0,
            full: false,
        });
    }

    /// Opens with the rights of whoever owns the area; of everything else, with our own.
    fn as_reader<T>(&self, open: impl FnOnce() -> io::Result<T>) -> Result<T, Stop> {
        let rights = self.area.as_ref().map(|area| area.reader.assume());
        let _rights = rights.transpose().map_err(Stop::Unreadable)?;
        open().map_err(Stop::Unreadable)
    }

    fn directory(&mut self, path: &Path, dir: &Dir, entry: &nexus_walk::Entry, name: String) -> Result<bool, Stop> {
        let open = || dir.open_dir(&entry.name);
        // The way to an area is ours: its user need not be able to go it.
        let opened = if self.area.as_ref().is_some_and(|area| area.path == path) {
            open().map_err(Stop::Unreadable)?
        } else {
            self.as_reader(open)?
        };
        let meta = opened.own_meta().map_err(Stop::Unreadable)?;
        let entry = described(name, Kind::Dir, &meta, attributes(&opened));
        self.keep(entry, StagedCopy::Directory);
        Ok(true)
    }

    /// `false` for one of our secrets under another name.
    fn file(&mut self, dir: &Dir, entry: &nexus_walk::Entry, name: String) -> Result<bool, Stop> {
        let (file, meta) = self.as_reader(|| dir.open_file(&entry.name))?;
        if self.area.is_some() && self.secrets.contains(&meta.id()) {
            return Ok(false);
        }
        let begin = self.spooled;
        let mut entry = described(name, Kind::File, &meta, attributes(&file));
        let copied = self.copy(&file, &meta, &mut entry);
        if copied.is_err() {
            self.spooled = begin;
        }
        copied?;
        self.keep(entry, StagedCopy::Spool(begin));
        Ok(true)
    }

    fn copy(&mut self, file: &File, meta: &Meta, entry: &mut Entry) -> Result<(), Stop> {
        let mut ranges = ranges(file, meta)?;
        let mut hash = Sha256::new();
        let mut piece = vec![0; PIECE];
        let mut shortened = None;
        for (number, range) in ranges.iter_mut().enumerate() {
            let mut done = 0;
            while done < range.bytes {
                let want = PIECE.min(usize::try_from(range.bytes - done).unwrap_or(PIECE));
                let read = match file.read_at(&mut piece[..want], range.at + done) {
                    Ok(read) => read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(Stop::Unreadable(error)),
                };
                if read == 0 {
                    range.bytes = done;
                    shortened = Some(number + 1);
                    break;
                }
                hash.update(&piece[..read]);
                let written = self.spool.write_all_at(&piece[..read], self.spooled);
                written
                    .and_then(|()| self.progress.add(read as u64))
                    .map_err(|error| Stop::Whole(Failure::file("write in", self.folder, &error)))?;
                self.spooled += read as u64;
                done += read as u64;
            }
            if shortened.is_some() {
                break;
            }
        }
        if let Some(kept) = shortened {
            ranges.truncate(kept);
            entry.bytes = ranges.last().map_or(0, |last| last.at + last.bytes);
        }
        entry.sha256 = digest(hash);
        let plain = matches!(ranges[..], [Range { at: 0, bytes }] if bytes == entry.bytes);
        entry.ranges = (!plain).then_some(ranges);
        Ok(())
    }

    /// Copied by its own engine, as of one moment.
    fn database(
        &mut self,
        from: &Path,
        name: String,
        original: Option<PathBuf>,
        meta: Option<&Meta>,
    ) -> Result<(), Failure> {
        let wrong = |error: nexus_store::Error| Failure::new(Exit::Failed, error.to_string());
        let own = format!("database-{}", self.entries.len());
        let to = self.folder.join(self.staged.name()).join(&own);
        copy::copy(from, &to).map_err(wrong)?;
        let found = copy::inspect(&to).map_err(wrong)?;
        let failed = |error: io::Error| Failure::file("copy", from, &error);
        let (mut copied, copied_meta) = self.staged.dir().open_file(&own).map_err(failed)?;
        let meta = meta.copied().unwrap_or(copied_meta);
        let (bytes, sha256) = hash(&mut copied, &mut io::sink(), self.progress).map_err(failed)?;
        let entry = Entry {
            bytes,
            sha256,
            original,
            database: Some(Database {
                schema: found.schema,
                newest: found.newest,
            }),
            ..described(name, Kind::File, &meta, Vec::new())
        };
        self.keep(entry, StagedCopy::File(own));
        Ok(())
    }

    fn elsewhere(&mut self) -> Result<(), Failure> {
        self.area = None;
        let job = self.job;
        for (path, name) in &job.elsewhere {
            let found = Dir::of(path).and_then(|(dir, name)| dir.meta(name));
            let found = found.ok().filter(|found| found.kind == nexus_walk::Kind::File);
            self.database(path, name.clone(), Some(path.clone()), found.as_ref())?;
        }
        Ok(())
    }

    /// A manifest that is too long could not be read: an area that would make it so is left unfinished, and named.
    fn keep(&mut self, entry: Entry, place: StagedCopy) {
        if let Some(area) = &mut self.area {
            let cost = entry.cost();
            if area.cost + cost > AREA_COST || self.areas_cost + cost > AREAS_COST {
                area.full = true;
                self.left_out.add(
                    &area.path,
                    "it holds more files than a backup takes; the rest of it is missing",
                );
                return;
            }
            area.cost += cost;
            self.areas_cost += cost;
        }
        self.entries.push(entry);
        self.places.push(place);
    }
}

fn unreadable(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "its user may not read it".to_owned(),
        _ => format!("cannot be read: {error}"),
    }
}

fn described(path: String, kind: Kind, meta: &Meta, xattrs: Vec<(String, String)>) -> Entry {
    Entry {
        path,
        kind,
        bytes: if kind == Kind::File { meta.bytes } else { 0 },
        mode: meta.mode,
        owner: Some((meta.uid, meta.gid)),
        modified: Some(meta.modified),
        xattrs,
        ..Entry::default()
    }
}

/// Attributes of users; those of the kernel and of security modules stay behind.
fn attributes(file: impl std::os::fd::AsFd) -> Vec<(String, String)> {
    let ours = |name: &std::ffi::OsStr| name.to_str().is_some_and(|name| name.starts_with("user."));
    let found = nexus_walk::xattrs(file, ours).unwrap_or_default();
    let text = found
        .into_iter()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, hex::encode(value))));
    text.collect()
}

/// Where the data of a file lies.
fn ranges(file: &File, meta: &Meta) -> Result<Vec<Range>, Stop> {
    if meta.allocated >= meta.bytes {
        return Ok(vec![Range {
            at: 0,
            bytes: meta.bytes,
        }]);
    }
    let mut ranges: Vec<Range> = Vec::new();
    let mut at = 0;
    while let Some(found) = nexus_walk::data_ranges(file, at, meta.bytes).map_err(Stop::Unreadable)? {
        at = found.end;
        match ranges.last_mut() {
            Some(last) if found.start - (last.at + last.bytes) < HOLE_LEAST => last.bytes = found.end - last.at,
            _ => ranges.push(Range {
                at: found.start,
                bytes: found.end - found.start,
            }),
        }
        if ranges.len() > manifest::RANGES_MAX {
            return Err(Stop::Holes);
        }
    }
    Ok(ranges)
}

fn pack(
    manifest: &Manifest,
    places: &[StagedCopy],
    spool: &File,
    staged: &Staging,
    target: &Path,
    progress: &mut Progress,
) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::file("write", target, &error);
    let packed = staged.dir().create_file("packed", 0o600).map_err(failed)?;
    let mut archive = tar::Builder::new(GzEncoder::new(packed, Compression::fast()));
    let text = serde_json::to_vec_pretty(manifest).map_err(|error| failed(error.into()))?;
    nexus_backup::append(&mut archive, manifest::NAME, 0o600, text.len() as u64, &text[..]).map_err(failed)?;
    for (entry, place) in manifest.files.iter().zip(places) {
        let (file, at) = match place {
            StagedCopy::Directory => continue,
            StagedCopy::Spool(at) => (spool.try_clone().map_err(failed)?, *at),
            StagedCopy::File(name) => (staged.dir().open_file(name).map_err(failed)?.0, 0),
        };
        let section = Section {
            file,
            at,
            left: entry.data(),
            progress,
        };
        nexus_backup::append(&mut archive, &entry.path, entry.mode, entry.data(), section).map_err(failed)?;
    }
    let mut packed = archive.into_inner().and_then(GzEncoder::finish).map_err(failed)?;
    packed.flush().map_err(failed)?;
    packed.sync_all().map_err(failed)?;
    let (folder, name) = Dir::of(target).map_err(failed)?;
    match staged.dir().rename_new("packed", &folder, name) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(taken(target)),
        placed => placed.map_err(failed)?,
    }
    folder.sync().map_err(failed)
}

/// A part of a file, counted while it is read.
struct Section<'a> {
    file: File,
    at: u64,
    left: u64,
    progress: &'a mut Progress,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.file.read_at(&mut buffer[..want], self.at)?;
        self.at += read as u64;
        self.left -= read as u64;
        // An interruption would be tried again by whoever reads: it is another kind of end here.
        self.progress
            .add(read as u64)
            .map_err(|_| io::Error::other("interrupted"))?;
        Ok(read)
    }
}

/// Reads to the end and writes on; the number of bytes and their hash.
pub fn hash(from: &mut impl Read, to: &mut impl Write, progress: &mut Progress) -> io::Result<(u64, String)> {
    let mut hash = Sha256::new();
    let mut bytes = 0;
    let mut piece = vec![0; PIECE];
    loop {
        let read = from.read(&mut piece)?;
        if read == 0 {
            break;
        }
        hash.update(&piece[..read]);
        to.write_all(&piece[..read])?;
        bytes += read as u64;
        progress.add(read as u64)?;
    }
    Ok((bytes, digest(hash)))
}
