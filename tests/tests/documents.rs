//! Pages of `docs/` that name tests: the tests are there.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Words of a name from which on it can only be that of a test.
const WORDS_OF_A_TEST: usize = 6;

fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("it lies in the checkout")
}

fn page() -> String {
    fs::read_to_string(checkout().join("docs/SECURITY.md")).expect("the page is there")
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn sources() -> String {
    let mut text = String::new();
    let mut waiting = vec![checkout().join("crates"), checkout().join("tests")];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the checkout") {
            let path: PathBuf = entry.expect("an entry").path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&fs::read_to_string(&path).expect("a source file"));
            }
        }
    }
    text
}

/// Somebody renames or removes a test that the page names as proof of a promise.
#[test]
fn every_test_that_the_security_page_names_is_in_the_file_it_names() {
    let page = page();
    let mut checked = 0;
    for line in page.lines().filter(|line| line.starts_with("- `")) {
        let [name, file] = quoted(line).take(2).collect::<Vec<_>>()[..] else {
            continue;
        };
        if !line.contains(&format!("`{name}` (`{file}`)")) {
            continue;
        }
        let text = fs::read_to_string(checkout().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(text.contains(&format!("fn {name}(")), "{file} has no {name}");
        checked += 1;
    }
    assert!(checked > 30, "only {checked} lines name a test");
}

/// The same for names in sentences.
#[test]
fn every_name_of_a_test_in_the_security_page_is_somewhere() {
    let (page, sources) = (page(), sources());
    let names: BTreeSet<&str> = quoted(&page)
        .filter(|word| word.split('_').count() >= WORDS_OF_A_TEST)
        .filter(|word| {
            word.bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        })
        .collect();
    for name in &names {
        assert!(sources.contains(&format!("fn {name}(")), "no test is called {name}");
    }
    assert!(!names.is_empty());
}

/// A target of `cargo xtask fuzz` that the page does not tell of, or the other way round.
#[test]
fn the_security_page_tells_of_every_fuzz_target() {
    let page = page();
    let rows: BTreeSet<&str> = page
        .lines()
        .skip_while(|line| !line.starts_with("| target |"))
        .take_while(|line| line.starts_with('|'))
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    let targets: BTreeSet<String> = fs::read_dir(checkout().join("fuzz/targets"))
        .expect("the targets are there")
        .map(|entry| entry.expect("an entry").path())
        .filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned()))
        .collect();
    assert_eq!(rows, targets.iter().map(String::as_str).collect::<BTreeSet<_>>());
}
