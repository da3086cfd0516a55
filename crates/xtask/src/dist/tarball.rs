//! The tarball: what is installed, what release it is, checksums of all of it, and the script that checks and installs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{
    Release, stage,
    tree::{Tree, What, gzip, sha256},
};
use crate::cargo;

pub fn write(tree: &Tree, release: &Release, out: &Path) -> Result<PathBuf> {
    let name = format!("nexus-{}-linux-{}", release.version, release.arch);
    // Units name the programs by their paths, which only the installed `nexus` knows: it has them inside.
    let mut content = Tree::default();
    for folder in ["bin", "share"] {
        content.extend(tree.moved(&format!("usr/{folder}"), folder));
    }
    // What `nexus upgrade` and install.sh name the version by.
    let target = format!("linux-{}", release.arch);
    let about = serde_json::json!({ "schema": 1, "version": release.version, "target": target });
    content.file("release.json", 0o644, format!("{about}\n"));
    let mut sums = String::new();
    for entry in content.entries() {
        if let What::File(bytes) = &entry.what {
            sums.push_str(&format!("{}  {}\n", sha256(bytes), entry.path));
        }
    }
    let mut all = content.moved("", &format!("{name}/"));
    all.file(&format!("{name}/SHA256SUMS"), 0o644, sums);
    let script = stage::read(&cargo::root().join("deploy/install.sh"))?;
    all.file(&format!("{name}/install.sh"), 0o755, script);
    let path = out.join(format!("{name}.tar.gz"));
    fs::write(&path, gzip(&all.tar("")?)?).with_context(|| format!("failed to write {}", path.display()))?;
    Ok(path)
}
