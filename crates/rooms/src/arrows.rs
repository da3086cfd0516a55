//! The arrows of one crate: from each file to the files that it uses.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::Result;

use crate::{tree, uses};

/// A file of a crate, relative to its `src`.
pub type File = String;
pub type Arrows = BTreeMap<File, BTreeSet<File>>;

pub fn of_crate(path: &Path) -> Result<Arrows> {
    let src = path.join("src");
    let mut arrows = Arrows::new();
    for root in ["lib.rs", "main.rs"] {
        if !src.join(root).exists() {
            continue;
        }
        let modules = tree::read(&src, root)?;
        for (path, module) in &modules {
            let from = arrows.entry(module.file.clone()).or_default();
            let to = uses::of_module(&modules, path);
            from.extend(to.iter().map(|to| modules[to].file.clone()));
        }
    }
    for (from, to) in &mut arrows {
        to.remove(from);
    }
    Ok(arrows)
}

/// The module at the top of the crate that a file belongs to: `engine` for `engine.rs` and everything in `engine/`.
pub fn top(file: &str) -> &str {
    let first = file.split('/').next().unwrap_or(file);
    first.strip_suffix(".rs").unwrap_or(first)
}

/// The folder of which a file is a part. That of `engine/mod.rs`, and of `engine.rs` beside `engine/`, is `engine`.
pub fn folder<'a>(file: &'a str, arrows: &Arrows) -> &'a str {
    let stem = file.strip_suffix(".rs").unwrap_or(file);
    let own = arrows
        .keys()
        .any(|other| other.strip_prefix(stem).is_some_and(|rest| rest.starts_with('/')));
    if own {
        return stem;
    }
    file.rsplit_once('/').map_or("", |(folder, _)| folder)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn arrows(files: &[(&str, &str)]) -> Vec<String> {
        let made = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            let path = made.path().join("src").join(name);
            fs::create_dir_all(path.parent().expect("it has one")).expect("a directory");
            fs::write(path, text).expect("a file");
        }
        let arrows = of_crate(made.path()).expect("it is read");
        arrows
            .into_iter()
            .flat_map(|(from, to)| to.into_iter().map(move |to| format!("{from} > {to}")))
            .collect()
    }

    #[test]
    fn an_import_is_an_arrow_to_the_file_that_has_the_item() {
        let found = arrows(&[
            ("lib.rs", "mod engine;\nmod domain;\npub use engine::Engine;"),
            (
                "engine.rs",
                "mod ring;\npub use ring::Ring;\nuse crate::domain::{self, Step};\npub struct Engine;",
            ),
            ("engine/ring.rs", "use super::Engine;\npub struct Ring;"),
            ("domain.rs", "pub struct Step;\nfn wrong() -> crate::Engine { todo() }"),
        ]);
        assert_eq!(
            found,
            [
                "domain.rs > engine.rs",
                "engine.rs > domain.rs",
                "engine/ring.rs > engine.rs"
            ]
        );
    }

    #[test]
    fn a_name_that_is_passed_on_leads_to_where_it_stands() {
        let found = arrows(&[
            ("lib.rs", "mod service;\nmod engine;"),
            (
                "engine/mod.rs",
                "mod ring;\nmod more;\npub use ring::Ring as Circle;\npub use more::*;",
            ),
            ("engine/ring.rs", "pub struct Ring;"),
            ("engine/more.rs", "pub fn far() {}"),
            (
                "service.rs",
                "use crate::engine::Circle;\nfn go() { crate::engine::far() }",
            ),
        ]);
        assert_eq!(found, ["service.rs > engine/more.rs", "service.rs > engine/ring.rs"]);
    }

    #[test]
    fn arguments_of_macros_and_imports_within_functions_count() {
        let found = arrows(&[
            ("lib.rs", "mod a;\nmod b;\nmod c;\nmod d;"),
            ("a.rs", "fn x() { assert!(matches!(1, n if crate::b::fits(n))); }"),
            ("b.rs", "pub fn fits(_: u8) -> bool { use crate::c::Tree; true }"),
            ("c.rs", "pub struct Tree;\nfn y() { format!(\"{}\", super::d::Z) }"),
            ("d.rs", "pub const Z: u8 = 1;"),
        ]);
        assert_eq!(found, ["a.rs > b.rs", "b.rs > c.rs", "c.rs > d.rs"]);
    }

    #[test]
    fn tests_and_other_crates_do_not_count() {
        let found = arrows(&[
            ("lib.rs", "mod a;\nmod b;"),
            (
                "a.rs",
                "use std::fmt;\n#[cfg(test)]\nmod tests { use crate::b::B; }\n#[cfg(test)]\nuse crate::b::B;",
            ),
            ("b.rs", "pub struct B;\nfn b() { tokio::spawn(a::b::c) }"),
        ]);
        assert_eq!(found, [""; 0]);
    }

    #[test]
    fn a_module_may_name_its_file() {
        let found = arrows(&[
            ("main.rs", "#[path = \"odd_name.rs\"]\nmod b;\nmod a;"),
            ("a.rs", "use crate::b::B;"),
            ("odd_name.rs", "pub struct B;"),
        ]);
        assert_eq!(found, ["a.rs > odd_name.rs"]);
    }

    #[test]
    fn a_file_with_children_belongs_to_their_folder() {
        let arrows: Arrows = ["engine.rs", "engine/ring.rs", "wire/mod.rs", "lib.rs"]
            .map(|file| (file.to_owned(), BTreeSet::new()))
            .into();
        let of = |file| folder(file, &arrows);
        assert_eq!(of("engine.rs"), "engine");
        assert_eq!(of("engine/ring.rs"), "engine");
        assert_eq!(of("wire/mod.rs"), "wire");
        assert_eq!(of("lib.rs"), "");
    }
}
