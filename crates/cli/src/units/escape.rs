//! Escapes a path so that systemd reads the same path from a unit.

use std::path::Path;

/// A path that no unit can hold.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot be written into a unit: it is not UTF-8, or has control characters or spaces at its ends")]
pub struct Unwritable(pub String);

/// Where the value is the whole path: only `%` is special.
pub fn plain(path: &Path) -> Result<String, Unwritable> {
    let wrong = || Unwritable(path.display().to_string());
    let text = path.to_str().ok_or_else(wrong)?;
    if text.chars().any(char::is_control) || text.trim() != text {
        return Err(wrong());
    }
    Ok(text.replace('%', "%%"))
}

/// Where a value is a list of words. `text` has its `%` doubled already.
pub fn word(text: &str) -> String {
    let special = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '\\' | ';');
    if !text.contains(special) {
        return text.to_owned();
    }
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_signs_are_kept_from_systemd() {
        let both = |path: &str| word(&plain(Path::new(path)).unwrap());
        assert_eq!(both("/opt/nexus"), "/opt/nexus");
        assert_eq!(both("/opt/my nexus"), "\"/opt/my nexus\"");
        assert_eq!(both("/a%b"), "/a%%b");
        assert_eq!(both(r#"/a"b\c"#), r#""/a\"b\\c""#);
        for path in ["/a\nb", "/a "] {
            assert!(plain(Path::new(path)).is_err(), "{path:?}");
        }
    }
}
