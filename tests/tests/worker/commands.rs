//! `exec` and `process`: output, input, time, and what a command can reach.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::desk::Desk;

#[tokio::test]
async fn a_command_tells_its_output_and_its_exit_code() {
    let desk = Desk::new().await;
    let task = desk
        .begin(
            "exec",
            json!({"command": "sleep 0.3; echo out; echo err >&2; pwd; exit 3"}),
        )
        .await;
    let (ended, seen) = desk.ended(&task).await;
    let result = ended.unwrap();
    assert_eq!(result.exit_code, 3);
    assert!(
        result
            .output_text
            .starts_with("out\nerr\n/workspace\n[exit code 3 after "),
        "{}",
        result.output_text
    );
    assert_eq!(
        String::from_utf8(seen).unwrap(),
        "out\nerr\n/workspace\n",
        "it is shown as it comes"
    );
    let told = desk
        .told("exec", json!({"command": "cat; wc -c", "stdin": "typed\n"}))
        .await;
    assert!(told.starts_with("typed\n0\n"), "{told}");
    let told = desk
        .told(
            "exec",
            json!({"command": "printf '\\377ok\\n'; kill -9 $$", "workdir": "."}),
        )
        .await;
    assert!(told.starts_with("\u{fffd}ok\n[exit code 137"), "{told}");
    let told = desk
        .told(
            "exec",
            json!({"command": "echo $TERM $NO_COLOR $PAGER $HOME $TMPDIR; test -n \"$NEXUS_SESSION_ID\" || echo none"}),
        )
        .await;
    assert!(told.starts_with("dumb 1 cat /tmp /tmp\n["), "{told}");
    let (code, message) = desk
        .refused("exec", json!({"command": "true", "workdir": "nowhere"}))
        .await;
    assert_eq!(code, "not_found", "{message}");
    let (code, _) = desk.refused("exec", json!({"command": "true", "cwd": "/"})).await;
    assert_eq!(code, "invalid_arguments");
}

/// A hundred megabytes, one line without an end: the figures are exact, the end is told, the rest can be read.
#[tokio::test]
async fn a_flood_is_counted_and_its_end_is_told() {
    let desk = Desk::new().await;
    let command = "line=$(printf '%099d' 0); yes $line | head -c 100000000; echo ERROR at the tail";
    let result = desk
        .call("exec", json!({"command": command, "wait_s": 60}))
        .await
        .unwrap();
    let first = result.output_text.lines().next().unwrap();
    assert!(
        first.starts_with("[cut: 100000018 bytes, 1000001 lines in all"),
        "{first}"
    );
    assert!(
        result.output_text.contains("ERROR at the tail\n[exit code 0"),
        "the end is told"
    );
    assert!(result.output_text.len() < 40_000);
    assert_eq!(result.metadata["output_bytes"], "100000018");
    let spill = &result.metadata["spill"];
    let told = desk
        .told("read_file", json!({"path": spill, "offset": 600_000, "limit": 1}))
        .await;
    assert!(told.contains("67108864 bytes"), "{}", told.lines().next().unwrap());

    let result = desk
        .call("exec", json!({"command": "head -c 5000000 /dev/zero | tr '\\0' x"}))
        .await
        .unwrap();
    assert!(
        result.output_text.starts_with("[cut: 5000000 bytes, 1 line in all"),
        "{}",
        &result.output_text[..200]
    );
}

#[tokio::test]
async fn time_runs_out_and_processes_go_on() {
    let desk = Desk::new().await;
    let told = desk
        .told(
            "exec",
            json!({"command": "echo begun; sleep 60", "timeout_s": 1, "wait_s": 30}),
        )
        .await;
    assert!(
        told.starts_with("begun\n[killed by timeout_s of 1 s, exit code 124"),
        "{told}"
    );
    let told = desk
        .told(
            "exec",
            json!({"command": "echo a; sleep 0.6; echo b; sleep 60", "wait_s": 0.3, "timeout_s": 999_999}),
        )
        .await;
    assert!(told.contains("still running") && told.contains("process p2;"), "{told}");
    assert!(
        told.contains("timeout_s 999999 is out of range; 86400 is used"),
        "{told}"
    );
    let told = desk
        .told(
            "process",
            json!({"id": "p2", "action": "wait", "until": "output", "wait_s": 20}),
        )
        .await;
    assert!(told.starts_with("b\n[still running"), "only what is new: {told}");
    let (code, message) = desk
        .refused("process", json!({"id": "p2", "action": "write", "input": "x"}))
        .await;
    assert_eq!(code, "invalid_arguments", "{message}");
    let told = desk.told("process", json!({"id": "p2", "action": "kill"})).await;
    assert!(told.contains("[killed, exit code"), "{told}");
    let (code, _) = desk.refused("process", json!({"id": "p2", "action": "wait"})).await;
    assert_eq!(code, "not_found", "its end was told");
}

#[tokio::test]
async fn a_terminal_takes_what_is_typed() {
    let desk = Desk::new().await;
    let command = "stty size; tty; read line; echo got $line; sleep 60";
    let told = desk
        .told("exec", json!({"command": command, "tty": true, "wait_s": 0.5}))
        .await;
    assert!(told.starts_with("40 120\n/dev/pts/0\n"), "{told}");
    let told = desk
        .told("process", json!({"id": "p1", "action": "write", "input": "hello\n"}))
        .await;
    assert!(told.contains("got hello"), "{told}");
    let told = desk
        .told("process", json!({"id": "p1", "action": "write", "input": "\u{3}"}))
        .await;
    let told = if told.contains("exit code") {
        told
    } else {
        desk.told("process", json!({"id": "p1", "action": "wait"})).await
    };
    assert!(told.contains("exit code 130"), "^C ends it: {told}");
}

#[tokio::test]
async fn commands_of_a_session_share_loopback_and_tmp_and_nothing_else() {
    let desk = Desk::new().await;
    let server = "import socket\ns = socket.socket()\ns.bind(('127.0.0.1', 4711))\ns.listen()\nopen('/tmp/up', 'w').close()\n\
                  while True:\n    c, _ = s.accept()\n    c.sendall(b'hello from p1\\n')\n    c.close()\n";
    desk.told("write_file", json!({"path": "server.py", "content": server}))
        .await;
    desk.told("exec", json!({"command": "exec python3 server.py", "background": true}))
        .await;
    let client = "while [ ! -e /tmp/up ]; do sleep 0.05; done; cat </dev/tcp/127.0.0.1/4711; \
                  ps -e -o args= | grep -c '[s]erver.py'; cat /proc/net/dev | grep -c eth";
    let told = desk.told("exec", json!({ "command": client })).await;
    assert!(told.starts_with("hello from p1\n0\n0\n"), "{told}");
    desk.told("process", json!({"id": "p1", "action": "kill"})).await;
}

#[tokio::test]
async fn sixteen_processes_and_no_more() {
    let desk = Desk::new().await;
    for _ in 0..16 {
        desk.told("exec", json!({"command": "sleep 60", "background": true}))
            .await;
    }
    let (code, message) = desk.refused("exec", json!({"command": "true"})).await;
    assert_eq!(code, "unavailable");
    assert!(
        message.contains("p1 (sleep 60)") && message.contains("p16"),
        "{message}"
    );
}

/// What a step costs beside what its command does. Printed, for those who want to know.
#[tokio::test]
async fn the_overhead_of_a_step() {
    let desk = Desk::new().await;
    desk.told("write_file", json!({"path": "a", "content": "x\n"})).await;
    for (tool, arguments) in [
        ("exec", json!({"command": "true"})),
        ("read_file", json!({"path": "a"})),
    ] {
        let mut times = Vec::new();
        for _ in 0..15 {
            let begun = Instant::now();
            let result = desk.call(tool, arguments.clone()).await.unwrap();
            let own = Duration::from_nanos(u64::try_from(result.execution_duration_ns).unwrap());
            times.push((own, begun.elapsed()));
        }
        times.sort();
        println!(
            "{tool}: median in the worker {:?}, best {:?}",
            times[times.len() / 2].0,
            times[0].0
        );
    }
}
