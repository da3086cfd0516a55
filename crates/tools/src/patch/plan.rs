//! What becomes of each file, worked out before any is written.

use std::collections::BTreeMap;

use super::{
    apply::apply,
    parse::{Change, Patch},
};
use crate::{
    edit::{hash, text_of, unified_diff},
    error::{Code, Error},
};

/// Most bytes that a patch may read and write.
const MAX_BYTES: usize = 64 << 20;
/// Most bytes of the differences that are told.
const MAX_DIFF_BYTES: usize = 24 << 10;
const LEFT_OUT: &str = "[... the rest of the differences is left out]\n";

/// Everything a patch does, in the order in which it is to be done: writes first, then what is removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// One for each file that changes.
    pub steps: Vec<Step>,
    /// The differences, with three lines around each change.
    pub diff: String,
}

/// What is done to one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// All of its content.
    Write {
        /// The file.
        path: String,
        /// Content now; none if there is no such file. What is put back if a later step fails.
        before: Option<Vec<u8>>,
        /// Content afterwards.
        after: Vec<u8>,
        /// The file whose mode it gets: itself, or the one that it is moved from. None: a new file.
        mode_of: Option<String>,
    },
    /// It goes.
    Remove {
        /// The file.
        path: String,
        /// Content now.
        before: Vec<u8>,
    },
}

impl Step {
    /// The file.
    pub fn path(&self) -> &str {
        match self {
            Step::Write { path, .. } | Step::Remove { path, .. } => path,
        }
    }

    /// SHA-256 of the content before, hex; empty if there is no file.
    pub fn hash_before(&self) -> String {
        match self {
            Step::Write { before: None, .. } => String::new(),
            Step::Write {
                before: Some(before), ..
            }
            | Step::Remove { before, .. } => hash(before),
        }
    }

    /// SHA-256 of the content afterwards, hex; empty if there will be no file.
    pub fn hash_after(&self) -> String {
        match self {
            Step::Write { after, .. } => hash(after),
            Step::Remove { .. } => String::new(),
        }
    }
}

/// Works a patch out. `read` gives a file's content, or none if there is no such file; each file is read once.
pub fn plan(patch: &Patch, read: impl FnMut(&str) -> Result<Option<Vec<u8>>, Error>) -> Result<Plan, Error> {
    let mut files = Files {
        read,
        files: BTreeMap::new(),
        bytes: 0,
    };
    for change in &patch.changes {
        match change {
            Change::Add { path, content } => {
                if files.get(path)?.now.is_some() {
                    return Err(
                        Error::new(Code::InvalidArguments, format!("Add File: {path} exists already"))
                            .with_next("Use \"*** Update File:\" to change it; nothing was changed."),
                    );
                }
                files.set(path, content.clone().into_bytes(), None)?;
            }
            Change::Delete { path } => {
                existing(path, files.get(path)?)?;
                files.get(path)?.now = None;
            }
            Change::Update { path, to, hunks } => {
                let content = existing(path, files.get(path)?)?;
                let after = if hunks.is_empty() {
                    content
                } else {
                    apply(path, text_of(path, &content)?, hunks)?.into_bytes()
                };
                match to.as_deref().filter(|to| to != path) {
                    None => files.set(path, after, None)?,
                    Some(to) => {
                        if files.get(to)?.now.is_some() {
                            return Err(
                                Error::new(Code::InvalidArguments, format!("Move to: {to} exists already"))
                                    .with_next("Choose another path; nothing was changed."),
                            );
                        }
                        let mode_of = files.get(path)?.mode_of.clone();
                        files.get(path)?.now = None;
                        files.set(to, after, Some(mode_of))?;
                    }
                }
            }
        }
    }
    Ok(files.finish())
}

fn existing(path: &str, file: &File) -> Result<Vec<u8>, Error> {
    file.now
        .clone()
        .ok_or_else(|| Error::new(Code::NotFound, format!("there is no file {path}; nothing was changed")))
}

/// The files as the patch leaves them so far.
struct Files<R> {
    read: R,
    files: BTreeMap<String, File>,
    bytes: usize,
}

struct File {
    before: Option<Vec<u8>>,
    now: Option<Vec<u8>>,
    mode_of: Option<String>,
}

impl<R: FnMut(&str) -> Result<Option<Vec<u8>>, Error>> Files<R> {
    fn get(&mut self, path: &str) -> Result<&mut File, Error> {
        if !self.files.contains_key(path) {
            let before = (self.read)(path)?;
            self.count(before.as_ref().map_or(0, Vec::len))?;
            let mode_of = before.is_some().then(|| path.to_owned());
            self.files.insert(
                path.to_owned(),
                File {
                    now: before.clone(),
                    before,
                    mode_of,
                },
            );
        }
        Ok(self.files.get_mut(path).expect("it was inserted"))
    }

    /// `mode_of`: given where the file is one that was moved.
    fn set(&mut self, path: &str, content: Vec<u8>, mode_of: Option<Option<String>>) -> Result<(), Error> {
        self.count(content.len())?;
        let file = self.get(path)?;
        file.now = Some(content);
        if let Some(mode_of) = mode_of {
            file.mode_of = mode_of;
        }
        Ok(())
    }

    fn count(&mut self, bytes: usize) -> Result<(), Error> {
        self.bytes += bytes;
        if self.bytes > MAX_BYTES {
            return Err(Error::new(
                Code::TooLarge,
                format!("the files of the patch have more than {MAX_BYTES} bytes; nothing was changed"),
            ));
        }
        Ok(())
    }

    fn finish(self) -> Plan {
        let mut steps = Vec::new();
        let mut removed = Vec::new();
        let mut diff = String::new();
        for (path, File { before, now, mode_of }) in self.files {
            if before == now {
                continue;
            }
            tell(&mut diff, &path, before.as_deref(), now.as_deref());
            match (before, now) {
                (before, Some(after)) => steps.push(Step::Write {
                    path,
                    before,
                    after,
                    mode_of,
                }),
                (Some(before), None) => removed.push(Step::Remove { path, before }),
                (None, None) => {}
            }
        }
        steps.append(&mut removed);
        Plan { steps, diff }
    }
}

fn tell(diff: &mut String, path: &str, before: Option<&[u8]>, now: Option<&[u8]>) {
    if diff.ends_with(LEFT_OUT) {
        return;
    }
    let text = |content: Option<&[u8]>| content.map(|content| String::from_utf8_lossy(content).into_owned());
    let (old, new) = (text(before), text(now));
    let name = |there: bool| if there { path } else { "/dev/null" };
    diff.push_str(&unified_diff(
        name(old.is_some()),
        name(new.is_some()),
        &old.unwrap_or_default(),
        &new.unwrap_or_default(),
    ));
    if diff.len() > MAX_DIFF_BYTES {
        let end = diff[..diff.floor_char_boundary(MAX_DIFF_BYTES)]
            .rfind('\n')
            .map_or(0, |at| at + 1);
        diff.truncate(end);
        diff.push_str(LEFT_OUT);
    }
}
