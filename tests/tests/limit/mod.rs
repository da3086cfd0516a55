//! A disk of a few megabytes, and a call that never ends.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nexus_client::Connection;
use nexus_tests::{ask, raw};
use tokio::task::JoinHandle;
use tonic::Status;

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

    pub fn free(&self) {
        fs::remove_file(self.filler()).expect("the filler can be removed");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A unary call whose message never comes. The server has seen it when this returns.
pub async fn hanging_call(connection: &Connection) -> JoinHandle<Status> {
    let path = "/orchestrator.v1.OrchestratorService/SendMessage";
    let call = raw::Call {
        bytes: vec![raw::announced(100)],
        stays_open: true,
        ..raw::Call::default()
    };
    let connection = connection.clone();
    // Calls of one connection arrive in the order in which they are made.
    connection.connect().await.expect("the orchestrator is there");
    let (sent, on_its_way) = tokio::sync::oneshot::channel();
    let caller = connection.clone();
    let hanging = tokio::spawn(async move {
        let call = raw::call(&caller, path, call);
        tokio::pin!(call);
        tokio::select! {
            biased;
            answer = &mut call => return answer.status,
            () = tokio::task::yield_now() => {}
        }
        let _listens = sent.send(());
        call.await.status
    });
    on_its_way.await.expect("the call does not end");
    ask::create(&connection, "after the call").await;
    hanging
}
