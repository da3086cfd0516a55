//! Images as people have them: in a registry that wants a login, and in the files that other programs write.

mod files;
mod hostile;
mod registry;

use std::path::Path;

use nexus_runtime::{Choice, Config, Found, choose};
use nexus_tests::binary;

use crate::conformance::Bench;

pub async fn sandbox(directory: &Path) -> Found {
    let config = Config {
        backend: Choice::Sandbox,
        directory: directory.join("state"),
        helper: Some(binary("nexus-sandbox")),
        ..Config::default()
    };
    choose(&config).await.unwrap()
}

/// What a container of this image says, run in a shell.
pub async fn says(found: &Found, image: &str, case: &'static str, script: &str) -> String {
    let bench = Bench {
        engine: found.engine.clone(),
        probe: found.probe.clone(),
        image: image.into(),
        directory: Default::default(),
        case,
    };
    let (code, said) = bench.run(&bench.shell(script)).await;
    assert_eq!(code, 0, "{image}: {said}");
    said
}
