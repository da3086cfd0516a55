//! `nexus run` over the real line: a strict provider of each family, the daemons, the worker and its sandbox.

use std::{collections::BTreeMap, fs, path::PathBuf, process::Stdio, time::Duration};

use nexus_model_server::{
    Script, Server,
    script::{Act, Turn},
};
use nexus_tests::{Daemon, Site, ask, binary};
use serde_json::{Value, json};

/// How the model of each family is named.
const MODELS: [&str; 4] = [
    "anthropic/claude-coder",
    "rack/chat-coder",
    "openai/responses-coder",
    "gemini/gemini-3-coder",
];

struct Line {
    server: Server,
    site: Site,
}

struct Done {
    code: Option<i32>,
    said: String,
    told: String,
}

impl Line {
    async fn with(script: impl Fn(&str) -> Script) -> Line {
        let names = MODELS.map(|model| model.split_once('/').expect("provider/model").1.to_owned());
        let scripts: BTreeMap<String, Script> = names.into_iter().map(|name| (name.clone(), script(&name))).collect();
        let server = Server::start(scripts).await.expect("a free port");
        let url = server.url();
        let settings = format!(
            "[llm]\ndefault_model = \"offline/nexus-offline-1\"\nretry_pause = \"10ms\"\nanthropic_base_url = \"{url}\"\nopenai_base_url = \"{url}\"\n\
             gemini_base_url = \"{url}\"\nopenai_api = \"responses\"\n[llm.endpoints]\nrack = \"{url}/v1\"\n[llm.endpoint_keys]\nrack = \"env:RACK_KEY\"\n"
        );
        let mut site = Site::new().settings(&settings);
        for name in ["ANTHROPIC_API_KEY", "OPENAI_API_KEY", "GEMINI_API_KEY", "RACK_KEY"] {
            site.set(name, Some("sk-of-a-test"));
        }
        site.up(&Daemon::LINE).await;
        site.up(&[Daemon::Worker]).await;
        site.answers().await;
        Line { server, site }
    }

    async fn run(&self, args: &[&str]) -> Done {
        let mut command = tokio::process::Command::new(binary("nexus"));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.site.folder().path())
            .env("NEXUS_ROOT", self.site.root().path())
            .env("NEXUS_COMMON__ORCHESTRATOR", self.site.socket(Daemon::Orchestrator))
            .arg("run")
            .args(args)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let done = tokio::time::timeout(Duration::from_secs(60), command.output()).await;
        let done = done.expect("a run ends").expect("it was built");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Done {
            code: done.status.code(),
            said: text(&done.stdout),
            told: text(&done.stderr),
        }
    }

    /// The lines of `--json`, each with its type.
    fn events(done: &Done) -> Vec<Value> {
        let lines = done.said.lines();
        lines.map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    fn workspace(&self, session: &str) -> PathBuf {
        self.site.root().path().join("state/workspaces").join(session)
    }
}

/// Writes a program with a fault, runs it, mends it, runs it again.
fn fix(_model: &str) -> Script {
    let wrong = "echo helo\nexit 3\n";
    Script::of([
        Turn::default()
            .text("I write it. ")
            .call("write_file", json!({ "path": "hello.sh", "content": wrong }))
            .call("exec", json!({ "command": "sh hello.sh" })),
        Turn::default()
            .when("exit code 3")
            .think("It is a typing error.")
            .text("I mend it. ")
            .call(
                "edit_file",
                json!({ "path": "hello.sh", "old_string": wrong, "new_string": "echo hello\n" }),
            )
            .call("exec", json!({ "command": "sh hello.sh" })),
        Turn::default().when("hello").text("It prints hello now."),
    ])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_is_written_fails_is_mended_and_runs_with_every_family_of_providers() {
    let line = Line::with(fix).await;
    for model in MODELS {
        let done = line
            .run(&["--json", "--model", model, "write hello.sh and run it"])
            .await;
        assert_eq!(done.code, Some(0), "{model}: {}\n{}", done.said, done.told);
        let events = Line::events(&done);
        let end = events.last().expect("there is an end");
        assert_eq!(end["type"], "end", "{model}");
        let session = end["session_id"].as_str().expect("it names its session");
        let program = fs::read_to_string(line.workspace(session).join("hello.sh"));
        assert_eq!(program.expect("it was written"), "echo hello\n", "{model}");
        // Another surface sees one answer, whole.
        let messages = ask::messages(&line.site.connect(), session).await;
        let contents: Vec<&str> = messages.iter().map(|message| message.content.as_str()).collect();
        assert_eq!(contents[0], "write hello.sh and run it");
        assert!(contents[1].ends_with("It prints hello now."), "{model}: {contents:?}");
        assert_eq!(contents.len(), 2, "{model}");
    }
    assert_eq!(line.server.refusals(), Vec::<String>::new());
    assert_eq!(line.server.recorded().len(), 3 * MODELS.len(), "one request a step");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_breaks_off_stumbles_and_errs_is_asked_again_and_its_mistakes_are_told_to_it() {
    let script = |model: &str| {
        // Gemini's arguments are no text, so they are always JSON; these lack what is needed.
        let broken = match model {
            "gemini-3-coder" => json!({}),
            _ => Value::String("{\"command\": ".into()),
        };
        Script::of([
            Turn::default().fail(429, Some(0)),
            Turn::default().fail(500, None),
            Turn::default().act(Act::Call {
                name: "exec".into(),
                arguments: broken,
            }),
            Turn::default()
                .when("invalid_arguments")
                .call("no_such_tool", json!({ "a": 1 })),
            Turn::default()
                .when("unknown_tool")
                .call("exec", json!({ "command": "echo seven" })),
            Turn::default().when("seven").text("All is well."),
        ])
    };
    let line = Line::with(script).await;
    for model in MODELS {
        let done = line.run(&["--model", model, "do it"]).await;
        assert_eq!(done.code, Some(0), "{model}: {}\n{}", done.said, done.told);
        assert!(done.said.trim_end().ends_with("All is well."), "{model}: {}", done.said);
    }
    assert_eq!(line.server.refusals(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_failing_call_for_ever_is_ended_by_the_sixth() {
    let script = |_: &str| Script::of([Turn::default().call("exec", json!({ "command": "false" }))]).endless();
    let line = Line::with(script).await;
    for model in MODELS {
        let asked = line.server.recorded().len();
        let done = line.run(&["--model", model, "go on"]).await;
        assert_ne!(done.code, Some(0), "{model}: {}\n{}", done.said, done.told);
        let requests = line.server.recorded().len() - asked;
        assert!(
            (4..=6).contains(&requests),
            "{model}: {requests} requests\n{}",
            done.told
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_commands_of_one_message_run_at_once() {
    let script = |_: &str| {
        let turn = (0..8).fold(Turn::default(), |turn, n| {
            turn.call("exec", json!({ "command": format!("sleep 0.5; echo {n}") }))
        });
        Script::of([turn, Turn::default().text("All eight.")])
    };
    let line = Line::with(script).await;
    let done = line.run(&["--json", "--model", MODELS[1], "all of them"]).await;
    assert_eq!(done.code, Some(0), "{}\n{}", done.said, done.told);
    let asked = &line.server.recorded()[1].body;
    let results: Vec<String> = asked["messages"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|message| message["role"] == "tool")
        .map(|message| message["content"].to_string())
        .collect();
    assert_eq!(results.len(), 8);
    for (n, result) in results.iter().enumerate() {
        assert!(
            result.contains(&n.to_string()),
            "in the order of the calls: {results:?}"
        );
    }
}
