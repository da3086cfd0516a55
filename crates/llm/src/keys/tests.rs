use std::os::unix::fs::PermissionsExt;

use super::*;

const CANARY: &str = "sk-canary-7d1f";

fn file(text: &str, mode: u32) -> (tempfile::TempDir, Keys) {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("keys.toml");
    write(&path, text, mode);
    let own = fs::metadata(&path).expect("just written").uid();
    (dir, Keys::new(path, own, |_| None))
}

fn write(path: &Path, text: &str, mode: u32) {
    let fresh = path.with_extension("new");
    fs::write(&fresh, text).expect("write");
    fs::set_permissions(&fresh, fs::Permissions::from_mode(mode)).expect("chmod");
    fs::rename(&fresh, path).expect("rename");
}

#[test]
fn a_key_is_found_and_replaced_while_we_run() {
    let (_dir, keys) = file("[keys]\nanthropic = \"one\"\n", 0o600);
    assert_eq!(keys.get("anthropic").expect("readable").expect("set").reveal(), "one");
    assert!(keys.get("openai").expect("readable").is_none());
    write(&keys.path, "[keys]\nopenai = \"two\"\n", 0o600);
    assert!(keys.get("anthropic").expect("readable").is_none());
    assert_eq!(keys.get("openai").expect("readable").expect("set").reveal(), "two");
    fs::remove_file(&keys.path).expect("remove");
    assert!(keys.get("openai").expect("no file is no key").is_none());
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_file() {
    let (_dir, keys) = file("\u{feff}[keys]\nanthropic = \"one\"\n", 0o600);
    assert_eq!(keys.get("anthropic").expect("readable").expect("set").reveal(), "one");
}

#[test]
fn wide_modes_and_other_owners_are_refused() {
    for mode in [0o640, 0o604, 0o620, 0o666] {
        let (_dir, keys) = file("[keys]\nanthropic = \"sk-canary-7d1f\"\n", mode);
        let error = keys.get("anthropic").expect_err("refused");
        assert!(matches!(error, Error::Open { .. }), "{error}");
        assert!(error.to_string().contains("chmod 600"));
        fs::set_permissions(&keys.path, fs::Permissions::from_mode(0o600)).expect("chmod");
        assert!(keys.get("anthropic").expect("repaired").is_some());
    }
    let (_dir, mut keys) = file("[keys]\n", 0o600);
    keys.own_uid += 1;
    assert!(matches!(keys.get("anthropic"), Err(Error::Owner { .. })));
}

#[test]
fn a_link_is_not_followed() {
    let (dir, keys) = file("[keys]\nanthropic = \"x\"\n", 0o600);
    let link = dir.path().join("link.toml");
    std::os::unix::fs::symlink(&keys.path, &link).expect("symlink");
    let keys = Keys::new(link, keys.own_uid, |_| None);
    assert!(matches!(keys.get("anthropic"), Err(Error::NotAFile { .. })));
}

#[test]
fn nothing_we_say_holds_a_key() {
    for text in [
        format!("[keys]\nanthropic = \"{CANARY}\nopenai = 5"),
        format!("[keys]\nanthropic = [\"{CANARY}\"]"),
        CANARY.to_owned(),
        format!("[keys]\nanthropic = \"ok\"\n[{CANARY}]\n"),
    ] {
        let (_dir, keys) = file(&text, 0o600);
        let error = keys.get("anthropic").expect_err("malformed");
        assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
    }
    assert_eq!(format!("{:?}", Key::new(CANARY.into())), "[key]");
}

#[test]
fn the_environment_comes_first_and_survives_a_broken_file() {
    let (_dir, mut keys) = file("not toml at all", 0o600);
    keys.environment = |name| (name == "OPENAI_API_KEY").then(|| "from-env\n".to_owned());
    assert_eq!(
        keys.get("openai").expect("environment").expect("set").reveal(),
        "from-env"
    );
    assert!(keys.get("anthropic").is_err());
    assert!(keys.trouble().is_some());
    assert_eq!(variables("my-rack"), ["NEXUS_LLM_KEY_MY_RACK"]);
}
