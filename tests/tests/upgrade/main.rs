//! `nexus upgrade` on the real programs: a version in place of another while clients go on, versions that do not work,
//! and an upgrade that is killed anywhere.
//!
//! The versions are builds of one version, `0.1.0+a` and `0.1.0+b`: the same programs in folders of their own, as
//! `cargo xtask dist --build` packs them. What runs is told by the folder that it was started from.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "what fails here fails its test")]

mod broken;
mod client;
mod cut_off;
mod refused;
mod world;

use std::{
    io,
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use world::{SERVICES, World};

/// While a client talks, and others knock at every socket.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_version_takes_over_and_nobody_loses_anything() {
    let world = Arc::new(World::new());
    world.works(&["up"]);
    let supervisor = world.supervisor();
    let tarball = world.tarball("b");
    let over = Arc::new(AtomicBool::new(false));
    let knocking: Vec<_> = SERVICES
        .into_iter()
        .chain(["supervisor"])
        .map(|service| {
            let (socket, over) = (world.socket(service), over.clone());
            thread::spawn(move || {
                let mut refused = 0;
                while !over.load(Ordering::Relaxed) {
                    match UnixStream::connect(&socket) {
                        Err(error) if error.kind() != io::ErrorKind::WouldBlock => refused += 1,
                        _ => {}
                    }
                    // No flood: others want to be heard too.
                    thread::sleep(Duration::from_millis(1));
                }
                refused
            })
        })
        .collect();
    let talking = tokio::spawn(client::talk(world.socket("orchestrator"), over.clone()));

    let there = world.clone();
    let said = tokio::task::spawn_blocking(move || there.works(&["upgrade", tarball.to_str().unwrap(), "--json"]));
    let said: serde_json::Value = serde_json::from_str(&said.await.unwrap()).unwrap();
    assert_eq!(
        (&said["outcome"], &said["current"]),
        (&"upgraded".into(), &"0.1.0+b".into()),
        "{said}"
    );
    let words = |part: &str| -> Vec<&str> {
        let all = said[part].as_array().unwrap().iter();
        all.filter_map(|one| one["step"].as_str()).collect()
    };
    assert_eq!(
        words("steps"),
        ["unpack", "check", "backup", "switch", "restart", "finish"]
    );
    println!("steps: {}", said["steps"]);
    let told = {
        over.store(true, Ordering::Relaxed);
        talking.await.unwrap()
    };
    println!(
        "{} questions answered meanwhile, {} asked again, the longest took {} ms",
        told.answered,
        told.repeated,
        told.longest.as_millis()
    );
    assert!(told.answered > 0);
    let refused: Vec<u64> = knocking.into_iter().map(|one| one.join().unwrap()).collect();
    assert_eq!(refused, vec![0; refused.len()], "nobody is refused");

    let there = world.clone();
    tokio::task::spawn_blocking(move || {
        there.runs("b");
        assert_eq!(
            there.supervisor(),
            supervisor,
            "it became the new one, and is the same process"
        );
        assert!(there.program(supervisor).unwrap().starts_with(there.version("b")));
        let backup = said["backup"].as_str().unwrap();
        there.works(&["backup", "verify", backup]);
        assert!(there.prefix().join("share/doc/nexus/b").is_file(), "the links follow");
        assert!(there.prefix().join("share/doc/nexus/a").symlink_metadata().is_err());

        there.works(&["upgrade", "--rollback", "--no-backup"]);
        there.runs("a");
        there.works(&["upgrade", "--rollback", "--no-backup"]);
        there.runs("b");
        // The same again is nothing to do.
        let b = there.release("b");
        let said = there.works(&["upgrade", b.to_str().unwrap(), "--json"]);
        assert!(said.contains("\"current\""), "{said}");
    })
    .await
    .unwrap();
    told.nothing_is_lost(&world.socket("orchestrator")).await;
}

#[test]
fn old_versions_go_and_as_many_stay_as_are_wanted() {
    let world = World::new();
    for build in ["b", "c", "d"] {
        // Nothing runs: it is only installed, and nothing is started.
        let release = world.release(build);
        let said = world.run(&["upgrade", release.to_str().unwrap(), "--keep", "3"]);
        assert!(String::from_utf8_lossy(&said.stderr).contains("nexus up"), "{said:?}");
    }
    assert_eq!(world.installed(), ["0.1.0+d", "0.1.0+c", "0.1.0+b"]);
    let said = world.works(&["upgrade", "--list", "--json"]);
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (&said["current"], &said["previous"]),
        (&"0.1.0+d".into(), &"0.1.0+c".into())
    );
    world.works(&["upgrade", "--rollback", "--keep", "2"]);
    assert_eq!(world.current(), "0.1.0+c");
    assert_eq!(world.installed(), ["0.1.0+d", "0.1.0+c"]);
    assert_eq!(world.snapshot()["services"][0]["state"], "stopped");
}

#[test]
fn its_help_teaches() {
    let world = World::new();
    let help = world.works(&["upgrade", "--help"]);
    for taught in [
        "Nothing is downloaded",
        "SHA256SUMS",
        "--rollback",
        "--dry-run",
        "exit code is 11",
        "Examples:",
        "nexus upgrade nexus-0.2.0-linux-amd64.tar.gz",
    ] {
        assert!(help.contains(taught), "{taught}: {help}");
    }
    assert!(!help.contains("--stores"));
}
