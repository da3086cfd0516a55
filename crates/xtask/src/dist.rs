//! What ships: one build with everything the optimiser can do.

use std::fs;

use anyhow::{Context, Result};

use crate::cargo;

pub fn run() -> Result<()> {
    let bin = cargo::build_binaries("dist")?;
    println!();
    for binary in cargo::BINARIES {
        let path = bin.join(binary);
        let size = fs::metadata(&path)
            .with_context(|| format!("failed to look at {}", path.display()))?
            .len();
        println!("{:>8.2} MB  {}", size as f64 / 1e6, path.display());
    }
    Ok(())
}
