//! Names of images: in full as they are kept, short as they are shown.

use oci_client::Reference;

use crate::{Error, Result};

pub fn parse(reference: &str) -> Result<Reference> {
    Reference::try_from(reference)
        .map_err(|error| Error::Invalid(format!("{reference} is no name of an image: {error}")))
}

/// With its registry and its tag or digest.
pub fn full(reference: &str) -> Result<String> {
    Ok(parse(reference)?.whole())
}

/// As people write it.
pub fn short(full: &str) -> &str {
    let rest = full.strip_prefix("docker.io/").unwrap_or(full);
    rest.strip_prefix("library/")
        .filter(|_| rest.len() < full.len())
        .unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::{full, short};

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
            assert_eq!(short(kept), shown);
        }
        full("../etc").unwrap_err();
    }
}
