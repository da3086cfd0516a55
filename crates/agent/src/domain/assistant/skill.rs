//! Skills: folders with instructions for a kind of task. The model is told their names and what they are for, and reads
//! one when it needs it.
//!
//! A folder's `SKILL.md` begins with YAML between two lines `---`. Whoever wrote it may be a stranger: it is read as
//! events, so that nothing in it can grow, and only two of its texts are ever shown.

use saphyr_parser::{Event, Parser};

/// The longest name.
const NAME_BYTES: usize = 64;
/// The longest description, in characters.
const DESCRIPTION_CHARS: usize = 1_024;
/// A catalogue shows at least so much of each description before it leaves out skills.
const SHORTEST_CHARS: usize = 60;

/// A skill as the catalogue shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skill {
    /// Its folder's name.
    pub name: String,
    pub description: String,
    /// What is wrong with it, though it can be used.
    pub warning: Option<String>,
}

/// Why a folder is no skill that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("SKILL.md does not begin with YAML between two lines ---")]
    NoFront,
    #[error("the YAML at the beginning of SKILL.md is broken: {0}")]
    Broken(String),
    #[error("SKILL.md has no description")]
    NoDescription,
    #[error("the description is longer than {DESCRIPTION_CHARS} characters")]
    LongDescription,
    #[error(
        "the folder's name is longer than {NAME_BYTES} bytes, or holds other characters than letters, digits, - _ ."
    )]
    Folder,
}

/// Reads the beginning of a `SKILL.md`.
pub fn read(folder: &str, text: &str) -> Result<Skill, Error> {
    let safe = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if folder.is_empty() || folder.len() > NAME_BYTES || !folder.chars().all(safe) {
        return Err(Error::Folder);
    }
    let front = front(text).ok_or(Error::NoFront)?;
    let fields = fields(front).or_else(|error| fields(&quoted(front)).map_err(|_| Error::Broken(error)))?;
    let description = fields.description.unwrap_or_default();
    let description = description.split_whitespace().collect::<Vec<_>>().join(" ");
    match description.chars().count() {
        0 => return Err(Error::NoDescription),
        1..=DESCRIPTION_CHARS => {}
        _ => return Err(Error::LongDescription),
    }
    Ok(Skill {
        name: folder.to_owned(),
        warning: wrong_name(folder, fields.name.as_deref()),
        description,
    })
}

fn wrong_name(folder: &str, name: Option<&str>) -> Option<String> {
    let Some(name) = name else {
        return Some("SKILL.md has no name".into());
    };
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let well_formed = !name.is_empty()
        && name.len() <= NAME_BYTES
        && name.chars().all(plain)
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--");
    if !well_formed {
        return Some(format!(
            "the name {name:?} is not of a-z, 0-9 and single hyphens between them"
        ));
    }
    (name != folder).then(|| format!("the name {name:?} is not that of its folder"))
}

/// What stands between the two lines `---`.
fn front(text: &str) -> Option<&str> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let rest = text
        .strip_prefix("---")?
        .trim_start_matches([' ', '\t', '\r'])
        .strip_prefix('\n')?;
    let mut at = 0;
    for line in rest.split_inclusive('\n') {
        if line.trim_end() == "---" {
            return Some(&rest[..at]);
        }
        at += line.len();
    }
    None
}

#[derive(Default)]
struct Fields {
    name: Option<String>,
    description: Option<String>,
}

/// The texts of the top level. Everything else is passed over.
fn fields(front: &str) -> Result<Fields, String> {
    let mut fields = Fields::default();
    let mut depth = 0_usize;
    let mut key: Option<String> = None;
    for event in Parser::new_from_str(front) {
        let (event, _) = event.map_err(|error| error.to_string())?;
        match event {
            Event::MappingStart(..) | Event::SequenceStart(..) => {
                depth += 1;
                if depth == 1 && matches!(event, Event::SequenceStart(..)) {
                    return Err("it is a list".into());
                }
                // A key or a value of the top level that is no text ends here or there.
                if depth == 2 && key.is_none() {
                    key = Some(String::new());
                }
            }
            Event::MappingEnd | Event::SequenceEnd => {
                depth = depth.saturating_sub(1);
                if depth == 1 {
                    key = None;
                }
            }
            Event::Scalar(text, ..) if depth == 1 => match key.take().as_deref() {
                None => key = Some(text.into_owned()),
                Some("name") => fields.name = Some(text.into_owned()),
                Some("description") => fields.description = Some(text.into_owned()),
                Some(_) => {}
            },
            Event::Alias(_) if depth == 1 => key = if key.is_some() { None } else { Some(String::new()) },
            _ => {}
        }
    }
    Ok(fields)
}

/// The same with plain values that hold a colon in quotes: the mistake that nearly everybody makes.
fn quoted(front: &str) -> String {
    let line = |line: &str| {
        let Some((key, value)) = line.split_once(": ") else {
            return format!("{line}\n");
        };
        let value = value.trim();
        let plain = !value.starts_with(['"', '\'', '|', '>', '[', '{', '&', '*', '#']);
        if key.starts_with([' ', '\t', '-', '#']) || !plain || !value.contains(':') {
            return format!("{line}\n");
        }
        format!("{key}: \"{}\"\n", value.replace('\\', "\\\\").replace('"', "\\\""))
    };
    front.lines().map(line).collect()
}

/// The list for the system text, at most `room` bytes: descriptions are shortened before skills are left out. `None` if
/// there are none.
pub fn catalogue(skills: &[Skill], room: usize) -> Option<String> {
    if skills.is_empty() {
        return None;
    }
    const HEAD: &str = "# Skills\n\nInstructions for kinds of tasks. Before a task that one of them is for, read it: \
                        read_file with the path skill:<name>/SKILL.md\n";
    let lines = |chars: usize| -> Vec<String> {
        let line = |skill: &Skill| format!("\n- {}: {}", skill.name, shortened(&skill.description, chars));
        skills.iter().map(line).collect()
    };
    let length = |lines: &[String]| HEAD.len() + lines.iter().map(String::len).sum::<usize>();
    let mut chars = DESCRIPTION_CHARS;
    let mut shown = lines(chars);
    while length(&shown) > room && chars > SHORTEST_CHARS {
        chars = (chars / 2).max(SHORTEST_CHARS);
        shown = lines(chars);
    }
    let mut text = HEAD.to_owned();
    let left_out = "\n- more skills are left out: there is no room for them";
    for (place, line) in shown.iter().enumerate() {
        let more = if place + 1 < shown.len() { left_out.len() } else { 0 };
        if text.len() + line.len() + more > room {
            text.push_str(left_out);
            break;
        }
        text.push_str(line);
    }
    Some(text)
}

fn shortened(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}...", &text[..at]),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn skill(text: &str) -> Result<Skill, Error> {
        read("pdf", text)
    }

    #[test]
    fn name_and_description_are_read_whatever_stands_beside_them() {
        let text = "---\nname: pdf\nmetadata:\n  name: other\n  list: [a, {description: no}]\ndescription: >\n  Reads\n  \
                    PDF files.\nallowed-tools: exec\n---\n# PDF\n";
        let read = skill(text).unwrap();
        assert_eq!(
            (read.name.as_str(), read.description.as_str()),
            ("pdf", "Reads PDF files.")
        );
        assert_eq!(read.warning, None);
        assert!(skill(&text.replace('\n', "\r\n")).is_ok());
    }

    #[test]
    fn a_value_with_a_colon_is_read_as_it_was_meant() {
        let read = skill("---\nname: pdf\ndescription: Use when: \"a\" file: is there\n---\n").unwrap();
        assert_eq!(read.description, "Use when: \"a\" file: is there");
    }

    #[test]
    fn what_cannot_be_used_says_why() {
        assert_eq!(skill("# PDF"), Err(Error::NoFront));
        assert_eq!(skill("---\nname: pdf\n"), Err(Error::NoFront));
        assert_eq!(skill("---\nname: pdf\n---\n"), Err(Error::NoDescription));
        assert!(matches!(skill("---\nname: [pdf\n---\n"), Err(Error::Broken(_))));
        let long = format!("---\nname: pdf\ndescription: {}\n---\n", "x".repeat(1_025));
        assert_eq!(skill(&long), Err(Error::LongDescription));
        assert_eq!(read("a b", "---\ndescription: x\n---\n"), Err(Error::Folder));
    }

    #[test]
    fn a_wrong_name_is_a_warning() {
        for name in ["PDF", "-pdf", "p--df", "other", ""] {
            let read = skill(&format!("---\nname: \"{name}\"\ndescription: x\n---\n")).unwrap();
            assert!(read.warning.is_some(), "{name}");
            assert_eq!(read.name, "pdf", "the folder's name is the skill's");
        }
    }

    /// The attack: nested aliases that grow to gigabytes where they are expanded.
    #[test]
    fn aliases_do_not_grow() {
        let mut text = "---\na0: &a0 [x, x]\n".to_owned();
        for n in 1..40 {
            text.push_str(&format!("a{n}: &a{n} [*a{0}, *a{0}, *a{0}]\n", n - 1));
        }
        text.push_str("name: pdf\ndescription: still read\n---\n");
        assert_eq!(skill(&text).unwrap().description, "still read");
    }

    #[test]
    fn descriptions_are_shortened_before_skills_are_left_out() {
        let skills: Vec<Skill> = (0..20)
            .map(|n| Skill {
                name: format!("skill-{n}"),
                description: "word ".repeat(100),
                warning: None,
            })
            .collect();
        let all = catalogue(&skills, 100_000).unwrap();
        assert!(all.contains("skill-19") && !all.contains("..."));
        let short = catalogue(&skills, 3_000).unwrap();
        assert!(
            short.len() <= 3_000 && short.contains("skill-19") && short.contains("..."),
            "{short}"
        );
        let few = catalogue(&skills, 800).unwrap();
        assert!(
            few.len() <= 800 && few.contains("left out") && !few.contains("skill-19"),
            "{few}"
        );
        assert_eq!(catalogue(&[], 1_000), None);
    }

    proptest! {
        #[test]
        fn whatever_stands_there_reading_ends(front in "[ -~\n]{0,200}") {
            let _ = skill(&format!("---\n{front}\n---\n"));
        }
    }
}
