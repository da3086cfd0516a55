//! Where the programs under test are.

use std::{env, path::PathBuf};

/// The path of a program that was built, e.g. `nexus-orchestrator`.
///
/// `NEXUS_BIN_DIR` says where they are; without it they are looked for beside the tests, in the same profile.
pub fn binary(name: &str) -> PathBuf {
    let folder = match env::var_os("NEXUS_BIN_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => {
            let test = env::current_exe().expect("the path of this test is known");
            // target/<profile>/deps/<test>
            test.ancestors()
                .nth(2)
                .expect("tests lie in target/<profile>/deps")
                .to_owned()
        }
    };
    let path = folder.join(name);
    assert!(
        path.is_file(),
        "{} is missing: build it first with `cargo build --bins`, let `cargo xtask test` do both, or say with \
         NEXUS_BIN_DIR where the programs are",
        path.display()
    );
    path
}
