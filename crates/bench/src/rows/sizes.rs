//! The sizes of the programs.

use std::fs;

use anyhow::{Context, Result};

use super::Run;
use crate::{daemons::DAEMONS, figures::Figure};

pub fn run(run: &Run) -> Result<Vec<Figure>> {
    let daemons = DAEMONS.map(|daemon| format!("nexus-{daemon}"));
    let mut figures = Vec::new();
    for binary in daemons.into_iter().chain(["nexus".to_owned()]) {
        let path = run.bin.join(&binary);
        let found = fs::metadata(&path).with_context(|| format!("failed to look at {}", path.display()))?;
        figures.push(Figure::alone("sizes", binary, "MB", found.len() as f64 / 1e6));
    }
    Ok(figures)
}
