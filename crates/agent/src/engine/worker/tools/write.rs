//! `write_file`, `edit_file` and `apply_patch`: written beside, on the disk, and then in place, as the session's owner.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::Path;

use nexus_tools::edit::{Edited, MAX_FILE_BYTES, edit, hash};
use nexus_tools::patch::{self, Step};
use nexus_tools::{ApplyPatch, Code, EditFile, Error, WriteFile};
use nexus_walk::{Dir, Fresh, Meta, read_bounded};
use serde_json::json;

use super::place::{At, Files};
use super::seen::Seen;
use crate::engine::worker::outcome::{Told, key};
use crate::engine::worker::output::Output;

/// Of new files and directories.
const FILE_MODE: u32 = 0o644;
const DIR_MODE: u32 = 0o755;
/// Bits that a written file keeps: never those that give rights to whoever executes it.
const KEPT_MODE: u32 = 0o777;
/// So much of the present content is told where it is not what the model thinks.
const CONTENT_BYTES: usize = 24 << 10;
/// A difference that is told.
const DIFF_BYTES: usize = 24 << 10;

/// `overwrites`: the content that is there need not have been read before.
pub fn write_file(
    files: &Files,
    seen: &Seen,
    output: &Output,
    asked: &WriteFile,
    overwrites: bool,
) -> Result<Told, Error> {
    let at = files.to_write(&asked.path)?;
    let before = current(files, &at)?;
    let after = asked.content.as_bytes();
    if let Some((content, _)) = &before
        && !overwrites
        && seen.hash(&at.inside).as_deref() != Some(hash(content).as_str())
    {
        return Err(changed(seen, &at, content));
    }
    let hash_after = hash(after);
    let hash_before = before.as_ref().map(|(content, _)| hash(content)).unwrap_or_default();
    announce(output, &hash_before, &hash_after);
    put(files, &at, after, before.as_ref().map(|(_, meta)| meta))?;
    seen.note(&at.inside, &hash_after);
    let what = if before.is_some() { "replaced" } else { "made" };
    let told = Told::text(format!(
        "[{}: {what}, {} bytes, sha256 {hash_after}]",
        at.shown,
        after.len()
    ));
    Ok(hashes(told, &hash_before, &hash_after))
}

pub fn edit_file(files: &Files, seen: &Seen, output: &Output, asked: &EditFile) -> Result<Told, Error> {
    let at = files.to_write(&asked.path)?;
    let (content, meta) = current(files, &at)?.ok_or_else(|| {
        Error::new(Code::NotFound, format!("no file {:?}", at.shown))
            .with_next("write_file makes a new file; find looks for one by its name.")
    })?;
    let Edited {
        content: after,
        hash_before,
        hash_after,
        diff,
        replaced,
        mut notes,
    } = edit(
        &at.shown,
        &content,
        &asked.old_string,
        &asked.new_string,
        asked.replace_all,
    )?;
    if seen.hash(&at.inside).is_some_and(|seen| seen != hash_before) {
        notes.push("the file had changed since it was last read here".into());
    }
    announce(output, &hash_before, &hash_after);
    put(files, &at, &after, Some(&meta))?;
    seen.note(&at.inside, &hash_after);
    let mut text = format!("[{}: {replaced} replaced, sha256 {hash_after}]\n", at.shown);
    for note in notes {
        text += &format!("note: {note}\n");
    }
    text += cut(&diff, DIFF_BYTES).0;
    Ok(hashes(Told::text(text), &hash_before, &hash_after))
}

pub fn apply_patch(files: &Files, seen: &Seen, output: &Output, asked: &ApplyPatch) -> Result<Told, Error> {
    let parsed = patch::parse(&asked.patch)?;
    let plan = patch::plan(&parsed, |path| {
        let at = files.to_write(path)?;
        Ok(current(files, &at)?.map(|(content, _)| content))
    })?;
    let mut modes = Vec::new();
    for step in &plan.steps {
        let of = match step {
            Step::Write {
                mode_of: Some(path), ..
            } => Some(path.as_str()),
            Step::Write { mode_of: None, .. } => None,
            Step::Remove { path, .. } => Some(path.as_str()),
        };
        let meta = match of {
            Some(path) => current(files, &files.to_write(path)?)?.map(|(_, meta)| meta),
            None => None,
        };
        modes.push(meta);
    }
    if let [step] = &plan.steps[..] {
        announce(output, &step.hash_before(), &step.hash_after());
    }
    for (done, (step, meta)) in plan.steps.iter().zip(&modes).enumerate() {
        let tried = carry_out(files, step, meta.as_ref());
        if let Err(error) = tried {
            let back = plan.steps[..=done].iter().zip(&modes).rev();
            let stuck: Vec<String> = back
                .filter_map(|(step, meta)| put_back(files, step, meta.as_ref()).err())
                .map(|error| error.what)
                .collect();
            let what = match stuck.is_empty() {
                true => format!("{}; nothing was changed", error.what),
                false => format!(
                    "{}; and not everything could be put back: {}",
                    error.what,
                    stuck.join("; ")
                ),
            };
            return Err(Error::new(error.code, what));
        }
    }
    let mut text = format!("[{} files changed]\n", plan.steps.len());
    let mut told = Vec::new();
    for step in &plan.steps {
        let at = files.to_write(step.path())?;
        let after = current(files, &at)?
            .map(|(content, _)| hash(&content))
            .unwrap_or_default();
        if after != step.hash_after() {
            return Err(Error::new(
                Code::Changed,
                format!("{} was changed by somebody else while the patch was applied", at.shown),
            ));
        }
        seen.note(&at.inside, &after);
        told.push((step.hash_before(), after));
    }
    text += cut(&plan.diff, DIFF_BYTES).0;
    let all = |pick: fn(&(String, String)) -> &str| told.iter().map(pick).collect::<Vec<_>>().join(",");
    Ok(Told::text(text)
        .with(key::HASH_BEFORE, all(|(before, _)| before))
        .with(key::HASH_AFTER, all(|(_, after)| after)))
}

fn carry_out(files: &Files, step: &Step, meta: Option<&Meta>) -> Result<(), Error> {
    let at = files.to_write(step.path())?;
    match step {
        Step::Write { after, .. } => put(files, &at, after, meta),
        Step::Remove { .. } => remove(files, &at),
    }
}

fn put_back(files: &Files, step: &Step, meta: Option<&Meta>) -> Result<(), Error> {
    let at = files.to_write(step.path())?;
    match step {
        Step::Write { before: None, .. } => match current(files, &at)? {
            Some(_) => remove(files, &at),
            None => Ok(()),
        },
        Step::Write {
            before: Some(before), ..
        }
        | Step::Remove { before, .. } => put(files, &at, before, meta),
    }
}

fn remove(files: &Files, at: &At<'_>) -> Result<(), Error> {
    let _rights = files.rights()?;
    let removed = at
        .parent()
        .and_then(|(dir, name)| dir.remove_file(&name).and_then(|()| dir.sync()));
    removed.map_err(|error| at.failed(&error))
}

/// What is there now; `None` if nothing is.
fn current(files: &Files, at: &At<'_>) -> Result<Option<(Vec<u8>, Meta)>, Error> {
    let _rights = files.rights()?;
    match at.dir.open_file(&at.path) {
        Ok((file, meta)) => {
            if meta.bytes > MAX_FILE_BYTES as u64 {
                return Err(Error::new(
                    Code::TooLarge,
                    format!(
                        "{} has {} bytes, {MAX_FILE_BYTES} can be changed here",
                        at.shown, meta.bytes
                    ),
                )
                .with_next("Change it with a program, by exec."));
            }
            let content = read_bounded(&file, MAX_FILE_BYTES as u64).map_err(|error| at.failed(&error))?;
            Ok(Some((content, meta)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at.failed(&error)),
    }
}

/// Beside it first, then in its place; with the mode of what was there.
fn put(files: &Files, at: &At<'_>, content: &[u8], before: Option<&Meta>) -> Result<(), Error> {
    let failed = |error: io::Error| at.failed(&error);
    let mode = before.map_or(FILE_MODE, |meta| meta.mode & KEPT_MODE);
    let (dir, name) = directories(files, at)?;
    let fresh = {
        let _rights = files.rights()?;
        let mut fresh = Fresh::new(&dir, mode).map_err(failed)?;
        fresh.file_mut().write_all(content).map_err(failed)?;
        fresh
    };
    files.give(fresh.file(), before.map(|meta| meta.gid)).map_err(failed)?;
    let _rights = files.rights()?;
    fresh.replace(&name).map_err(failed)
}

/// The directory of a file; what is missing on the way is made.
fn directories(files: &Files, at: &At<'_>) -> Result<(Dir, std::ffi::OsString), Error> {
    let failed = |error: io::Error| at.failed(&error);
    let name = at.path.file_name().map(OsStr::to_owned);
    let name = name.ok_or_else(|| Error::new(Code::InvalidArguments, format!("{} is no file", at.shown)))?;
    let mut here = at.dir.try_clone().map_err(failed)?;
    for part in at.path.parent().unwrap_or(Path::new("")).components() {
        let opened = {
            let _rights = files.rights()?;
            here.open_dir(part.as_os_str())
        };
        here = match opened {
            Ok(next) => next,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = {
                    let _rights = files.rights()?;
                    here.create_dir(part.as_os_str(), DIR_MODE).map_err(failed)?
                };
                files.give(&made, None).map_err(failed)?;
                made
            }
            Err(error) => return Err(failed(error)),
        };
    }
    Ok((here, name))
}

/// The present content is told, and from then on it has been seen.
fn changed(seen: &Seen, at: &At<'_>, content: &[u8]) -> Error {
    let text = String::from_utf8_lossy(content);
    let (shown, whole) = cut(&text, CONTENT_BYTES);
    let known = seen.hash(&at.inside).is_some();
    if whole {
        seen.note(&at.inside, &hash(content));
    }
    let what = match known {
        true => format!("{} was changed since it was last read", at.shown),
        false => format!("{} is there already, and was not read", at.shown),
    };
    let cut = if whole {
        ""
    } else {
        "\n[the rest is left out: read it with read_file]"
    };
    Error::new(Code::Changed, what).with_next(format!(
        "This is its present content. Write again if it may be replaced, or change a part with edit_file.\n{shown}{cut}"
    ))
}

/// What a file is and will be is said before it is written: after a death in between it shows what happened.
fn announce(output: &Output, before: &str, after: &str) {
    output.announce(json!({ key::HASH_BEFORE: before, key::HASH_AFTER: after }).to_string());
}

fn hashes(told: Told, before: &str, after: &str) -> Told {
    told.with(key::HASH_BEFORE, before).with(key::HASH_AFTER, after)
}

/// Whole lines of at most so many bytes, and whether that is all.
fn cut(text: &str, most: usize) -> (&str, bool) {
    if text.len() <= most {
        return (text, true);
    }
    let end = text.floor_char_boundary(most);
    let end = text[..end].rfind('\n').map_or(end, |at| at + 1);
    (&text[..end], false)
}
