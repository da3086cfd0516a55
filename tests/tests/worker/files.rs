//! File tools: what they give, what they refuse, whose files they write.

use std::{fs, os::unix::fs::MetadataExt};

use serde_json::json;

use crate::desk::Desk;

#[tokio::test]
async fn every_file_tool_does_its_work() {
    let desk = Desk::new().await;
    let told = desk
        .told("write_file", json!({"path": "src/a.txt", "content": "one\ntwo\n"}))
        .await;
    assert!(told.starts_with("[src/a.txt: made, 8 bytes, sha256 "), "{told}");
    let told = desk.told("read_file", json!({"path": "src/a.txt"})).await;
    assert!(told.starts_with("[src/a.txt: 2 lines, 8 bytes, sha256 "), "{told}");
    assert!(told.ends_with("]\none\ntwo\n"), "{told}");
    let told = desk
        .told("read_file", json!({"path": "/workspace/src/a.txt", "offset": "2"}))
        .await;
    assert!(told.ends_with("shown: lines 2 to 2]\ntwo\n"), "{told}");

    let told = desk
        .told(
            "edit_file",
            json!({"path": "src/a.txt", "old_string": "two", "new_string": "2"}),
        )
        .await;
    assert!(told.contains("-two\n+2\n"), "{told}");
    let patch =
        "*** Begin Patch\n*** Update File: src/a.txt\n@@\n one\n-2\n+zwei\n*** Add File: b.txt\n+neu\n*** End Patch";
    let told = desk.told("apply_patch", json!({ "patch": patch })).await;
    assert!(told.starts_with("[2 files changed]\n"), "{told}");
    assert_eq!(
        fs::read_to_string(desk.workspace().join("src/a.txt")).unwrap(),
        "one\nzwei\n"
    );
    let owner = fs::metadata(desk.workspace()).unwrap();
    for path in ["src", "src/a.txt", "b.txt"] {
        let meta = fs::metadata(desk.workspace().join(path)).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (owner.uid(), owner.gid()), "{path}");
    }

    desk.put(".gitignore", b"*.log\n");
    desk.put("x.log", b"zwei\n");
    desk.put("c/d.txt", b"eins\nzwei\ndrei\n");
    let told = desk.told("list_dir", json!({"depth": 2})).await;
    assert_eq!(
        told,
        ".gitignore  6\nb.txt  4\nc/\nc/d.txt  15\nsrc/\nsrc/a.txt  9\nx.log  5\n"
    );
    assert_eq!(
        desk.told("find", json!({"glob": "*.txt"})).await,
        "b.txt\nc/d.txt\nsrc/a.txt\n"
    );
    assert_eq!(desk.told("find", json!({"glob": "src/**"})).await, "src/a.txt\n");
    assert_eq!(
        desk.told("grep", json!({"pattern": "zw.i", "context": 1})).await,
        "c/d.txt-1-eins\nc/d.txt:2:zwei\nc/d.txt-3-drei\nsrc/a.txt-1-one\nsrc/a.txt:2:zwei\n"
    );
    assert_eq!(
        desk.told("grep", json!({"pattern": "zwei", "path": "x.log"})).await,
        "x.log:1:zwei\n"
    );
}

/// The attack: a tool is pointed at files outside by a link, `..` or a pipe, and at what others execute.
#[tokio::test]
async fn what_leads_out_or_is_obeyed_by_others_is_refused() {
    let desk = Desk::new().await;
    desk.told("write_file", json!({"path": "a", "content": "x"})).await;
    let secret = desk.site.folder().path().join("secret");
    fs::write(&secret, "key").unwrap();
    std::os::unix::fs::symlink(&secret, desk.workspace().join("out")).unwrap();
    std::os::unix::fs::symlink("/", desk.workspace().join("root")).unwrap();
    nix::unistd::mkfifo(&desk.workspace().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    desk.put(".git/config", b"[core]\n");
    for (path, code) in [
        ("out", "not_allowed"),
        ("root/etc/passwd", "not_allowed"),
        ("../secret", "invalid_arguments"),
        ("/etc/passwd", "not_allowed"),
        ("pipe", "not_allowed"),
        ("https://example.com", "invalid_arguments"),
        ("nothing", "not_found"),
        ("result:../../secret", "not_found"),
    ] {
        let (told, message) = desk.refused("read_file", json!({ "path": path })).await;
        assert_eq!(told, code, "{path}: {message}");
        assert!(message.starts_with(&format!("error {code}: ")), "{message}");
    }
    for path in [
        ".git/hooks/pre-commit",
        ".git/config",
        ".agents/skills/x",
        "out",
        "root/tmp/x",
        "pipe",
    ] {
        let (code, message) = desk.refused("write_file", json!({"path": path, "content": "x"})).await;
        assert!(
            ["not_allowed", "not_found"].contains(&code.as_str()),
            "{path}: {code} {message}"
        );
    }
    assert_eq!(fs::read_to_string(&secret).unwrap(), "key");
    // In commands too, also by way of a directory of another name.
    let told = desk
        .told(
            "exec",
            json!({"command": "echo x >>.git/config; mv .git other; mkdir -p .git/hooks; cat .git/config; ls"}),
        )
        .await;
    assert!(
        told.contains("Read-only file system") && told.contains("busy"),
        "{told}"
    );
    assert_eq!(
        fs::read_to_string(desk.workspace().join(".git/config")).unwrap(),
        "[core]\n"
    );
}

#[tokio::test]
async fn a_file_is_overwritten_only_by_who_has_seen_it() {
    let mut desk = Desk::new().await;
    desk.told("write_file", json!({"path": "a", "content": "1\n"})).await;
    desk.told("write_file", json!({"path": "a", "content": "2\n"})).await;
    desk.put("a", b"3\n");
    let (code, message) = desk.refused("write_file", json!({"path": "a", "content": "4\n"})).await;
    assert_eq!(code, "changed");
    assert!(message.ends_with("\n3\n"), "the present content is told: {message}");
    // Now it was seen, also by a worker that starts anew.
    desk.site.kill(nexus_tests::Daemon::Worker);
    desk.site.up(&[nexus_tests::Daemon::Worker]).await;
    desk.told("write_file", json!({"path": "a", "content": "4\n"})).await;
    desk.put("a", b"five\n");
    let told = desk
        .told(
            "edit_file",
            json!({"path": "a", "old_string": "five", "new_string": "5"}),
        )
        .await;
    assert!(told.contains("had changed"), "{told}");
    let (code, message) = desk
        .refused("edit_file", json!({"path": "a", "old_string": "6", "new_string": "7"}))
        .await;
    assert_eq!(code, "no_match", "{message}");
    let broken = "*** Begin Patch\n*** Update File: a\n@@\n-5\n+6\n*** Update File: b\n@@\n-x\n+y\n*** End Patch";
    desk.refused("apply_patch", json!({ "patch": broken })).await;
    assert_eq!(fs::read_to_string(desk.workspace().join("a")).unwrap(), "5\n");
}

#[tokio::test]
async fn tasks_of_the_older_protocol_are_executed() {
    let desk = Desk::new().await;
    let text = |ended: crate::desk::Ended| ended.expect("it works").output_text;
    text(
        desk.older("file_write", &[("path", "a.txt"), ("content", "one two\n")])
            .await,
    );
    text(
        desk.older("write", &[("target", "a.txt"), ("content", "one two one\n")])
            .await,
    );
    text(
        desk.older("sed", &[("file", "a.txt"), ("search", "one"), ("replace", "1")])
            .await,
    );
    let told = text(desk.older("cat", &[("path", "a.txt")]).await);
    assert!(told.ends_with("\n1 two 1\n"), "{told}");
    assert_eq!(text(desk.older("ls", &[]).await), "a.txt  8\n");
    assert_eq!(
        text(desk.older("grep", &[("pattern", "two")]).await),
        "a.txt:1:1 two 1\n"
    );
    let unknown = desk.older("dance", &[]).await.expect_err("there is no such operation");
    assert_eq!(unknown.code, "invalid_arguments");
}
