//! The packages, made once for all tests of a program from the binaries that are tested.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use nexus_tests::binary;

/// The folder they lie in.
pub fn packages() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(concat!("packages-of-", env!("CARGO_CRATE_NAME")));
        // Those of the last run; a hundred megabytes are not left in /tmp.
        let _none = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder can be made");
        let programs = binary("nexus");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["run", "--quiet", "--package", "nexus-xtask", "--", "dist", "--bin"])
            .arg(programs.parent().expect("a program lies in a folder"))
            .arg("--out")
            .arg(&folder)
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
            .output()
            .expect("cargo can be run");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{}\n{said}",
            String::from_utf8_lossy(&output.stdout)
        );
        folder
    })
}

/// The one whose name ends so.
pub fn package(ending: &str) -> PathBuf {
    let entries = fs::read_dir(packages()).expect("the folder is there");
    let mut names = entries.flatten().map(|entry| entry.path());
    names
        .find(|path| path.to_string_lossy().ends_with(ending))
        .unwrap_or_else(|| panic!("no package ends with {ending}"))
}
