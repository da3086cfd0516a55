//! What is refused before anything is changed.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use nexus_tests::skipped;

use crate::world::World;

/// Refused with this code and these words, and nothing is another than before.
fn refused(world: &World, args: &[&str], code: i32, words: &str) {
    let before = tree(&world.prefix());
    let mut all = vec!["upgrade"];
    all.extend(args);
    let (_, said) = world.ends(&all, code);
    assert!(said.contains(words), "{words}: {said}");
    assert_eq!(tree(&world.prefix()), before, "{args:?}");
}

fn tree(folder: &Path) -> String {
    let listed = Command::new("sh")
        .args(["-c", "find . ! -name upgrade.lock -printf '%p %l %s %Y\\n' | sort"])
        .current_dir(folder)
        .output()
        .unwrap();
    String::from_utf8(listed.stdout).unwrap()
}

#[test]
fn releases_that_are_not_what_they_were() {
    let world = World::new();
    let release = world.release("b");
    let b = release.to_str().unwrap();
    fs::write(release.join("share/doc/nexus/b"), "other").unwrap();
    refused(&world, &[b], 1, "share/doc/nexus/b in");
    fs::remove_file(release.join("share/doc/nexus/b")).unwrap();
    symlink("/etc/passwd", release.join("share/doc/nexus/b")).unwrap();
    refused(&world, &[b], 1, "share/doc/nexus/b");

    refused(&world, &["/nowhere.tar.gz"], 4, "/nowhere.tar.gz");
    refused(&world, &[world.folder().to_str().unwrap()], 4, "no release of nexus");
    refused(&world, &[], 2, "to what?");
    refused(&world, &["--rollback"], 4, "no version to go back to");
}

/// Small ones: none of them gets so far that its programs matter.
#[test]
fn tarballs_that_are_not_what_they_were_or_reach_outside() {
    let world = World::new();
    let work = world.folder().join("work");
    let folder = work.join("nexus-x");
    fs::create_dir_all(folder.join("bin")).unwrap();
    fs::write(
        folder.join("release.json"),
        r#"{"schema":1,"version":"0.1.0+x","target":"linux-amd64"}"#,
    )
    .unwrap();
    fs::write(folder.join("bin/nexus"), "x").unwrap();
    let sums = "sha256sum bin/nexus release.json > SHA256SUMS";
    assert!(
        Command::new("sh")
            .args(["-c", sums])
            .current_dir(&folder)
            .status()
            .unwrap()
            .success()
    );
    let tarball = world.pack(&folder, "x");
    let x = tarball.to_str().unwrap();
    // Whole, but no program of it runs here.
    refused(&world, &[x], 1, "cannot be used");
    refused(
        &world,
        &[x, "--sha256", &"0".repeat(64)],
        1,
        "not what it was when it was packed",
    );
    let mut bytes = fs::read(&tarball).unwrap();
    bytes[20] ^= 1;
    fs::write(&tarball, bytes).unwrap();
    refused(&world, &[x], 1, "not what it was when it was packed");
    fs::remove_file(work.join("SHA256SUMS")).unwrap();
    refused(&world, &[x], 4, "there is no checksum of x.tar.gz");

    let reach = |name: &str, make: &str, words: &str| {
        let line = format!("{make} | gzip > {name}.tar.gz && sha256sum {name}.tar.gz > SHA256SUMS");
        assert!(
            Command::new("sh")
                .args(["-c", &line])
                .current_dir(&work)
                .status()
                .unwrap()
                .success()
        );
        refused(
            &world,
            &[work.join(format!("{name}.tar.gz")).to_str().unwrap()],
            1,
            words,
        );
    };
    fs::write(work.join("evil"), "x").unwrap();
    reach(
        "up",
        "tar cPf - --transform 's|evil|nexus-x/../../../../evil|' evil",
        "no plain file of a release",
    );
    reach(
        "absolute",
        "tar cPf - --transform 's|evil|/nexus-x/evil|' evil",
        "no plain file of a release",
    );
    symlink("/etc", folder.join("share")).unwrap();
    reach("link", "tar cf - nexus-x", "no plain file of a release");
    fs::remove_file(folder.join("share")).unwrap();
    fs::write(folder.join("bin/more"), "x").unwrap();
    reach("more", "tar cf - nexus-x", "bin/more in");
    assert!(!world.folder().join("evil").exists() && !world.prefix().join("evil").exists());
}

#[test]
fn a_store_that_the_new_version_cannot_work_with() {
    let world = World::new();
    world.works(&["up"]);
    world.works(&["down"]);
    // As a version has left it that had taken away what this one needs: for programs that know schema 9.
    let database = world.root().join("state/db/orchestrator.db");
    let script = "import sqlite3,sys; c=sqlite3.connect(sys.argv[1]); c.execute(\"update mark set value=9 where \
                  name='oldest'\"); c.execute('pragma user_version=9'); c.commit(); c.close()";
    let changed = Command::new("python3").args(["-c", script]).arg(&database).status();
    if !changed.is_ok_and(|changed| changed.success()) {
        skipped(
            "upgrade::a_store_that_the_new_version_cannot_work_with",
            "needs python3 with sqlite3",
        );
        return;
    }
    let release = world.release("b");
    refused(&world, &[release.to_str().unwrap()], 65, "schema 9");
    // The daemon says the same.
    let (_, said) = world.ends(&["up", "--wait", "20s"], 1);
    assert!(said.contains("schema 9"), "{said}");
}

#[test]
fn two_at_once_a_full_disk_and_a_told_folder_of_programs() {
    let world = World::new();
    world.works(&["up"]);
    let release = world.release("b");
    let b = release.to_str().unwrap();
    let lock = fs::File::create(world.prefix().join("lib/nexus/upgrade.lock")).unwrap();
    lock.lock().unwrap();
    refused(&world, &[b], 5, "another upgrade of this installation is under way");
    lock.unlock().unwrap();

    let told = world
        .command(&["upgrade", b])
        .env("NEXUS_BIN_DIR", world.folder())
        .output()
        .unwrap();
    assert_eq!(told.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&told.stderr).contains("NEXUS_BIN_DIR"));

    let backups = world.root().join("backups");
    fs::create_dir_all(&backups).unwrap();
    let mount = ["-t", "tmpfs", "-o", "size=1m,mode=0700", "nexus-tests"];
    let mounted = Command::new("mount").args(mount).arg(&backups).output();
    if !mounted.is_ok_and(|done| done.status.success()) {
        skipped("upgrade::a_full_disk", "needs to mount a small tmpfs (root)");
        return;
    }
    let before = tree(&world.prefix());
    let done = world.run(&["upgrade", b]);
    let _gone = Command::new("umount").arg("-l").arg(&backups).status();
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(said.contains("is needed") && said.contains("make room"), "{said}");
    assert_eq!(tree(&world.prefix()), before);
    world.runs("a");
    let (said, _) = world.ends(&["upgrade", b, "--dry-run"], 0);
    assert!(
        said.contains("would run here") && said.contains("orchestrator"),
        "{said}"
    );
    assert_eq!(tree(&world.prefix()), before);
}
