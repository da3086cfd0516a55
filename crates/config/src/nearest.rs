/// The name among `known` that was probably meant by `written`, if one is near enough to be worth saying.
pub fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let folded = fold(written);
    known
        .into_iter()
        .map(|name| (strsim::normalized_damerau_levenshtein(&folded, &fold(name)), name))
        .filter(|(score, _)| *score >= 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

/// `MaxTokens`, `max-tokens` and `max_tokens` are the same word.
fn fold(name: &str) -> String {
    name.chars()
        .filter(|c| *c != '_' && *c != '-')
        .flat_map(char::to_lowercase)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_slip_is_recognised_and_nonsense_is_not() {
        let known = ["socket_path", "max_sessions", "log_level"];
        assert_eq!(nearest("sockt_path", known), Some("socket_path"));
        assert_eq!(nearest("MaxSession", known), Some("max_sessions"));
        assert_eq!(nearest("loglevel", known), Some("log_level"));
        assert_eq!(nearest("bananas", known), None);
    }
}
