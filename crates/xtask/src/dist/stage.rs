//! Where each file of an installation goes, below `usr/`.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use super::{manual, tree::Tree};
use crate::cargo::{self, BINARIES};

const SHELLS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/nexus"),
    ("zsh", "usr/share/zsh/vendor-completions/_nexus"),
    ("fish", "usr/share/fish/vendor_completions.d/nexus.fish"),
];

/// Copies of the programs without what only a debugger needs. What cargo stripped already stays as it is.
pub fn strip(bin: &Path, to: &Path) -> Result<()> {
    for binary in BINARIES {
        let (from, to) = (bin.join(binary), to.join(binary));
        cargo::run_quietly(Command::new("strip").arg("--strip-all").arg("-o").arg(&to).arg(&from))?;
    }
    Ok(())
}

pub fn tree(bin: &Path, root: &Path) -> Result<Tree> {
    let mut tree = Tree::default();
    for binary in BINARIES {
        tree.file(&format!("usr/bin/{binary}"), 0o755, read(&bin.join(binary))?);
    }
    for (shell, path) in SHELLS {
        tree.file(path, 0o644, said(&bin.join("nexus"), &["completion", shell])?);
    }
    for (name, page) in manual::pages(bin)? {
        tree.file(
            &format!("usr/share/man/man1/{name}.gz"),
            0o644,
            super::tree::gzip(page.as_bytes())?,
        );
    }
    for scope in ["user", "system"] {
        folder(
            &mut tree,
            &root.join("systemd").join(scope),
            &format!("usr/lib/systemd/{scope}"),
        )?;
    }
    folder(&mut tree, &root.join("systemd/sysusers.d"), "usr/lib/sysusers.d")?;
    folder(&mut tree, &root.join("systemd/tmpfiles.d"), "usr/lib/tmpfiles.d")?;
    for name in ["README.md", "CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT"] {
        tree.file(&format!("usr/share/doc/nexus/{name}"), 0o644, read(&root.join(name))?);
    }
    let example = read(&root.join("deploy/config.example.toml"))?;
    tree.file("usr/share/doc/nexus/config.example.toml", 0o644, example);
    Ok(tree)
}

fn folder(tree: &mut Tree, from: &Path, to: &str) -> Result<()> {
    let entries = fs::read_dir(from).with_context(|| format!("failed to list {}", from.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        tree.file(&format!("{to}/{}", name.to_string_lossy()), 0o644, read(&entry.path())?);
    }
    Ok(())
}

pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("failed to read {}", path.display()))
}

/// What a program prints.
pub fn said(program: &Path, args: &[&str]) -> Result<Vec<u8>> {
    let mut command = Command::new(program);
    command
        .args(args)
        .stdin(Stdio::null())
        .env("NO_COLOR", "1")
        .env("COLUMNS", "100");
    let output = command
        .output()
        .with_context(|| format!("failed to run {}", program.display()))?;
    if !output.status.success() {
        bail!(
            "{} failed: {}",
            cargo::show(&command),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(output.stdout)
}
