//! Every mistake is told at once, with its place and what was probably meant.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so")]

use nexus_config::{Kind, Root, Schema, Setting, Sources, check_file, common, load, load_all};

fn table() -> Schema {
    Schema::new(
        "llm",
        vec![
            Setting::new("max_tokens", Kind::Int { min: 1, max: 100 }, "10", "").alias(&["MaxTokens"]),
            Setting::new("pause", Kind::Duration, "30s", ""),
            Setting::new("largest", Kind::Size, "1MiB", ""),
            Setting::new("place", Kind::Path, "", ""),
            Setting::new("on", Kind::Bool, "true", ""),
            Setting::new("mode", Kind::Choice(&["fast", "slow"]), "fast", ""),
            Setting::new("password", Kind::Int { min: 0, max: 1 }, "", "").secret(),
        ],
    )
}

/// The lines said about a file's text and an environment, the file called FILE.
fn said(text: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::at(dir.path());
    let path = dir.path().join("config.toml");
    std::fs::write(&path, text).unwrap();
    let own = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
    let sources = Sources {
        file: Some(path.clone()),
        env: env.iter().map(own).collect(),
        flags: flags.iter().map(own).collect(),
        root: &root,
    };
    match load_all(&[&table(), &common()], &sources) {
        Ok(_) => Vec::new(),
        Err(errors) => errors
            .lines()
            .iter()
            .map(|l| l.replace(&*path.to_string_lossy(), "FILE"))
            .collect(),
    }
}

#[test]
fn all_sources_are_read_to_their_end() {
    let text =
        "[llm]\nmax_tokns = 5\npause = 30\nlargest = \"big\"\n\n[comon]\nx = 1\n\n[common]\nlog_level = \"loud\"\n";
    let env = [
        ("NEXUS_LLM__MAX_TOKEN", "1"),
        ("NEXUS_LLM__ON", "perhaps"),
        ("NEXUS_LMM__ON", "true"),
    ];
    let lines = said(text, &env, &[("llm.paus", "1s"), ("mode", "medium")]);
    assert_eq!(
        lines,
        [
            "FILE:6: comon: there is no such section; did you mean \"common\"?",
            "FILE:2: llm.max_tokns: there is no such setting; did you mean \"max_tokens\"?",
            "environment NEXUS_LLM__MAX_TOKEN: there is no such setting; did you mean \"NEXUS_LLM__MAX_TOKENS\"?",
            "environment NEXUS_LMM__ON: there is no such section; did you mean \"NEXUS_LLM__ON\"?",
            "flag --set llm.paus: there is no such setting; did you mean \"llm.pause\"?",
            "FILE:3: llm.pause = \"30\": a duration needs a unit: \"30s\", \"30ms\" or \"30m\"",
            "FILE:4: llm.largest = \"big\": expected a size such as \"100MiB\", \"64KiB\" or plain bytes",
            "environment NEXUS_LLM__ON: llm.on = \"perhaps\": expected true or false",
            "flag --set llm.mode: llm.mode = \"medium\": expected one of fast, slow",
            "FILE:10: common.log_level = \"loud\": expected one of error, warn, info, debug, trace",
        ]
    );
}

#[test]
fn a_wrong_type_says_what_is_wanted() {
    let lines = said(
        "[llm]\nmax_tokens = \"5\"\non = \"true\"\nplace = 5\nmode = [\"fast\"]\npause = -1\n",
        &[],
        &[],
    );
    assert_eq!(
        lines,
        [
            "FILE:2: llm.max_tokens = \"5\": expected a whole number, without quotes",
            "FILE:6: llm.pause = \"-1\": expected a duration such as \"30s\", \"5m\" or \"1h 30m\"",
            "FILE:4: llm.place = \"5\": expected a text in quotes",
            "FILE:3: llm.on = \"true\": expected true or false, without quotes",
            "FILE:5: llm.mode: expected one of fast, slow",
        ]
    );
}

#[test]
fn limits_are_named() {
    assert_eq!(
        said("[llm]\nmax_tokens = 0\n", &[], &[]),
        ["FILE:2: llm.max_tokens = \"0\": must be from 1 to 100"]
    );
    assert_eq!(
        said("[llm]\nmax_tokens = 99999999999999999999\n", &[], &[]),
        ["FILE:2: llm.max_tokens: expected a whole number, without quotes"]
    );
}

#[test]
fn only_known_names_are_expanded_in_paths() {
    let lines = said("[llm]\nplace = \"$HOMEDIR/x\"\n", &[], &[]);
    assert_eq!(
        lines,
        ["FILE:2: llm.place = \"$HOMEDIR/x\": only $NEXUS_ROOT and ~ are expanded, at the beginning"]
    );
}

#[test]
fn two_spellings_of_one_setting_contradict_each_other() {
    let lines = said("[llm]\nmax_tokens = 5\nMaxTokens = 6\n", &[], &[]);
    assert_eq!(lines, ["FILE:3: llm.MaxTokens: was set before as \"max_tokens\""]);
}

#[test]
fn a_secret_is_not_repeated() {
    let lines = said(
        "[llm]\npassword = \"hunter2\"\n",
        &[("NEXUS_LLM__PASSWORD", "hunter3")],
        &[],
    );
    assert_eq!(lines.len(), 1);
    assert!(
        !lines[0].contains("hunter") && lines[0].contains("llm.password"),
        "{lines:?}"
    );
}

#[test]
fn broken_toml_is_told_with_its_line_and_nothing_is_guessed_about_the_rest() {
    let lines = said(
        "[llm]\nmax_tokens = = 5\nunknown = 1\n",
        &[("NEXUS_LLM__ON", "perhaps")],
        &[],
    );
    assert!(lines[0].starts_with("FILE:2: not valid TOML: "), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("unknown")), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("NEXUS_LLM__ON")), "{lines:?}");
}

#[test]
fn what_stands_outside_a_section_is_told_where_it_belongs() {
    let lines = said("log_level = \"debug\"\ncommon = 5\n", &[], &[]);
    assert_eq!(lines.len(), 2);
    assert!(
        lines
            .iter()
            .any(|l| l.starts_with("FILE:1: log_level: stands outside a section")),
        "{lines:?}"
    );
    assert!(
        lines.iter().any(|l| l.starts_with("FILE:2: common: is a section")),
        "{lines:?}"
    );
}

#[test]
fn a_file_that_was_named_must_be_there() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::at(dir.path());
    let mut sources = Sources::new(&root);
    sources.file = Some(dir.path().join("absent.toml"));
    let said = load(&table(), &sources).unwrap_err().to_string();
    assert!(said.contains("absent.toml: cannot be read: "), "{said}");
}

#[test]
fn sections_of_other_daemons_are_theirs_to_check() {
    assert!(said("[gateway]\nanything = 1\n", &[("NEXUS_GATEWAY__OTHER", "x")], &[]).is_empty());
}

#[test]
fn the_example_file_fits_the_shared_table() {
    let dir = tempfile::tempdir().unwrap();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/config.example.toml");
    check_file(path.as_ref(), &Root::at(dir.path()), &[&common()]).unwrap();
}

#[test]
fn every_shared_setting_is_in_the_example_with_its_default() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/config.example.toml");
    let text = std::fs::read_to_string(path).unwrap();
    // Uncommented, every line of [common] must be valid and say what holds anyway.
    let common_part = text.split("\n[orchestrator]").next().unwrap();
    let live: String = common_part
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if rest.contains(" = ") && !rest.starts_with(' ') => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let root = Root::at(dir.path());
    let defaults = load(&common(), &Sources::new(&root)).unwrap();
    let file = dir.path().join("c.toml");
    std::fs::write(&file, live).unwrap();
    let mut sources = Sources::new(&root);
    sources.file = Some(file);
    let example = load(&common(), &sources).unwrap();
    for setting in common().settings {
        assert!(
            matches!(example.origin(setting.key), Some(nexus_config::Origin::File { .. })),
            "{} is missing from deploy/config.example.toml",
            setting.key
        );
    }
    assert_eq!(defaults.diff(&example), []);
}
