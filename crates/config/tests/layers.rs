//! Which source wins, and that typed structs get what was meant.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nexus_config::{Change, Kind, Origin, Root, Schema, Setting, Sources, Value, common, load, load_all};
use serde::Deserialize;

fn table() -> Schema {
    Schema::new(
        "llm",
        vec![
            Setting::new("name", Kind::Text, "built-in", "")
                .live()
                .env(&["LLM_NAME", "OLD_NAME"])
                .flag("name"),
            Setting::new("label", Kind::Text, "", ""),
            Setting::new("nick", Kind::Text, "", ""),
            Setting::new("retries", Kind::Int { min: 0, max: 9 }, "3", "").alias(&["MaxRetries"]),
            Setting::new("ratio", Kind::Float, "0.5", ""),
            Setting::new("on", Kind::Bool, "false", ""),
            Setting::new("pause", Kind::Duration, "30s", ""),
            Setting::new("limit", Kind::Duration, "", ""),
            Setting::new("largest", Kind::Size, "1MiB", ""),
            Setting::new("place", Kind::Path, "$NEXUS_ROOT/state/x", ""),
            Setting::new("spare", Kind::Path, "", ""),
            Setting::new("hosts", Kind::List, "a,b", ""),
            Setting::new("roles", Kind::Map, "", ""),
            Setting::new("mode", Kind::Choice(&["fast", "slow"]), "fast", ""),
        ],
    )
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Fast,
    Slow,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Typed {
    name: String,
    label: String,
    nick: Option<String>,
    retries: u8,
    ratio: f64,
    on: bool,
    pause: Duration,
    limit: Option<Duration>,
    largest: u64,
    place: PathBuf,
    spare: Option<PathBuf>,
    hosts: Vec<String>,
    roles: BTreeMap<String, String>,
    mode: Mode,
}

struct World {
    dir: tempfile::TempDir,
    root: Root,
}

impl World {
    fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        World { dir, root }
    }

    fn file(&self, text: &str) -> PathBuf {
        let path = self.dir.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        path
    }

    fn sources(&self) -> Sources<'_> {
        Sources::new(&self.root)
    }
}

fn pairs(given: &[(&str, &str)]) -> Vec<(String, String)> {
    given.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn defaults_alone_make_a_whole_struct() {
    let world = World::new();
    let typed: Typed = load(&table(), &world.sources()).unwrap().extract().unwrap();
    assert_eq!(
        typed,
        Typed {
            name: "built-in".into(),
            label: String::new(),
            nick: None,
            retries: 3,
            ratio: 0.5,
            on: false,
            pause: Duration::from_secs(30),
            limit: None,
            largest: 1 << 20,
            place: world.root.path().join("state/x"),
            spare: None,
            hosts: vec!["a".into(), "b".into()],
            roles: BTreeMap::new(),
            mode: Mode::Fast,
        }
    );
}

#[test]
fn each_source_wins_over_the_ones_before() {
    let world = World::new();
    let mut sources = world.sources();
    let name = |sources: &Sources<'_>| {
        let settings = load(&table(), sources).unwrap();
        (
            settings.get("name").unwrap().clone(),
            settings.origin("name").unwrap().clone(),
        )
    };
    let text = |text: &str| Value::Text(text.to_owned());

    let path = world.file("# first line\n[llm]\nname = \"file\"\n");
    sources.file = Some(path.clone());
    assert_eq!(name(&sources), (text("file"), Origin::File { path, line: Some(3) }));
    sources.env = pairs(&[("OLD_NAME", "older")]);
    assert_eq!(name(&sources), (text("older"), Origin::Env("OLD_NAME".into())));
    sources.env = pairs(&[("OLD_NAME", "older"), ("LLM_NAME", "old")]);
    assert_eq!(name(&sources), (text("old"), Origin::Env("LLM_NAME".into())));
    sources.env = pairs(&[("NEXUS_LLM__NAME", "new"), ("LLM_NAME", "old")]);
    assert_eq!(name(&sources), (text("new"), Origin::Env("NEXUS_LLM__NAME".into())));
    sources.env.push(("OTHER".into(), "x".into()));
    sources.flags = pairs(&[("llm.name", "flag")]).into_iter().collect();
    assert_eq!(name(&sources), (text("flag"), Origin::Flag("--name".into())));
}

#[test]
fn a_file_writes_every_kind_as_toml_does() {
    let world = World::new();
    let mut sources = world.sources();
    sources.file = Some(world.file(
        r#"
[llm]
name = ""
nick = "n"
MaxRetries = 7
ratio = 1
on = true
pause = "1h 30m"
limit = "250ms"
largest = 1_000
place = "~/x"
spare = "relative/y"
hosts = ["one, with comma", "two"]
roles = { "uid:1001" = "user", "a.b" = "agent" }
mode = "Slow"
"#,
    ));
    let typed: Typed = load(&table(), &sources).unwrap().extract().unwrap();
    assert_eq!(typed.nick.as_deref(), Some("n"));
    assert_eq!(typed.name, "", "an empty text is a text");
    assert_eq!(
        (typed.retries, typed.ratio, typed.on, typed.largest),
        (7, 1.0, true, 1000)
    );
    assert_eq!(
        (typed.pause, typed.limit),
        (Duration::from_secs(5400), Some(Duration::from_millis(250)))
    );
    assert!(
        typed.place.is_absolute() && typed.place.ends_with("x"),
        "{:?}",
        typed.place
    );
    assert_eq!(
        typed.spare.as_deref(),
        Some(world.root.path().join("relative/y").as_path())
    );
    assert_eq!(typed.hosts, ["one, with comma", "two"]);
    assert_eq!(typed.roles["uid:1001"], "user");
    assert_eq!(typed.roles["a.b"], "agent");
    assert_eq!(typed.mode, Mode::Slow);
}

#[test]
fn the_environment_writes_every_kind_as_text() {
    let world = World::new();
    let mut sources = world.sources();
    sources.file = Some(world.file("[llm]\nroles = { \"uid:1\" = \"user\" }\nhosts = [\"x\"]\n"));
    sources.env = pairs(&[
        ("NEXUS_LLM__ON", "yes"),
        ("NEXUS_LLM__HOSTS", "c, d"),
        ("NEXUS_LLM__ROLES", "uid:7=admin, gid:8=agent"),
        ("NEXUS_LLM__LARGEST", "64KiB"),
        ("NEXUS_LLM__RETRIES", "1"),
    ]);
    let typed: Typed = load(&table(), &sources).unwrap().extract().unwrap();
    assert!(typed.on);
    assert_eq!(typed.hosts, ["c", "d"]);
    assert_eq!(
        typed.roles,
        BTreeMap::from([("uid:7".into(), "admin".into()), ("gid:8".into(), "agent".into())])
    );
    assert_eq!((typed.largest, typed.retries), (65_536, 1));
}

#[test]
fn an_empty_variable_of_the_seeds_is_one_not_given() {
    let world = World::new();
    let mut sources = world.sources();
    sources.env = pairs(&[("LLM_NAME", "")]);
    let settings = load(&table(), &sources).unwrap();
    assert_eq!(settings.origin("name"), Some(&Origin::Default));
}

#[test]
fn every_daemon_finds_the_orchestrator_where_it_listens() {
    let world = World::new();
    let mut sources = world.sources();
    let orchestrator = |sources: &Sources<'_>| load(&common(), sources).unwrap().get("orchestrator").unwrap().clone();
    let path = |path: &str| Value::Path(PathBuf::from(path));

    assert_eq!(orchestrator(&sources), path("/tmp/baaaht-grpc.sock"));
    sources.file = Some(world.file("[orchestrator]\nsocket_path = \"/run/o.sock\"\n"));
    assert_eq!(orchestrator(&sources), path("/run/o.sock"));
    sources.env = pairs(&[("GRPC_SOCKET_PATH", "/run/e.sock")]);
    assert_eq!(orchestrator(&sources), path("/run/e.sock"));
    sources.env = pairs(&[
        ("NEXUS_ORCHESTRATOR__SOCKET_PATH", "/run/n.sock"),
        ("GRPC_SOCKET_PATH", "/run/e.sock"),
    ]);
    assert_eq!(orchestrator(&sources), path("/run/n.sock"));
}

#[test]
fn the_seeds_spelling_of_common_settings_is_understood() {
    let world = World::new();
    let mut sources = world.sources();
    sources.file = Some(world.file("[common]\nDialTimeout = \"3s\"\nReconnectMaxAttempts = 4\n"));
    sources.env = pairs(&[("GRPC_MAX_RECV_MSG_SIZE", "2097152")]);
    let settings = load(&common(), &sources).unwrap();
    assert_eq!(
        settings.get("dial_timeout"),
        Some(&Value::Duration(Duration::from_secs(3)))
    );
    assert_eq!(settings.get("reconnect_max_attempts"), Some(&Value::Int(4)));
    assert_eq!(settings.get("max_message_bytes"), Some(&Value::Size(2 << 20)));
}

#[test]
fn a_bare_flag_belongs_to_the_first_table_that_has_it() {
    let world = World::new();
    let mut sources = world.sources();
    sources.flags = pairs(&[("name", "mine"), ("log_level", "debug")]).into_iter().collect();
    let loaded = load_all(&[&table(), &common()], &sources).unwrap();
    assert_eq!(loaded[0].get("name"), Some(&Value::Text("mine".into())));
    assert_eq!(loaded[1].get("log_level"), Some(&Value::Text("debug".into())));
}

#[test]
fn the_difference_says_what_is_live_and_a_merge_takes_only_that() {
    let world = World::new();
    let mut sources = world.sources();
    let before = load(&table(), &sources).unwrap();
    sources.flags = pairs(&[("name", "new"), ("retries", "9")]).into_iter().collect();
    let after = load(&table(), &sources).unwrap();
    assert_eq!(
        before.diff(&after),
        [
            Change {
                key: "name",
                live: true
            },
            Change {
                key: "retries",
                live: false
            }
        ]
    );
    let merged: Typed = before.with_live_of(&after).extract().unwrap();
    assert_eq!((merged.name.as_str(), merged.retries), ("new", 3));
}

#[test]
fn the_roots_own_file_is_read_if_it_is_there() {
    let world = World::new();
    assert_eq!(world.sources().file, None);
    world.root.create().unwrap();
    std::fs::write(world.root.config_file(), "[llm]\nname = \"root\"\n").unwrap();
    let settings = load(&table(), &world.sources()).unwrap();
    assert_eq!(settings.get("name"), Some(&Value::Text("root".into())));
    assert!(world.root.config_file().ends_with(Path::new("state/nexus/config.toml")));
}
