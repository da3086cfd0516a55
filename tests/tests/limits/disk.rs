//! A disk of a few megabytes.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A file system in memory, gone with its value.
pub struct Disk(PathBuf);

impl Disk {
    pub fn small(folder: &Path) -> Result<Disk, String> {
        let place = folder.join("disk");
        fs::create_dir(&place).map_err(|error| error.to_string())?;
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=16m,mode=0700", "nexus-tests"])
            .arg(&place);
        let status = mount.stdout(Stdio::null()).stderr(Stdio::null()).status();
        if status.is_ok_and(|status| status.success()) {
            Ok(Disk(place))
        } else {
            Err("needs to mount a small tmpfs (root)".into())
        }
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Not a page is left.
    pub fn fill(&self) {
        let mut file = File::create(self.filler()).expect("the filler can be made");
        for block in [1 << 20, 4096] {
            while file.write_all(&vec![0; block]).is_ok() {}
        }
    }

    /// Bytes that are free.
    pub fn free_bytes(&self) -> u64 {
        let seen = nix::sys::statvfs::statvfs(&self.0).expect("it is a file system");
        #[expect(clippy::useless_conversion, reason = "the width differs between platforms")]
        let free = u64::from(seen.blocks_available()) * u64::from(seen.fragment_size());
        free
    }

    /// So many of them are taken.
    pub fn take(&self, bytes: u64) {
        let bytes = usize::try_from(bytes).expect("the disk is small");
        fs::write(self.filler(), vec![0; bytes]).expect("there is room");
    }

    pub fn free(&self) {
        fs::remove_file(self.filler()).expect("the filler can be removed");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
