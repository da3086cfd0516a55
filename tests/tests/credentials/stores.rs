//! The command with the stores that every host has.

use std::{fs, os::unix::fs::PermissionsExt};

use nexus_tests::Daemon;

use crate::kit::World;

#[test]
fn an_account_is_added_shown_rotated_and_removed() {
    let world = World::new("");
    let done = world
        .credential(&["add", "rack", "--storage", "file"], "sk-canary-first-0123\n")
        .ok();
    assert!(!done.out.contains("canary"), "{done:?}");
    let file = world.site.root().credential_dir().join("rack/default");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    // A pipe is no terminal: the value and nothing else.
    assert_eq!(
        world.credential(&["get", "rack/default"], "").ok().out,
        "sk-canary-first-0123\n"
    );
    let json = world.credential(&["get", "rack", "--json"], "").ok();
    assert_eq!(json.json()["masked"], "sk-can...0123");
    assert!(json.json().get("value").is_none(), "{json:?}");
    let again = world.credential(&["add", "rack", "--storage", "file"], "sk-other\n");
    assert_eq!(again.code, Some(1));
    assert!(again.err.contains("credential rotate rack/default"), "{again:?}");
    world.credential(&["rotate", "rack"], "sk-canary-second-4567\n").ok();
    assert_eq!(
        world.credential(&["get", "rack", "--json", "--reveal"], "").ok().json()["value"],
        "sk-canary-second-4567"
    );
    let list = world.credential(&["list", "--json"], "").ok();
    let row = &list.json()[0];
    assert_eq!(
        (row["account"].as_str(), row["status"].as_str()),
        (Some("rack/default"), Some("ready"))
    );
    assert!(row["rotated"].is_string() && !list.out.contains("canary"), "{list:?}");
    world.credential(&["remove", "rack"], "").ok();
    assert!(!file.exists());
    assert_eq!(world.credential(&["get", "rack"], "").code, Some(4));
}

#[test]
fn every_failure_has_its_exit_code() {
    let world = World::new("");
    let folder = world.folder();
    let open = folder.join("open");
    fs::write(&open, "sk-canary").unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
    let hangs = world.shim("hangs", "sleep 1000");
    let silent = world.shim("silent", ":");
    let fails = world.shim("fails", "echo sk-canary >&2; exit 3");
    let op = "op://a/b/c".to_owned();
    world.shim("op", "echo '[ERROR] you are not currently signed in' >&2; exit 1");
    let of = |path: &std::path::Path| format!("command:{}", path.display());
    let cases = [
        ("env:NEXUS_NO_SUCH_VARIABLE".to_owned(), 4, "NEXUS_LOAD_SHELL_ENV"),
        (format!("file:{}", open.display()), 5, "chmod 600"),
        (format!("file:{}/none", folder.display()), 4, "none"),
        (of(&hangs), 6, "did not end in time"),
        (of(&silent), 9, "says nothing"),
        (of(&fails), 1, "ended with 3"),
        ("command:/nowhere/program".to_owned(), 8, "no such program"),
        (op, 7, "signed in"),
        ("systemd:key".to_owned(), 8, "LoadCredential"),
        ("keyring:a/b".to_owned(), 8, "session bus"),
        ("vault:a".to_owned(), 4, "no vault"),
        ("a/b".to_owned(), 4, "credential add a/b"),
    ];
    for (reference, code, says) in cases {
        let limit = if reference.contains("hangs") { "1s" } else { "15s" };
        let done = world.credential(&["get", &reference, "--timeout", limit], "");
        assert_eq!(done.code, Some(code), "{reference}: {done:?}");
        assert!(done.err.contains(says), "{reference}: {done:?}");
        assert!(
            done.out.is_empty() && !done.err.contains("canary"),
            "{reference}: {done:?}"
        );
    }
    world
        .credential(&["add", "old", "--storage", "file", "--expires-in", "1ms"], "sk-canary")
        .ok();
    let done = world.credential(&["get", "old"], "");
    assert_eq!(done.code, Some(10), "{done:?}");
    assert!(done.err.contains("credential rotate old/default"), "{done:?}");
    let broken = world.credential(&["list", "--broken", "--json"], "").ok();
    assert_eq!(broken.json()[0]["status"], "expired");
}

#[test]
fn a_secret_is_no_argument_and_a_reference_is_no_secret() {
    let world = World::new("");
    let done = world.credential(&["add", "rack", "--value", "sk-canary"], "");
    assert_eq!(done.code, Some(2));
    assert!(
        done.err.contains("every user of this host") && !done.err.contains("canary"),
        "{done:?}"
    );
    let done = world.credential(&["add", "../../x", "--storage", "file"], "sk-1");
    assert_eq!(done.code, Some(2), "{done:?}");
    assert!(!world.site.root().credential_dir().exists());
    let nowhere = world.credential(&["add", "rack"], "sk-canary");
    assert_eq!(
        nowhere.code,
        Some(8),
        "nothing is stored where nobody said: {nowhere:?}"
    );
    assert!(nowhere.err.contains("--storage vault"), "{nowhere:?}");
}

#[test]
fn secrets_are_found_and_taken_over() {
    let mut world = World::new("");
    world.set("ANTHROPIC_API_KEY", Some("sk-ant-canary-0123456789"));
    world.set("ACME_ACCESS_TOKEN", Some("0123-4567-canary-8901"));
    let scan = world.credential(&["scan", "--json"], "").ok();
    assert_eq!(scan.json().as_array().unwrap().len(), 1);
    assert_eq!(scan.json()[0]["masked"], "sk-ant...6789");
    let deep = world.credential(&["scan", "--deep"], "").ok();
    assert!(
        deep.out.contains("ACME_ACCESS_TOKEN") && !deep.out.contains("canary"),
        "{deep:?}"
    );
    world.credential(&["scan", "--import", "--storage", "file"], "").ok();
    assert_eq!(
        world.credential(&["get", "anthropic"], "").ok().out,
        "sk-ant-canary-0123456789\n"
    );
    let env = world.folder().join(".env");
    fs::write(
        &env,
        "# mine\nexport OPENAI_API_KEY='sk-canary-of-openai'\nEDITOR=vi\nANTHROPIC_API_KEY=sk-other\n",
    )
    .unwrap();
    let done = world
        .credential(&["import", env.to_str().unwrap(), "--storage", "file"], "")
        .ok();
    assert!(
        done.out.contains("kept as it was") && !done.out.contains("EDITOR"),
        "{done:?}"
    );
    assert_eq!(
        world.credential(&["get", "openai"], "").ok().out,
        "sk-canary-of-openai\n"
    );
    assert_eq!(
        world.credential(&["get", "anthropic"], "").ok().out,
        "sk-ant-canary-0123456789\n"
    );
    let auth = world.folder().join(".codex/auth.json");
    fs::create_dir(auth.parent().unwrap()).unwrap();
    fs::write(&auth, "{\"tokens\": {\"access_token\": \"sk-canary-codex\"}}").unwrap();
    fs::set_permissions(&auth, fs::Permissions::from_mode(0o600)).unwrap();
    world.credential(&["import", "codex-cli"], "").ok();
    assert_eq!(
        world.credential(&["get", "openai/codex-cli"], "").ok().out,
        "sk-canary-codex\n"
    );
    let verify = world.credential(&["verify", "--json"], "").ok();
    assert!(
        verify.json().as_array().unwrap().iter().all(|row| row["ok"] == true),
        "{verify:?}"
    );
}

#[tokio::test]
async fn a_daemon_uses_an_account_and_the_new_secret_of_it_at_once() {
    let mut world = World::new("");
    world.site.up(&[Daemon::Llm]).await;
    // An endpoint may do without a key.
    world.ask().await.unwrap();
    world.credential(&["add", "rack", "--storage", "file"], "sk-first").ok();
    world.ask().await.unwrap();
    world.credential(&["rotate", "rack"], "sk-second").ok();
    world.ask().await.unwrap();
    assert_eq!(world.provider.keys(), ["", "sk-first", "sk-second"]);
    world.credential(&["remove", "rack"], "").ok();
    world.ask().await.unwrap();
    assert_eq!(world.provider.keys()[3], "");
}

#[tokio::test]
async fn what_the_settings_name_stands_before_all_else_and_a_change_of_the_file_is_seen() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "sk-of-the-file").unwrap();
    let mut world = World::new(&format!("rack = \"file:{}\"", file.path().display()));
    world.set("NEXUS_LLM_KEY_RACK", Some("sk-of-the-environment"));
    world.site.up(&[Daemon::Llm]).await;
    world.ask().await.unwrap();
    let fresh = file.path().with_extension("new");
    fs::write(&fresh, "sk-newer").unwrap();
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(&fresh, file.path()).unwrap();
    world.ask().await.unwrap();
    assert_eq!(world.provider.keys(), ["sk-of-the-file", "sk-newer"]);
    assert!(world.log().contains("key resolved"), "where it came from is in the log");
}

#[tokio::test]
async fn a_store_that_hangs_holds_up_nobody_else() {
    let mut world = World::new("rack = \"command:/bin/sleep 1000\", ollama = \"env:NEXUS_NO_SUCH_VARIABLE\"");
    world.set("NEXUS_LLM__CREDENTIAL_TIMEOUT", Some("2s"));
    world.site.up(&[Daemon::Llm]).await;
    let error = world.ask().await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::FailedPrecondition);
    assert!(error.message().contains("did not end in time"), "{error}");
    assert!(
        !error.message().contains("1000"),
        "arguments are nobody's business: {error}"
    );
    assert!(
        world.provider.keys().is_empty(),
        "nothing is sent without the key that was meant"
    );
    assert_eq!(
        world.health().await,
        i32::from(nexus_proto::common::v1::Health::Degraded)
    );
}
