//! Brings files into a session's workspace: as archives that a container of the session unpacks.
//!
//! The files are read here, with the rights of who calls, and written there, with those of the session. Nothing of this
//! host is mounted, so it works wherever the orchestrator is.

use std::{io, time::Duration};

use nexus_client::Connection;
use nexus_proto::orchestrator::v1::{
    ContainerConfig, CreateContainerRequest, ExecContainerRequest, RemoveContainerRequest,
    container_service_client::ContainerServiceClient,
};
use tokio::{sync::mpsc, task::JoinHandle};

use super::workspace::{Copied, Tree};
use crate::{
    chat::screen::Screen,
    failure::{Exit, Failure},
    output::table::{cut, one_line},
};

/// Longest for the container to be there, and for one archive to be unpacked.
const LONGEST: Duration = Duration::from_secs(120);
/// Archives that are packed and not sent yet.
const AHEAD: usize = 1;
/// Names of files that were left out and are named.
const NAMED: usize = 5;

pub async fn send(
    tree: Tree,
    connection: &Connection,
    session_id: &str,
    screen: &mut Screen<'_>,
) -> Result<(Copied, JoinHandle<()>), Failure> {
    let (outbox, mut archives) = mpsc::channel::<(Vec<u8>, usize)>(AHEAD);
    let packing = tokio::task::spawn_blocking(move || {
        tree.pack(|archive, files| {
            let gone = |_| io::Error::other("nobody takes them any more");
            outbox.blocking_send((archive, files)).map_err(gone)
        })
    });
    let container_id = receiver(connection, session_id).await?;
    let mut sent = Ok(());
    while let Some((archive, files)) = archives.recv().await {
        screen.draw(&format!("  copying: {files} files"));
        sent = unpack(connection, &container_id, archive).await;
        if sent.is_err() {
            break;
        }
    }
    drop(archives);
    let removal = tokio::spawn(remove(connection.clone(), container_id));
    let packed = packing
        .await
        .map_err(|error| Failure::new(Exit::Failed, format!("the copying broke: {error}")))?;
    // What was refused over there is the reason for what then failed here.
    sent?;
    let copied = packed?;
    if !copied.left_out.is_empty() {
        let named = copied.left_out.iter().take(NAMED);
        let named: Vec<String> = named.map(|path| one_line(&path.to_string_lossy())).collect();
        screen.note(&format!(
            "not copied: {} of {}",
            named.join(", "),
            copied.left_out.len()
        ))?;
    }
    Ok((copied, removal))
}

/// A container that waits, in the session's workspace.
async fn receiver(connection: &Connection, session_id: &str) -> Result<String, Failure> {
    let config = ContainerConfig {
        command: vec!["sleep".into()],
        args: vec!["600".into()],
        labels: [("purpose".to_owned(), "copy".to_owned())].into(),
        ..ContainerConfig::default()
    };
    let mut request = tonic::Request::new(CreateContainerRequest {
        session_id: session_id.to_owned(),
        config: Some(config),
    });
    request.set_timeout(LONGEST);
    let made = connection.orchestrator().create_container(request).await;
    made.map(|made| made.into_inner().container_id).map_err(|status| {
        let failure = Failure::from(status);
        Failure {
            message: format!("the files cannot be copied into the sandbox: {}", failure.message),
            ..failure
        }
    })
}

async fn unpack(connection: &Connection, container_id: &str, archive: Vec<u8>) -> Result<(), Failure> {
    let mut request = tonic::Request::new(ExecContainerRequest {
        container_id: container_id.to_owned(),
        command: ["tar", "xf", "-"].map(str::to_owned).into(),
        stdin: Some(archive.into()),
        timeout_ns: i64::try_from(LONGEST.as_nanos()).unwrap_or(i64::MAX),
        ..ExecContainerRequest::default()
    });
    request.set_timeout(LONGEST + Duration::from_secs(10));
    let mut client = ContainerServiceClient::new(connection.channel())
        .max_encoding_message_size(connection.options().max_send_bytes);
    let done = client.exec_container(request).await?.into_inner();
    if done.timed_out {
        return Err(Failure::new(Exit::TimedOut, "the files were not unpacked in time"));
    }
    if done.exit_code != 0 {
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        return Err(Failure::new(
            Exit::Failed,
            format!("the files cannot be unpacked in the workspace: {}", cut(&said, 300)),
        ));
    }
    Ok(())
}

async fn remove(connection: Connection, container_id: String) {
    let request = RemoveContainerRequest {
        container_id,
        force: true,
    };
    // One that stays ends by itself, and goes with its session.
    let _stays = connection.orchestrator().remove_container(request).await;
}
