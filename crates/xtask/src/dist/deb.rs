//! The Debian package: an `ar` archive of two tarballs, and the scripts that tell systemd.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::{
    Release,
    libraries::Libraries,
    stage,
    tree::{Tree, What, gzip},
};

/// The user and the folders of the system's daemons come with the package; what they keep stays until a purge.
const POSTINST: &str = r#"#!/bin/sh
set -e
if [ "$1" = configure ] && [ -z "$DPKG_ROOT" ] && [ -d /run/systemd/system ]; then
    systemd-sysusers nexus.conf
    systemd-tmpfiles --create nexus.conf
    systemctl daemon-reload
    # What ran before the upgrade goes on with the new program; the sockets are held meanwhile.
    systemctl try-restart 'nexus-*.service'
fi
"#;

const PRERM: &str = r#"#!/bin/sh
set -e
if [ "$1" = remove ] && [ -z "$DPKG_ROOT" ] && [ -d /run/systemd/system ]; then
    systemctl disable --now nexus.target >/dev/null 2>&1 || true
    systemctl stop 'nexus-*.socket' 'nexus-*.service'
    systemctl reset-failed 'nexus*' >/dev/null 2>&1 || true
fi
"#;

const POSTRM: &str = r#"#!/bin/sh
set -e
if [ -z "$DPKG_ROOT" ] && [ -d /run/systemd/system ]; then
    systemctl daemon-reload
fi
if [ "$1" = purge ] && [ -z "$DPKG_ROOT" ]; then
    rm -rf /var/lib/nexus
    rm -rf /etc/systemd/system/nexus.target.wants
    if getent passwd nexus >/dev/null && command -v deluser >/dev/null; then
        deluser --quiet --system nexus || true
    elif getent passwd nexus >/dev/null && command -v userdel >/dev/null; then
        userdel nexus || true
    fi
fi
"#;

pub fn write(tree: &Tree, libraries: &Libraries, release: &Release, out: &Path) -> Result<PathBuf> {
    let bytes = |entry: &super::tree::Entry| match &entry.what {
        What::File(bytes) => bytes.len(),
        What::Folder | What::Link(_) => 0,
    };
    let size: usize = tree.entries().map(bytes).sum();
    let mut meta = Tree::default();
    meta.file(
        "control",
        0o644,
        control(release, &depends(libraries)?, size.div_ceil(1024)),
    );
    for (name, script) in [("postinst", POSTINST), ("prerm", PRERM), ("postrm", POSTRM)] {
        meta.file(name, 0o755, script);
    }
    let mut archive = b"!<arch>\n".to_vec();
    add(&mut archive, "debian-binary", b"2.0\n");
    add(&mut archive, "control.tar.gz", &gzip(&meta.tar("./")?)?);
    add(&mut archive, "data.tar.gz", &gzip(&tree.tar("./")?)?);
    let path = out.join(format!("nexus_{}_{}.deb", release.version, release.arch));
    fs::write(&path, archive).with_context(|| format!("failed to write {}", path.display()))?;
    Ok(path)
}

fn control(release: &Release, depends: &str, kilobytes: usize) -> String {
    format!(
        "Package: nexus\nVersion: {}\nArchitecture: {}\nMaintainer: The Nexus authors <nexus@localhost>\n\
         Installed-Size: {kilobytes}\nDepends: {depends}\nRecommends: ca-certificates, systemd\nSection: net\n\
         Priority: optional\nDescription: self-hosted runtime for AI agents\n \
         Small daemons that speak gRPC over Unix sockets, and the command that keeps\n them running: \
         conversations, agents, tools and tasks on a machine of one's own.\n",
        release.version, release.arch
    )
}

/// The packages that the libraries come from, not older than here: what was linked may use what they then had.
fn depends(libraries: &Libraries) -> Result<String> {
    let mut packages = std::collections::BTreeSet::new();
    for path in libraries.values() {
        // dpkg knows the file by the path it was packed with, before /lib became a link.
        let real = fs::canonicalize(path).with_context(|| format!("failed to find {}", path.display()))?;
        let candidates = [path.clone(), real.clone(), stripped(&real)];
        if let Some(package) = candidates.iter().find_map(|path| owner(path)) {
            packages.insert(package);
        }
    }
    let version = |package: &String| -> Result<String> {
        let said = stage::said(Path::new("dpkg-query"), &["--show", "--showformat=${Version}", package])?;
        // The upstream part: revisions differ between releases of Debian.
        let said = String::from_utf8_lossy(&said).into_owned();
        let upstream = said.split('-').next().unwrap_or_default();
        Ok(format!("{package} (>= {upstream})"))
    };
    let all: Vec<String> = packages.iter().map(version).collect::<Result<_>>()?;
    anyhow::ensure!(
        !all.is_empty(),
        "dpkg knows none of the libraries; a .deb is made on Debian"
    );
    Ok(all.join(", "))
}

fn stripped(path: &Path) -> PathBuf {
    path.strip_prefix("/usr")
        .map_or_else(|_| path.to_path_buf(), |rest| Path::new("/").join(rest))
}

fn owner(path: &Path) -> Option<String> {
    let output = Command::new("dpkg-query").arg("--search").arg(path).output().ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    let package = said.lines().find_map(|line| line.split_once(':'))?.0;
    output.status.success().then(|| package.to_owned())
}

/// One member: a header of 60 bytes, the content, and a byte more if that is odd.
fn add(archive: &mut Vec<u8>, name: &str, content: &[u8]) {
    let header = format!(
        "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n",
        0,
        0,
        0,
        "100644",
        content.len()
    );
    archive.extend_from_slice(header.as_bytes());
    archive.extend_from_slice(content);
    if content.len() % 2 == 1 {
        archive.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_begin_at_even_places() {
        let mut archive = b"!<arch>\n".to_vec();
        add(&mut archive, "debian-binary", b"2.0");
        assert_eq!(archive.len(), 8 + 60 + 4);
        add(&mut archive, "control.tar.gz", b"xy");
        assert_eq!(&archive[8 + 60 + 4..][..14], b"control.tar.gz");
    }
}
