//! The shared libraries that programs link, as the dynamic linker of this machine finds them.

use std::{collections::BTreeMap, path::Path, path::PathBuf};

use anyhow::{Result, bail};

use super::stage::said;

/// By the path under which they are looked for, where they are.
pub type Libraries = BTreeMap<String, PathBuf>;

pub fn of(bin: &Path, binaries: &[&str]) -> Result<Libraries> {
    let mut all = Libraries::new();
    for binary in binaries {
        let said = said(Path::new("ldd"), &[&bin.join(binary).display().to_string()])?;
        all.extend(parse(&String::from_utf8_lossy(&said))?);
    }
    Ok(all)
}

/// `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)`, or the linker itself: `/lib64/ld-linux-x86-64.so.2 (0x...)`
fn parse(said: &str) -> Result<Libraries> {
    let mut all = Libraries::new();
    for line in said.lines().map(str::trim) {
        let path = match line.split_once(" => ") {
            Some((name, "not found")) => bail!("{name} is not on this machine"),
            Some((_, rest)) => rest,
            None => line,
        };
        let path = path.split(" (").next().unwrap_or_default();
        if path.starts_with('/') {
            all.insert(path.trim_start_matches('/').to_owned(), PathBuf::from(path));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_linker_are_found() {
        let said = "\tlinux-vdso.so.1 (0x7f)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x7f)\n\t/lib64/ld.so.2 (0x7f)\n";
        let paths: Vec<String> = parse(said).unwrap().into_keys().collect();
        assert_eq!(paths, ["lib/x/libc.so.6", "lib64/ld.so.2"]);
        assert!(parse("\tlibz.so => not found\n").is_err());
    }
}
