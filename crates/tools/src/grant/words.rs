//! The words of a command, if it is certainly one plain command: no operator, substitution, redirect, assignment, pattern,
//! comment or keyword. A parser of shell grammar has to be right about everything a shell may do; this one only about what
//! it accepts, which is little, and which every shell reads in the same way. A test asks bash.

/// Longest command that is looked at, in bytes.
const MAX_BYTES: usize = 4096;
/// Most words.
const MAX_WORDS: usize = 64;

/// The words, without their quotes. None: not certainly one plain command.
pub fn plain_words(command: &str) -> Option<Vec<String>> {
    // Printable ASCII and blanks. What a shell makes of other characters depends on the locale.
    if command.len() > MAX_BYTES || !command.bytes().all(|b| matches!(b, b' '..=b'~' | b'\t')) {
        return None;
    }
    let mut words = Vec::new();
    let mut rest = command.trim_matches([' ', '\t']);
    while !rest.is_empty() {
        let (word, after) = one_word(rest)?;
        if words.is_empty() && !is_program(&word, rest) {
            return None;
        }
        words.push(word);
        if words.len() > MAX_WORDS {
            return None;
        }
        rest = after.trim_start_matches([' ', '\t']);
    }
    (!words.is_empty()).then_some(words)
}

/// The first word, and what follows it.
fn one_word(text: &str) -> Option<(String, &str)> {
    let mut word = String::new();
    let mut rest = text;
    loop {
        let Some(c) = rest.chars().next() else {
            return Some((word, rest));
        };
        match c {
            ' ' | '\t' => return Some((word, rest)),
            '\'' => {
                let (inner, after) = rest[1..].split_once('\'')?;
                word.push_str(inner);
                rest = after;
            }
            '"' => {
                let (inner, after) = rest[1..].split_once('"')?;
                // Within these quotes a shell still replaces and escapes.
                if inner.contains(['$', '`', '\\', '!']) {
                    return None;
                }
                word.push_str(inner);
                rest = after;
            }
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '-' | '.' | '/' | ':' | ',' | '+' | '@' | '%' | '=' => {
                word.push(c);
                rest = &rest[1..];
            }
            _ => return None,
        }
    }
}

/// A first word that is the name of a program: unquoted, no assignment, no keyword.
fn is_program(word: &str, text: &str) -> bool {
    const KEYWORDS: [&str; 16] = [
        "case", "coproc", "do", "done", "elif", "else", "esac", "fi", "for", "function", "if", "in", "select", "then",
        "time", "until",
    ];
    let plain = word
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'+' | b'/'));
    text.starts_with(word)
        && plain
        && !word.is_empty()
        && !word.starts_with('-')
        && !KEYWORDS.contains(&word)
        && word != "while"
}

/// Words of a command that may be names of files: what is hashed before somebody consents. Every word and every redirect
/// counts, also of commands that are not plain; whether there is such a file is found by whoever opens it. At most `most`.
pub fn named_files(command: &str, most: usize) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut escaped = false;
    for c in command.chars().chain([' ']) {
        match (quote, c) {
            _ if escaped => {
                escaped = false;
                word.push(c);
            }
            (None | Some('"'), '\\') => escaped = true,
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.push(c),
            (None, '\'' | '"') => quote = Some(c),
            (None, c) if c.is_whitespace() || ";|&<>()`".contains(c) => {
                for name in names_in(&std::mem::take(&mut word)) {
                    if names.len() < most && !names.contains(&name) {
                        names.push(name);
                    }
                }
            }
            (None, c) => word.push(c),
        }
    }
    // A quote that never ends: what is in it counts all the same.
    for name in names_in(&word) {
        if names.len() < most && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// The word itself, and what follows `=`, `@` or a one-letter option in it.
fn names_in(word: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut add = |name: &str| {
        if !name.is_empty() && name.len() <= 4096 && !name.starts_with('-') {
            names.push(name.to_owned());
        }
    };
    add(word);
    if let Some((_, value)) = word.split_once('=') {
        add(value);
    }
    if let Some(value) = word.strip_prefix('@') {
        add(value);
    }
    if let Some(option) = word.strip_prefix('-')
        && let Some(value) = option.get(1..)
        && !option.starts_with('-')
    {
        add(value);
    }
    names
}
