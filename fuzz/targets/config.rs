//! A settings file, read with the tables of all daemons: every mistake is named, none is a panic, and what is understood is
//! the same a second time.
#![no_main]

use std::cell::LazyCell;

use libfuzzer_sys::fuzz_target;
use nexus_config::{Root, Schema, Sources, common, read};

struct Fixture {
    directory: tempfile::TempDir,
    schemas: Vec<Schema>,
}

thread_local! {
    static FIXTURE: LazyCell<Fixture> = LazyCell::new(|| Fixture {
        directory: nexus_fuzz::directory(),
        schemas: vec![
            common(),
            nexus_daemon::schema::<nexus_orchestrator::Orchestrator>(),
            nexus_daemon::schema::<nexus_llm::Llm>(),
            nexus_daemon::schema::<nexus_gateway::Gateway>(),
        ],
    });
}

fuzz_target!(|data: &[u8]| {
    FIXTURE.with(|fixture| {
        let path = fixture.directory.path().join("config.toml");
        std::fs::write(&path, data).expect("a file of our own");
        let root = Root::at(fixture.directory.path());
        let schemas: Vec<&Schema> = fixture.schemas.iter().collect();
        let sources = Sources {
            file: Some(path),
            ..Sources::new(&root)
        };
        let (first, second) = (read(&schemas, &sources), read(&schemas, &sources));
        assert_eq!(first.mistakes.to_string(), second.mistakes.to_string());
        assert_eq!(first.settings.len(), schemas.len());
    });
});
