//! A relative path: typed, it means the directory one is in; written in the file, the root.

use std::collections::BTreeMap;
use std::path::PathBuf;

use nexus_config::{Kind, Root, Schema, Setting, Sources, load};

#[test]
fn a_relative_path_on_the_command_line_is_of_the_working_directory() {
    let root = Root::at("/somewhere/nexus");
    let settings = vec![Setting::new("socket_path", Kind::Path, "", "where it listens").flag("socket")];
    let schema = Schema {
        section: "gateway",
        settings,
    };
    for (typed, meant) in [
        ("x.sock", std::env::current_dir().unwrap().join("x.sock")),
        ("/abs/x.sock", PathBuf::from("/abs/x.sock")),
        ("$NEXUS_ROOT/x.sock", PathBuf::from("/somewhere/nexus/x.sock")),
    ] {
        let mut sources = Sources::new(&root);
        sources.flags = BTreeMap::from([("socket_path".to_owned(), typed.to_owned())]);
        let found = load(&schema, &sources).unwrap();
        let path = found.extract::<BTreeMap<String, PathBuf>>().unwrap();
        assert_eq!(path["socket_path"], meant);
    }
}
