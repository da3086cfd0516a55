//! The image: sound as OCI has it, whole enough to run, and loaded by an engine where there is one.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use nexus_tests::{engines::Machine, skipped};
use serde_json::Value;
use tempfile::TempDir;

use crate::{made::package, program::run};

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The blob that a descriptor names, if its size and digest are right.
fn blob(layout: &Path, descriptor: &Value) -> PathBuf {
    let (kind, digest) = descriptor["digest"].as_str().unwrap().split_once(':').unwrap();
    let path = layout.join("blobs").join(kind).join(digest);
    let said = run(Command::new("sha256sum").arg(&path));
    assert!(said.starts_with(digest), "{said}");
    assert_eq!(fs::metadata(&path).unwrap().len(), descriptor["size"].as_u64().unwrap());
    path
}

fn unpack() -> TempDir {
    let folder = tempfile::Builder::new().prefix("nexus-").tempdir().unwrap();
    run(Command::new("tar")
        .arg("xf")
        .arg(package(".oci.tar"))
        .current_dir(folder.path()));
    folder
}

#[test]
fn it_is_sound_and_its_programs_run() {
    let layout = unpack();
    assert_eq!(json(&layout.path().join("oci-layout"))["imageLayoutVersion"], "1.0.0");
    let index = json(&layout.path().join("index.json"));
    let manifest = json(&blob(layout.path(), &index["manifests"][0]));
    let config = blob(layout.path(), &manifest["config"]);
    let layer = blob(layout.path(), &manifest["layers"][0]);
    assert_eq!(json(&config)["config"]["User"], "65532:65532");
    // What docker reads points to the same.
    let docker = json(&layout.path().join("manifest.json"));
    assert_eq!(layout.path().join(docker[0]["Config"].as_str().unwrap()), config);
    assert_eq!(layout.path().join(docker[0]["Layers"][0].as_str().unwrap()), layer);
    let unpacked = run(Command::new("sh")
        .arg("-c")
        .arg(format!("gzip -dc {} | sha256sum", layer.display())));
    let diff = json(&config)["rootfs"]["diff_ids"][0].as_str().unwrap().to_owned();
    assert!(diff.ends_with(unpacked.split(' ').next().unwrap()), "{diff} {unpacked}");

    if !nix::unistd::geteuid().is_root() {
        skipped("packaging::image::its_programs_run", "needs root, for chroot");
        return;
    }
    let root = layout.path().join("root");
    fs::create_dir(&root).unwrap();
    run(Command::new("tar").arg("xzf").arg(&layer).arg("-C").arg(&root));
    for program in [
        "nexus",
        "nexus-orchestrator",
        "nexus-llm",
        "nexus-agent",
        "nexus-gateway",
    ] {
        let said = run(Command::new("chroot")
            .arg(&root)
            .args([&format!("/usr/bin/{program}"), "--version"]));
        assert!(said.starts_with(program), "{said}");
    }
}

/// Through the engines' own programs, each against a service of the test's.
#[test]
fn every_engine_loads_it() {
    let docker = Machine::docker();
    let podman = Machine::podman();
    for (machine, program) in [(docker, ["docker", "--host"]), (podman, ["podman", "--url"])] {
        match machine {
            Ok(machine) => loads(&program.map(str::to_owned), &machine),
            Err(missing) => skipped("packaging::image::every_engine_loads_it", &missing),
        }
    }
}

fn loads([program, host]: &[String; 2], machine: &Machine) {
    let command = |args: &[&str]| {
        let mut command = Command::new(program);
        run(command.arg(host).arg(machine.host()).args(args))
    };
    let said = command(&["load", "--input", &package(".oci.tar").display().to_string()]);
    assert!(said.contains("nexus:"), "{program}: {said}");
    let name = said.lines().last().unwrap().rsplit(' ').next().unwrap().to_owned();
    let shown: Value = serde_json::from_str(&command(&["image", "inspect", &name])).unwrap();
    assert_eq!(shown[0]["Config"]["User"], "65532:65532", "{program}");
    assert_eq!(shown[0]["Config"]["Cmd"][1], "supervise", "{program}");
}
