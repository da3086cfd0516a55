//! `list_dir`, `find` and `grep`: a walk beneath a directory handle, in the order of names, that ends in time.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use globset::{GlobBuilder, GlobMatcher};
use grep_regex::{RegexMatcher, RegexMatcherBuilder};
use grep_searcher::{BinaryDetection, Searcher, SearcherBuilder, Sink, SinkContext, SinkMatch};
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use nexus_tools::output::{MAX_MATCH_CHARS, shorten_line};
use nexus_tools::{Code, Error, Find, Grep, ListDir};
use nexus_walk::{Dir, Kind, Step, Walk, read_bounded};

use super::place::Files;

const LIST_ENTRIES: usize = 500;
/// Longest that a search may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// Larger files are left out, and that is said.
const SEARCHED_BYTES: u64 = 256 << 20;
/// The largest file of rules that is read.
const IGNORE_BYTES: u64 = 256 << 10;
/// The text that a search gives before it is cut for the model.
const TEXT_BYTES: usize = 4 << 20;

pub fn list(files: &Files, asked: &ListDir) -> Result<String, Error> {
    let path = asked.path.as_deref().unwrap_or(".");
    let at = files.at(path)?;
    let _rights = files.rights()?;
    let dir = at.dir.open_dir(&at.path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotADirectory if at.dir.open_any(&at.path).is_ok() => {
            Error::new(Code::InvalidArguments, format!("{:?} is a file", at.shown)).with_next("Use read_file.")
        }
        _ => at.failed(&error),
    })?;
    let depth = asked.depth.clamp(1, 5) as usize;
    let mut walk = begin(&dir, &at.shown)?;
    let (mut text, mut count) = (String::new(), 0);
    while let Some(step) = walk.step() {
        let Step::Entry(entry) = step else { continue };
        if count == LIST_ENTRIES {
            text +=
                &format!("[only the first {LIST_ENTRIES} entries are listed: list a directory below, or use find]\n");
            break;
        }
        count += 1;
        let name = walk.path().display();
        text += &match entry.meta.kind {
            Kind::Dir => format!("{name}/\n"),
            Kind::File => format!("{name}  {}\n", entry.meta.bytes),
            Kind::Link => {
                let to = walk.dir().read_link(&entry.name).unwrap_or_default();
                format!("{name} -> {}\n", to.display())
            }
            kind => format!("{name}  [{}]\n", kind.name()),
        };
        if entry.meta.kind == Kind::Dir && (walk.depth() + 1 >= depth || entry.name == ".git") {
            walk.skip();
        }
    }
    if count == 0 {
        text += "[the directory is empty]\n";
    }
    Ok(text)
}

pub fn find(files: &Files, asked: &Find) -> Result<String, Error> {
    let glob = glob(&asked.glob)?;
    let at = files.at(asked.path.as_deref().unwrap_or("."))?;
    let limit = asked.limit.clamp(1, 1000);
    let _rights = files.rights()?;
    let dir = at.dir.open_dir(&at.path).map_err(|error| at.failed(&error))?;
    let mut search = Search::new(&dir, &at.shown)?;
    let (mut text, mut count) = (String::new(), 0);
    while let Some(found) = search.next() {
        if !glob.fits(search.walk.path(), &found.name) {
            continue;
        }
        if count == limit {
            text += &format!("[only the first {limit} are shown: narrow the glob or the path]\n");
            break;
        }
        count += 1;
        text += &search.shown(&at.shown);
        text += if found.kind == Kind::Dir { "/\n" } else { "\n" };
    }
    if count == 0 {
        text += "[nothing has such a name]\n";
    }
    search.note(&mut text);
    Ok(text)
}

/// A glob of names, or of paths where it has a slash.
struct Glob {
    matcher: GlobMatcher,
    of_names: bool,
}

impl Glob {
    fn fits(&self, path: &Path, name: &std::ffi::OsStr) -> bool {
        if self.of_names {
            self.matcher.is_match(name)
        } else {
            self.matcher.is_match(path)
        }
    }
}

fn glob(text: &str) -> Result<Glob, Error> {
    let text = text.strip_prefix("./").unwrap_or(text);
    let made = GlobBuilder::new(text)
        .literal_separator(true)
        .backslash_escape(true)
        .build();
    let made = made.map_err(|error| Error::new(Code::InvalidArguments, format!("at /glob: {error}")))?;
    Ok(Glob {
        matcher: made.compile_matcher(),
        of_names: !text.contains('/'),
    })
}

pub fn grep(files: &Files, asked: &Grep, live: impl Fn(&str) -> Option<PathBuf>) -> Result<String, Error> {
    let matcher = RegexMatcherBuilder::new()
        .line_terminator(Some(b'\n'))
        .build(&asked.pattern)
        .map_err(|error| {
            Error::new(Code::InvalidArguments, format!("at /pattern: {error}"))
                .with_next("Escape characters that are meant literally, such as ( or [, by a backslash.")
        })?;
    let only = asked.glob.as_deref().map(glob).transpose()?;
    let context = usize::try_from(asked.context).unwrap_or(0).min(10);
    let mut hits = Hits {
        text: String::new(),
        left: asked.limit.clamp(1, 1000),
        more: false,
        shown: String::new(),
    };
    let mut searcher = SearcherBuilder::new()
        .line_number(true)
        .before_context(context)
        .after_context(context)
        .binary_detection(BinaryDetection::quit(0))
        .build();
    let path = asked.path.as_deref().unwrap_or(".");
    let opened = files.open_to_read(path, live)?;
    if opened.meta.kind == Kind::File {
        hits.shown = opened.shown.clone();
        hits.file(&mut searcher, &matcher, &opened.file);
    } else {
        let at = files.at(path)?;
        let _rights = files.rights()?;
        let dir = at.dir.open_dir(&at.path).map_err(|error| at.failed(&error))?;
        let mut search = Search::new(&dir, &at.shown)?;
        while let Some(found) = search.next() {
            if found.kind != Kind::File
                || only
                    .as_ref()
                    .is_some_and(|only| !only.fits(search.walk.path(), &found.name))
            {
                continue;
            }
            if found.bytes > SEARCHED_BYTES {
                search.left_out += 1;
                continue;
            }
            // A name may have become a link meanwhile: it is then no file.
            let Ok((file, _)) = search.walk.dir().open_file(&found.name) else {
                continue;
            };
            hits.shown = search.shown(&at.shown);
            hits.file(&mut searcher, &matcher, &file);
            if hits.more || hits.text.len() > TEXT_BYTES {
                break;
            }
        }
        search.note(&mut hits.text);
    }
    if hits.text.is_empty() {
        hits.text += "[no match]\n";
    }
    if hits.more {
        hits.text += "[only the first matches are shown: narrow the pattern, the glob or the path]\n";
    }
    Ok(hits.text)
}

/// Collects matches: `file:line:text`, and `file-line-text` around them.
struct Hits {
    text: String,
    left: u64,
    more: bool,
    shown: String,
}

impl Hits {
    fn file(&mut self, searcher: &mut Searcher, matcher: &RegexMatcher, file: &File) {
        let shown = self.shown.clone();
        if let Err(error) = searcher.search_file(matcher, file, &mut *self) {
            tracing::debug!(file = shown, %error, "a file cannot be searched");
        }
    }

    fn line(&mut self, sign: char, number: Option<u64>, bytes: &[u8]) {
        let line = String::from_utf8_lossy(bytes);
        let line = shorten_line(line.trim_end_matches(['\n', '\r']), MAX_MATCH_CHARS).into_owned();
        let number = number.unwrap_or_default();
        self.text += &format!("{}{sign}{number}{sign}{line}\n", self.shown);
    }
}

impl Sink for &mut Hits {
    type Error = std::io::Error;

    fn matched(&mut self, _: &Searcher, found: &SinkMatch<'_>) -> Result<bool, Self::Error> {
        if self.left == 0 {
            self.more = true;
            return Ok(false);
        }
        self.left -= 1;
        self.line(':', found.line_number(), found.bytes());
        Ok(self.text.len() <= TEXT_BYTES)
    }

    fn context(&mut self, _: &Searcher, around: &SinkContext<'_>) -> Result<bool, Self::Error> {
        self.line('-', around.line_number(), around.bytes());
        Ok(true)
    }

    fn context_break(&mut self, _: &Searcher) -> Result<bool, Self::Error> {
        self.text += "--\n";
        Ok(true)
    }
}

fn begin(dir: &Dir, shown: &str) -> Result<Walk, Error> {
    let walk = Walk::new(dir).and_then(Walk::on_one_device);
    walk.map_err(|error| Error::new(Code::Unavailable, format!("{shown:?} cannot be read: {error}")))
}

/// What a search came to.
struct Found {
    name: std::ffi::OsString,
    kind: Kind,
    bytes: u64,
}

/// A walk without what files of rules leave out, and without `.git`.
struct Search {
    walk: Walk,
    rules: Vec<(usize, Gitignore)>,
    until: Instant,
    late: bool,
    left_out: usize,
}

impl Search {
    fn new(dir: &Dir, shown: &str) -> Result<Search, Error> {
        let rules = rules(dir, Path::new("/")).map(|rules| (0, rules)).into_iter().collect();
        Ok(Search {
            walk: begin(dir, shown)?,
            rules,
            until: Instant::now() + DEADLINE,
            late: false,
            left_out: 0,
        })
    }

    fn next(&mut self) -> Option<Found> {
        loop {
            if Instant::now() > self.until {
                self.late = true;
                return None;
            }
            let Step::Entry(entry) = self.walk.step()? else {
                continue;
            };
            let depth = self.walk.depth();
            while self.rules.last().is_some_and(|(of, _)| *of > depth) {
                self.rules.pop();
            }
            let is_dir = entry.meta.kind == Kind::Dir;
            let path = Path::new("/").join(self.walk.path());
            let decided = self
                .rules
                .iter()
                .rev()
                .find_map(|(_, rules)| match rules.matched(&path, is_dir) {
                    ignore::Match::None => None,
                    ignore::Match::Ignore(_) => Some(true),
                    ignore::Match::Whitelist(_) => Some(false),
                });
            if decided == Some(true) || entry.name == ".git" {
                if is_dir {
                    self.walk.skip();
                }
                continue;
            }
            if is_dir
                && let Ok(dir) = self.walk.dir().open_dir(&entry.name)
                && let Some(rules) = rules(&dir, &path)
            {
                self.rules.push((depth + 1, rules));
            }
            return Some(Found {
                name: entry.name,
                kind: entry.meta.kind,
                bytes: entry.meta.bytes,
            });
        }
    }

    /// The path of the last entry, from the workspace on.
    fn shown(&self, from: &str) -> String {
        let path = self.walk.path();
        match from {
            "." | "/workspace" => path.display().to_string(),
            from => Path::new(from).join(path).display().to_string(),
        }
    }

    fn note(&self, text: &mut String) {
        if self.late {
            *text += &format!("[the search was ended after {} s: narrow it]\n", DEADLINE.as_secs());
        }
        if self.left_out > 0 {
            *text += &format!(
                "[{} files of more than {SEARCHED_BYTES} bytes were left out]\n",
                self.left_out
            );
        }
    }
}

/// The rules of a directory, if it has any that can be read.
fn rules(dir: &Dir, path: &Path) -> Option<Gitignore> {
    let mut builder = GitignoreBuilder::new(path);
    let mut any = false;
    for name in [".gitignore", ".ignore"] {
        let Ok((file, meta)) = dir.open_file(name) else {
            continue;
        };
        if meta.bytes > IGNORE_BYTES {
            continue;
        }
        let Ok(bytes) = read_bounded(&file, IGNORE_BYTES) else {
            continue;
        };
        for line in String::from_utf8_lossy(&bytes).lines() {
            // A line that is no rule is none for git either.
            let _ = builder.add_line(None, line);
            any = true;
        }
    }
    any.then(|| builder.build().ok()).flatten()
}
