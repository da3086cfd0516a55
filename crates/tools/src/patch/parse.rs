//! The text of a patch.

use crate::error::{Code, Error};

/// Most files that one patch changes.
pub const MAX_FILES: usize = 200;

/// A patch as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patch {
    /// In the order of the text.
    pub changes: Vec<Change>,
}

impl Patch {
    /// Every path that it names, also those that files move to.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.changes
            .iter()
            .flat_map(|change| match change {
                Change::Add { path, .. } | Change::Delete { path } => [Some(path.as_str()), None],
                Change::Update { path, to, .. } => [Some(path.as_str()), to.as_deref()],
            })
            .flatten()
    }
}

/// What a patch does to one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Makes a file that does not exist.
    Add {
        /// The file.
        path: String,
        /// Its content; every line ends.
        content: String,
    },
    /// Removes a file.
    Delete {
        /// The file.
        path: String,
    },
    /// Changes a file, and moves it.
    Update {
        /// The file.
        path: String,
        /// Its new path.
        to: Option<String>,
        /// In the order of the file.
        hunks: Vec<Hunk>,
    },
}

/// One place of a file and its change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hunk {
    /// Lines above the place, outermost first, such as the head of a function.
    pub headings: Vec<String>,
    /// In the order of the text.
    pub lines: Vec<Line>,
    /// The old lines are the file's last.
    pub at_end: bool,
    /// The line of the patch at which it begins, from 1.
    pub line: usize,
}

/// One line of a hunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// It is there and stays as it is.
    Keep(String),
    /// It is there and goes.
    Remove(String),
    /// It comes.
    Add(String),
}

impl Hunk {
    /// The lines that are there.
    pub fn old(&self) -> Vec<&str> {
        self.lines
            .iter()
            .filter_map(|line| match line {
                Line::Keep(text) | Line::Remove(text) => Some(text.as_str()),
                Line::Add(_) => None,
            })
            .collect()
    }
}

/// Reads a patch. A heredoc or a fence around it is taken off.
pub fn parse(text: &str) -> Result<Patch, Error> {
    let lines: Vec<&str> = text.lines().collect();
    let (lines, first) = unwrapped(&lines)?;
    let mut reader = Reader { lines, at: 0, first };
    let mut changes = Vec::new();
    while let Some(line) = reader.next() {
        if changes.len() == MAX_FILES {
            return Err(reader.error(format!("more than {MAX_FILES} files")));
        }
        if let Some(path) = header(line, "Add File") {
            changes.push(Change::Add {
                path: reader.path(path)?,
                content: reader.added()?,
            });
        } else if let Some(path) = header(line, "Delete File") {
            changes.push(Change::Delete {
                path: reader.path(path)?,
            });
        } else if let Some(path) = header(line, "Update File") {
            changes.push(reader.update(path)?);
        } else if !line.trim().is_empty() {
            return Err(reader.error(format!("{:?} is not the head of a file", short(line))));
        }
    }
    if changes.is_empty() {
        return Err(invalid("the patch changes nothing"));
    }
    Ok(Patch { changes })
}

/// The paths that a patch names, without reading the rest of it: what a call holds before it is known to be right.
pub fn paths(text: &str) -> Vec<String> {
    let heads = ["Add File", "Delete File", "Update File", "Move to"];
    let mut paths = Vec::new();
    for line in text.lines() {
        if let Some(path) = heads.iter().find_map(|head| header(line, head))
            && !paths.iter().any(|known| known == path)
        {
            paths.push(path.to_owned());
        }
    }
    paths
}

/// The lines between Begin and End, and how many lines stand before them.
fn unwrapped<'a, 'b>(lines: &'b [&'a str]) -> Result<(&'b [&'a str], usize), Error> {
    let is = |line: &str, word: &str| line.trim() == format!("*** {word} Patch");
    let begin = lines.iter().position(|line| is(line, "Begin"));
    let end = lines.iter().rposition(|line| is(line, "End"));
    let (Some(begin), Some(end)) = (begin, end) else {
        return Err(invalid(
            "the patch is not between \"*** Begin Patch\" and \"*** End Patch\"",
        ));
    };
    let around = lines[..begin].iter().chain(&lines[(end + 1).min(lines.len())..]);
    if begin >= end || around.clone().count() > 4 || around.clone().any(|line| !is_wrapping(line)) {
        return Err(invalid(
            "there is text outside of \"*** Begin Patch\" and \"*** End Patch\"",
        ));
    }
    Ok((&lines[begin + 1..end], begin + 1))
}

/// A line of a fence or of a heredoc, or an empty one.
fn is_wrapping(line: &str) -> bool {
    let line = line.trim();
    let word = |text: &str| {
        text.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
    };
    let fence = line.strip_prefix("```").is_some_and(word);
    let heredoc = line.split_once("<<").is_some_and(|(command, end)| {
        let command = command.trim();
        let end = end.trim_start_matches('-').trim_matches(['\'', '"', ' ']);
        (command.is_empty() || command == "apply_patch" || command == "cat") && !end.is_empty() && word(end)
    });
    line.is_empty()
        || fence
        || heredoc
        || (line.len() <= 16 && line.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'))
}

fn header<'a>(line: &'a str, head: &str) -> Option<&'a str> {
    line.trim_end()
        .strip_prefix("*** ")?
        .strip_prefix(head)?
        .strip_prefix(':')
        .map(str::trim)
}

struct Reader<'a, 'b> {
    lines: &'b [&'a str],
    at: usize,
    /// Lines of the text before the first of `lines`.
    first: usize,
}

impl<'a> Reader<'a, '_> {
    fn next(&mut self) -> Option<&'a str> {
        let line = self.lines.get(self.at).copied();
        self.at += usize::from(line.is_some());
        line
    }

    /// The next line, unless a file begins there.
    fn within(&mut self) -> Option<&'a str> {
        let line = *self.lines.get(self.at)?;
        let begins = ["Add File", "Delete File", "Update File"]
            .iter()
            .any(|head| header(line, head).is_some());
        if begins { None } else { self.next() }
    }

    fn path(&self, path: &str) -> Result<String, Error> {
        crate::path::file(path).map_err(|error| self.error(error.what).with_next(error.next))
    }

    fn added(&mut self) -> Result<String, Error> {
        let mut content = String::new();
        while let Some(line) = self.within() {
            let Some(line) = line.strip_prefix('+') else {
                if line.trim().is_empty() {
                    continue;
                }
                return Err(self.error(format!("{:?} does not begin with \"+\"", short(line))));
            };
            content.push_str(line);
            content.push('\n');
        }
        Ok(content)
    }

    fn update(&mut self, path: &str) -> Result<Change, Error> {
        let path = self.path(path)?;
        let mut to = None;
        if let Some(target) = self.lines.get(self.at).and_then(|line| header(line, "Move to")) {
            self.at += 1;
            to = Some(self.path(target)?);
        }
        let mut hunks = Hunks::default();
        while let Some(line) = self.within() {
            hunks
                .line(line, self.first + self.at)
                .map_err(|what| self.error(what))?;
        }
        let hunks = hunks.finish();
        if hunks.is_empty() && to.is_none() {
            return Err(self.error(format!("no change is given for {path}")));
        }
        Ok(Change::Update { path, to, hunks })
    }

    fn error(&self, what: impl Into<String>) -> Error {
        let mut error = invalid("");
        error.what = Error::new(
            Code::InvalidArguments,
            format!("line {} of the patch: {}", self.first + self.at, what.into()),
        )
        .what;
        error
    }
}

/// Takes the lines of one file's changes.
#[derive(Default)]
struct Hunks {
    done: Vec<Hunk>,
    open: Option<Hunk>,
    /// Empty lines, without even a blank, at the end of the open hunk: they may belong to the layout of the patch.
    blanks: usize,
    /// The end of the file was named.
    ended: bool,
}

impl Hunks {
    fn line(&mut self, line: &str, number: usize) -> Result<(), String> {
        let heading = if line.trim_end() == "@@" {
            Some("")
        } else {
            line.strip_prefix("@@ ")
        };
        if let Some(heading) = heading {
            // Headings may follow one another: the function within the class.
            if self.open.as_ref().is_none_or(|hunk| !hunk.lines.is_empty()) {
                self.close();
                self.open = Some(Hunk {
                    line: number,
                    ..Hunk::default()
                });
            }
            if let Some(hunk) = self.open.as_mut().filter(|_| !heading.trim().is_empty()) {
                hunk.headings.push(heading.to_owned());
            }
            return Ok(());
        }
        if line.trim_end() == "*** End of File" {
            let Some(hunk) = &mut self.open else {
                return Err("\"*** End of File\" without lines before it".to_owned());
            };
            hunk.at_end = true;
            self.close();
            self.ended = true;
            return Ok(());
        }
        if self.open.is_none() && self.ended {
            return if line.is_empty() {
                Ok(())
            } else {
                Err(format!("{:?} stands after the end of the file", short(line)))
            };
        }
        let hunk = self.open.get_or_insert_with(|| Hunk {
            line: number,
            ..Hunk::default()
        });
        let blanks = std::mem::take(&mut self.blanks);
        match line.split_at_checked(1) {
            // Models leave out the blank that begins an empty line.
            None => {
                hunk.lines.push(Line::Keep(String::new()));
                self.blanks = blanks + 1;
            }
            Some((" ", rest)) => hunk.lines.push(Line::Keep(rest.to_owned())),
            Some(("-", rest)) => hunk.lines.push(Line::Remove(rest.to_owned())),
            Some(("+", rest)) => hunk.lines.push(Line::Add(rest.to_owned())),
            Some(_) => {
                return Err(format!(
                    "{:?} begins with none of blank, \"-\", \"+\", \"@@\"",
                    short(line)
                ));
            }
        }
        Ok(())
    }

    fn close(&mut self) {
        let blanks = std::mem::take(&mut self.blanks);
        if let Some(mut hunk) = self.open.take() {
            hunk.lines.truncate(hunk.lines.len() - blanks);
            if !hunk.lines.is_empty() {
                self.done.push(hunk);
            }
        }
    }

    fn finish(mut self) -> Vec<Hunk> {
        self.close();
        self.done
    }
}

fn invalid(what: &str) -> Error {
    Error::new(Code::InvalidArguments, what).with_next(
        "A patch is: \"*** Begin Patch\", for each file \"*** Add File: path\", \"*** Delete File: path\" or \"*** Update File: path\" with lines that begin with blank, \"-\" or \"+\", \"*** End Patch\".",
    )
}

fn short(line: &str) -> &str {
    &line[..line.floor_char_boundary(80)]
}
