//! gnome-keyring on a bus of its own: stored, locked, unlocked, taken away, brought back.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nexus_tests::{Daemon, PATIENCE};

use crate::kit::{World, have};

const PROGRAMS: [&str; 4] = ["dbus-daemon", "dbus-send", "gnome-keyring-daemon", "secret-tool"];
/// Nothing is started by asking for it, so a keyring is there only while the test says so.
const BUS: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path=PATH</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/></policy>
</busconfig>"#;

struct Session {
    folder: PathBuf,
    bus: Child,
    keyring: Option<Child>,
}

impl Session {
    fn start(world: &mut World) -> Session {
        let folder = world.folder().join("session");
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        let socket = folder.join("bus");
        let config = folder.join("bus.conf");
        fs::write(&config, BUS.replace("PATH", socket.to_str().unwrap())).unwrap();
        let bus = Command::new("dbus-daemon")
            .args(["--nofork", "--nopidfile", "--config-file"])
            .arg(&config)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        world.set(
            "DBUS_SESSION_BUS_ADDRESS",
            Some(&format!("unix:path={}", socket.display())),
        );
        let mut session = Session {
            folder,
            bus,
            keyring: None,
        };
        until("the bus listens", || session.folder.join("bus").exists());
        session.unlock();
        session
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env(
                "DBUS_SESSION_BUS_ADDRESS",
                format!("unix:path={}", self.folder.join("bus").display()),
            )
            .env("HOME", &self.folder)
            .env("XDG_RUNTIME_DIR", &self.folder)
            .env("XDG_DATA_HOME", &self.folder)
            .env_remove("DISPLAY")
            .stderr(Stdio::null());
        command
    }

    fn send(&self, method: &str, arguments: &[&str]) -> Option<String> {
        let done = self
            .command("dbus-send")
            .args([
                "--print-reply",
                "--dest=org.freedesktop.secrets",
                "/org/freedesktop/secrets",
                method,
            ])
            .args(arguments)
            .output()
            .unwrap();
        done.status.success().then(|| String::from_utf8(done.stdout).unwrap())
    }

    /// The keyring of this user begins unlocked, as after a login.
    fn unlock(&mut self) {
        self.end_keyring();
        let mut keyring = self
            .command("gnome-keyring-daemon")
            .args(["--foreground", "--components=secrets", "--unlock"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        keyring.stdin.take().unwrap().write_all(b"password").unwrap();
        self.keyring = Some(keyring);
        until("the keyring is open", || {
            let answer = self.send("org.freedesktop.Secret.Service.ReadAlias", &["string:default"]);
            answer.is_some_and(|answer| answer.contains("collection/login"))
        });
    }

    fn lock(&self) {
        let login = "array:objpath:/org/freedesktop/secrets/collection/login";
        self.send("org.freedesktop.Secret.Service.Lock", &[login]).unwrap();
    }

    fn end_keyring(&mut self) {
        if let Some(mut keyring) = self.keyring.take() {
            let _gone = keyring.kill();
            keyring.wait().unwrap();
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end_keyring();
        let _gone = self.bus.kill();
        let _status = self.bus.wait();
    }
}

fn until(what: &str, mut is: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is() {
        assert!(begin.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn secrets_are_kept_in_the_keyring_and_others_find_them_there() {
    if !have("secrets_are_kept_in_the_keyring_and_others_find_them_there", &PROGRAMS) {
        return;
    }
    let mut world = World::new("");
    let mut session = Session::start(&mut world);
    // Without a word on where, the keyring is the place.
    let done = world.credential(&["add", "rack"], "sk-canary-kept").ok();
    assert!(done.out.contains("keyring:nexus.rack/default"), "{done:?}");
    let theirs = |service: &str, name: &str, account: &str| {
        let mut tool = session.command("secret-tool");
        let done = tool
            .args(["lookup", "service", service, name, account])
            .output()
            .unwrap();
        String::from_utf8(done.stdout).unwrap()
    };
    assert_eq!(theirs("nexus.rack", "account", "default"), "sk-canary-kept");
    world.credential(&["rotate", "rack"], "sk-canary-newer").ok();
    assert_eq!(theirs("nexus.rack", "account", "default"), "sk-canary-newer");
    // What another program stored, under the names that it uses.
    let mut tool = session.command("secret-tool");
    let mut tool = tool
        .args(["store", "--label", "x", "service", "other", "username", "me"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    tool.stdin.take().unwrap().write_all(b"sk-theirs").unwrap();
    assert!(tool.wait().unwrap().success());
    assert_eq!(
        world.credential(&["get", "keyring:other/me"], "").ok().out,
        "sk-theirs\n"
    );
    assert_eq!(world.credential(&["get", "keyring:other/nobody"], "").code, Some(4));
    session.lock();
    for arguments in [
        &["get", "rack"][..],
        &["get", "keyring:other/me"],
        &["get", "keyring:other/nobody"],
    ] {
        let done = world.credential(arguments, "");
        assert_eq!(done.code, Some(7), "{arguments:?}: {done:?}");
    }
    assert_eq!(world.credential(&["rotate", "rack"], "sk-canary-lost").code, Some(7));
    assert_eq!(
        world.credential(&["list", "--json"], "").ok().json()[0]["account"],
        "rack/default"
    );
    session.unlock();
    assert_eq!(world.credential(&["get", "rack"], "").ok().out, "sk-canary-newer\n");
    world.credential(&["remove", "rack"], "").ok();
    assert_eq!(
        world.credential(&["get", "keyring:nexus.rack/default"], "").code,
        Some(4)
    );
    session.end_keyring();
    assert_eq!(
        world.credential(&["get", "keyring:other/me"], "").code,
        Some(8),
        "no keyring at all"
    );
}

#[tokio::test]
async fn a_daemon_waits_for_a_locked_keyring_and_goes_on_when_it_opens() {
    if !have(
        "a_daemon_waits_for_a_locked_keyring_and_goes_on_when_it_opens",
        &PROGRAMS,
    ) {
        return;
    }
    let mut world = World::new("");
    let mut session = Session::start(&mut world);
    world.credential(&["add", "rack"], "sk-canary-kept").ok();
    session.lock();
    world.site.up(&[Daemon::Llm]).await;
    let error = world.ask().await.unwrap_err();
    assert!(
        error
            .message()
            .contains("waiting-for-credential: rack: keyring:nexus.rack/default: the keyring is locked"),
        "{error}"
    );
    assert_eq!(
        world.health().await,
        i32::from(nexus_proto::common::v1::Health::Degraded)
    );
    assert_eq!(world.service("llm")["state"], "waiting-for-credential");
    let pid = world.site.process(Daemon::Llm).pid();
    session.unlock();
    world.answered().await;
    assert_eq!(world.provider.keys(), ["sk-canary-kept"]);
    assert_eq!(
        world.health().await,
        i32::from(nexus_proto::common::v1::Health::Healthy)
    );
    world.credential(&["rotate", "rack"], "sk-canary-newer").ok();
    world.ask().await.unwrap();
    assert_eq!(world.provider.keys().last().unwrap(), "sk-canary-newer");
    assert_eq!(world.site.process(Daemon::Llm).pid(), pid);
}
