use crate::Secret;

/// The names and values of a `.env` file, in their order. Nothing in it is expanded or run; entries without a value
/// are left out. `Err`: the number of the first line that is none of a comment, a blank and `NAME=value`.
pub fn parse(text: &str) -> Result<Vec<(String, Secret)>, usize> {
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) = line.split_once('=').ok_or(at + 1)?;
        let name = name.trim();
        let fits = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        if name.is_empty() || !name.chars().all(fits) {
            return Err(at + 1);
        }
        if let Some(secret) = Secret::of(value_of(value.trim()).ok_or(at + 1)?) {
            found.push((name.to_owned(), secret));
        }
    }
    Ok(found)
}

/// `None`: a quote that does not end.
fn value_of(text: &str) -> Option<&str> {
    for quote in ['"', '\''] {
        if let Some(rest) = text.strip_prefix(quote) {
            return rest.split_once(quote).map(|(value, _)| value);
        }
    }
    // A comment after a value stands behind a blank, so a secret may have a # in it.
    Some(text.split_once(" #").map_or(text, |(value, _)| value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_they_are_written() {
        let text = "# keys\nA=1\nexport B = \"two # words\" # why\nC='$HOME'\nD=a#b # comment\nEMPTY=\n";
        let found: Vec<(String, String)> = parse(text)
            .unwrap()
            .into_iter()
            .map(|(name, secret)| (name, secret.reveal().to_owned()))
            .collect();
        let expected = [("A", "1"), ("B", "two # words"), ("C", "$HOME"), ("D", "a#b")];
        assert_eq!(found, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
        assert_eq!(parse("A=1\nwhat\n"), Err(2));
        assert_eq!(parse("A='open\n"), Err(1));
    }
}
