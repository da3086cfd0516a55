//! Which module of a crate uses which: reads the sources, compares the arrows with the list in the checkout, and names
//! those that point the wrong way.
//!
//! ```text
//! sources ──tree──▶ modules ──uses──▶ arrows between files ──floors, circles──▶ report ◀──compare──▶ tests/rooms.txt
//! ```
//!
//! A program of its own, so that a checkout that only builds the daemons does not compile a parser of Rust.
//! Code under `#[cfg(test)]` is not looked at: tests may reach anywhere.

mod arrows;
mod circles;
mod floors;
mod list;
mod tree;
mod uses;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};

use crate::list::List;

const LIST: &str = "tests/rooms.txt";

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rooms: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `nexus-rooms CHECKOUT [--bless]`; `cargo xtask rooms` calls it.
fn run(mut args: impl Iterator<Item = String>) -> Result<()> {
    let checkout = PathBuf::from(args.next().context("name the directory of the checkout")?);
    let bless = match args.next().as_deref() {
        None => false,
        Some("--bless") => true,
        Some(other) => bail!("unknown argument {other:?}"),
    };
    let now = read(&checkout.join("crates"))?;
    let path = checkout.join(LIST);
    let first = !path.exists();
    if first && !bless {
        bail!("{LIST} is missing; write it with: cargo xtask rooms --bless");
    }
    let then = if first {
        now.clone()
    } else {
        List::parse(&fs::read_to_string(&path).with_context(|| format!("failed to read {LIST}"))?)
    };
    let more = now.worse_than(&then);
    if !more.is_empty() {
        bail!(
            "these point the wrong way, or close a circle, and {LIST} does not name them:\n  {}\n\
             move the code, or hand the value in from above; --bless does not add them",
            more.join("\n  ")
        );
    }
    if bless {
        fs::write(&path, now.print()).with_context(|| format!("failed to write {LIST}"))?;
        println!("wrote {LIST}");
        return Ok(());
    }
    let difference = now.difference(&then);
    if !difference.is_empty() {
        bail!("the module arrows are not those in {LIST}:\n{difference}if that is meant: cargo xtask rooms --bless");
    }
    println!("module arrows: as in {LIST}, {}", now.count());
    Ok(())
}

fn read(crates: &Path) -> Result<List> {
    let mut names: Vec<PathBuf> = fs::read_dir(crates)
        .with_context(|| format!("failed to read {}", crates.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    names.sort();
    let mut list = List::default();
    for path in names.iter().filter(|path| path.join("Cargo.toml").exists()) {
        let name = path
            .file_name()
            .context("a crate lies in a directory")?
            .to_string_lossy();
        list.add(&name, &arrows::of_crate(path)?);
    }
    Ok(list)
}
