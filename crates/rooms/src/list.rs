//! The checked-in list, and the comparison with it.
//!
//! ```text
//! engine: domain, store                           the modules at the top of a crate, and which of them they use
//! wrong gateway: store.rs -> engine/mod.rs        an arrow up; these may only get fewer
//! circle cli: services/up.rs supervise/mod.rs     a circle larger than its folder; these may only get smaller
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use crate::{
    arrows::{Arrows, top},
    circles, floors,
};

const HEAD: &str = "\
# Which module of a crate uses which. Written by: cargo xtask rooms --bless
# `wrong` and `circle` are what is still to be mended: a line may go, and none may come.
";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List {
    /// `crate/module` to the modules it uses, as one line.
    rooms: BTreeMap<String, String>,
    wrong: BTreeSet<String>,
    circles: BTreeSet<String>,
}

impl List {
    pub fn add(&mut self, name: &str, arrows: &Arrows) {
        let mut rooms: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (from, to) in arrows {
            let used = rooms.entry(top(from)).or_default();
            used.extend(to.iter().map(|to| top(to)).filter(|to| *to != top(from)));
        }
        for (room, used) in rooms.into_iter().filter(|(_, used)| !used.is_empty()) {
            let used: Vec<&str> = used.into_iter().collect();
            self.rooms.insert(format!("{name}/{room}"), used.join(", "));
        }
        self.wrong.extend(
            floors::wrong(name, arrows)
                .into_iter()
                .map(|arrow| format!("{name}: {arrow}")),
        );
        for files in circles::too_large(arrows) {
            let files: Vec<String> = files.into_iter().collect();
            self.circles.insert(format!("{name}: {}", files.join(" ")));
        }
    }

    pub fn print(&self) -> String {
        let mut text = String::from(HEAD);
        for (room, used) in &self.rooms {
            writeln!(text, "{room} -> {used}").expect("a string takes everything");
        }
        for (kind, lines) in [("wrong", &self.wrong), ("circle", &self.circles)] {
            for line in lines {
                writeln!(text, "{kind} {line}").expect("a string takes everything");
            }
        }
        text
    }

    pub fn parse(text: &str) -> List {
        let mut list = List::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some(arrow) = line.strip_prefix("wrong ") {
                list.wrong.insert(arrow.to_owned());
            } else if let Some(circle) = line.strip_prefix("circle ") {
                list.circles.insert(circle.to_owned());
            } else if let Some((room, used)) = line.split_once(" -> ") {
                list.rooms.insert(room.to_owned(), used.to_owned());
            }
        }
        list
    }

    /// Arrows up that `then` does not have, and circles that are not a part of one that it has.
    pub fn worse_than(&self, then: &List) -> Vec<String> {
        let up = self.wrong.difference(&then.wrong).cloned();
        let grown = self.circles.iter().filter(|circle| {
            let (name, files) = parts(circle);
            !then.circles.iter().any(|old| {
                let (old_name, old_files) = parts(old);
                old_name == name && files.is_subset(&old_files)
            })
        });
        up.chain(grown.map(|circle| format!("circle {circle}"))).collect()
    }

    pub fn difference(&self, then: &List) -> String {
        let (now, then) = (self.print(), then.print());
        let gone = then.lines().filter(|line| !now.lines().any(|other| other == *line));
        let new = now.lines().filter(|line| !then.lines().any(|other| other == *line));
        gone.map(|line| format!("  - {line}\n"))
            .chain(new.map(|line| format!("  + {line}\n")))
            .collect()
    }

    pub fn count(&self) -> String {
        format!(
            "{} still point the wrong way, {} circles are larger than their folder",
            self.wrong.len(),
            self.circles.len()
        )
    }
}

fn parts(circle: &str) -> (&str, BTreeSet<&str>) {
    let (name, files) = circle.split_once(": ").unwrap_or((circle, ""));
    (name, files.split(' ').collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(arrows: &[(&str, &[&str])]) -> List {
        let arrows: Arrows = arrows
            .iter()
            .map(|(from, to)| ((*from).to_owned(), to.iter().map(|to| (*to).to_owned()).collect()))
            .collect();
        let mut list = List::default();
        list.add("gateway", &arrows);
        list
    }

    #[test]
    fn what_is_printed_is_read() {
        let list = list(&[
            ("engine/mod.rs", &["service/x.rs", "domain/a.rs"]),
            ("service/x.rs", &["engine/mod.rs"]),
        ]);
        assert_eq!(List::parse(&list.print()), list);
        assert!(list.print().contains("gateway/engine -> domain, service\n"));
        assert!(list.print().contains("wrong gateway: engine/mod.rs -> service/x.rs\n"));
        assert!(list.print().contains("circle gateway: engine/mod.rs service/x.rs\n"));
    }

    #[test]
    fn what_is_wrong_may_go_and_not_come() {
        let fine = list(&[("service/x.rs", &["engine/mod.rs"])]);
        let wrong = list(&[("engine/mod.rs", &["service/x.rs"])]);
        assert!(fine.worse_than(&wrong).is_empty());
        assert_eq!(wrong.worse_than(&fine), ["gateway: engine/mod.rs -> service/x.rs"]);
        assert_ne!(fine.difference(&wrong), "");
    }

    #[test]
    fn a_circle_may_shrink_and_not_grow() {
        let files: &[(&str, &[&str])] = &[
            ("a/x.rs", &["b/y.rs"]),
            ("b/y.rs", &["c/z.rs", "a/x.rs"]),
            ("c/z.rs", &["a/x.rs"]),
        ];
        let (large, small) = (list(files), list(&[("a/x.rs", &["b/y.rs"]), ("b/y.rs", &["a/x.rs"])]));
        assert!(small.worse_than(&large).is_empty());
        assert_eq!(large.worse_than(&small), ["circle gateway: a/x.rs b/y.rs c/z.rs"]);
    }
}
