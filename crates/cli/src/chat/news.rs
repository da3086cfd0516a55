//! Follows what happens in the runs of a session, beside the stream of its messages.

use std::pin::Pin;

use nexus_client::Connection;
use nexus_proto::orchestrator::v1::{RunEvent, WatchRunsRequest};
use tonic::{Status, Streaming};

use crate::context::runs;

/// What [`NewsStream::next`] came to.
#[derive(Debug)]
pub enum News {
    /// From now on the pieces of the text come here.
    Opened,
    /// This orchestrator has no runs, or does not show them: the pieces of the text come with the messages.
    Absent,
    Event(Box<RunEvent>),
    /// The stream ended; the one of the messages tells why.
    Lost,
}

type Opening = Pin<Box<dyn Future<Output = Result<Streaming<RunEvent>, Status>> + Send>>;

/// One stream of news, from the request on.
pub struct NewsStream {
    state: State,
}

enum State {
    Opening(Opening),
    Live(Box<Streaming<RunEvent>>),
    Over,
}

impl NewsStream {
    /// Asks for it. Nothing is sent before [`NewsStream::next`] is first waited for.
    pub fn open(connection: &Connection, session_id: &str) -> NewsStream {
        let mut client = runs(connection);
        let request = WatchRunsRequest {
            session_id: session_id.to_owned(),
            run_id: String::new(),
        };
        let opening = async move { Ok(client.watch(request).await?.into_inner()) };
        NewsStream {
            state: State::Opening(Box::pin(opening)),
        }
    }

    /// The next piece. May be given up at any moment without a loss; after the end it waits for ever.
    pub async fn next(&mut self) -> News {
        match &mut self.state {
            State::Opening(opening) => match opening.await {
                Ok(stream) => {
                    self.state = State::Live(Box::new(stream));
                    News::Opened
                }
                Err(_) => {
                    self.state = State::Over;
                    News::Absent
                }
            },
            State::Live(stream) => match stream.message().await {
                Ok(Some(event)) => News::Event(Box::new(event)),
                Ok(None) | Err(_) => {
                    self.state = State::Over;
                    News::Lost
                }
            },
            State::Over => std::future::pending().await,
        }
    }
}
