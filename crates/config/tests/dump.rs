//! A dump says where everything comes from, hides secrets, and reads back to the same values.

use std::collections::BTreeMap;

use nexus_config::{Kind, Root, Schema, Setting, Sources, load};
use proptest::prelude::*;

fn table() -> Schema {
    Schema::new(
        "llm",
        vec![
            Setting::new("text", Kind::Text, "t", ""),
            Setting::new(
                "number",
                Kind::Int {
                    min: i64::MIN,
                    max: i64::MAX,
                },
                "0",
                "",
            ),
            Setting::new("ratio", Kind::Float, "0", ""),
            Setting::new("on", Kind::Bool, "false", ""),
            Setting::new("pause", Kind::Duration, "1s", ""),
            Setting::new("largest", Kind::Size, "1", ""),
            Setting::new("place", Kind::Path, "/", ""),
            Setting::new("spare", Kind::Path, "", ""),
            Setting::new("hosts", Kind::List, "", ""),
            Setting::new("names", Kind::Map, "", ""),
            Setting::new("word", Kind::Text, "", "").secret(),
        ],
    )
}

#[test]
fn it_says_where_values_come_from_and_keeps_secrets() {
    let root = Root::at("/nowhere");
    let mut sources = Sources::new(&root);
    sources.env = vec![
        ("NEXUS_LLM__PAUSE".into(), "90s".into()),
        ("NEXUS_LLM__WORD".into(), "hunter2".into()),
    ];
    let dump = load(&table(), &sources).unwrap().dump();
    assert!(dump.starts_with("[llm]\n"), "{dump}");
    assert!(dump.contains("text = \"t\"  # default\n"), "{dump}");
    assert!(
        dump.contains("pause = \"1m 30s\"  # environment NEXUS_LLM__PAUSE\n"),
        "{dump}"
    );
    assert!(dump.contains("# spare is not set  # default\n"), "{dump}");
    assert!(
        dump.contains("# word is set and not shown  # environment NEXUS_LLM__WORD\n"),
        "{dump}"
    );
    assert!(!dump.contains("hunter2"), "{dump}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_dump_reads_back(
        text in "\\PC{1,12}",
        number: i64,
        ratio in -1e12f64..1e12,
        on: bool,
        ms in 0u64..10_000_000_000,
        largest in 0u64..i64::MAX as u64,
        host in "[^,]{0,8}",
        name in "[a-z:.\"\\\\]{1,8}",
    ) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        let mut sources = Sources::new(&root);
        sources.flags = BTreeMap::from([
            ("text".to_owned(), text),
            ("number".to_owned(), number.to_string()),
            ("ratio".to_owned(), format!("{ratio:?}")),
            ("on".to_owned(), on.to_string()),
            ("pause".to_owned(), format!("{ms}ms")),
            ("largest".to_owned(), largest.to_string()),
            ("place".to_owned(), "sub/dir".to_owned()),
            ("hosts".to_owned(), format!("x,{host}")),
            ("names".to_owned(), format!("{name}=1")),
        ]);
        let before = load(&table(), &sources).unwrap();
        let file = dir.path().join("dump.toml");
        std::fs::write(&file, before.dump()).unwrap();
        let mut sources = Sources::new(&root);
        sources.file = Some(file);
        let after = load(&table(), &sources).unwrap();
        prop_assert_eq!(before.diff(&after), []);
    }
}
