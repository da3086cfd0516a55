//! The image: the programs, the libraries they link, and nothing else; no shell, no package manager.
//!
//! One tar file that is both an OCI layout (`oci-layout`, `index.json`, `blobs/`) and what `docker load` reads
//! (`manifest.json`, which points into the same blobs).

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{
    Release,
    libraries::Libraries,
    stage,
    tree::{Tree, gzip, sha256},
};

/// The user in it, who is nobody's on any host.
const USER: u64 = 65532;
const CERTIFICATES: &str = "etc/ssl/certs/ca-certificates.crt";

pub fn write(tree: &Tree, libraries: &Libraries, release: &Release, out: &Path) -> Result<PathBuf> {
    let layer = root(tree, libraries)?.tar("")?;
    let packed = gzip(&layer)?;
    let config = json!({
        "architecture": release.arch,
        "os": "linux",
        "config": {
            "User": format!("{USER}:{USER}"),
            "Env": ["PATH=/usr/bin", "HOME=/data", "NEXUS_ROOT=/data"],
            "Cmd": ["nexus", "supervise"],
            "WorkingDir": "/data",
            "Volumes": { "/data": {} },
            "ExposedPorts": { "18789/tcp": {} },
            "StopSignal": "SIGTERM",
            "Labels": {
                "org.opencontainers.image.title": "nexus",
                "org.opencontainers.image.version": release.version,
                "org.opencontainers.image.licenses": "Apache-2.0 OR MIT",
            },
        },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha256(&layer))] },
    });
    let mut all = Tree::default();
    let config = blob(&mut all, "application/vnd.oci.image.config.v1+json", bytes(&config)?);
    let layer = blob(&mut all, "application/vnd.oci.image.layer.v1.tar+gzip", packed);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": [layer],
    });
    let mut manifest = blob(
        &mut all,
        "application/vnd.oci.image.manifest.v1+json",
        bytes(&manifest)?,
    );
    // A tag has no +.
    let tag = release.version.replace('+', "-");
    let name = format!("nexus:{tag}");
    manifest["platform"] = json!({ "architecture": release.arch, "os": "linux" });
    manifest["annotations"] = json!({
        "io.containerd.image.name": format!("docker.io/library/{name}"),
        "org.opencontainers.image.ref.name": tag,
    });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [manifest],
    });
    let docker = json!([{ "Config": place(&config), "RepoTags": [name], "Layers": [place(&layer)] }]);
    all.file("index.json", 0o644, bytes(&index)?);
    all.file("manifest.json", 0o644, bytes(&docker)?);
    all.file("oci-layout", 0o644, bytes(&json!({ "imageLayoutVersion": "1.0.0" }))?);
    let path = out.join(format!("nexus-{}-{}.oci.tar", release.version, release.arch));
    fs::write(&path, all.tar("")?).with_context(|| format!("failed to write {}", path.display()))?;
    Ok(path)
}

fn root(tree: &Tree, libraries: &Libraries) -> Result<Tree> {
    let mut root = tree.moved("usr/bin", "usr/bin");
    for (path, file) in libraries {
        root.file(path, 0o755, stage::read(file)?);
    }
    let users = format!("root:x:0:0:root:/:/\nnexus:x:{USER}:{USER}:Nexus:/data:/\n");
    root.file("etc/passwd", 0o644, users);
    root.file("etc/group", 0o644, format!("root:x:0:\nnexus:x:{USER}:\n"));
    // Providers are asked over TLS; who is to be trusted is this machine's word unless the container is told otherwise.
    let certificates = Path::new("/").join(CERTIFICATES);
    if certificates.is_file() {
        root.file(CERTIFICATES, 0o644, stage::read(&certificates)?);
    } else {
        println!("the image has no certificates: {} is not here", certificates.display());
    }
    root.folder("data", 0o700, USER);
    root.folder("tmp", 0o1777, 0);
    root.link("bin", "usr/bin");
    Ok(root)
}

/// Adds a blob under its digest; gives the descriptor of it.
fn blob(all: &mut Tree, kind: &str, content: Vec<u8>) -> Value {
    let digest = sha256(&content);
    let descriptor = json!({ "mediaType": kind, "digest": format!("sha256:{digest}"), "size": content.len() });
    all.file(&format!("blobs/sha256/{digest}"), 0o644, content);
    descriptor
}

fn place(descriptor: &Value) -> String {
    let digest = descriptor["digest"].as_str().unwrap_or_default();
    format!("blobs/{}", digest.replace(':', "/"))
}

fn bytes(value: &Value) -> Result<Vec<u8>> {
    serde_json::to_vec(value).context("failed to write JSON")
}
