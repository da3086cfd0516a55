//! Circles of files that are larger than their folder: files that can only be understood together, and lie apart.

use std::collections::{BTreeMap, BTreeSet};

use crate::arrows::{Arrows, File, folder};

/// Every circle whose files do not all lie in one folder of the crate.
pub fn too_large(arrows: &Arrows) -> Vec<BTreeSet<File>> {
    let mut circles: Vec<_> = circles(arrows)
        .into_iter()
        .filter(|files| !lies_in_one_folder(files, arrows))
        .collect();
    circles.sort();
    circles
}

fn lies_in_one_folder(files: &BTreeSet<File>, arrows: &Arrows) -> bool {
    let folders: BTreeSet<&str> = files.iter().map(|file| folder(file, arrows)).collect();
    let tops: BTreeSet<&str> = folders
        .iter()
        .map(|folder| folder.split('/').next().unwrap_or(folder))
        .collect();
    // Below one folder of the crate, or side by side at its top.
    tops.len() == 1
}

/// The strongly connected components of two files and more: each file reaches each other one.
fn circles(arrows: &Arrows) -> Vec<BTreeSet<File>> {
    let reach: BTreeMap<&File, BTreeSet<&File>> = arrows.keys().map(|file| (file, reached(arrows, file))).collect();
    let mut done: BTreeSet<&File> = BTreeSet::new();
    let mut found = Vec::new();
    for file in arrows.keys() {
        if done.contains(file) || !reach[file].contains(file) {
            continue;
        }
        let back = reach[file]
            .iter()
            .filter(|other| reach.get(*other).is_some_and(|reach| reach.contains(file)));
        let circle: BTreeSet<&File> = back.copied().collect();
        done.extend(&circle);
        found.push(circle.into_iter().cloned().collect());
    }
    found
}

fn reached<'a>(arrows: &'a Arrows, from: &File) -> BTreeSet<&'a File> {
    let mut seen = BTreeSet::new();
    let mut waiting: Vec<&File> = arrows[from].iter().collect();
    while let Some(file) = waiting.pop() {
        if seen.insert(file) {
            waiting.extend(arrows.get(file).into_iter().flatten());
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(arrows: &[(&str, &[&str])]) -> Vec<Vec<String>> {
        let arrows: Arrows = arrows
            .iter()
            .map(|(from, to)| ((*from).to_owned(), to.iter().map(|to| (*to).to_owned()).collect()))
            .collect();
        let circles = too_large(&arrows);
        circles.into_iter().map(|files| files.into_iter().collect()).collect()
    }

    #[test]
    fn a_circle_within_a_folder_is_fine() {
        assert!(found(&[("engine/a.rs", &["engine/mod.rs"]), ("engine/mod.rs", &["engine/a.rs"])]).is_empty());
        assert!(found(&[("a.rs", &["b.rs"]), ("b.rs", &["a.rs"])]).is_empty());
    }

    #[test]
    fn a_circle_over_folders_is_named_whole() {
        let arrows: &[(&str, &[&str])] = &[
            ("engine/a.rs", &["domain/b.rs"]),
            ("domain/b.rs", &["domain/c.rs"]),
            ("domain/c.rs", &["engine/a.rs", "lib.rs"]),
            ("lib.rs", &[]),
        ];
        assert_eq!(found(arrows), [["domain/b.rs", "domain/c.rs", "engine/a.rs"]]);
    }
}
