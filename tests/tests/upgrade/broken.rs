//! New versions of which one daemon does not work. Everything else about them is fine.

use crate::world::World;

/// It does all that is asked before an upgrade, and this when it is to serve.
fn script(otherwise: &str) -> String {
    format!("#!/bin/sh\ncase \"$*\" in *--version*|*--*config*|*--schema*) exec $REAL \"$@\";; esac\n{otherwise}\n")
}

fn returns(program: &str, otherwise: &str, wait: &str, told: &[&str]) {
    let world = World::new();
    world.works(&["up"]);
    world.works(&["services", "stop", "gateway"]);
    let program_script = script(otherwise);
    let release = world.release_with("b", &[(program, &program_script)]);
    let release = release.to_str().unwrap();
    let (_, said) = world.ends(&["upgrade", release, "--wait", wait, "--stay", "4s"], 11);
    for words in told {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(said.contains("0.1.0+a is back"), "{said}");
    world.works(&["services", "start", "gateway"]);
    world.runs("a");
    assert_eq!(world.installed(), ["0.1.0+a"], "what does not work is not kept");
    assert!(world.works(&["chat", "hello"]).contains("hello"));

    // Mended, and of the same name.
    let release = world.release("b");
    world.works(&["upgrade", release.to_str().unwrap(), "--no-backup"]);
    world.runs("b");
}

#[test]
fn one_that_ends_at_once() {
    let words = "echo 'it cannot bear this' >&2; exit 1";
    returns("nexus-llm", words, "20s", &["llm does not stay", "it cannot bear this"]);
}

#[test]
fn one_that_refuses_its_config_only_when_it_starts() {
    let words = "echo 'not with these settings' >&2; exit 78";
    returns(
        "nexus-agent",
        words,
        "20s",
        &["agent-assistant does not stay", "the config is wrong", "not with these"],
    );
}

#[test]
fn one_that_ends_once_it_was_ready() {
    let words = "(sleep 1; kill -9 $$) & exec $REAL \"$@\"";
    returns("nexus-llm", words, "20s", &["llm does not stay", "0.1.0+a is back"]);
}

#[test]
fn one_that_never_gets_ready() {
    returns(
        "nexus-orchestrator",
        "exec sleep 600",
        "2s",
        &["orchestrator did not become ready in time"],
    );
}

/// The supervisor's own program: everything is there, and it does not supervise.
#[test]
fn a_supervisor_that_does_not_come_up() {
    let world = World::new();
    world.works(&["up"]);
    let script = "#!/bin/sh\nif [ \"$1\" = supervise ]; then echo 'I will not' >&2; exit 1; fi\nexec $REAL \"$@\"\n";
    let release = world.release_with("b", &[("nexus", script)]);
    world.ends(&["upgrade", release.to_str().unwrap(), "--wait", "3s"], 11);
    world.runs("a");
    assert!(world.works(&["chat", "hello"]).contains("hello"));
}

#[test]
fn one_that_refuses_the_config_is_never_started() {
    let world = World::new();
    world.works(&["up"]);
    let script =
        "#!/bin/sh\ncase \"$*\" in *--check-config*) echo 'llm.old is gone' >&2; exit 78;; esac\nexec $REAL \"$@\"\n";
    let release = world.release_with("b", &[("nexus-llm", script)]);
    let (_, said) = world.ends(&["upgrade", release.to_str().unwrap()], 78);
    assert!(
        said.contains("does not take the settings") && said.contains("llm.old is gone"),
        "{said}"
    );
    world.runs("a");
    assert_eq!(world.installed(), ["0.1.0+a"]);
}
