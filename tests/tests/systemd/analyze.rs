//! What systemd itself says of the units: that they are sound, and how much they expose.

use std::{io::Write, path::Path};

use crate::container::{Container, NEW, OLD, Who};

/// The checked-in units and the generated ones, by an old systemd and a new one.
#[test]
fn all_units_are_sound() {
    for suite in [OLD, NEW] {
        let Some(container) = Container::boot_tree("analyze::all_units_are_sound", suite) else {
            return;
        };
        container.run(Who::Root, "ln -s /usr/local/bin/nexus* /usr/bin/");
        let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd");
        for scope in ["user", "system"] {
            for entry in std::fs::read_dir(units.join(scope)).unwrap() {
                let entry = entry.unwrap();
                let text = std::fs::read_to_string(entry.path()).unwrap();
                let name = entry.file_name().into_string().unwrap();
                container.write(&format!("/srv/{scope}/{name}"), &text);
            }
        }
        for table in ["sysusers", "tmpfiles"] {
            let text = std::fs::read_to_string(units.join(format!("{table}.d/nexus.conf"))).unwrap();
            container.write(&format!("/srv/{table}"), &text);
        }
        container.run(
            Who::Root,
            "systemd-sysusers /srv/sysusers && systemd-tmpfiles --create /srv/tmpfiles",
        );
        sound(&container, Who::Root, "/srv/system");
        sound(&container, Who::Ada, "/srv/user");

        container.run(Who::Root, "nexus services install --system --no-start");
        container.run(
            Who::Ada,
            "nexus --root '/home/ada/my 50% nexus' services install --no-start",
        );
        sound(&container, Who::Root, "/etc/systemd/system");
        sound(&container, Who::Ada, "/home/ada/.config/systemd/user");
        if suite == OLD {
            exposure(&container);
        }
    }
}

fn sound(container: &Container, who: Who, folder: &str) {
    let user = if matches!(who, Who::Root) { "" } else { "--user" };
    // A template is looked at as one of its instances.
    let line = format!(
        "cd {folder} && systemd-analyze {user} --man=no verify $(ls -d nexus*.* | grep -v '\\.d$\\|\\.wants$' | sed 's,@\\.,@assistant.,') 2>&1"
    );
    let said = container.run(who, &line);
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("nexus")).collect();
    assert!(ours.is_empty(), "{folder}:\n{}", ours.join("\n"));
}

fn exposure(container: &Container) {
    let mut seen = std::io::stderr();
    for (scope, user, worst) in [("system", "", 60), ("user", "--user", 97)] {
        let line = format!(
            "cd /srv/{scope} && for unit in *.service; do systemd-analyze {user} security --no-pager --offline=true \
             --threshold={worst} ./$unit | tail -1; done"
        );
        let who = if scope == "system" { Who::Root } else { Who::Ada };
        // Past what captures a test's output: the scores are for people.
        writeln!(seen, "{scope} units:\n{}", container.run(who, &line)).unwrap();
    }
}
