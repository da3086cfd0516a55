//! The names nearest to one that does not exist.

/// At most `count` of `known`, nearest first: spelled alike, or one within the other. Empty if none is near.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>, count: usize) -> Vec<&'a str> {
    // A name is compared in quadratic time, and it may come from a model.
    let name = flat(&name[..name.floor_char_boundary(128)]);
    let mut found: Vec<(f64, &str)> = known
        .into_iter()
        .map(|one| (likeness(&name, &flat(one)), one))
        .filter(|(likeness, _)| *likeness >= 0.6)
        .collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1)));
    found.into_iter().take(count).map(|(_, one)| one).collect()
}

fn likeness(a: &str, b: &str) -> f64 {
    let within = a.len() >= 3 && b.len() >= 3 && (a.contains(b) || b.contains(a));
    strsim::normalized_damerau_levenshtein(a, b)
        .max(strsim::jaro_winkler(a, b) - 0.1)
        .max(if within { 0.8 } else { 0.0 })
}

/// Case and separators are what models get wrong most.
fn flat(name: &str) -> String {
    name.chars()
        .filter(|c| c.is_alphanumeric())
        .flat_map(char::to_lowercase)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn near_names_are_found_nearest_first() {
        let known = [
            "apply_patch",
            "edit_file",
            "exec",
            "find",
            "grep",
            "list_dir",
            "read_file",
            "write_file",
        ];
        assert_eq!(nearest("readFile", known, 3)[0], "read_file");
        assert_eq!(nearest("Read", known, 1), ["read_file"]);
        assert_eq!(nearest("exce", known, 1), ["exec"]);
        assert_eq!(nearest("ListDir", known, 1), ["list_dir"]);
        assert!(nearest("zzzzzz", known, 3).is_empty());
        assert_eq!(nearest("file", known, 3).len(), 3);
    }
}
