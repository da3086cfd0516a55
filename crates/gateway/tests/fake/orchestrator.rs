use std::pin::Pin;

use futures_core::Stream;
use futures_util::StreamExt;
use nexus_proto::orchestrator::v1::{
    orchestrator_service_server::OrchestratorService, stream_message_request, stream_message_response::Payload, *,
};
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::{BroadcastStream, ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use super::{Fake, Kept};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn absent<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not in this fake"))
}

#[tonic::async_trait]
impl OrchestratorService for Fake {
    async fn create_session(
        &self,
        request: Request<CreateSessionRequest>,
    ) -> Result<Response<CreateSessionResponse>, Status> {
        let key = request
            .metadata()
            .get("idempotency-key")
            .map(|key| key.to_str().unwrap().to_owned());
        let request = request.into_inner();
        let mut memory = self.memory();
        let known = key.as_ref().and_then(|key| memory.keys.get(key)).cloned();
        let id = known.unwrap_or_else(|| memory.id());
        memory.keys.extend(key.map(|key| (key, id.clone())));
        let session = Session {
            id: id.clone(),
            state: SessionState::Active.into(),
            metadata: request.metadata,
            context: Some(SessionContext {
                config: request.config,
                ..SessionContext::default()
            }),
            ..Session::default()
        };
        memory.sessions.entry(id.clone()).or_insert_with(|| Kept {
            session: session.clone(),
            messages: Vec::new(),
            turns: Default::default(),
            partial: String::new(),
            tell: broadcast::channel(1024).0,
        });
        drop(memory);
        self.changed.notify_waiters();
        Ok(Response::new(CreateSessionResponse {
            session_id: id,
            session: Some(session),
        }))
    }

    async fn get_session(&self, request: Request<GetSessionRequest>) -> Result<Response<GetSessionResponse>, Status> {
        let request = request.into_inner();
        let mut memory = self.memory();
        let kept = memory.kept(&request.session_id)?;
        let before = if request.messages_before == 0 {
            u64::MAX
        } else {
            request.messages_before
        };
        let older = kept
            .messages
            .iter()
            .filter(|message| message.sequence < before)
            .cloned()
            .collect::<Vec<_>>();
        let limit = if request.message_limit == 0 {
            usize::MAX
        } else {
            request.message_limit as usize
        };
        let mut session = kept.session.clone();
        session.context = Some(SessionContext {
            messages: older[older.len().saturating_sub(limit)..].to_vec(),
            ..session.context.unwrap_or_default()
        });
        Ok(Response::new(GetSessionResponse { session: Some(session) }))
    }

    async fn list_sessions(&self, _: Request<ListSessionsRequest>) -> Result<Response<ListSessionsResponse>, Status> {
        let memory = self.memory();
        let sessions: Vec<_> = memory.sessions.values().map(|kept| kept.session.clone()).collect();
        Ok(Response::new(ListSessionsResponse {
            sessions,
            ..ListSessionsResponse::default()
        }))
    }

    async fn update_session(
        &self,
        _: Request<UpdateSessionRequest>,
    ) -> Result<Response<UpdateSessionResponse>, Status> {
        absent()
    }

    async fn close_session(
        &self,
        request: Request<CloseSessionRequest>,
    ) -> Result<Response<CloseSessionResponse>, Status> {
        let session_id = request.into_inner().session_id;
        self.memory().kept(&session_id)?;
        self.close(&session_id);
        Ok(Response::new(CloseSessionResponse {
            session_id,
            state: SessionState::Closed.into(),
        }))
    }

    async fn delete_session(
        &self,
        _: Request<DeleteSessionRequest>,
    ) -> Result<Response<DeleteSessionResponse>, Status> {
        absent()
    }

    async fn send_message(
        &self,
        request: Request<SendMessageRequest>,
    ) -> Result<Response<SendMessageResponse>, Status> {
        let SendMessageRequest { session_id, message } = request.into_inner();
        let message = message.ok_or_else(|| Status::invalid_argument("message is required"))?;
        let (message_id, ..) = self.memory().store(&session_id, message)?;
        self.changed.notify_waiters();
        let timestamp = Some(std::time::SystemTime::now().into());
        Ok(Response::new(SendMessageResponse {
            message_id,
            session_id,
            timestamp,
        }))
    }

    type StreamMessagesStream = Answers<StreamMessageResponse>;

    async fn stream_messages(
        &self,
        request: Request<Streaming<StreamMessageRequest>>,
    ) -> Result<Response<Self::StreamMessagesStream>, Status> {
        let mut frames = request.into_inner();
        let (out, answers) = mpsc::channel(1024);
        let fake = self.clone();
        tokio::spawn(async move {
            let talk = async {
                let Some(first) = frames.message().await? else {
                    return Ok(());
                };
                let (stored, mut told, me) = fake.join(&first)?;
                for message in stored {
                    let _gone = out
                        .send(Ok(StreamMessageResponse {
                            payload: Some(Payload::Message(message)),
                        }))
                        .await;
                }
                fake.hear(&first.session_id, first.payload, &out, me).await?;
                loop {
                    tokio::select! {
                        frame = frames.message() => match frame? {
                            None => return Ok(()),
                            Some(frame) => fake.hear(&first.session_id, frame.payload, &out, me).await?,
                        },
                        told = told.recv() => match told {
                            Ok((not_to, frame)) if not_to != me => {
                                let _gone = out.send(Ok(frame?)).await;
                            }
                            _ => {}
                        },
                        () = out.closed() => return Ok(()),
                    }
                }
            };
            let result: Result<(), Status> = talk.await;
            if let Err(status) = result {
                let _gone = out.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn create_container(
        &self,
        _: Request<CreateContainerRequest>,
    ) -> Result<Response<CreateContainerResponse>, Status> {
        absent()
    }

    async fn get_container(&self, _: Request<GetContainerRequest>) -> Result<Response<GetContainerResponse>, Status> {
        absent()
    }

    async fn list_containers(
        &self,
        _: Request<ListContainersRequest>,
    ) -> Result<Response<ListContainersResponse>, Status> {
        absent()
    }

    async fn stop_container(
        &self,
        _: Request<StopContainerRequest>,
    ) -> Result<Response<StopContainerResponse>, Status> {
        absent()
    }

    async fn remove_container(
        &self,
        _: Request<RemoveContainerRequest>,
    ) -> Result<Response<RemoveContainerResponse>, Status> {
        absent()
    }

    type SubscribeEventsStream = Answers<Event>;

    async fn subscribe_events(
        &self,
        request: Request<SubscribeEventsRequest>,
    ) -> Result<Response<Self::SubscribeEventsStream>, Status> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let wanted = move |event: &Event| {
            let session = event
                .metadata
                .as_ref()
                .map_or("", |metadata| metadata.session_id.as_str());
            (filter.names.is_empty() || filter.names.contains(&event.name))
                && (filter.session_id.is_empty() || filter.session_id == session)
        };
        let mut memory = self.memory();
        if filter.end_time.is_some() {
            let past: Vec<_> = memory
                .events
                .iter()
                .filter(|event| wanted(event))
                .cloned()
                .map(Ok)
                .collect();
            return Ok(Response::new(Box::pin(futures_util::stream::iter(past))));
        }
        let (subscriber, events) = broadcast::channel(1024);
        memory.subscribers.push(subscriber);
        let live = BroadcastStream::new(events).filter_map(|event| std::future::ready(event.ok()));
        let live = live.filter(move |event| std::future::ready(wanted(event))).map(Ok);
        Ok(Response::new(Box::pin(live)))
    }

    async fn health_check(&self, _: Request<()>) -> Result<Response<HealthCheckResponse>, Status> {
        absent()
    }

    async fn get_status(&self, _: Request<()>) -> Result<Response<StatusResponse>, Status> {
        absent()
    }
}

impl Fake {
    fn join(
        &self,
        first: &StreamMessageRequest,
    ) -> Result<(Vec<Message>, broadcast::Receiver<super::Told>, u64), Status> {
        let mut memory = self.memory();
        memory.streams += 1;
        let me = memory.streams;
        let kept = memory.kept(&first.session_id)?;
        if kept.session.state() == SessionState::Closed {
            return Err(Status::failed_precondition(format!(
                "session is not active: {}",
                first.session_id
            )));
        }
        let after = first.after_sequence.unwrap_or(u64::MAX);
        let stored = kept
            .messages
            .iter()
            .filter(|message| message.sequence > after)
            .cloned()
            .collect();
        Ok((stored, kept.tell.subscribe(), me))
    }

    async fn hear(
        &self,
        session: &str,
        payload: Option<stream_message_request::Payload>,
        out: &mpsc::Sender<Result<StreamMessageResponse, Status>>,
        me: u64,
    ) -> Result<(), Status> {
        use stream_message_request::Payload as Asked;
        let reply = |payload| Ok(StreamMessageResponse { payload: Some(payload) });
        match payload {
            Some(Asked::Message(message)) => {
                let said_to_others = Event {
                    r#type: EventType::IpcMessage.into(),
                    data: [("role", "user"), ("content", &message.content)]
                        .map(|(k, v)| (k.into(), v.into()))
                        .into(),
                    ..Event::default()
                };
                let (id, sequence, new) = self.memory().store(session, message)?;
                self.changed.notify_waiters();
                let data = [("ack".to_owned(), id.clone())].into();
                let _gone = out
                    .send(reply(Payload::Event(Event {
                        data,
                        sequence,
                        ..Event::default()
                    })))
                    .await;
                let answer = {
                    let mut memory = self.memory();
                    let kept = memory.kept(session)?;
                    if new {
                        kept.tell(me, Payload::Event(said_to_others));
                    }
                    let answer = format!("answer-{id}");
                    kept.messages
                        .iter()
                        .find(|message| !new && message.id == answer)
                        .cloned()
                };
                if let Some(answer) = answer {
                    let _gone = out.send(reply(Payload::Message(answer))).await;
                }
            }
            Some(Asked::Heartbeat(())) => {
                let _gone = out.send(reply(Payload::Heartbeat(()))).await;
            }
            Some(Asked::Cancel(cancel)) => {
                let mut memory = self.memory();
                memory.cancelled.push(cancel.message_id);
                let kept = memory.kept(session)?;
                if !kept.turns.is_empty() && !kept.partial.is_empty() {
                    memory.finish(session, &[("cancelled", "true")]);
                } else if !kept.turns.is_empty() {
                    memory.fail(session, "CANCELED: the answer was stopped before it began");
                }
                drop(memory);
                self.changed.notify_waiters();
            }
            None => {}
        }
        Ok(())
    }
}
