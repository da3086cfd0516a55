//! Manual pages. Those of `nexus` come from its own tree of commands; a daemon's is what its `--help` says, since its
//! options are made from its settings.

use std::path::Path;

use anyhow::{Context, Result};

use super::stage::said;
use crate::cargo::BINARIES;

/// Name and text of each page.
pub fn pages(bin: &Path) -> Result<Vec<(String, String)>> {
    let all = said(&bin.join("nexus"), &["manual"])?;
    let all = String::from_utf8(all).context("the manual is not UTF-8")?;
    let mut pages = Vec::new();
    // One page after the other, each behind a line with its name.
    for page in all.split("\u{c}").filter(|page| !page.trim().is_empty()) {
        let (name, text) = page.split_once('\n').context("a page of the manual has no name")?;
        pages.push((format!("{name}.1"), text.to_owned()));
    }
    for binary in BINARIES.iter().filter(|binary| **binary != "nexus") {
        // The helper of the sandbox speaks to the daemons only.
        if *binary == "nexus-sandbox" {
            continue;
        }
        let help = said(&bin.join(binary), &["--help"])?;
        pages.push((format!("{binary}.1"), page(binary, &String::from_utf8_lossy(&help))));
    }
    Ok(pages)
}

fn page(name: &str, help: &str) -> String {
    let mut lines = help.lines();
    let about = lines.next().unwrap_or_default();
    let rest: Vec<String> = lines.map(line).collect();
    format!(
        ".TH {} 1\n.SH NAME\n{name} \\- {}\n.SH DESCRIPTION\n.nf\n{}\n.fi\n.SH SEE ALSO\n.BR nexus (1)\n",
        name.to_uppercase(),
        escape(about),
        rest.join("\n")
    )
}

fn line(line: &str) -> String {
    let text = escape(line);
    // A dot or a quote at the beginning would be a command to the formatter.
    if text.starts_with(['.', '\'']) {
        format!("\\&{text}")
    } else {
        text
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_help_is_taken_for_a_command() {
        let page = page("nexus-x", "Does x\n\n.not a request\n'nor this\n  --flag  a\\b\n");
        assert!(page.contains("nexus-x \\- Does x"), "{page}");
        assert!(
            page.contains("\n\\&.not a request\n\\&'nor this\n  \\-\\-flag  a\\eb\n"),
            "{page}"
        );
    }
}
