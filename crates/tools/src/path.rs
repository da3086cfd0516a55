//! Paths as models write them: relative to the workspace, or absolute within it or a mount; `result:<call>` and
//! `skill:<name>/<path>` name what is kept elsewhere. Nothing is opened here: whoever opens a path does so beneath a handle.

use crate::error::{Code, Error};

/// Longest path, in bytes.
pub const MAX_PATH_BYTES: usize = 4096;

/// Where a path leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A file or directory: without `.`, `//` and a slash at the end; `.` for the workspace itself; absolute if it was.
    File(String),
    /// The kept result of a call.
    Result(String),
    /// A file of a skill.
    Skill {
        /// The skill's name.
        name: String,
        /// Its file, relative to the skill's folder.
        path: String,
    },
}

/// Reads a path. Refuses `..`, URLs, NUL and lengths that no file has.
pub fn place(path: &str) -> Result<Place, Error> {
    let shown = || shorten(path);
    if path.is_empty() {
        return Err(Error::new(Code::InvalidArguments, "the path is empty"));
    }
    if path.len() > MAX_PATH_BYTES {
        return Err(Error::new(
            Code::InvalidArguments,
            format!("the path {:?} is longer than {MAX_PATH_BYTES} bytes", shown()),
        ));
    }
    if path.contains('\0') {
        return Err(Error::new(
            Code::InvalidArguments,
            format!("the path {:?} has a NUL", shown()),
        ));
    }
    if let Some(call) = path.strip_prefix("result:") {
        return Ok(Place::Result(call.to_owned()));
    }
    if let Some(skill) = path.strip_prefix("skill:") {
        let (name, file) = skill.split_once('/').unwrap_or((skill, ""));
        return Ok(Place::Skill {
            name: name.to_owned(),
            path: file_path(path, file)?,
        });
    }
    if let Some((scheme, _)) = path.split_once("://")
        && !scheme.is_empty()
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    {
        let next = if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https") {
            "Fetch it with web_fetch."
        } else if scheme.eq_ignore_ascii_case("file") {
            "Give the path alone."
        } else {
            "File tools read files of the workspace only."
        };
        return Err(Error::new(Code::InvalidArguments, format!("{:?} is a URL, not a path", shown())).with_next(next));
    }
    Ok(Place::File(file_path(path, path)?))
}

/// As [`place`], for tools that take files of the workspace only.
pub fn file(path: &str) -> Result<String, Error> {
    match place(path)? {
        Place::File(path) => Ok(path),
        Place::Result(_) | Place::Skill { .. } => Err(Error::new(
            Code::NotAllowed,
            format!("{:?} can only be read", shorten(path)),
        )
        .with_next("Write to a file of the workspace.")),
    }
}

/// Whether a file is one that other programs execute or obey, and so is read-only: hooks and settings of git, and
/// instructions for agents. `path` is one that [`file`] returned.
pub fn is_protected(path: &str) -> bool {
    let parts: Vec<String> = path
        .split('/')
        .filter(|part| !part.is_empty())
        .map(str::to_lowercase)
        .collect();
    parts.iter().any(|part| part == ".agents")
        || parts
            .windows(2)
            .any(|pair| pair[0] == ".git" && (pair[1] == "hooks" || pair[1] == "config"))
}

fn file_path(whole: &str, path: &str) -> Result<String, Error> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                return Err(Error::new(
                    Code::InvalidArguments,
                    format!("the path {:?} has a \"..\"", shorten(whole)),
                )
                .with_next("Give the path from the workspace's root, without \"..\"."));
            }
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    Ok(match (path.starts_with('/'), joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    })
}

fn shorten(path: &str) -> &str {
    &path[..path.floor_char_boundary(200)]
}

#[cfg(test)]
mod tests {
    use super::{Place, file, is_protected, place};

    #[test]
    fn paths_become_their_shortest_form() {
        for (path, expected) in [
            ("a", "a"),
            ("./a//b/", "a/b"),
            (".", "."),
            ("/", "/"),
            ("/a/./b", "/a/b"),
            ("a/.hidden", "a/.hidden"),
            ("...", "..."),
        ] {
            assert_eq!(place(path).unwrap(), Place::File(expected.to_owned()), "{path}");
        }
        assert_eq!(place("result:c1").unwrap(), Place::Result("c1".to_owned()));
        assert_eq!(
            place("skill:pdf/a/b.py").unwrap(),
            Place::Skill {
                name: "pdf".to_owned(),
                path: "a/b.py".to_owned()
            }
        );
        assert!(file("result:c1").is_err());
    }

    #[test]
    fn what_leads_out_or_is_no_path_is_refused() {
        for (path, expected) in [
            ("../a", ".."),
            ("a/../../b", ".."),
            ("skill:pdf/../x", ".."),
            ("", "empty"),
            ("a\0b", "NUL"),
            ("https://example.com", "web_fetch"),
            ("FILE:///etc/passwd", "path alone"),
            ("s3://bucket/key", "workspace only"),
        ] {
            let error = place(path).expect_err(path).to_string();
            assert!(error.contains(expected), "{path}: {error}");
        }
        assert!(place(&"a/".repeat(3000)).is_err());
    }

    #[test]
    fn files_that_others_execute_are_protected() {
        for path in [
            ".git/hooks/pre-commit",
            ".git/config",
            "sub/.git/hooks",
            "/w/.agents/skills/x",
            ".agents",
            ".GIT/Config",
        ] {
            assert!(is_protected(path), "{path}");
        }
        for path in ["git/hooks", ".git/HEAD", ".gitignore", "agents", ".git/hooksy"] {
            assert!(!is_protected(path), "{path}");
        }
    }
}
