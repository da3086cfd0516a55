use std::fmt;

use zeroize::Zeroizing;

/// A secret that is wiped when it is dropped and shows nothing of itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Blanks and line ends around it are not part of it. `None`: nothing is left, or it holds a NUL.
    pub fn of(text: &str) -> Option<Secret> {
        let text = text.trim();
        let sound = !text.is_empty() && !text.contains('\0');
        sound.then(|| Secret(Zeroizing::new(text.to_owned())))
    }

    pub(crate) fn of_bytes(bytes: &[u8]) -> Option<Secret> {
        std::str::from_utf8(bytes).ok().and_then(Secret::of)
    }

    /// For the one place that sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What a person may see to tell two secrets apart: the ends of a long one, nothing of a short one.
    pub fn masked(&self) -> String {
        let characters: Vec<char> = self.0.chars().collect();
        if characters.len() < 20 {
            return "****".to_owned();
        }
        let (head, tail) = (&characters[..6], &characters[characters.len() - 4..]);
        format!(
            "{}...{}",
            head.iter().collect::<String>(),
            tail.iter().collect::<String>()
        )
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_shows_but_the_ends_of_a_long_one() {
        let secret = Secret::of(" sk-ant-0123456789-4x7f\n").unwrap();
        assert_eq!(secret.reveal(), "sk-ant-0123456789-4x7f");
        assert_eq!(format!("{secret:?}"), "[secret]");
        assert_eq!(secret.masked(), "sk-ant...4x7f");
        assert_eq!(Secret::of("hunter2").unwrap().masked(), "****");
        assert_eq!(Secret::of(" \n"), None);
        assert_eq!(Secret::of("a\0b"), None);
    }
}
