//! How long the path of a Unix socket may be: the kernel has a fixed field for it.

use std::path::Path;

/// The longest path of a Unix socket, in bytes: `sun_path` without its closing zero.
pub const MAX_SOCKET_PATH: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// What is wrong with a path that is too long for a socket, with the limit and the setting; `None` if it fits.
pub fn socket_path_too_long(path: &Path) -> Option<String> {
    let len = path.as_os_str().len();
    (len > MAX_SOCKET_PATH).then(|| {
        format!(
            "socket path {} has {len} bytes, at most {MAX_SOCKET_PATH} fit; set a shorter socket_path, or a shorter NEXUS_ROOT",
            path.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_path_that_fits_is_no_mistake() {
        let path = |len| "x".repeat(len);
        assert_eq!(socket_path_too_long(Path::new(&path(MAX_SOCKET_PATH))), None);
        let told = socket_path_too_long(Path::new(&path(MAX_SOCKET_PATH + 1))).unwrap();
        assert!(told.contains("at most") && told.contains("socket_path"), "{told}");
    }
}
