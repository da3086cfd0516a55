//! The crate graph: which of our crates uses which, as a file in the checkout. A new arrow shows up in review.
//!
//! Two things are checked: that the arrows are those of the snapshot, and that none points up or sideways, which no
//! `--bless` can allow.

use std::{collections::BTreeMap, fmt::Write as _, fs};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cargo;

const SNAPSHOT: &str = "tests/crate-graph.txt";

/// The floor of each crate: arrows go from a higher floor to a lower one. `xtask`, `rooms` and `model-server` use none of
/// them; `bench` and `tests` ship nothing and may use all.
const FLOORS: [(&str, u8); 16] = [
    ("config", 1),
    ("credential", 1),
    ("proto", 1),
    ("sandbox", 1),
    ("store", 1),
    ("tools", 1),
    ("walk", 1),
    ("backup", 2),
    ("client", 2),
    ("daemon", 2),
    ("runtime", 2),
    ("cli", 3),
    ("orchestrator", 3),
    ("agent", 3),
    ("llm", 3),
    ("gateway", 3),
];

type Graph = BTreeMap<String, Vec<String>>;

pub fn run(bless: bool) -> Result<()> {
    let graph = read(&cargo::metadata()?)?;
    let wrong = violations(&graph);
    if !wrong.is_empty() {
        bail!("arrows that the design forbids:\n  {}", wrong.join("\n  "));
    }
    let path = cargo::root().join(SNAPSHOT);
    let now = print(&graph);
    if bless {
        fs::write(&path, now).with_context(|| format!("failed to write {}", path.display()))?;
        println!("wrote {SNAPSHOT}");
        return Ok(());
    }
    let then = fs::read_to_string(&path)
        .with_context(|| format!("failed to read {SNAPSHOT}; make it with: cargo xtask graph --bless"))?;
    let difference = difference(&then, &now);
    if !difference.is_empty() {
        bail!("the crate graph is not the one in {SNAPSHOT}:\n{difference}if that is meant: cargo xtask graph --bless");
    }
    println!("crate graph: {} crates as in {SNAPSHOT}", graph.len());
    Ok(())
}

fn read(metadata: &Value) -> Result<Graph> {
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata names no packages")?;
    let mut graph = Graph::new();
    for package in packages {
        let name = package["name"].as_str().context("a package without a name")?;
        let dependencies = package["dependencies"]
            .as_array()
            .context("a package without dependencies")?;
        let mut ours: Vec<String> = dependencies
            .iter()
            .filter(|dependency| dependency["path"].is_string())
            .filter_map(|dependency| {
                let mark = if dependency["kind"] == "dev" { " (tests)" } else { "" };
                Some(format!("{}{mark}", short(dependency["name"].as_str()?)))
            })
            .collect();
        ours.sort();
        ours.dedup();
        graph.insert(short(name).to_owned(), ours);
    }
    Ok(graph)
}

fn short(name: &str) -> &str {
    name.strip_prefix("nexus-").unwrap_or(name)
}

fn floor(name: &str) -> Option<u8> {
    FLOORS
        .iter()
        .find(|(crate_name, _)| *crate_name == name)
        .map(|(_, floor)| *floor)
}

fn violations(graph: &Graph) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, dependencies) in graph {
        if matches!(name.as_str(), "bench" | "model-server" | "rooms" | "tests" | "xtask") {
            continue;
        }
        let Some(own) = floor(name) else {
            wrong.push(format!("{name} has no floor; give it one in crates/xtask/src/graph.rs"));
            continue;
        };
        for dependency in dependencies {
            // A crate of a lower floor may be tried against the others; that ships nothing.
            let target = dependency.strip_suffix(" (tests)");
            let fine = target.is_some() || floor(dependency).is_some_and(|floor| floor < own);
            if !fine {
                wrong.push(format!("{name} -> {dependency}"));
            }
        }
    }
    wrong
}

fn print(graph: &Graph) -> String {
    let mut text = String::from("# Which of our crates uses which. Written by: cargo xtask graph --bless\n");
    for (name, dependencies) in graph {
        let arrow = if dependencies.is_empty() { "" } else { " -> " };
        writeln!(text, "{name}{arrow}{}", dependencies.join(", ")).expect("a string takes everything");
    }
    text
}

fn difference(then: &str, now: &str) -> String {
    let gone = then
        .lines()
        .filter(|line| !now.lines().any(|other| other == *line))
        .map(|line| format!("  - {line}\n"));
    let new = now
        .lines()
        .filter(|line| !then.lines().any(|other| other == *line))
        .map(|line| format!("  + {line}\n"));
    gone.chain(new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(arrows: &[(&str, &[&str])]) -> Graph {
        arrows
            .iter()
            .map(|(name, to)| ((*name).to_owned(), to.iter().map(|to| (*to).to_owned()).collect()))
            .collect()
    }

    #[test]
    fn arrows_go_down_only() {
        assert!(violations(&graph(&[("gateway", &["client", "store"]), ("client", &["proto"])])).is_empty());
        assert_eq!(violations(&graph(&[("gateway", &["llm"])])), ["gateway -> llm"]);
        assert_eq!(violations(&graph(&[("store", &["daemon"])])), ["store -> daemon"]);
        assert_eq!(violations(&graph(&[("client", &["daemon"])])), ["client -> daemon"]);
        assert!(violations(&graph(&[("store", &["daemon (tests)"])])).is_empty());
        assert_eq!(violations(&graph(&[("common", &[])])).len(), 1);
    }

    #[test]
    fn a_new_arrow_is_named() {
        let then = print(&graph(&[("agent", &["client"])]));
        let now = print(&graph(&[("agent", &["client", "store"])]));
        assert_eq!(difference(&then, &then), "");
        assert_eq!(
            difference(&then, &now),
            "  - agent -> client\n  + agent -> client, store\n"
        );
    }
}
