//! How long each test program ran, read from what cargo prints between them.

use std::{collections::BTreeMap, fmt::Write as _, process::Stdio, time::Duration, time::Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cargo;

/// Test programs, by the path that cargo gives them, and the package each belongs to.
#[derive(Debug, Default)]
pub struct Programs(BTreeMap<String, String>);

impl Programs {
    /// Builds them, as `cargo test` with the same arguments would.
    pub fn build(arguments: &[&str]) -> Result<Programs> {
        let mut command = cargo::cargo();
        command
            .args(arguments)
            .args(["--no-run", "--message-format", "json-render-diagnostics"]);
        println!("$ {}", cargo::show(&command));
        let output = command
            .stderr(Stdio::inherit())
            .output()
            .context("failed to build the tests")?;
        if !output.status.success() {
            bail!("the tests do not compile");
        }
        Ok(Programs::read(&String::from_utf8_lossy(&output.stdout)))
    }

    fn read(messages: &str) -> Programs {
        let messages = messages
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let programs = messages.filter_map(|message| {
            let path = message["executable"].as_str()?;
            Some((path.to_owned(), package(message["package_id"].as_str()?).to_owned()))
        });
        Programs(programs.collect())
    }

    /// cargo prints paths below the checkout without the way to it.
    fn package(&self, path: &str) -> Option<&str> {
        let same = |known: &str| {
            known
                .strip_suffix(path)
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
        };
        self.0
            .iter()
            .find(|(known, _)| same(known))
            .map(|(_, package)| package.as_str())
    }
}

/// `path+file:///checkout/crates/agent#nexus-agent@0.1.0`; without a name where the directory says it.
fn package(id: &str) -> &str {
    let (directory, name) = id.rsplit_once('#').unwrap_or((id, ""));
    match name.split_once('@') {
        Some((name, _)) => name,
        None => directory.rsplit('/').next().unwrap_or(directory),
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Row {
    name: String,
    took: Duration,
}

/// The rows of the table, filled while the tests run.
#[derive(Debug)]
pub struct Times {
    programs: Programs,
    running: Option<(String, Instant)>,
    rows: Vec<Row>,
}

impl Times {
    pub fn new(programs: Programs) -> Times {
        Times {
            programs,
            running: None,
            rows: Vec::new(),
        }
    }

    /// One line that cargo or a test program printed at `now`.
    pub fn line(&mut self, line: &str, now: Instant) {
        if let Some(name) = self.started(line) {
            self.end(now);
            self.running = Some((name, now));
        }
    }

    /// The last program is over.
    pub fn end(&mut self, now: Instant) {
        if let Some((name, begin)) = self.running.take() {
            self.rows.push(Row {
                name,
                took: now.duration_since(begin),
            });
        }
    }

    fn started(&self, line: &str) -> Option<String> {
        let line = line.trim_start();
        if let Some(name) = line.strip_prefix("Doc-tests ") {
            return Some(format!("{} doc-tests", name.replace('_', "-")));
        }
        // `Running unittests src/lib.rs (target/debug/deps/nexus_agent-0123456789abcdef)`
        let (what, path) = line.strip_prefix("Running ")?.strip_suffix(')')?.rsplit_once(" (")?;
        let package = self.programs.package(path).unwrap_or("?");
        Some(format!("{package} {}", what.strip_prefix("unittests ").unwrap_or(what)))
    }

    /// The slowest first. Those that took less than a tenth of a second share the last row.
    pub fn table(mut self) -> String {
        self.rows
            .sort_by(|one, other| other.took.cmp(&one.took).then_with(|| one.name.cmp(&other.name)));
        let short = Duration::from_millis(100);
        let shown: Vec<&Row> = self.rows.iter().filter(|row| row.took >= short).collect();
        let rest: Vec<&Row> = self.rows.iter().filter(|row| row.took < short).collect();
        let mut text = String::from("seconds  test program\n");
        let mut add = |took: Duration, name: &str| {
            writeln!(text, "{:7.1}  {name}", took.as_secs_f64()).expect("a string takes everything");
        };
        for row in &shown {
            add(row.took, &row.name);
        }
        if !rest.is_empty() {
            add(
                rest.iter().map(|row| row.took).sum(),
                &format!("{} others together", rest.len()),
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUILT: &str = r#"
{"reason":"compiler-artifact","package_id":"path+file:///x/crates/agent#nexus-agent@0.1.0","executable":"/x/target/debug/deps/turns-01"}
{"reason":"compiler-artifact","package_id":"path+file:///x/crates/llm#nexus-llm@0.1.0","executable":"/x/target/debug/deps/turns-02"}
{"reason":"compiler-artifact","package_id":"path+file:///x/crates/proto#nexus-proto@0.1.0","executable":null}
"#;

    #[test]
    fn a_program_lasts_until_the_next_one_starts() {
        let begin = Instant::now();
        let at = |millis| begin + Duration::from_millis(millis);
        let mut times = Times::new(Programs::read(BUILT));
        times.line("    Finished `test` profile", at(0));
        times.line("     Running tests/turns.rs (target/debug/deps/turns-01)", at(100));
        times.line("test result: ok. 3 passed; 0 failed", at(1000));
        times.line("     Running tests/turns.rs (target/debug/deps/turns-02)", at(1400));
        times.line(
            "     Running unittests src/lib.rs (target/debug/deps/unknown-03)",
            at(5400),
        );
        times.line("   Doc-tests nexus_agent", at(5450));
        times.end(at(5950));
        assert_eq!(
            times.table(),
            "seconds  test program\n\
             \x20   4.0  nexus-llm tests/turns.rs\n\
             \x20   1.3  nexus-agent tests/turns.rs\n\
             \x20   0.5  nexus-agent doc-tests\n\
             \x20   0.1  1 others together\n"
        );
    }

    #[test]
    fn a_package_is_named_by_its_id() {
        assert_eq!(package("path+file:///x/crates/agent#nexus-agent@0.1.0"), "nexus-agent");
        assert_eq!(package("path+file:///x/tests/nexus-tests#0.1.0"), "nexus-tests");
    }
}
