//! Checks that providers have keys and that the index of credentials can be read. Never shows a value.

use std::{fs, path::Path};

use nexus_config::Root;

use super::{Finding, tree};

/// The providers' own variables, which the model daemon also takes.
const VARIABLES: [&str; 4] = [
    "ANTHROPIC_API_KEY",
    "OPENAI_API_KEY",
    "OPENROUTER_API_KEY",
    "GEMINI_API_KEY",
];

pub(super) fn look(root: &Root, fix: bool) -> Vec<Finding> {
    let mut findings = vec![keys(root)];
    let index = root.credential_dir().join("index.json");
    if index.symlink_metadata().is_err() {
        findings.push(Finding::skip("secrets.index", "no credentials are kept"));
        return findings;
    }
    findings.extend(tree::private_file("secrets.mode", &index, fix));
    let text = fs::read_to_string(&index).unwrap_or_default();
    findings.push(match serde_json::from_str::<serde_json::Value>(&text) {
        Ok(_) => Finding::pass("secrets.index", index.display().to_string()),
        // Not the parser's words: they could quote what is in it.
        Err(_) => Finding::fail(
            "secrets.index",
            format!("{} cannot be read as JSON", index.display()),
            "restore it from a backup: nexus backup list",
        ),
    });
    findings
}

fn keys(root: &Root) -> Finding {
    let id = "secrets.models";
    let path = root.key_file();
    let Ok(mut all) = stored(&path) else {
        let message = format!("{} is not a table of keys", path.display());
        return Finding::fail(id, message, "move it away, then: nexus models key set PROVIDER");
    };
    all.extend(referred(root));
    all.extend(given().map(str::to_owned));
    if all.is_empty() {
        return Finding::warn(
            id,
            "no provider has a key: the offline model answers",
            "nexus models key set anthropic, if you want another to",
        );
    }
    Finding::pass(id, format!("keys are there for: {}", all.join(", ")))
}

/// The providers that have a key here, by name.
pub fn providers(root: &Root) -> Vec<String> {
    let mut all = stored(&root.key_file()).unwrap_or_default();
    all.extend(referred(root));
    let named = given()
        .filter_map(|name| name.strip_suffix("_API_KEY"))
        .map(str::to_ascii_lowercase);
    for name in named {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    all
}

/// Names only; an error says nothing of what is in the file.
fn stored(path: &Path) -> Result<Vec<String>, ()> {
    let Ok(text) = fs::read_to_string(path) else {
        return Ok(Vec::new());
    };
    let table = text.parse::<toml::Table>().map_err(drop)?;
    let keys = table.get("keys").and_then(toml::Value::as_table);
    Ok(keys.map(|keys| keys.keys().cloned().collect()).unwrap_or_default())
}

/// Providers whose key the settings say where to find; whether it is there, the model daemon finds out.
fn referred(root: &Root) -> Vec<String> {
    let text = fs::read_to_string(root.config_file()).unwrap_or_default();
    let table = text.parse::<toml::Table>().unwrap_or_default();
    let Some(llm) = table.get("llm").and_then(toml::Value::as_table) else {
        return Vec::new();
    };
    let set = llm
        .iter()
        .filter(|(_, value)| value.as_str().is_some_and(|text| !text.is_empty()));
    set.filter_map(|(name, _)| name.strip_suffix("_key"))
        .map(str::to_owned)
        .collect()
}

fn given() -> impl Iterator<Item = &'static str> {
    let set = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    VARIABLES.into_iter().filter(set)
}
