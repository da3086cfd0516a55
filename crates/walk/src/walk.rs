//! Walks every entry beneath a directory in byte order of the names, a directory before its contents.
//!
//! Nothing recurses. At most [`OPEN`] handles are held: those of outer directories are closed on the way down, and on the
//! way up a directory is opened again as the parent of its child, and used only if it is the same as before. At most
//! [`NAMES`] bytes of names wait: what does not fit is read again from the directory, after the last name that was given.

use std::collections::BinaryHeap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use crate::dir::Dir;
use crate::meta::{Kind, Meta};

/// Handles of directories held at a time.
const OPEN: usize = 48;
/// Bytes of names that wait at a time, with [`NAME_COST`] for each.
const NAMES: usize = 32 << 20;
/// What is always read of a directory, however much waits above it.
const LEAST: usize = 64 << 10;
const NAME_COST: usize = 32;

/// A name and what it stood for when it was looked at.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The name within its directory.
    pub name: OsString,
    /// What the name stood for, a link itself rather than its target.
    pub meta: Meta,
}

/// What could not be read; the walk goes on behind it.
#[derive(Debug)]
pub struct Problem {
    /// Below the directory that the walk began in.
    pub path: PathBuf,
    /// Why it could not be read.
    pub error: io::Error,
}

/// What [`Walk`] found next.
#[derive(Debug)]
pub enum Step {
    /// An entry of a directory.
    Entry(Entry),
    /// Something that could not be read.
    Problem(Problem),
}

/// See the head of this file. After a step, [`Walk::dir`] and [`Walk::path`] say where its entry lies.
#[derive(Debug)]
pub struct Walk {
    frames: Vec<Frame>,
    /// The cost of all names that wait.
    waiting: usize,
    /// Of the entry that was given last.
    path: PathBuf,
    /// The entry that was given last is a directory, and is entered by the next step.
    enter: Option<OsString>,
    /// The entry that was given last is still part of `path`.
    shown: bool,
    names_limit: usize,
    one_device: Option<u64>,
}

#[derive(Debug)]
struct Frame {
    /// Closed while the walk is far below.
    dir: Option<Dir>,
    id: (u64, u64),
    /// What is still to come, in descending order.
    names: Vec<OsString>,
    cost: usize,
    /// There are names behind those in `names`.
    more: bool,
    /// The last name that was given.
    last: Option<OsString>,
}

impl Walk {
    /// All that lies beneath `root`, which itself is no entry.
    pub fn new(root: &Dir) -> io::Result<Self> {
        let root = root.try_clone()?;
        let frame = Frame::new(root)?;
        Ok(Self {
            frames: vec![frame],
            waiting: 0,
            path: PathBuf::new(),
            enter: None,
            shown: false,
            names_limit: NAMES,
            one_device: None,
        })
    }

    /// Directories of other file systems are given, but not entered.
    pub fn on_one_device(mut self) -> io::Result<Self> {
        self.one_device = Some(self.dir().own_meta()?.device);
        Ok(self)
    }

    #[cfg(test)]
    fn with_names_limit(mut self, bytes: usize) -> Self {
        self.names_limit = bytes;
        self
    }

    /// Where the last entry lies, below the directory that the walk began in.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory that holds the last entry.
    #[must_use]
    pub fn dir(&self) -> &Dir {
        let frame = self
            .frames
            .last()
            .expect("the first frame stays until the walk is over");
        frame.dir.as_ref().expect("the innermost directory is open")
    }

    /// How many directories lie between the entry and the start of the walk.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.frames.len().saturating_sub(1)
    }

    /// The directory that was just given is not entered.
    pub fn skip(&mut self) {
        self.enter = None;
    }

    /// The next entry; `None` at the end.
    pub fn step(&mut self) -> Option<Step> {
        if let Some(name) = self.enter.take() {
            if let Err(error) = self.descend(&name) {
                return Some(self.problem(error));
            }
        } else {
            self.hide();
        }
        loop {
            let at = self.frames.len().checked_sub(1)?;
            let name = match self.frames[at].names.pop() {
                Some(name) => name,
                None if self.frames[at].more => match self.fill(at) {
                    Ok(()) => continue,
                    Err(error) => {
                        self.frames[at].more = false;
                        return Some(self.problem(error));
                    }
                },
                None if at == 0 => {
                    // The first directory stays, so that `dir` has an answer after the end.
                    return None;
                }
                None => match self.ascend() {
                    Ok(()) => continue,
                    Err(error) => return Some(self.problem(error)),
                },
            };
            let frame = &mut self.frames[at];
            frame.cost -= cost(&name);
            self.waiting -= cost(&name);
            frame.last = Some(name.clone());
            let found = self.dir().meta(&name);
            self.path.push(&name);
            self.shown = true;
            match found {
                Ok(meta) => {
                    let other = self.one_device.is_some_and(|device| device != meta.device);
                    self.enter = (meta.kind == Kind::Dir && !other).then(|| name.clone());
                    return Some(Step::Entry(Entry { name, meta }));
                }
                // Removed since the directory was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.hide(),
                Err(error) => return Some(self.problem(error)),
            }
        }
    }

    fn hide(&mut self) {
        if std::mem::take(&mut self.shown) {
            self.path.pop();
        }
    }

    fn problem(&self, error: io::Error) -> Step {
        Step::Problem(Problem {
            path: self.path.clone(),
            error,
        })
    }

    /// Into the directory that was just given. What was swapped for something else since fails to open.
    fn descend(&mut self, name: &OsString) -> io::Result<()> {
        let dir = match self.dir().open_dir(name) {
            Ok(dir) => dir,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.hide();
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let frame = Frame::new(dir)?;
        if self.one_device.is_some_and(|device| device != frame.id.0) {
            self.hide();
            return Ok(());
        }
        self.frames.push(frame);
        self.shown = false;
        // The outermost handle is kept: every other one can be found again from it.
        if let Some(far) = self.frames.len().checked_sub(OPEN).filter(|far| *far > 0) {
            self.frames[far].dir = None;
        }
        Ok(())
    }

    /// Back to the directory above. `path` is that of the directory that is left, until it is popped.
    fn ascend(&mut self) -> io::Result<()> {
        let left = self
            .frames
            .pop()
            .expect("a directory is only left if there is one above");
        self.path.pop();
        let at = self.frames.len() - 1;
        if self.frames[at].dir.is_some() {
            return Ok(());
        }
        let id = self.frames[at].id;
        let same = |dir: &Dir| dir.own_meta().is_ok_and(|found| found.id() == id);
        let parent = left.dir.as_ref().and_then(|dir| dir.parent().ok()).filter(same);
        let again = match parent {
            Some(dir) => Ok(dir),
            // The child was moved, or its parent cannot be reached from it: all the way from the start.
            None => self.start().open_dir(&self.path),
        };
        match again {
            Ok(dir) if same(&dir) => {
                self.frames[at].dir = Some(dir);
                Ok(())
            }
            Ok(_) => self.give_up(at, io::Error::other("it was replaced while it was read")),
            Err(error) => self.give_up(at, error),
        }
    }

    /// The rest of a directory cannot be read any more. A handle is put in its place that leads nowhere new.
    fn give_up(&mut self, at: usize, error: io::Error) -> io::Result<()> {
        let frame = &mut self.frames[at];
        self.waiting -= frame.cost;
        (frame.names, frame.cost, frame.more) = (Vec::new(), 0, false);
        let start = self.start().try_clone()?;
        self.frames[at].dir = Some(start);
        Err(error)
    }

    fn start(&self) -> &Dir {
        self.frames[0].dir.as_ref().expect("the outermost directory stays open")
    }

    /// Reads the names behind the last one, as many as there is room for.
    fn fill(&mut self, at: usize) -> io::Result<()> {
        if self.waiting + LEAST > self.names_limit {
            for outer in &mut self.frames[..at] {
                // Read again on the way up.
                outer.more |= !outer.names.is_empty();
                (outer.names, outer.cost) = (Vec::new(), 0);
            }
            self.waiting = 0;
        }
        let room = self
            .names_limit
            .saturating_sub(self.waiting)
            .max(LEAST.min(self.names_limit));
        let frame = &mut self.frames[at];
        frame.more = false;
        let mut smallest = BinaryHeap::new();
        let mut kept = 0;
        let dir = frame.dir.as_ref().expect("the innermost directory is open");
        for entry in dir.entries()? {
            let name = entry?.name;
            if frame.last.as_ref().is_some_and(|last| name <= *last) {
                continue;
            }
            kept += cost(&name);
            smallest.push(name);
            while kept > room && smallest.len() > 1 {
                let largest: OsString = smallest.pop().expect("there are at least two");
                kept -= cost(&largest);
                frame.more = true;
            }
        }
        frame.cost = kept;
        frame.names = smallest.into_sorted_vec();
        frame.names.reverse();
        self.waiting += frame.cost;
        Ok(())
    }
}

impl Frame {
    fn new(dir: Dir) -> io::Result<Self> {
        Ok(Self {
            id: dir.own_meta()?.id(),
            dir: Some(dir),
            names: Vec::new(),
            cost: 0,
            more: true,
            last: None,
        })
    }
}

fn cost(name: &OsString) -> usize {
    name.len() + NAME_COST
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A container fills directories at every level, so that the names that wait fill the memory of whoever walks.
    #[test]
    fn names_beyond_the_bound_are_read_again_and_given_once() {
        let site = tempfile::tempdir().expect("a directory");
        let mut expected = Vec::new();
        for outer in 0..30 {
            for inner in 0..30 {
                let path = PathBuf::from(format!("{outer:02}/{inner:02}"));
                std::fs::create_dir_all(site.path().join(&path)).expect("a directory");
                for name in ["a", "b", "c"] {
                    std::fs::write(site.path().join(&path).join(name), "x").expect("a file");
                    expected.push(path.join(name));
                }
                expected.push(path);
            }
            expected.push(PathBuf::from(format!("{outer:02}")));
        }
        expected.sort();
        let root = Dir::open(site.path()).expect("it is there");
        for limit in [1, 100, 500, 5_000] {
            let mut walk = Walk::new(&root).expect("it is readable").with_names_limit(limit);
            let mut found = Vec::new();
            while let Some(step) = walk.step() {
                assert!(matches!(step, Step::Entry(_)), "{step:?}");
                found.push(walk.path().to_owned());
            }
            assert_eq!(found, expected, "with {limit} bytes");
        }
    }
}
