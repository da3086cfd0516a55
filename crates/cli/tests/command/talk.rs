//! Conversations and everything else that asks the orchestrator, which follows a script here.

use std::{io::Read, process::Stdio};

use nexus_proto::orchestrator::v1::stream_message_request::Payload;
use nix::{sys::signal, unistd::Pid};
use serde_json::Value;

use crate::fake::{Act, start, text};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_message_and_its_answer() {
    let fake = start([vec![
        Act::Delta("a", 0, "Hel"),
        Act::Delta("a", 3, "lo"),
        Act::Answer("Hello."),
    ]])
    .await;
    let done = fake.run(&["chat", "--model", "offline/x", "hi", "there"]).await;
    assert_eq!(text(&done.stdout), "Hello.\n", "{}", text(&done.stderr));
    assert_eq!(done.status.code(), Some(0));
    let script = fake.script.lock().unwrap();
    let Some(Payload::Message(message)) = script.seen[0].payload.as_ref() else {
        panic!("no message")
    };
    assert_eq!(message.content, "hi there");
    assert_eq!(message.metadata.as_ref().unwrap().extra["model"], "offline/x");
    assert_eq!(script.created[0].metadata.as_ref().unwrap().name, "hi there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_orchestrator_in_the_middle_costs_nothing() {
    let fake = start([
        vec![Act::Delta("a", 0, "one "), Act::Break],
        vec![Act::Delta("a", 0, "one two"), Act::Answer("one two three")],
    ])
    .await;
    let done = fake.run(&["chat", "count"]).await;
    assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
    assert_eq!(text(&done.stdout), "one \ntwo three\n");
    let script = fake.script.lock().unwrap();
    assert_eq!(script.seen.len(), 2);
    assert_eq!(
        script.seen[0].payload, script.seen[1].payload,
        "the same message, with the same id"
    );
    assert_eq!(script.created.len(), 1, "and no second session");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_has_one_object_a_line() {
    let fake = start([
        vec![Act::Delta("a", 0, "He"), Act::Answer("Hello")],
        vec![Act::Error("NOT_FOUND: assistant agent not found")],
    ])
    .await;
    let done = fake.run(&["chat", "--json", "hi"]).await;
    let lines: Vec<Value> = text(&done.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines[0]["type"], "delta");
    assert_eq!(lines[0]["delta"], "He");
    assert_eq!(lines[1]["type"], "message");
    assert_eq!(lines[1]["content"], "Hello");
    assert_eq!(lines.len(), 2);

    let done = fake.run(&["chat", "--json", "hi"]).await;
    assert_eq!(done.status.code(), Some(1));
    let line: Value = serde_json::from_str(text(&done.stdout).trim()).unwrap();
    assert_eq!(line["type"], "error");
    assert_eq!(line["error"], "NOT_FOUND: assistant agent not found");
    assert!(text(&done.stderr).contains("nexus up"), "{}", text(&done.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupt_cancels_the_answer() {
    let fake = start([vec![Act::Delta("a", 0, "once upon"), Act::Cancelled("once upon")]]).await;
    let mut command = fake.nexus(&["chat", "a story"]);
    let (code, rest) = tokio::task::spawn_blocking(move || {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut out = child.stdout.take().unwrap();
        let mut begun = [0; 9];
        out.read_exact(&mut begun).unwrap();
        assert_eq!(&begun, b"once upon");
        signal::kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal::SIGINT).unwrap();
        let mut rest = String::new();
        out.read_to_string(&mut rest).unwrap();
        (child.wait().unwrap().code(), rest)
    })
    .await
    .unwrap();
    assert_eq!(code, Some(130));
    assert_eq!(rest, "\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standard_input_is_one_message() {
    let fake = start([vec![Act::Answer("ok")]]).await;
    let input = fake.root.path().join("in.txt");
    std::fs::write(&input, "two\nlines\n").unwrap();
    let mut command = fake.nexus(&["chat"]);
    command.stdin(std::fs::File::open(&input).unwrap());
    let done = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    assert_eq!(text(&done.stdout), "ok\n", "{}", text(&done.stderr));
    let script = fake.script.lock().unwrap();
    assert!(format!("{:?}", script.seen[0]).contains(r"two\nlines"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_pages_are_listed_and_their_names_cannot_harm() {
    let fake = start([]).await;
    let done = fake.run(&["sessions", "list"]).await;
    let shown = text(&done.stdout);
    assert_eq!(shown.lines().count(), 4, "{shown}");
    assert!(shown.contains("talk 2") && !shown.contains('\x1b'), "{shown}");
    let done = fake.run(&["sessions", "list", "--json"]).await;
    let value: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(value["sessions"].as_array().unwrap().len(), 3);
    assert_eq!(value["sessions"][1]["state"], "closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pruning_only_shows_unless_told() {
    let fake = start([]).await;
    let done = fake.run(&["sessions", "prune", "--older-than", "30d"]).await;
    assert_eq!(done.status.code(), Some(0));
    assert!(
        text(&done.stderr).contains("would delete 3 conversations"),
        "{}",
        text(&done.stderr)
    );
    let done = fake.run(&["sessions", "delete", "0a0a0a"]).await;
    assert_eq!(done.status.code(), Some(2), "nobody is here to ask");
    assert!(text(&done.stderr).contains("--yes"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_read_to_the_end_and_gaps_are_said() {
    let fake = start([]).await;
    let done = fake.run(&["events"]).await;
    let shown = text(&done.stdout);
    assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
    assert!(
        shown.contains("1 to 2: lost") && shown.contains("session.created"),
        "{shown}"
    );
    let done = fake
        .run(&["events", "--follow", "--after", "0", "--limit", "2", "--json"])
        .await;
    assert_eq!(text(&done.stdout).lines().count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_leaves_ends_the_command_quietly() {
    let fake = start([]).await;
    for args in [
        ["sessions", "list"].as_slice(),
        &["events", "--follow", "--after", "0"],
        &["completion", "zsh"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = fake.nexus(args);
        command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped());
        let done = tokio::task::spawn_blocking(move || command.spawn().unwrap().wait_with_output().unwrap())
            .await
            .unwrap();
        assert_eq!(done.status.code(), Some(0), "{args:?}");
        assert_eq!(text(&done.stderr), "", "{args:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_tells_what_each_daemon_says() {
    let fake = start([]).await;
    std::fs::write(fake.root.socket("llm"), "").unwrap();
    drop(std::os::unix::net::UnixListener::bind(fake.root.socket("gateway")).unwrap());
    let done = fake.run(&["status", "--json"]).await;
    assert_eq!(done.status.code(), Some(1));
    let value: Value = serde_json::from_slice(&done.stdout).unwrap();
    let state = |name: &str| {
        let services = value["services"].as_array().unwrap();
        services
            .iter()
            .find(|service| service["service"] == name)
            .unwrap()
            .clone()
    };
    assert_eq!(state("orchestrator")["state"], "degraded");
    assert_eq!(state("orchestrator")["version"], "9.8.7");
    assert_eq!(state("orchestrator")["pid"], std::process::id());
    assert_eq!(state("llm")["state"], "foreign");
    assert_eq!(state("gateway")["state"], "failed");
    assert_eq!(state("agent-assistant")["state"], "stopped");
    let done = fake.run(&["status", "agent"]).await;
    assert_eq!(done.status.code(), Some(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_session_has_its_own_exit_code() {
    let fake = start([]).await;
    let done = fake.run(&["sessions", "show", &"f".repeat(32)]).await;
    assert_eq!(done.status.code(), Some(4));
    assert!(text(&done.stderr).contains("session not found"));
}

/// The attack: a model's answer sets the terminal's title and turns the text of a link around.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_model_says_cannot_command_the_terminal() {
    let hostile = "fine \u{1b}]0;owned\u{7} \u{9b}31m \u{202e}moc.live\u{2066}";
    let fake = start([
        vec![Act::Delta("a", 0, "fine \u{1b}]0;owned\u{7}"), Act::Answer(hostile)],
        vec![Act::Answer(hostile)],
    ])
    .await;
    let hides = |c: char| (c.is_control() && c != '\n') || matches!(c, '\u{202e}' | '\u{2066}');
    // Into a pipe, which often ends at a terminal.
    let done = fake.run(&["chat", "hi"]).await;
    let shown = text(&done.stdout);
    assert!(shown.starts_with("fine ") && shown.contains("moc.live"), "{shown:?}");
    assert!(!shown.contains(hides), "{shown:?}");
    let done = fake.run(&["chat", "--json", "hi"]).await;
    let shown = text(&done.stdout);
    assert!(!shown.contains(hides), "{shown:?}");
    let line: Value = serde_json::from_str(shown.trim()).unwrap();
    assert_eq!(line["content"], hostile, "nothing is lost");
}
