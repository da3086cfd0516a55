//! The encrypted file of hosts without a keyring, with the real age.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use nexus_tests::Daemon;

use crate::kit::{World, have};

#[tokio::test]
async fn secrets_are_kept_in_the_vault_and_age_itself_opens_it() {
    if !have(
        "secrets_are_kept_in_the_vault_and_age_itself_opens_it",
        &["age", "age-keygen"],
    ) {
        return;
    }
    let mut world = World::new("rack = \"vault:rack/default\"");
    let done = world
        .credential(&["add", "rack", "--storage", "vault"], "sk-canary-one")
        .ok();
    let identity = world.folder().join(".config/nexus/vault-identity.txt");
    assert!(done.err.contains(identity.to_str().unwrap()), "{done:?}");
    assert_eq!(fs::metadata(&identity).unwrap().permissions().mode() & 0o777, 0o600);
    world
        .credential(&["add", "other", "--storage", "auto"], "sk-canary-two")
        .ok();
    let vault = world.site.root().credential_dir().join("vault.age");
    let bytes = fs::read(&vault).unwrap();
    assert!(bytes.starts_with(b"age-encryption.org/v1"));
    assert!(!String::from_utf8_lossy(&bytes).contains("canary"));
    let opened = Command::new("age")
        .arg("-d")
        .arg("-i")
        .arg(&identity)
        .arg(&vault)
        .output()
        .unwrap();
    let opened: serde_json::Value = serde_json::from_slice(&opened.stdout).unwrap();
    assert_eq!(opened["rack/default"], "sk-canary-one");
    assert_eq!(opened["other/default"], "sk-canary-two");
    world.site.up(&[Daemon::Llm]).await;
    world.ask().await.unwrap();
    world.credential(&["rotate", "rack"], "sk-canary-three").ok();
    world.ask().await.unwrap();
    assert_eq!(world.provider.keys(), ["sk-canary-one", "sk-canary-three"]);
    world.credential(&["remove", "other"], "").ok();
    assert_eq!(world.credential(&["get", "vault:other/default"], "").code, Some(4));
}

#[test]
fn what_is_wrong_with_a_vault_is_told() {
    if !have("what_is_wrong_with_a_vault_is_told", &["age", "age-keygen"]) {
        return;
    }
    let mut world = World::new("");
    world
        .credential(&["add", "rack", "--storage", "vault"], "sk-canary")
        .ok();
    let identity = world.folder().join(".config/nexus/vault-identity.txt");
    let vault = world.site.root().credential_dir().join("vault.age");
    let get = |world: &World| world.credential(&["get", "vault:rack/default"], "");
    fs::set_permissions(&identity, fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(get(&world).code, Some(5), "an identity that others can read");
    let away = identity.with_extension("away");
    fs::rename(&identity, &away).unwrap();
    assert_eq!(get(&world).code, Some(7), "without its identity it is locked");
    let add = world.credential(&["add", "more", "--storage", "vault"], "sk-canary");
    assert_eq!(add.code, Some(7), "no second identity is made beside a vault: {add:?}");
    let other = world.folder().join("other.txt");
    assert!(
        Command::new("age-keygen")
            .arg("-o")
            .arg(&other)
            .status()
            .unwrap()
            .success()
    );
    world.set("NEXUS_VAULT_IDENTITY", Some(other.to_str().unwrap()));
    assert_eq!(get(&world).code, Some(5), "the identity of another vault");
    world.set("NEXUS_VAULT_IDENTITY", None);
    fs::rename(&away, &identity).unwrap();
    fs::set_permissions(&identity, fs::Permissions::from_mode(0o600)).unwrap();
    let mut bytes = fs::read(&vault).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&vault, bytes).unwrap();
    assert_eq!(get(&world).code, Some(9), "a damaged vault");
    world.set("PATH", Some(world.folder().join("bin").to_str().unwrap()));
    assert_eq!(get(&world).code, Some(8), "no age");
}
