//! A changed settings file is shown to the daemons that read it before it takes the place of the old one.

use std::{collections::BTreeSet, fs, io::Write, os::unix::fs::PermissionsExt, path::Path};

use nexus_config::Root;

use super::ask::{self, Program, Sees};
use crate::failure::Failure;

/// What the daemons say about a text, each mistake once, with the name of the real file in it.
pub async fn mistakes(programs: &[Program], root: &Root, text: &str) -> Result<Vec<String>, Failure> {
    let file = root.config_file();
    let parent = file.parent().expect("the file lies in the tree");
    let failed = |error: std::io::Error| Failure::file("write beside", &file, &error);
    let mut candidate = tempfile::Builder::new()
        .prefix("candidate.")
        .suffix(".toml")
        .permissions(fs::Permissions::from_mode(0o600))
        .tempfile_in(parent)
        .map_err(failed)?;
    candidate.write_all(text.as_bytes()).map_err(failed)?;
    candidate.flush().map_err(failed)?;
    let answers = ask::values(programs, root, Some(candidate.path()), Sees::FileOnly, true).await?;
    let (shown, real) = (candidate.path().display().to_string(), file.display().to_string());
    let mut all: Vec<String> = Vec::new();
    for mistake in answers.into_iter().flat_map(|answer| answer.mistakes) {
        let mistake = mistake.replace(&shown, &real);
        if !all.contains(&mistake) {
            all.push(mistake);
        }
    }
    Ok(all)
}

/// The mistakes in `after` that were not there before; a line that moved is no new mistake.
pub fn new_ones(file: &Path, before: &[String], after: &[String]) -> Vec<String> {
    let known: BTreeSet<&str> = before.iter().map(|mistake| without_line(file, mistake)).collect();
    let is_new = |mistake: &&String| !known.contains(without_line(file, mistake));
    after.iter().filter(is_new).cloned().collect()
}

fn without_line<'a>(file: &Path, mistake: &'a str) -> &'a str {
    let named = mistake.strip_prefix(&format!("{}:", file.display()));
    named.map_or(mistake, |rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_not_wrong_before_is_new() {
        let file = Path::new("/n/config.toml");
        let before = ["/n/config.toml:3: llm.x: no".to_owned()];
        let after = [
            "/n/config.toml:4: llm.x: no".to_owned(),
            "/n/config.toml:5: llm.y: no".to_owned(),
        ];
        assert_eq!(new_ones(file, &before, &after), after[1..]);
    }
}
