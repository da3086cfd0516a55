//! The token by which the processes of one installation know each other where every caller has to show a token
//! (`require_token`). It lies in `state/nexus/own-token`, 0600: whoever can read it is the user that the daemons run as,
//! or root. A process of the same user that does not see the directory, such as a container with nothing but the socket,
//! is nobody.
//!
//! The first daemon that starts makes it; it stays until it is removed while no daemon runs.

use std::{fs::File, io, io::Write, os::unix::fs::MetadataExt, path::Path, sync::Arc};

use http::HeaderValue;
use nexus_walk::{Dir, Fresh, read_bounded};
use subtle::ConstantTimeEq;

const PREFIX: &str = "nxs_own_";
const SECRET_BYTES: usize = 32;
const LEN: usize = PREFIX.len() + 2 * SECRET_BYTES;

/// The token; `Debug` does not show its text.
#[derive(Clone)]
pub struct OwnToken {
    file: Arc<Path>,
    pub(crate) text: Arc<str>,
}

impl std::fmt::Debug for OwnToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnToken")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl OwnToken {
    /// The token of this installation; one is made where there is none.
    ///
    /// # Errors
    /// The file cannot be read or written, or others may read or write it, or it holds no such token.
    pub fn establish(path: &Path) -> io::Result<OwnToken> {
        let (dir, name) = Dir::of(path)?;
        let of = |text: String| OwnToken {
            file: path.into(),
            text: text.into(),
        };
        loop {
            match dir.open_file(&name) {
                Ok((file, _)) => return read(&file).map(of),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            let mut bytes = [0_u8; SECRET_BYTES];
            getrandom::fill(&mut bytes).map_err(|_| io::Error::other("no randomness from the system"))?;
            let text = format!("{PREFIX}{}", hex::encode(bytes));
            let mut fresh = Fresh::new(&dir, 0o600)?;
            fresh.file_mut().write_all(text.as_bytes())?;
            match fresh.place(&name) {
                Ok(()) => return Ok(of(text)),
                // Another daemon was faster.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The file that holds it.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// What is sent as `authorization`.
    pub fn header(&self) -> HeaderValue {
        let mut value =
            HeaderValue::try_from(format!("Bearer {}", self.text)).expect("letters, digits and underscores");
        value.set_sensitive(true);
        value
    }

    /// Compared in full, so that the time taken tells nothing.
    pub(crate) fn is(&self, text: &str) -> bool {
        self.text.as_bytes().ct_eq(text.as_bytes()).into()
    }
}

fn read(file: &File) -> io::Result<String> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let found = file.metadata()?;
    if found.uid() != nix::unistd::geteuid().as_raw() || found.mode() & 0o077 != 0 {
        return Err(wrong("it belongs to another user, or others may read or write it"));
    }
    let text = read_bounded(file, LEN as u64)?;
    let text = String::from_utf8(text).map_err(|_| wrong("it holds no token"))?;
    let digits = text.strip_prefix(PREFIX).map(str::as_bytes);
    if !digits.is_some_and(|digits| digits.len() == 2 * SECRET_BYTES && digits.iter().all(u8::is_ascii_hexdigit)) {
        return Err(wrong("it holds no token"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn all_who_start_at_once_get_the_same_token_and_only_they_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("own-token");
        let starting: Vec<_> = (0..8)
            .map(|_| {
                let path = path.clone();
                std::thread::spawn(move || OwnToken::establish(&path).unwrap())
            })
            .collect();
        let all: Vec<OwnToken> = starting.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(all.iter().all(|one| one.is(&all[0].text)));
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        assert!(!all[0].is("nxs_own_") && !all[0].is(""));
        assert!(!format!("{:?}", all[0]).contains(PREFIX));
        let names = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(names, 1, "nothing is left beside it");
    }

    #[test]
    fn one_that_others_may_have_written_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("own-token");
        OwnToken::establish(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(OwnToken::establish(&path).is_err());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        for damaged in ["", "nxs_own_", "nxs_own_zz", &"x".repeat(4096)] {
            std::fs::write(&path, damaged).unwrap();
            assert!(OwnToken::establish(&path).is_err(), "{damaged}");
        }
    }
}
