//! What a login shell exports, for a daemon that no shell started.

use std::{fs, time::Instant};

use nexus_tests::{Daemon, PATIENCE};

use crate::kit::World;

/// A shell whose profile does what is told, and that runs what it is given like any other.
fn shell(world: &mut World, profile: &str) {
    let path = world.shim(
        "sh-of-user",
        &format!("{profile}\nfor last; do :; done\neval \"$last\""),
    );
    world.set("SHELL", Some(path.to_str().unwrap()));
    world.set("NEXUS_LOAD_SHELL_ENV", Some("1"));
}

#[tokio::test]
async fn keys_come_from_the_login_shell_and_say_so() {
    let mut world = World::new("");
    let began = world.folder().join("began");
    shell(
        &mut world,
        &format!(
            "echo began >>{}; echo 'NEXUS_LLM_KEY_RACK=banner'; export NEXUS_LLM_KEY_RACK=sk-canary-shell OTHER_SECRET=sk-canary-other",
            began.display()
        ),
    );
    world.site.up(&[Daemon::Llm]).await;
    world.ask().await.unwrap();
    assert_eq!(world.provider.keys(), ["sk-canary-shell"]);
    let log = world.log();
    assert!(
        log.contains("the variable NEXUS_LLM_KEY_RACK of the login shell"),
        "{log}"
    );
    assert!(!log.contains("canary"));
    assert_eq!(
        fs::read_to_string(began).unwrap().lines().count(),
        1,
        "it runs once for all names"
    );
    // What this process has itself stands before it.
    let got = world.credential(&["get", "env:OTHER_SECRET"], "").ok();
    assert_eq!(got.out, "sk-canary-other\n");
    world.set("OTHER_SECRET", Some("sk-mine"));
    assert_eq!(world.credential(&["get", "env:OTHER_SECRET"], "").ok().out, "sk-mine\n");
}

#[tokio::test]
async fn a_shell_that_hangs_is_ended_with_all_it_started() {
    let mut world = World::new("rack = \"env:RACK_KEY\"");
    let pid = world.folder().join("pid");
    shell(
        &mut world,
        &format!(
            "trap '' TERM HUP INT; sh -c 'echo $$ >{0}.new; mv {0}.new {0}; sleep 1000' & wait",
            pid.display()
        ),
    );
    world.set("NEXUS_SHELL_ENV_TIMEOUT_MS", Some("2000"));
    world.site.up(&[Daemon::Llm]).await;
    let error = world.ask().await.unwrap_err();
    assert!(error.message().contains("did not end within 2000 ms"), "{error}");
    let child: i32 = fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    let begin = Instant::now();
    loop {
        let state = fs::read_to_string(format!("/proc/{child}/stat"));
        if state.is_err() || state.is_ok_and(|state| state.contains(") Z")) {
            break;
        }
        // It is killed by then; tried again it has another child.
        assert!(begin.elapsed() < PATIENCE, "{child} lives");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[test]
fn what_the_environment_says_wrongly_is_refused() {
    let mut world = World::new("");
    world.set("NEXUS_LOAD_SHELL_ENV", Some("perhaps"));
    let done = world.credential(&["verify"], "");
    assert_eq!(done.code, Some(78));
    assert!(done.err.contains("NEXUS_LOAD_SHELL_ENV"), "{done:?}");
}

#[test]
fn a_real_shell_gives_what_its_profile_exports() {
    let mut world = World::new("");
    fs::write(
        world.folder().join(".bash_profile"),
        "echo welcome\nexport RACK_KEY=sk-of-bash\n",
    )
    .unwrap();
    for (name, program) in [("bash", "/bin/bash"), ("zsh", "/bin/zsh")] {
        if !std::path::Path::new(program).exists() {
            println!("{name} is not here; bash is on every host that runs these tests");
            continue;
        }
        fs::write(
            world.folder().join(".zprofile"),
            "echo welcome\nexport RACK_KEY=sk-of-zsh\n",
        )
        .unwrap();
        world.set("SHELL", Some(program));
        world.set("NEXUS_LOAD_SHELL_ENV", Some("1"));
        assert_eq!(
            world.credential(&["get", "env:RACK_KEY"], "").ok().out,
            format!("sk-of-{name}\n")
        );
    }
}
