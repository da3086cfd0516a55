//! Passes input to a container. The engine closes a container's input when whoever gave it goes away, so the connection is
//! kept from the first piece to the end.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use bollard::query_parameters::AttachContainerOptions;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Mutex;

use super::Docker;
use crate::{Error, Input, Result};

type Writer = Pin<Box<dyn AsyncWrite + Send>>;

/// The connections, by container.
#[derive(Clone, Default)]
pub(super) struct Inputs(Arc<Mutex<HashMap<String, Writer>>>);

impl std::fmt::Debug for Inputs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inputs")
    }
}

impl Inputs {
    pub(super) async fn forget(&self, id: &str) {
        self.0.lock().await.remove(id);
    }
}

impl Docker {
    pub(super) async fn pass_input(&self, id: &str, input: Input) -> Result<()> {
        let mut inputs = self.inputs.0.lock().await;
        if !inputs.contains_key(id) {
            let options = AttachContainerOptions {
                stdin: true,
                stream: true,
                ..AttachContainerOptions::default()
            };
            let attached = self.client.attach_container(id, Some(options)).await;
            let attached = attached.map_err(|error| self.failed_at(id, error))?;
            inputs.insert(id.to_owned(), attached.input);
        }
        let Some(writer) = inputs.get_mut(id) else {
            return Ok(());
        };
        let closed = |_| Error::State {
            id: id.into(),
            why: "has closed its input".into(),
        };
        match input {
            Input::Data(bytes) => {
                writer.write_all(&bytes).await.map_err(closed)?;
                writer.flush().await.map_err(closed)
            }
            Input::Close => {
                let ended = writer.shutdown().await.map_err(closed);
                inputs.remove(id);
                ended
            }
        }
    }
}
