//! Agents as their user sees them: runs that call tools, approvals, stop, tools.

use std::{
    fs,
    io::{Read, Write},
    path::Path,
    process::Stdio,
};

use nexus_proto::{
    common::v1::TokenUsage,
    llm::v1::{Block, block},
    orchestrator::v1::{run_event::Kind, *},
};
use nix::{sys::signal, unistd::Pid};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    fake::{Act, Fake, Script, start, start_with, text},
    fake_agents::Agents,
};

fn news(kind: Kind) -> Act {
    Act::News(Box::new(RunEvent {
        run_id: "r1".into(),
        session_id: "5e55".repeat(8),
        kind: Some(kind),
        ..RunEvent::default()
    }))
}

fn run(state: RunState, end: RunEnd, error: &str) -> Act {
    news(Kind::Run(Run {
        id: "r1".into(),
        message_id: "$message".into(),
        state: state.into(),
        end: end.into(),
        error: error.into(),
        step_count: 2,
        usage: (state == RunState::Ended).then_some(TokenUsage {
            input_tokens: 1_000,
            output_tokens: 50,
            total_tokens: 1_050,
        }),
        ..Run::default()
    }))
}

fn said(step: i32, index: u64, text: &str) -> Act {
    news(Kind::Text(TextDelta {
        step,
        index,
        text: text.into(),
        thinking: false,
    }))
}

fn call(tool: &str, arguments: Value, state: CallState, code: &str, told: &str) -> Act {
    let at = |seconds| Some(nexus_proto::Timestamp { seconds, nanos: 0 });
    let over = !matches!(state, CallState::Running | CallState::Asked);
    news(Kind::Call(CallUpdate {
        step: 1,
        call: Some(RunCall {
            id: format!("call-{tool}"),
            tool: tool.into(),
            arguments_json: arguments.to_string(),
            state: state.into(),
            code: code.into(),
            started_at: at(100),
            ended_at: if over { at(102) } else { None },
            result: vec![Block {
                kind: Some(block::Kind::Text(told.into())),
            }],
            ..RunCall::default()
        }),
    }))
}

fn approval(arguments: &Value) -> Approval {
    let plan_json = json!({ "arguments": arguments, "directory": "/workspace" }).to_string();
    Approval {
        id: "ab12".repeat(8),
        run_id: "r1".into(),
        session_id: "5e55".repeat(8),
        tool: "exec".into(),
        digest: hex::encode(Sha256::digest(plan_json.as_bytes())),
        plan_json,
        risks: vec!["runs with network access".into()],
        state: ApprovalState::Pending.into(),
        offers: vec![Grant {
            kind: GrantKind::Prefix.into(),
            description: "exec of commands that begin with `git push`".into(),
            pattern: "git push".into(),
            ..Grant::default()
        }],
        ..Approval::default()
    }
}

async fn whole(acts: Vec<Act>) -> Fake {
    with(acts, Agents::default()).await
}

async fn with(acts: Vec<Act>, agents: Agents) -> Fake {
    start_with(Script {
        streams: [acts].into(),
        whole: true,
        agents,
        ..Script::default()
    })
    .await
}

/// A program is written, fails, and is mended.
fn fixed() -> Vec<Act> {
    let command = json!({ "command": "python3 a.py" });
    vec![
        run(RunState::Model, RunEnd::Unspecified, ""),
        said(1, 0, "I run "),
        said(1, 6, "it."),
        call("exec", command.clone(), CallState::Running, "", ""),
        news(Kind::Output(CallOutput {
            call_id: "call-exec".into(),
            stream: "stdout".into(),
            data: "boom\n".into(),
            offset: 0,
        })),
        call("exec", command, CallState::Done, "", "exit code 1"),
        call(
            "edit_file",
            json!({ "path": "a.py" }),
            CallState::Done,
            "",
            "[a.py: 1 replaced]\n@@ -1 +1 @@\n-boom\n+bang\u{1b}[2J",
        ),
        call(
            "grep",
            json!({ "pattern": "x" }),
            CallState::Failed,
            "timeout",
            "error timeout: 30 s are over",
        ),
        said(2, 0, "Mended."),
        run(RunState::Ended, RunEnd::Done, ""),
        Act::Answer("Mended."),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_shows_its_text_and_what_it_does() {
    let fake = whole(fixed()).await;
    let last = fake.root.path().join("last.md");
    let done = fake
        .run(&[
            "run",
            "--model",
            "offline/x",
            "--output-last",
            last.to_str().unwrap(),
            "mend",
            "a.py",
        ])
        .await;
    let errors = text(&done.stderr);
    assert_eq!(done.status.code(), Some(0), "{errors}");
    assert_eq!(text(&done.stdout), "I run it.\nMended.\n");
    for part in [
        "> exec python3 a.py",
        "< exec: done, 2.00 s",
        "    -boom",
        "    +bang␛[2J",
        "< grep: failed: timeout",
        "30 s are over",
        "1000 tokens in, 50 out, 1050 in all",
    ] {
        assert!(errors.contains(part), "{part} is not in:\n{errors}");
    }
    assert!(!errors.contains('\u{1b}'), "{errors:?}");
    assert_eq!(fs::read_to_string(last).unwrap(), "Mended.");
    let script = fake.script.lock().unwrap();
    let metadata = script.created[0].metadata.as_ref().unwrap();
    assert_eq!(
        (metadata.name.as_str(), metadata.labels["client"].as_str()),
        ("mend a.py", "nexus-run")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_as_json_is_one_event_a_line_and_says_how_it_ended() {
    let fake = whole(fixed()).await;
    let done = fake.run(&["run", "--json", "mend"]).await;
    let lines: Vec<Value> = text(&done.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of = |kind: &str| lines.iter().filter(|line| line["type"] == kind).collect::<Vec<_>>();
    assert_eq!(of("text").len(), 3);
    assert_eq!(of("text")[1]["text"], "it.");
    assert_eq!(of("call")[0]["call"]["arguments"]["command"], "python3 a.py");
    assert_eq!(of("output")[0]["text"], "boom\n");
    assert_eq!(of("message")[0]["content"], "Mended.");
    let end = lines.last().unwrap();
    assert_eq!(end["type"], "end");
    assert_eq!(
        (&end["end"], &end["exit"], &end["steps"]),
        (&json!("done"), &json!(0), &json!(2))
    );
    assert_eq!(end["usage"]["total_tokens"], 1_050);
    assert_eq!(text(&done.stderr), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_works_with_an_orchestrator_that_has_no_runs() {
    let fake = start([
        vec![Act::Delta("a", 0, "Hel"), Act::Answer("Hello.")],
        vec![Act::Answer("x")],
    ])
    .await;
    let done = fake.run(&["run", "hi"]).await;
    assert_eq!(text(&done.stdout), "Hello.\n", "{}", text(&done.stderr));
    let done = fake.run(&["run", "--json", "hi"]).await;
    assert_eq!(done.status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_exit_code_says_how_a_run_ended() {
    let failed = |error: &'static str| {
        vec![
            run(RunState::Model, RunEnd::Unspecified, ""),
            run(RunState::Ended, RunEnd::Failed, error),
            Act::Error("INTERNAL: the run failed"),
        ]
    };
    let stopped = vec![
        run(RunState::Model, RunEnd::Unspecified, ""),
        run(RunState::Ended, RunEnd::Stopped, ""),
        Act::Error("CANCELLED: stopped"),
    ];
    for (acts, code, words) in [
        (failed("loop: the same call again and again"), 1, "the same call again"),
        (failed("budget: run 2000 of 1000 tokens"), 14, "nexus usage"),
        (stopped, 13, "nexus resume"),
        (
            vec![Act::Error(
                "CANCELED: everything is stopped; `nexus resume --all` ends that",
            )],
            13,
            "everything is stopped",
        ),
        (vec![Act::Error("CANCELED: cancelled at another surface")], 130, ""),
    ] {
        let fake = whole(acts).await;
        let done = fake.run(&["run", "x"]).await;
        let errors = text(&done.stderr);
        assert_eq!(done.status.code(), Some(code), "{errors}");
        assert!(errors.contains(words), "{errors}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_beyond_its_limit_is_cancelled_and_says_so() {
    let acts = vec![
        run(RunState::Model, RunEnd::Unspecified, ""),
        said(1, 0, "one"),
        said(2, 0, "two"),
        Act::Cancelled("two"),
    ];
    let fake = whole(acts).await;
    let done = fake.run(&["run", "--max-steps", "1", "x"]).await;
    let errors = text(&done.stderr);
    assert_eq!(done.status.code(), Some(14), "{errors}");
    assert!(
        errors.contains("--max-steps") && errors.contains("--session"),
        "{errors}"
    );
    let script = fake.script.lock().unwrap();
    assert_eq!(script.agents.cancelled[0].run_id, "r1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_allowed_by_rules_and_others_denied_where_nobody_is() {
    let push = approval(&json!({ "command": "git push origin" }));
    let decided = Approval {
        state: ApprovalState::Approved.into(),
        decided_by: "uid:7".into(),
        ..push.clone()
    };
    let acts = |one: &Approval| {
        vec![
            run(RunState::Model, RunEnd::Unspecified, ""),
            news(Kind::Approval(one.clone())),
            Act::Decided,
            news(Kind::Approval(decided.clone())),
            run(RunState::Ended, RunEnd::Done, ""),
            Act::Answer("ok"),
        ]
    };
    for (args, allow) in [
        (["run", "--allow", "exec:git push", "x"].as_slice(), true),
        (&["run", "--allow", "exec:git pull", "x"], false),
        (&["run", "--approve", "deny", "x"], false),
    ] {
        let fake = whole(acts(&push)).await;
        let done = fake.run(args).await;
        assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
        let script = fake.script.lock().unwrap();
        let decision = &script.agents.decided[0];
        assert_eq!(decision.allow, allow, "{args:?}");
        assert_eq!(
            (decision.digest.as_str(), decision.surface.as_str()),
            (push.digest.as_str(), "cli")
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_terminal_a_run_that_asks_says_where_to_decide() {
    let one = approval(&json!({ "command": "git push" }));
    let acts = vec![
        run(RunState::Model, RunEnd::Unspecified, ""),
        news(Kind::Approval(one.clone())),
        Act::Answer("not done"),
    ];
    let fake = whole(acts).await;
    let done = fake.run(&["run", "--approve", "ask", "x"]).await;
    let errors = text(&done.stderr);
    assert!(errors.contains(&format!("nexus approvals show {}", one.id)), "{errors}");
    assert!(fake.script.lock().unwrap().agents.decided.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupt_cancels_the_run() {
    let acts = vec![
        run(RunState::Model, RunEnd::Unspecified, ""),
        said(1, 0, "working"),
        Act::Cancelled("working"),
    ];
    let fake = whole(acts).await;
    let mut command = fake.nexus(&["run", "x"]);
    let code = tokio::task::spawn_blocking(move || {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut begun = [0; 7];
        // It stays open: a run whose reader has gone ends quietly.
        let mut out = child.stdout.take().unwrap();
        out.read_exact(&mut begun).unwrap();
        signal::kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal::SIGINT).unwrap();
        child.wait().unwrap().code()
    })
    .await
    .unwrap();
    assert_eq!(code, Some(130));
    assert_eq!(fake.script.lock().unwrap().agents.cancelled[0].run_id, "r1");
}

fn work(place: &Path) {
    assert_eq!(fs::read_to_string(place.join("src/a.py")).unwrap(), "boom");
    assert!(!place.join("target").exists());
    fs::write(place.join("src/a.py"), "bang").unwrap();
    fs::write(place.join("new"), "x").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_go_to_the_agent_and_come_back_when_that_is_agreed_to() {
    for in_place in [true, false] {
        let agents = Agents {
            work: Some(work),
            ..Agents::default()
        };
        let fake = with(vec![Act::Answer("done")], agents).await;
        let project = tempfile::tempdir().unwrap();
        fs::create_dir_all(project.path().join("src")).unwrap();
        fs::create_dir_all(project.path().join("target")).unwrap();
        fs::write(project.path().join("src/a.py"), "boom").unwrap();
        let dir = project.path().to_str().unwrap();
        let mut args = vec!["run", "--workspace", dir, "--exclude", "target", "mend it"];
        if in_place {
            args.extend(["--in-place", "--yes"]);
        }
        let done = fake.run(&args).await;
        let errors = text(&done.stderr);
        assert_eq!(done.status.code(), Some(0), "{errors}");
        let now = fs::read_to_string(project.path().join("src/a.py")).unwrap();
        if in_place {
            assert_eq!(now, "bang");
            assert!(
                errors.contains("  M src/a.py") && errors.contains("  A new"),
                "{errors}"
            );
            assert!(project.path().join("new").exists());
        } else {
            assert_eq!(now, "boom", "it worked on a copy");
        }
        assert_eq!(fake.script.lock().unwrap().agents.removed, 1, "the container is gone");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_started_where_it_would_fail_in_the_end() {
    let fake = whole(Vec::new()).await;
    for (args, words) in [
        (["run", "--workspace", "/", "--in-place", "x"].as_slice(), "--yes"),
        (&["run", "--in-place", "x"], "--workspace"),
        (&["run", "--allow", ":", "x"], "TOOL"),
        (&["run", "--budget", "much", "x"], "50k"),
    ] {
        let done = fake.run(args).await;
        assert_eq!(done.status.code(), Some(2), "{args:?}");
        assert!(text(&done.stderr).contains(words), "{args:?}: {}", text(&done.stderr));
    }
    assert!(fake.script.lock().unwrap().created.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chat_shows_calls_and_what_the_turn_used_is_in_its_json() {
    let fake = whole(fixed()).await;
    let done = fake.run(&["chat", "mend it"]).await;
    assert_eq!(text(&done.stdout), "I run it.\nMended.\n");
    assert!(
        text(&done.stderr).contains("> exec python3 a.py"),
        "{}",
        text(&done.stderr)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn approvals_are_listed_shown_and_decided() {
    let one = approval(&json!({ "command": "git push \u{202e}x" }));
    let agents = Agents {
        approvals: vec![one.clone()],
        grants: vec![Grant {
            id: "g1".into(),
            description: "exec of commands that begin with `git push`".into(),
            scope: GrantScope::Session.into(),
            ..Grant::default()
        }],
        ..Agents::default()
    };
    let fake = with(Vec::new(), agents).await;
    let done = fake.run(&["approvals", "list"]).await;
    assert!(text(&done.stdout).contains("exec git push"), "{}", text(&done.stdout));
    let done = fake.run(&["approvals", "show", "ab12ab"]).await;
    let shown = text(&done.stdout);
    for part in [
        "runs with network access",
        "git push \\u{202e}x",
        &one.digest,
        "--always prefix",
    ] {
        assert!(shown.contains(part), "{part} is not in:\n{shown}");
    }
    let done = fake.run(&["approvals", "allow", "ab12"]).await;
    assert_eq!(done.status.code(), Some(2), "nobody looked at it");
    let done = fake.run(&["approvals", "allow", "ab12", "--digest", "00"]).await;
    assert_eq!(done.status.code(), Some(5), "another plan was looked at");
    let done = fake
        .run(&["approvals", "allow", "ab12", "--always", "host", "--yes"])
        .await;
    assert_eq!(done.status.code(), Some(2), "that is not offered");
    let done = fake
        .run(&[
            "approvals",
            "allow",
            "ab12",
            "--digest",
            &one.digest,
            "--always",
            "prefix",
            "--for",
            "run",
        ])
        .await;
    assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
    let done = fake.run(&["approvals", "deny", "ab12", "not", "today"]).await;
    assert!(
        text(&done.stdout).contains("denied by uid:7 on cli: not today"),
        "{}",
        text(&done.stdout)
    );
    let done = fake.run(&["approvals", "show", "ffff"]).await;
    assert_eq!(done.status.code(), Some(4));
    let done = fake.run(&["approvals", "watch", "--json"]).await;
    let value: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(value["plan"]["directory"], "/workspace");
    let done = fake.run(&["approvals", "grants"]).await;
    assert!(
        text(&done.stdout).contains("begin with `git push`"),
        "{}",
        text(&done.stdout)
    );
    let done = fake.run(&["approvals", "revoke", "g1"]).await;
    assert_eq!(text(&done.stdout), "revoked g1\n");
    let done = fake.run(&["approvals", "revoke", "g1"]).await;
    assert_eq!(done.status.code(), Some(4));
    let script = fake.script.lock().unwrap();
    let grant = script.agents.decided[0].grant.as_ref().unwrap();
    assert_eq!((grant.kind(), grant.scope()), (GrantKind::Prefix, GrantScope::Run));
    assert_eq!(script.agents.decided.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_and_resume_say_what_they_did() {
    let fake = whole(Vec::new()).await;
    let id = "a".repeat(32);
    let done = fake.run(&["stop", &id]).await;
    assert_eq!(
        text(&done.stdout),
        "stopped 1 run and 2 calls\n",
        "{}",
        text(&done.stderr)
    );
    let done = fake.run(&["stop", "--all", "--reason", "survive"]).await;
    assert_eq!(done.status.code(), Some(1));
    assert!(text(&done.stdout).contains("NOT ended: c9"), "{}", text(&done.stdout));
    assert!(text(&done.stderr).contains("nexus resume"));
    let done = fake.run(&["resume"]).await;
    assert_eq!(text(&done.stdout), "resumed\n");
    let done = fake.run(&["stop"]).await;
    assert_eq!(done.status.code(), Some(2), "it says what to stop");
    // Before a model sees it.
    let done = fake.run(&["chat", "stop"]).await;
    assert_eq!(done.status.code(), Some(2));
    let script = fake.script.lock().unwrap();
    assert_eq!(script.agents.stopped[0].session_id, id);
    assert!(script.agents.stopped[1].all && script.agents.resumed[0].all);
    assert!(script.seen.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tools_are_listed_called_and_added() {
    let fake = whole(Vec::new()).await;
    let done = fake.run(&["tools", "list"]).await;
    let shown = text(&done.stdout);
    assert!(
        shown.contains("exec") && shown.contains("builtin") && !shown.contains('\u{1b}'),
        "{shown}"
    );
    let done = fake.run(&["tools", "show", "exec"]).await;
    assert!(text(&done.stdout).contains("what to run"), "{}", text(&done.stdout));
    let done = fake.run(&["tools", "show", "nothing"]).await;
    assert_eq!(done.status.code(), Some(4));
    assert!(text(&done.stderr).contains("nexus tools list"));
    let done = fake.run(&["tools", "call", "--stream", "exec", "command=uname"]).await;
    assert_eq!(text(&done.stdout), "working\nLinux\n", "{}", text(&done.stderr));
    let done = fake.run(&["tools", "call", "message", r#"{"text": "hi"}"#]).await;
    assert_eq!(done.status.code(), Some(5), "it was denied");
    let schema = fake.root.path().join("schema.json");
    fs::write(
        &schema,
        r#"{"type": "object", "properties": {"city": {"type": "string"}}}"#,
    )
    .unwrap();
    let add = |replace: bool| {
        let mut args = vec![
            "tools",
            "add",
            "weather",
            "-d",
            "Weather",
            "--schema",
            schema.to_str().unwrap(),
        ];
        args.extend(replace.then_some("--replace"));
        args.extend(["--", "python3", "weather.py"]);
        args.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    for (replace, code) in [(false, 0), (false, 1), (true, 0)] {
        let args = add(replace);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let done = fake.run(&args).await;
        assert_eq!(done.status.code(), Some(code), "{}", text(&done.stderr));
    }
    let done = fake.run(&["tools", "stats"]).await;
    assert!(text(&done.stdout).contains("1.50 s"), "{}", text(&done.stdout));
    let done = fake.run(&["tools", "disable", "exec", "grep"]).await;
    assert_eq!(text(&done.stdout), "disabled exec\ndisabled grep\n");
    let script = fake.script.lock().unwrap();
    assert_eq!(script.agents.called[0].arguments_json, r#"{"command":"uname"}"#);
    assert_eq!(script.agents.added[0].command, ["python3", "weather.py"]);
    assert!(script.agents.added[0].enabled && script.agents.added[0].input_schema_json.contains("city"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_is_shown_step_by_step() {
    let step = RunStep {
        number: 1,
        model: "offline/x".into(),
        blocks: vec![Block {
            kind: Some(block::Kind::Text("I look.".into())),
        }],
        calls: vec![RunCall {
            tool: "read_file".into(),
            arguments_json: r#"{"path":"a"}"#.into(),
            state: CallState::Done.into(),
            result: vec![Block {
                kind: Some(block::Kind::Text((0..40).map(|n| format!("line {n}\n")).collect())),
            }],
            ..RunCall::default()
        }],
        ..RunStep::default()
    };
    let agents = Agents {
        runs: vec![Run {
            id: "r1".into(),
            session_id: "s".into(),
            state: RunState::Ended.into(),
            end: RunEnd::Done.into(),
            steps: vec![step],
            ..Run::default()
        }],
        ..Agents::default()
    };
    let fake = with(Vec::new(), agents).await;
    let done = fake.run(&["runs", "list"]).await;
    assert!(text(&done.stdout).contains("done"), "{}", text(&done.stdout));
    assert!(text(&done.stderr).contains("--page 7"));
    let done = fake.run(&["runs", "show", "r1"]).await;
    let shown = text(&done.stdout);
    for part in ["I look.", "> read_file a", "line 3", "more lines: --full"] {
        assert!(shown.contains(part), "{part} is not in:\n{shown}");
    }
    assert!(!shown.contains("line 39"));
    let done = fake.run(&["runs", "show", "r1", "--full"]).await;
    assert!(text(&done.stdout).contains("line 39"));
    let done = fake.run(&["runs", "show", "r9"]).await;
    assert_eq!(done.status.code(), Some(4));
}

/// The command at a terminal of its own. Each time the first text is shown, the second is typed. Returns the exit code and
/// everything that was shown.
async fn at_a_terminal(fake: &Fake, args: &[&str], typed: &[(&'static str, &'static str)]) -> (Option<i32>, String) {
    let mut command = fake.nexus(args);
    let typed = typed.to_vec();
    tokio::task::spawn_blocking(move || {
        let size = nix::pty::Winsize {
            ws_row: 50,
            ws_col: 120,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = nix::pty::openpty(Some(&size), None).unwrap();
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        let mut child = command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        drop(pty.slave);
        // The command has the only other handles of the terminal's end.
        drop(command);
        let mut master = fs::File::from(pty.master);
        let (mut shown, mut seen, mut piece) = (String::new(), 0, [0; 1024]);
        let mut typed = typed.into_iter().peekable();
        // On Linux the end of a terminal that nobody has open any more is an error.
        while let Ok(bytes @ 1..) = master.read(&mut piece) {
            shown.push_str(&String::from_utf8_lossy(&piece[..bytes]));
            while let Some((wanted, text)) = typed.peek() {
                let Some(at) = shown[seen..].find(wanted) else { break };
                seen += at + wanted.len();
                master.write_all(text.as_bytes()).unwrap();
                typed.next();
            }
        }
        assert!(typed.peek().is_none(), "never shown: {:?} in\n{shown}", typed.peek());
        (child.wait().unwrap().code(), shown)
    })
    .await
    .unwrap()
}

fn asks(one: &Approval, end: Act) -> Vec<Act> {
    vec![
        run(RunState::Model, RunEnd::Unspecified, ""),
        said(1, 0, "I push it. "),
        news(Kind::Approval(one.clone())),
        Act::Decided,
        news(Kind::Approval(Approval {
            state: ApprovalState::Approved.into(),
            decided_by: "uid:7".into(),
            ..one.clone()
        })),
        run(RunState::Ended, RunEnd::Done, ""),
        end,
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_a_terminal_an_approval_is_asked_and_answered() {
    let one = approval(&json!({ "command": "git push \u{202e}x" }));
    for (args, answer, allow, grant) in [
        (["chat", "push it"], "y\n", true, None),
        (["run", "push it"], "n not today\n", false, None),
        (["run", "push it"], "what?\n1r\n", true, Some(GrantScope::Run)),
    ] {
        let fake = whole(asks(&one, Act::Answer("I push it. Done."))).await;
        let (code, shown) = at_a_terminal(&fake, &args, &[("your answer", answer)]).await;
        assert_eq!(code, Some(0), "{shown}");
        for part in ["runs with network access", "git push \\u{202e}x", "1  yes, and always"] {
            assert!(shown.contains(part), "{part} is not in:\n{shown}");
        }
        assert!(!shown.contains('\u{202e}'));
        let script = fake.script.lock().unwrap();
        let decision = &script.agents.decided[0];
        assert_eq!(
            (decision.allow, decision.digest.as_str()),
            (allow, one.digest.as_str()),
            "{args:?}"
        );
        assert_eq!(decision.surface, if args[0] == "chat" { "chat" } else { "cli" });
        assert_eq!(decision.grant.as_ref().map(Grant::scope), grant);
        assert_eq!(decision.reason, if allow { "" } else { "not today" });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_a_terminal_stop_works_while_an_answer_is_written() {
    let acts = vec![
        run(RunState::Model, RunEnd::Unspecified, ""),
        said(1, 0, "on and on "),
        Act::Stopped,
        run(RunState::Ended, RunEnd::Stopped, ""),
        Act::Error("CANCELED: stopped"),
    ];
    let fake = whole(acts).await;
    let (code, shown) = at_a_terminal(&fake, &["chat", "go"], &[("on and", "/stop\n")]).await;
    assert_eq!(code, Some(13), "{shown}");
    assert!(shown.contains("stopped 1 run and 2 calls"), "{shown}");
    assert_eq!(
        fake.script.lock().unwrap().agents.stopped[0].session_id,
        "5e55".repeat(8)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_a_terminal_a_conversation_keeps_what_is_typed_ahead() {
    let first = vec![
        run(RunState::Model, RunEnd::Unspecified, ""),
        said(1, 0, "one "),
        Act::Stopped,
        Act::Answer("one "),
    ];
    let fake = start_with(Script {
        streams: [first, vec![Act::Answer("second answer")]].into(),
        whole: true,
        ..Script::default()
    })
    .await;
    let typed = [
        ("you>", "first\r"),
        ("one", "second\n/stop\n"),
        ("you> second", ""),
        ("second answer", ""),
        ("you>", "/stop\r"),
        ("stopped 1 run", "/quit\r"),
    ];
    let (code, shown) = at_a_terminal(&fake, &["chat"], &typed).await;
    assert_eq!(code, Some(0), "{shown}");
    let script = fake.script.lock().unwrap();
    assert_eq!(script.seen.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_said_before_the_news_began_is_shown() {
    let begun = news(Kind::Step(RunStep {
        number: 1,
        blocks: vec![Block {
            kind: Some(block::Kind::Text("Once upon".into())),
        }],
        ..RunStep::default()
    }));
    let acts = vec![begun, said(1, 9, " a time"), Act::Cancelled("Once upon a time")];
    let fake = whole(acts).await;
    let mut command = fake.nexus(&["run", "a story"]);
    let begun = tokio::task::spawn_blocking(move || {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut begun = [0; 16];
        child.stdout.take().unwrap().read_exact(&mut begun).unwrap();
        signal::kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal::SIGINT).unwrap();
        child.wait().unwrap();
        begun
    })
    .await
    .unwrap();
    assert_eq!(&begun, b"Once upon a time");
}
