//! A command that behaves as `op` does: its arguments, its exit codes, its complaints, and that it may wait for ever.

use std::fs;

use nexus_tests::Daemon;

use crate::kit::World;

/// As the real one, where we meet it. `state` beside it says how it fares.
const LIKE_OP: &str = r#"
here=$(dirname "$0")
echo "$@" >>"$here/op.argv"
env >>"$here/op.env"
fail() { echo "[ERROR] 2026/11/21 12:00:00 $1" >&2; exit 1; }
[ "$1 $2" = "read --no-newline" ] || fail "unknown command"
case "$(cat "$here/state")" in
signed-out) fail "you are not currently signed in. Please run \`op signin --help\` for instructions" ;;
locked) fail "error initializing client: connecting to desktop app: connection reset" ;;
dismissed) fail "could not read secret '$3': authorization prompt dismissed, please try again" ;;
asks) exec sleep 1000 ;;
noisy) while :; do echo sk-canary-noise; done ;;
no-network) fail "could not read secret '$3': dial tcp: lookup my.1password.com: no such host" ;;
service-account) [ "$OP_SERVICE_ACCOUNT_TOKEN" = "ops_canary" ] || fail "Unauthorized" ;;
esac
case "$3" in
op://Private/Rack/credential) printf '%s' "$(cat "$here/secret")" ;;
op://Private/Rack/*) fail "could not read secret '$3': item 'Private/Rack' does not have a field 'x'" ;;
op://Private/*) fail "could not read secret '$3': could not get item Private/x: \"x\" isn't an item in the \"Private\" vault" ;;
*) fail "could not read secret '$3': could not find item in vault" ;;
esac
"#;

fn world(keys: &str) -> World {
    let world = World::new(keys);
    world.shim("op", LIKE_OP);
    state(&world, "fine");
    fs::write(world.folder().join("bin/secret"), "sk-canary-of-op").unwrap();
    world
}

fn state(world: &World, state: &str) {
    fs::write(world.folder().join("bin/state"), state).unwrap();
}

#[test]
fn each_way_it_fails_is_told_apart() {
    let mut world = world("");
    let get =
        |world: &World, reference: &str, limit: &str| world.credential(&["get", reference, "--timeout", limit], "");
    let field = "op://Private/Rack/credential";
    assert_eq!(get(&world, field, "15s").ok().out, "sk-canary-of-op\n");
    for (told, code) in [
        ("signed-out", 7),
        ("locked", 7),
        ("dismissed", 5),
        ("asks", 6),
        ("noisy", 9),
        ("no-network", 1),
        ("service-account", 5),
    ] {
        state(&world, told);
        let done = get(&world, field, if told == "asks" { "1s" } else { "15s" });
        assert_eq!(done.code, Some(code), "{told}: {done:?}");
        assert!(!done.err.contains("canary"), "{done:?}");
    }
    world.set("OP_SERVICE_ACCOUNT_TOKEN", Some("ops_canary"));
    assert_eq!(get(&world, field, "15s").ok().out, "sk-canary-of-op\n");
    state(&world, "fine");
    for missing in ["op://Private/Rack/x", "op://Private/None/x", "op://None/None/x"] {
        assert_eq!(get(&world, missing, "15s").code, Some(4), "{missing}");
    }
    let argv = fs::read_to_string(world.folder().join("bin/op.argv")).unwrap();
    assert!(!argv.contains("canary"), "{argv}");
}

#[tokio::test]
async fn a_locked_store_makes_the_daemon_wait_and_then_go_on() {
    let mut world = world("rack = \"op://Private/Rack/credential\"");
    world.set("ANTHROPIC_API_KEY", Some("sk-canary-of-another"));
    state(&world, "signed-out");
    world.site.up(&[Daemon::Llm]).await;
    let error = world.ask().await.unwrap_err();
    assert!(error.message().contains("waiting-for-credential"), "{error}");
    assert!(error.message().contains("op signin"), "{error}");
    assert_eq!(
        world.health().await,
        i32::from(nexus_proto::common::v1::Health::Degraded)
    );
    assert!(world.provider.keys().is_empty());
    let pid = world.site.process(Daemon::Llm).pid();
    state(&world, "fine");
    world.answered().await;
    assert_eq!(world.provider.keys(), ["sk-canary-of-op"]);
    assert_eq!(world.site.process(Daemon::Llm).pid(), pid, "it never restarted");
    assert_eq!(
        world.health().await,
        i32::from(nexus_proto::common::v1::Health::Healthy)
    );
    // Changed in 1Password itself: the daemon hears of it by a sync.
    fs::write(world.folder().join("bin/secret"), "sk-canary-newer").unwrap();
    world.credential(&["sync"], "").ok();
    world.ask().await.unwrap();
    assert_eq!(world.provider.keys().last().unwrap(), "sk-canary-newer");
    // Gone away again: the key that was good stays in use.
    state(&world, "locked");
    world.credential(&["sync"], "").ok();
    world.ask().await.unwrap();
    assert_eq!(world.provider.keys().last().unwrap(), "sk-canary-newer");
    let env = fs::read_to_string(world.folder().join("bin/op.env")).unwrap();
    assert!(!env.contains("canary"), "another secret reached op: {env}");
    assert!(!world.log().contains("canary"));
}
