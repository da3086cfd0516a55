//! An upgrade that is killed at each of its steps: the next one finishes it or undoes it, and the services go on.

use std::{
    io::Read,
    os::fd::{AsFd, OwnedFd},
    process::{Child, Stdio},
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    unistd::pipe2,
};

use crate::world::World;

/// An upgrade whose words are heard one by one: it cannot say the next before the last was heard.
struct Heard {
    child: Child,
    words: std::fs::File,
}

impl Heard {
    fn begin(world: &World, args: &[&str]) -> Heard {
        // Packets, and room for one of them.
        let (read, write) = pipe2(OFlag::O_DIRECT | OFlag::O_CLOEXEC).unwrap();
        fcntl(write.as_fd(), FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
        let mut command = world.command(args);
        command.stdout(Stdio::null()).stderr(Stdio::from(write as OwnedFd));
        Heard {
            child: command.spawn().unwrap(),
            words: read.into(),
        }
    }

    /// Killed when it says this: at the begin of that step, or anywhere in it.
    fn kill_at(mut self, words: &str) {
        let mut all = String::new();
        let mut packet = [0; 4096];
        loop {
            let read = self.words.read(&mut packet).unwrap();
            assert!(read > 0, "it ended before it said {words:?}: {all}");
            let said = String::from_utf8_lossy(&packet[..read]).into_owned();
            all.push_str(&said);
            if said.contains(words) {
                break;
            }
        }
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn a_killed_upgrade_is_finished_or_undone_by_the_next() {
    let world = World::new();
    world.works(&["up"]);
    let release = world.release("b");
    let args = ["upgrade", release.to_str().unwrap()];
    let steps = [
        ("unpacking", "a"),
        ("checking", "a"),
        ("saving", "a"),
        ("switching", "b"),
        ("handing over", "b"),
        ("restarting", "b"),
        ("all is as it was", "b"),
    ];
    for (words, becomes) in steps {
        Heard::begin(&world, &args).kill_at(words);
        let listed: serde_json::Value = serde_json::from_str(&world.works(&["upgrade", "--list", "--json"])).unwrap();
        // The last step is so short that it may be over.
        if words != "all is as it was" {
            assert!(!listed["unfinished"].is_null(), "{words}: {listed}");
            let found = world.run(&["doctor", "--json"]);
            let found = String::from_utf8_lossy(&found.stdout).into_owned();
            assert!(found.contains("was cut off at"), "{words}: {found}");
            world.works(&["upgrade"]);
        }
        if !listed["unfinished"].is_null() && world.current() == "0.1.0+b" {
            world.run(&["upgrade"]);
        }
        // What was killed just before the switch may have come to it.
        let now = world.current();
        assert!(now == format!("0.1.0+{becomes}") || words == "saving", "{words}: {now}");
        world.runs(now.strip_prefix("0.1.0+").unwrap());
        assert!(world.works(&["chat", "hello"]).contains("hello"), "{words}");
        if now == "0.1.0+b" {
            world.works(&["upgrade", "--rollback", "--no-backup", "--keep", "1"]);
        }
        assert_eq!(world.installed(), ["0.1.0+a"], "{words}");
    }
    let temporary = std::fs::read_dir(world.root().join("backups")).unwrap().flatten();
    for entry in temporary {
        let name = entry.file_name().into_string().unwrap();
        assert!(name.ends_with(".tar.gz"), "{name} is left");
    }
}

#[test]
fn one_that_is_killed_on_its_way_back_comes_back() {
    let world = World::new();
    world.works(&["up"]);
    let script = "#!/bin/sh\ncase \"$*\" in *--version*|*--*config*|*--schema*) exec $REAL \"$@\";; esac\nexit 1\n";
    let release = world.release_with("b", &[("nexus-llm", script)]);
    let args = ["upgrade", release.to_str().unwrap(), "--no-backup"];
    for words in ["going back to", "switching from 0.1.0+b", "handing over to 0.1.0+a"] {
        Heard::begin(&world, &args).kill_at(words);
        let (_, said) = world.ends(&["upgrade"], 11);
        assert!(said.contains("0.1.0+a is back"), "{words}: {said}");
        world.runs("a");
        assert!(world.works(&["chat", "hello"]).contains("hello"), "{words}");
    }
    // The one that goes on may be given a release of its own, too.
    Heard::begin(&world, &args).kill_at("unpacking");
    let release = world.release("c");
    world.works(&["upgrade", release.to_str().unwrap(), "--no-backup"]);
    world.runs("c");
}
