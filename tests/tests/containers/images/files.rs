//! Archives and directories that Docker and Podman wrote, taken in by the sandbox.

use std::path::Path;

use nexus_tests::engines::{Machine, busybox};
use nexus_tests::skipped;

use super::{sandbox, says};

const IMAGE: &str = "localhost/nexus-made:1";

/// An image with a layer on top of another.
const RECIPE: &str = "FROM localhost/nexus-root:1\n\
    ENV MADE=here\n\
    WORKDIR /home\n\
    COPY added /home/added\n";

async fn taken_in(files: &[(&str, &Path)]) {
    let directory = tempfile::tempdir().unwrap();
    let found = sandbox(directory.path()).await;
    let mut ids = Vec::new();
    for (kind, file) in files {
        let name = format!("localhost/{kind}:1");
        let image = found.engine.import(file, &name).await;
        let image = image.unwrap_or_else(|error| panic!("{kind}: {error}"));
        assert!(image.references.contains(&name), "{image:?}");
        let said = says(&found, &name, "files", "echo $MADE; cat /home/added; pwd; ls /bin/sh").await;
        assert_eq!(said, "here\nnew\n/home\n/bin/sh\n", "{kind}");
        ids.push(image.id);
    }
    // The same image, whatever it came in.
    ids.dedup();
    assert_eq!(ids.len(), 1, "{ids:?}");
}

/// The image of [`RECIPE`], made by the engine's own command.
fn made(machine: &Machine, directory: &Path) {
    let tar = busybox(directory).unwrap();
    machine.command(&["import", tar.to_str().unwrap(), "localhost/nexus-root:1"]);
    let place = directory.join("recipe");
    std::fs::create_dir(&place).unwrap();
    std::fs::write(place.join("Dockerfile"), RECIPE).unwrap();
    std::fs::write(place.join("added"), "new\n").unwrap();
    machine.command(&["build", "--network=none", "-t", IMAGE, place.to_str().unwrap()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sandbox_takes_what_docker_saved() {
    let docker = match Machine::docker() {
        Ok(docker) => docker,
        Err(missing) => return skipped("the_sandbox_takes_what_docker_saved", &missing),
    };
    let directory = tempfile::tempdir().unwrap();
    made(&docker, directory.path());
    let saved = directory.path().join("saved.tar");
    docker.command(&["save", "-o", saved.to_str().unwrap(), IMAGE]);
    taken_in(&[("docker-save", &saved)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sandbox_takes_what_podman_saved() {
    let podman = match Machine::podman() {
        Ok(podman) => podman,
        Err(missing) => return skipped("the_sandbox_takes_what_podman_saved", &missing),
    };
    let directory = tempfile::tempdir().unwrap();
    made(&podman, directory.path());
    let kinds = ["docker-archive", "oci-archive", "oci-dir"];
    let files: Vec<_> = kinds.iter().map(|kind| directory.path().join(kind)).collect();
    for (kind, file) in kinds.iter().zip(&files) {
        podman.command(&["save", "--quiet", "--format", kind, "-o", file.to_str().unwrap(), IMAGE]);
    }
    taken_in(&[("oci-archive", &files[1]), ("oci-dir", &files[2])]).await;
    // Its older format has another config, and so another digest.
    taken_in(&[("docker-archive", &files[0])]).await;
}
