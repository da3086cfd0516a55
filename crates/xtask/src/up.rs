//! From a clean clone to a first conversation.

use std::{path::Path, process::Command};

use anyhow::{Result, bail};

use crate::cargo;

pub fn up() -> Result<()> {
    let bin = cargo::build_binaries("release")?;
    println!();
    if cargo::run(&mut nexus(&bin, &["up"])).is_err() {
        bail!("Nexus did not come up; the reason stands above");
    }
    println!();
    cargo::run(&mut nexus(&bin, &["chat", "hello"]))?;
    let path = bin.strip_prefix(cargo::root()).unwrap_or(&bin).join("nexus");
    let path = path.display();
    println!(
        "\n\
         That was the offline model: it costs nothing and knows nothing. Try next:\n\n\
         \x20 {path} chat                       a conversation\n\
         \x20 {path} models key set anthropic   a real model\n\
         \x20 {path} status                     how the daemons are\n\
         \x20 {path} events --follow            what happens inside\n\
         \x20 cargo xtask down                  stop everything"
    );
    Ok(())
}

pub fn down() -> Result<()> {
    let bin = cargo::target_dir()?.join("release");
    if !bin.join("nexus").exists() {
        bail!("nothing was built here yet; cargo xtask up builds and starts it");
    }
    cargo::run(&mut nexus(&bin, &["down"]))
}

fn nexus(bin: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(bin.join("nexus"));
    // These daemons, and not others that are installed.
    command.args(args).env("NEXUS_BIN_DIR", bin);
    command
}
