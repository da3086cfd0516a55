//! Names of images: complete as they are stored, short as they are shown, and the rules that cover them.

use oci_spec::distribution::Reference;

use super::HOST;
use crate::{Error, Result};

/// The registry of names that name none.
const DOCKER_HUB: &str = "docker.io";
/// Its name of before, which some still write.
const DOCKER_HUB_LEGACY: &str = "index.docker.io";
/// The repositories there whose names have one part.
const OFFICIAL: &str = "library/";

/// A name with its registry, its repository, and a tag or a digest.
///
/// # Errors
///
/// [`Error::Invalid`] if it is not the name of an image.
pub fn parse(reference: &str) -> Result<Reference> {
    Reference::try_from(reference)
        .map_err(|error| Error::Invalid(format!("{reference:?} is not the name of an image: {error}")))
}

/// The name with its registry and its tag or digest.
///
/// # Errors
///
/// [`Error::Invalid`] if it is not the name of an image.
pub fn full(reference: &str) -> Result<String> {
    Ok(parse(reference)?.whole())
}

/// The registry that a name is fetched from: `docker.io` where it names none.
///
/// # Errors
///
/// [`Error::Invalid`] if it is not the name of an image.
pub fn registry(reference: &str) -> Result<String> {
    Ok(parse(reference)?.registry().to_owned())
}

/// A complete name as people write it.
#[cfg(target_os = "linux")]
pub fn short(full: &str) -> &str {
    let rest = full.strip_prefix("docker.io/").unwrap_or(full);
    rest.strip_prefix(OFFICIAL)
        .filter(|_| rest.len() < full.len())
        .unwrap_or(rest)
}

/// Whether this is the id of an image, or the beginning of one, rather than a name.
fn is_id(reference: &str) -> bool {
    let digits = reference.strip_prefix("sha256:").unwrap_or(reference);
    digits.len() >= 12 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether a rule of a list of images covers an image.
///
/// A rule is a name (`alpine` covers each tag and digest of it, `alpine:3` only that tag), the beginning of a name with
/// `*` after it, or `*` for every image. Registry and repository are compared after both were completed, so that
/// `alpine*` never covers `alpine.example.com/tool`. The id of an image is covered by itself and by `*` only.
pub fn covers(rule: &str, image: &str) -> bool {
    if rule == "*" || rule == image {
        return true;
    }
    let exact_only = image == HOST || is_id(image);
    let Some(image_name) = parse(image).ok().filter(|_| !exact_only) else {
        return false;
    };
    match rule.strip_suffix('*') {
        Some(beginning) => covers_beginning(beginning, &image_name),
        None => parse(rule).is_ok_and(|rule_name| covers_name(rule, &rule_name, &image_name)),
    }
}

fn covers_name(written: &str, rule: &Reference, image: &Reference) -> bool {
    let same = rule.registry() == image.registry() && rule.repository() == image.repository();
    let last = written.rsplit('/').next().unwrap_or_default();
    same && match (rule.digest(), last.contains(':')) {
        (Some(digest), _) => image.digest() == Some(digest),
        // A digest beside the tag would decide, whatever the tag is.
        (None, true) => image.tag() == rule.tag() && image.digest().is_none(),
        (None, false) => true,
    }
}

fn covers_beginning(beginning: &str, image: &Reference) -> bool {
    let (registry, rest) = match beginning.split_once('/') {
        Some((host, rest)) if names_registry(host) => (host, rest),
        _ => (DOCKER_HUB, beginning),
    };
    let registry = if registry == DOCKER_HUB_LEGACY {
        DOCKER_HUB
    } else {
        registry
    };
    if registry != image.registry() {
        return false;
    }
    let whole = image.whole();
    let Some(within) = whole
        .strip_prefix(image.registry())
        .and_then(|rest| rest.strip_prefix('/'))
    else {
        return false;
    };
    let official = within.strip_prefix(OFFICIAL).filter(|_| registry == DOCKER_HUB);
    within.starts_with(rest) || official.is_some_and(|short| short.starts_with(rest))
}

/// Whether the first part of a name is a registry, as Docker decides it.
fn names_registry(part: &str) -> bool {
    part.contains(['.', ':']) || part == "localhost"
}

/// What is wrong with a rule of a list of images.
///
/// # Errors
///
/// A sentence for whoever wrote the rule.
pub fn check_rule(rule: &str) -> std::result::Result<(), String> {
    match rule.strip_suffix('*') {
        Some(beginning) if !beginning.contains('/') && names_registry(beginning) => Err(format!(
            "{rule:?} would not end at the name of the registry; write \"{beginning}/*\" for all of its images"
        )),
        Some(_) => Ok(()),
        None if is_id(rule) => Ok(()),
        None => parse(rule).map(drop).map_err(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::{check_rule, covers, full, registry};

    #[cfg(target_os = "linux")]
    #[test]
    fn names_are_the_same_however_they_are_written() {
        for (written, kept, shown) in [
            ("alpine", "docker.io/library/alpine:latest", "alpine:latest"),
            (
                "docker.io/library/alpine:latest",
                "docker.io/library/alpine:latest",
                "alpine:latest",
            ),
            ("someone/tool:1", "docker.io/someone/tool:1", "someone/tool:1"),
            ("127.0.0.1:5000/a:v1", "127.0.0.1:5000/a:v1", "127.0.0.1:5000/a:v1"),
        ] {
            assert_eq!(full(written).unwrap(), kept);
            assert_eq!(super::short(kept), shown);
        }
        full("../etc").unwrap_err();
    }

    #[test]
    fn a_rule_covers_names_in_full() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (rule, image) in [
            ("*", "anything.example/a"),
            ("alpine", "alpine"),
            ("alpine", "alpine:3.20"),
            ("alpine", "docker.io/library/alpine:3"),
            ("docker.io/alpine", "alpine"),
            ("alpine:3", "docker.io/library/alpine:3"),
            ("alpine*", "alpine:3"),
            ("alp*", "alpine-make"),
            ("some*", "someone/tool:1"),
            ("docker.io/*", "alpine"),
            ("index.docker.io/library/*", "alpine"),
            ("ghcr.io/us/*", "ghcr.io/us/tool:1"),
            ("localhost/*", "localhost/a:1"),
            ("127.0.0.1:5000/*", "127.0.0.1:5000/a"),
            ("nexus/host", "nexus/host"),
            (digest.as_str(), digest.as_str()),
        ] {
            assert!(covers(rule, image), "{rule} covers {image}");
        }
    }

    /// A user names an image at a registry of their own so that it begins as an allowed one does.
    #[test]
    fn a_rule_covers_no_other_registry() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let pinned = format!("alpine:3@{digest}");
        for (rule, image) in [
            ("alpine*", "alpine.evil.example/tool"),
            ("alpine", "evil.example/alpine"),
            ("alpine", "alpine-evil"),
            ("alpine:3", "alpine:30"),
            ("alpine:3", pinned.as_str()),
            ("ghcr.io*", "ghcr.io.evil.example/tool"),
            ("ghcr.io/us*", "ghcr.io.evil.example/us"),
            ("localhost/*", "localhost:5000/a"),
            ("docker.io/library/*", digest.as_str()),
            ("docker.io/library/*", "0123456789ab"),
            ("nexus/*", "nexus/host"),
            ("library/*", "someone/tool"),
            ("", "alpine"),
            ("alpine", "../etc"),
        ] {
            assert!(!covers(rule, image), "{rule:?} does not cover {image}");
        }
    }

    #[test]
    fn the_registry_is_told_and_a_bad_rule_is_explained() {
        assert_eq!(registry("alpine").unwrap(), "docker.io");
        assert_eq!(registry("index.docker.io/a/b").unwrap(), "docker.io");
        assert_eq!(registry("ghcr.io/us/tool").unwrap(), "ghcr.io");
        for fine in ["*", "alpine", "alpine*", "ghcr.io/us/*", "ghcr.io/us/tool:1"] {
            check_rule(fine).unwrap();
        }
        assert!(check_rule("ghcr.io*").unwrap_err().contains("ghcr.io/*"));
        check_rule("Not A Name").unwrap_err();
    }
}
