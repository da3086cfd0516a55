//! What ships: one build with everything the optimiser can do, as a tarball, a Debian package and an OCI image.
//!
//! ```text
//!   build ──▶ Tree (files as they are installed, below usr/) ──┬── tarball.rs   nexus-<version>-<target>.tar.gz
//!                                                              ├── deb.rs       nexus_<version>_<arch>.deb
//!             libraries (what the binaries link) ──────────────┴── image.rs     nexus-<version>-<arch>.oci.tar
//!   SHA256SUMS over all of it
//! ```
//!
//! The same sources and compiler give the same bytes: no time, no user and no path of the building machine goes in.

mod deb;
mod image;
mod libraries;
mod manual;
mod stage;
mod tarball;
mod tree;

use std::{
    env::consts::ARCH,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::cargo;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Cargo's profile; dev is for a look at the packages, not for shipping
    #[arg(long, default_value = "dist")]
    profile: String,
    /// Take the programs from this folder, and build nothing
    #[arg(long, value_name = "DIR")]
    bin: Option<PathBuf>,
    /// Names this build of the version, as in 0.2.0+BUILD: several of one version can then be told apart
    #[arg(long, value_name = "BUILD")]
    build: Option<String>,
    /// Where the packages go [default: packages in the target directory]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// What the names and the metadata of packages are made from.
struct Release {
    version: String,
    /// As Debian and OCI name it.
    arch: &'static str,
}

pub fn run(args: &Args) -> Result<()> {
    let bin = match &args.bin {
        Some(bin) => std::path::absolute(bin)?,
        None => cargo::build_binaries(&args.profile)?,
    };
    let out = match &args.out {
        Some(out) => std::path::absolute(out)?,
        None => cargo::target_dir()?.join("packages"),
    };
    fs::create_dir_all(&out).with_context(|| format!("failed to create {}", out.display()))?;
    let release = Release {
        version: labelled(version()?, args.build.as_deref())?,
        arch: arch()?,
    };
    let stripped = tempfile::tempdir().context("failed to make a folder")?;
    stage::strip(&bin, stripped.path())?;
    let tree = stage::tree(stripped.path(), &cargo::root())?;
    let libraries = libraries::of(stripped.path(), &cargo::BINARIES)?;

    let made = [
        tarball::write(&tree, &release, &out)?,
        deb::write(&tree, &libraries, &release, &out)?,
        image::write(&tree, &libraries, &release, &out)?,
    ];
    println!();
    for binary in cargo::BINARIES {
        show(&stripped.path().join(binary))?;
    }
    let mut sums = String::new();
    for path in &made {
        show(path)?;
        let bytes = fs::read(path).with_context(|| format!("failed to read {}", path.display()))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        sums.push_str(&format!("{}  {name}\n", tree::sha256(&bytes)));
    }
    let path = out.join("SHA256SUMS");
    fs::write(&path, sums).with_context(|| format!("failed to write {}", path.display()))?;
    println!("\nin {}; to check them there: sha256sum -c SHA256SUMS", out.display());
    Ok(())
}

fn show(path: &Path) -> Result<()> {
    let size = fs::metadata(path)
        .with_context(|| format!("failed to look at {}", path.display()))?
        .len();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    println!("{:>8.2} MB  {name}", size as f64 / 1e6);
    Ok(())
}

fn version() -> Result<String> {
    let metadata = cargo::metadata()?;
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata lists no packages")?;
    let cli = packages.iter().find(|package| package["name"] == "nexus-cli");
    let version = cli.and_then(|package| package["version"].as_str());
    Ok(version.context("cargo metadata does not know nexus-cli")?.to_owned())
}

fn labelled(version: String, build: Option<&str>) -> Result<String> {
    match build {
        None => Ok(version),
        Some(build) if !build.is_empty() && build.chars().all(|c| c.is_ascii_alphanumeric() || c == '.') => {
            Ok(format!("{version}+{build}"))
        }
        Some(build) => bail!("a build is named by letters, digits and dots, not {build:?}"),
    }
}

fn arch() -> Result<&'static str> {
    match ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("no package is made for {other}"),
    }
}
