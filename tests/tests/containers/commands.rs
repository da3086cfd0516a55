//! `nexus containers` and `nexus images`, as a person or a script runs them, on the built-in sandbox.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use nexus_proto::orchestrator::v1::ListContainersRequest;
use nexus_tests::engines::{busybox, holders};
use nexus_tests::registry::Registry;
use nexus_tests::{Daemon, Site, binary, skipped};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// A site whose orchestrator runs; commands are run beside it.
struct Fixture {
    site: Site,
}

impl Fixture {
    async fn new(site: Site) -> Fixture {
        let mut site = site;
        site.up(&[Daemon::Orchestrator]).await;
        Fixture { site }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let program = binary("nexus");
        let mut command = Command::new(&program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.site.folder().path())
            .env("NEXUS_ROOT", self.site.root().path())
            .env("GRPC_SOCKET_PATH", self.site.socket(Daemon::Orchestrator))
            .env("NEXUS_BIN_DIR", program.parent().unwrap())
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    async fn ends(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap()
    }

    /// Its exit code, what it printed, and what it said beside that.
    async fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let done = self.ends(arguments).await;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (done.status.code().unwrap(), text(&done.stdout), text(&done.stderr))
    }

    /// What it printed, if it exits with 0.
    async fn says(&self, arguments: &[&str]) -> String {
        let (code, out, beside) = self.run(arguments).await;
        assert_eq!(code, 0, "nexus {arguments:?}\n{out}\n{beside}");
        out
    }

    async fn json(&self, arguments: &[&str]) -> Value {
        let text = self.says(arguments).await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Starts it, and waits until it has printed this line.
    async fn started(&self, arguments: &[&str], line: &str) -> Child {
        let mut command = self.command(arguments);
        let line = line.to_owned();
        let started = tokio::task::spawn_blocking(move || {
            let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
            let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
            let first = lines.next().expect("it says something").unwrap();
            assert_eq!(first, line);
            child
        });
        started.await.unwrap()
    }

    /// No container, and nothing that runs for one.
    async fn nothing_left(&self) {
        assert_eq!(self.json(&["containers", "list", "--json"]).await, Value::Array(vec![]));
        let directory = self.site.root().state().join("containers");
        let orchestrator = format!("{}: ", self.site.pid(Daemon::Orchestrator));
        super::orchestrated::until("the end of all processes", async || {
            holders(&directory).iter().all(|one| one.starts_with(&orchestrator))
        })
        .await;
        let left = std::fs::read_dir(directory.join("containers")).into_iter().flatten();
        assert_eq!(left.count(), 0);
    }
}

async fn code(child: Child) -> Option<i32> {
    let mut child = child;
    tokio::task::spawn_blocking(move || child.wait().unwrap().code())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_command_is_run_and_ends_as_it_does() {
    let place = Fixture::new(Site::new()).await;
    let hello = ["containers", "run", "--", "echo", "hello"];
    assert_eq!(place.run(&hello).await.1, "hello\n");
    let script = "echo out; echo err >&2; exit 7";
    let (code, out, err) = place.run(&["containers", "run", "--", "sh", "-c", script]).await;
    assert_eq!((code, out.as_str()), (7, "out\n"));
    assert!(err.contains("err\n"), "{err}");
    let (code, out, _) = place
        .run(&["containers", "run", "--json", "--", "sh", "-c", script])
        .await;
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(
        lines
            .iter()
            .any(|line| line["stream"] == "stdout" && line["data"] == "out\n"),
        "{lines:?}"
    );
    assert_eq!((code, &lines.last().unwrap()["exit_code"]), (7, &Value::from(7)));

    let (code, _, err) = place.run(&["containers", "run", "--", "/no/such/program"]).await;
    assert!(code == 1 && err.contains("/no/such/program"), "{code}: {err}");
    assert_eq!(place.run(&["containers", "run"]).await.0, 2);
    let (code, _, err) = place.run(&["containers", "run", "--user", "0", "--", "true"]).await;
    assert!(code == 5 && err.contains("container_allow_root"), "{code}: {err}");

    let given = place.site.folder().path().join("given");
    std::fs::create_dir(&given).unwrap();
    std::fs::write(given.join("words"), "words\n").unwrap();
    open_to_all(&given);
    // Containers of root's sessions have the rights of nobody, and have to pass.
    open_to_all(place.site.folder().path());
    let mount = format!("{}:/in:ro", given.display());
    let script = "cat words; echo $X; touch /in/x 2>/dev/null || echo shut";
    let arguments = [
        "containers",
        "run",
        "-v",
        &mount,
        "-w",
        "/in",
        "-e",
        "X=y",
        "--memory",
        "64MiB",
        "--pids",
        "32",
        "--",
        "sh",
        "-c",
        script,
    ];
    assert_eq!(place.says(&arguments).await, "words\ny\nshut\n");
    place.nothing_left().await;
}

fn open_to_all(directory: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn an_interrupt_ends_what_was_run() {
    let place = Fixture::new(Site::new()).await;
    let script = "trap 'exit 9' TERM; echo up; while :; do sleep 0.05; done";
    let child = place
        .started(&["containers", "run", "--", "sh", "-c", script], "up")
        .await;
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(code(child).await, Some(9));
    place.nothing_left().await;
}

#[tokio::test]
async fn an_interrupt_ends_what_is_started_again_and_again() {
    let place = Fixture::new(Site::new()).await;
    let script = "echo up; exit 3";
    let arguments = ["containers", "run", "--restart", "always", "--", "sh", "-c", script];
    let child = place.started(&arguments, "up").await;
    // Its log has ended with its first life.
    let connection = place.site.connect();
    super::orchestrated::until("its second life", async || {
        let all = connection
            .orchestrator()
            .list_containers(ListContainersRequest::default())
            .await;
        all.unwrap().into_inner().containers[0].restart_count > 0
    })
    .await;
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(code(child).await, Some(3));
    place.nothing_left().await;
}

#[tokio::test]
async fn an_interrupt_ends_a_wait_for_an_image_too() {
    let place = Fixture::new(Site::new()).await;
    // A registry that says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let image = format!("{}/tool:1", silent.local_addr().unwrap());
    let mut command = place.command(&["containers", "run", &image, "--", "true"]);
    let child = command.stderr(Stdio::null()).spawn().unwrap();
    let held = silent.accept().await.unwrap();
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(code(child).await, Some(130));
    drop((held, silent));
    place.nothing_left().await;
}

/// As a new user does it: nothing is set, and the programs lie beside each other.
#[test]
fn after_up_a_command_runs_at_once() {
    let folder = tempfile::Builder::new().prefix("nexus-").tempdir().unwrap();
    let nexus = |arguments: &[&str]| {
        let mut command = Command::new(binary("nexus"));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", folder.path())
            .env("NEXUS_ROOT", folder.path().join("root"))
            .env("GRPC_SOCKET_PATH", folder.path().join("o.sock"))
            .env("NEXUS_GATEWAY__TCP_LISTEN", "")
            .args(arguments)
            .stdin(Stdio::null());
        command.output().unwrap()
    };
    let up = nexus(&["up"]);
    let ran = nexus(&["containers", "run", "--", "echo", "hello"]);
    let down = nexus(&["down", "--timeout", "10s"]);
    for done in [&up, &down] {
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    let beside = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(
        (ran.status.code(), &*ran.stdout),
        (Some(0), &b"hello\n"[..]),
        "{beside}"
    );
    assert_eq!(
        holders(&folder.path().join("root/state/containers")),
        Vec::<String>::new()
    );
}

#[tokio::test]
async fn a_container_is_followed_entered_and_taken_away() {
    let place = Fixture::new(Site::new()).await;
    let script = "echo first; until [ -e go ]; do sleep 0.02; done; echo second; sleep 600";
    let arguments = ["containers", "run", "-d", "-l", "of=test", "--", "sh", "-c", script];
    let id = place.says(&arguments).await.trim().to_owned();
    let short = &id[..id.len() - 2];

    let list = place.json(&["containers", "list", "--running", "--json"]).await;
    assert_eq!(
        (&list[0]["id"], &list[0]["backend"]),
        (&Value::from(id.as_str()), &"sandbox".into())
    );
    assert_eq!(
        (&list[0]["image"], &list[0]["note"]),
        (&"nexus/host".into(), &"".into())
    );
    let table = place.says(&["containers", "list", "--label", "of=test"]).await;
    assert!(table.contains(&id) && table.contains("running"), "{table}");
    assert!(
        !place
            .says(&["containers", "list", "--label", "of=other"])
            .await
            .contains(&id)
    );

    let follow = place.started(&["containers", "logs", "-f", short], "first").await;
    let (code_of, out, err) = place
        .run(&[
            "containers",
            "exec",
            short,
            "--",
            "sh",
            "-c",
            "touch go; pwd; echo e >&2; exit 4",
        ])
        .await;
    assert_eq!((code_of, out.as_str(), err.as_str()), (4, "/workspace\n", "e\n"));
    let (code_of, out, _) = place
        .run(&["containers", "exec", "--json", short, "--", "sh", "-c", "exit 5"])
        .await;
    let done: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code_of, &done["exit_code"]), (5, &Value::from(5)));
    let (code_of, _, err) = place
        .run(&["containers", "exec", "--timeout", "200ms", short, "--", "sleep", "60"])
        .await;
    assert!(code_of == 6 && err.contains("too long"), "{code_of}: {err}");
    let mut command = place.command(&["containers", "exec", "-i", short, "--", "cat"]);
    let given = place.site.folder().path().join("given");
    std::fs::write(&given, "given\n").unwrap();
    let told = command.stdin(std::fs::File::open(&given).unwrap()).output().unwrap();
    assert_eq!(told.stdout, b"given\n");

    super::orchestrated::until("the second line", async || {
        place.says(&["containers", "logs", "--tail", "1", short]).await == "second\n"
    })
    .await;
    let used = place.json(&["containers", "stats", "--json"]).await;
    assert!(used[0]["id"] == *id && used[0]["pids"].as_i64().unwrap() >= 2, "{used}");
    assert!(place.says(&["containers", "stats", short]).await.contains("MiB"));
    assert_eq!(place.run(&["containers", "logs", "nosuch"]).await.0, 4);

    assert_eq!(place.run(&["containers", "rm", short]).await.0, 1);
    assert_eq!(
        place.says(&["containers", "stop", "-t", "300ms", short]).await.trim(),
        id
    );
    // The end of the container is the end of its log.
    assert_eq!(code(follow).await, Some(0));
    let list = place.json(&["containers", "list", "--json"]).await;
    assert_eq!(list[0]["state"], "CONTAINER_STATE_EXITED");
    let gone = place.json(&["containers", "rm", "--json", short]).await;
    assert_eq!(gone["id"], *id);
    place.nothing_left().await;
}

#[tokio::test]
async fn images_are_fetched_taken_in_used_and_removed() {
    let test = "images_are_fetched_taken_in_used_and_removed";
    let registry = match Registry::start() {
        Ok(registry) => registry,
        Err(missing) => return skipped(test, &missing),
    };
    let directory = tempfile::tempdir().unwrap();
    let root = busybox(directory.path()).unwrap();
    let pushed = registry.push("tool:1", &root, "one").await;
    let logins = directory.path().join("logins");
    std::fs::create_dir(&logins).unwrap();
    let place = Fixture::new(Site::new().env("DOCKER_CONFIG", logins.to_str().unwrap())).await;

    let (code, _, err) = place.run(&["images", "pull", &pushed.reference]).await;
    assert_eq!(code, 1, "{err}");
    std::fs::write(logins.join("config.json"), registry.login_file()).unwrap();
    let absent = format!("{}/none:1", registry.address());
    assert_eq!(place.run(&["images", "pull", &absent]).await.0, 4);
    let told = place.says(&["images", "pull", "--json", &pushed.reference]).await;
    let steps: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(steps.iter().any(|step| step["total"].as_i64() > Some(0)), "{steps:?}");
    assert_eq!(steps.last().unwrap()["fetched"], true);
    let again = place.says(&["images", "pull", &pushed.reference]).await;
    assert!(again.contains("here already"), "{again}");

    let tar = root.to_str().unwrap();
    let id = place.says(&["images", "import", tar, "localhost/root:1"]).await;
    assert!(id.starts_with("sha256:"), "{id}");
    let listed = place.json(&["images", "list", "--json"]).await;
    assert_eq!(listed["backend"], "sandbox");
    assert_eq!(listed["images"].as_array().unwrap().len(), 3);
    let table = place.says(&["images", "list"]).await;
    assert!(
        table.contains("nexus/host") && table.contains(&pushed.reference),
        "{table}"
    );

    // With the image's own command, and with another.
    let own = place
        .says(&["containers", "run", "-w", "/tmp", &pushed.reference])
        .await;
    assert_eq!(own, "version one in /tmp\n");
    let other = place
        .says(&["containers", "run", "localhost/root:1", "--", "/bin/echo", "other"])
        .await;
    assert_eq!(other, "other\n");
    let plain = place
        .says(&[
            "containers",
            "run",
            "localhost/root:1",
            "/bin/echo",
            "-e",
            "--",
            "other",
        ])
        .await;
    assert_eq!(plain, "-- other\n");

    assert_eq!(
        place.says(&["images", "rm", "localhost/root:1"]).await,
        "localhost/root:1\n"
    );
    assert_eq!(place.run(&["images", "rm", "localhost/root:1"]).await.0, 4);
    assert_eq!(place.json(&["images", "prune", "--json"]).await["freed_bytes"], 0);
    let freed = place.json(&["images", "prune", "--all", "--json"]).await;
    assert!(freed["freed_bytes"].as_i64() > Some(0), "{freed}");
    let listed = place.json(&["images", "list", "--json"]).await;
    assert_eq!(listed["images"].as_array().unwrap().len(), 1);
    place.nothing_left().await;
}

#[tokio::test]
async fn the_bare_host_is_named_and_told_everywhere() {
    let site = Site::new().settings("[orchestrator]\ncontainer_backend = \"host-unsafe\"\n");
    // Over what every site has.
    let site = site.env("NEXUS_ORCHESTRATOR__CONTAINER_BACKEND", "host-unsafe");
    let place = Fixture::new(site).await;
    // It sees the host: this very process, and its own directory as it is there.
    let pid = std::process::id();
    let script = format!("test -d /proc/{pid} && echo seen; pwd; exit 3");
    let (code, out, err) = place.run(&["containers", "run", "--", "sh", "-c", &script]).await;
    assert_eq!(code, 3, "{out}{err}");
    assert!(out.starts_with("seen\n") && out.contains("/workspaces/"), "{out}");
    assert!(err.contains("not isolated"), "{err}");

    let up = "(trap '' TERM; sleep 600) & echo up; sleep 600";
    let id = place.says(&["containers", "run", "-d", "--", "sh", "-c", up]).await;
    let id = id.trim();
    let list = place.json(&["containers", "list", "--json"]).await;
    assert_eq!(list[0]["backend"], "host-unsafe");
    assert!(list[0]["note"].as_str().unwrap().contains("bare host"), "{list}");
    let told = place.says(&["containers", "exec", id, "--", "pwd"]).await;
    assert!(told.contains("/workspaces/"), "{told}");
    let events = nexus_client::Events::new(
        place.site.connect(),
        nexus_proto::orchestrator::v1::SubscribeEventsRequest {
            filter: Some(nexus_proto::orchestrator::v1::EventFilter {
                names: vec!["container.unisolated".into()],
                ..Default::default()
            }),
            after_sequence: Some(0),
        },
    );
    let mut events = events;
    let event = tokio::time::timeout(nexus_tests::PATIENCE, events.next()).await;
    let event = event.unwrap().unwrap().unwrap();
    assert!(event.data["reason"].contains("bare host"), "{event:?}");

    // An image needs a root of its own, and so does a mount.
    let (code, _, err) = place.run(&["containers", "run", "alpine:3", "--", "true"]).await;
    assert!(code != 0 && err.contains("host-unsafe"), "{err}");
    let (code, _, err) = place
        .run(&["containers", "run", "-v", "/usr/share:/in:ro", "--", "true"])
        .await;
    assert!(code != 0 && err.contains("host-unsafe"), "{err}");
    assert_eq!(place.run(&["containers", "list", "--json"]).await.0, 0);
    let report = place.run(&["doctor", "--json"]).await.1;
    let report: Value = serde_json::from_str(&report).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let chosen = checks.iter().find(|check| check["id"] == "backends.chosen").unwrap();
    assert_eq!(chosen["status"], "warn");
    assert!(
        chosen["message"].as_str().unwrap().contains("nothing isolates"),
        "{chosen}"
    );

    // What it started ends with it, though it would not listen.
    place.says(&["containers", "rm", "-f", id]).await;
    place.nothing_left().await;
    let workspaces = place.site.root().state().join("workspaces");
    let log = std::fs::read_to_string(place.site.folder().path().join("orchestrator.out"));
    assert!(log.unwrap().contains("bare host"));
    super::orchestrated::until("the end of what it started", async || nobody_in(&workspaces)).await;
}

/// On the bare host `container_user` says who commands run as, for everybody, and what they leave belongs to that user.
#[tokio::test]
async fn the_bare_host_runs_commands_as_its_user() {
    let test = "the_bare_host_runs_commands_as_its_user";
    if !nix::unistd::geteuid().is_root() {
        return skipped(test, "needs root, to run commands as another user");
    }
    let site = Site::new()
        .env("NEXUS_ORCHESTRATOR__CONTAINER_BACKEND", "host-unsafe")
        .env("NEXUS_ORCHESTRATOR__CONTAINER_USER", "1001:1001");
    let place = Fixture::new(site).await;
    let script = "id -u; id -g; umask; touch left && stat -c %u:%a left; mkdir d && touch d/more && ls . d";
    let (code, out, err) = place.run(&["containers", "run", "--", "sh", "-c", script]).await;
    assert_eq!(
        (code, out.as_str()),
        (0, "1001\n1001\n0022\n1001:644\n.:\nd\nleft\n\nd:\nmore\n"),
        "{err}"
    );
    // What cannot work is no setting.
    for (user, why) in [("0:0", "container_allow_root"), ("somebody", "UID[:GID]")] {
        let mut check = place.site.command(Daemon::Orchestrator);
        check
            .env("NEXUS_ORCHESTRATOR__CONTAINER_USER", user)
            .arg("--check-config");
        let done = check.output().unwrap();
        let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
        assert!(done.status.code() == Some(78) && said.contains(why), "{user}: {said}");
    }
}

/// Whether no process works below this directory.
fn nobody_in(directory: &Path) -> bool {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let mut places = all.filter_map(|entry| std::fs::read_link(entry.path().join("cwd")).ok());
    !places.any(|place| place.starts_with(directory))
}

#[tokio::test]
async fn the_doctor_says_which_backend_works_and_why_others_do_not() {
    let place = Fixture::new(Site::new()).await;
    let nowhere = place.site.folder().path().join("nowhere.sock");
    let mut command = place.command(&["doctor", "--json"]);
    command.env("NEXUS_ORCHESTRATOR__CONTAINER_BACKEND", "podman").env(
        "NEXUS_ORCHESTRATOR__CONTAINER_HOST",
        format!("unix://{}", nowhere.display()),
    );
    // Somebody listens there who is no engine.
    let listener = std::os::unix::net::UnixListener::bind(&nowhere).unwrap();
    let silent = std::thread::spawn(move || {
        for _ in 0..2 {
            drop(listener.accept().unwrap());
        }
    });
    let done = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    silent.join().unwrap();
    let report: Value = serde_json::from_slice(&done.stdout).unwrap();
    let of = |id: &str| {
        let checks = report["checks"].as_array().unwrap();
        let one = checks.iter().find(|check| check["id"] == id).unwrap();
        (
            one["status"].as_str().unwrap().to_owned(),
            one["message"].as_str().unwrap().to_owned(),
        )
    };
    let (status, said) = of("backends.sandbox");
    assert!(status == "pass" && said.contains("works"), "{said}");
    let (status, said) = of("backends.podman");
    assert!(status == "warn" && said.contains("does not answer"), "{said}");
    let (status, said) = of("backends.chosen");
    assert!(status == "warn" && said.contains("podman"), "{said}");
}
