//! Bad input on every call: a clear status, nothing lost, and the server goes on as if nothing had been.

mod bad;

use std::{collections::BTreeMap, time::Duration};

use bad::{cases, methods};
use nexus_client::Connection;
use nexus_proto::{agent::v1 as agent, gateway::v1 as gateway, llm::v1 as llm, orchestrator::v1 as orchestrator};
use nexus_tests::{Daemon, Frame, Site, Talk, ask, raw};
use orchestrator::{MessageRole, StreamMessageRequest, stream_message_request};
use prost::Message;
use tonic::{Code, Status};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

/// What a caller cannot act upon: the server's own fault, or nobody knows whose.
const UNCLEAR: [Code; 3] = [Code::Unknown, Code::Internal, Code::DataLoss];

async fn all_serve(connection: &Connection) {
    for service in ["", "orchestrator", "agent", "gateway", "llm"] {
        let request = HealthCheckRequest {
            service: service.into(),
        };
        let answer = connection
            .health()
            .check(request)
            .await
            .unwrap_or_else(|error| panic!("{service:?}: {error}"));
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving, "{service:?}");
    }
}

/// Waits until the daemons behind the front door answer through it.
async fn through_the_door(connection: &Connection) {
    let until = std::time::Instant::now() + nexus_tests::PATIENCE;
    loop {
        let llm = connection.llm().get_status(()).await;
        let gateway = connection.gateway().get_status(()).await;
        match (llm, gateway) {
            (Ok(_), Ok(_)) => break,
            both => assert!(std::time::Instant::now() < until, "{both:?}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn every_call_refuses_what_it_cannot_read() {
    let mut site = Site::new();
    site.up(&Daemon::ALL).await;
    site.answers().await;
    let connection = site.connect();
    through_the_door(&connection).await;
    let session = ask::create(&connection, "untouched").await;
    for number in 0..5 {
        let message = ask::message("", MessageRole::System, &number.to_string());
        ask::send(&connection, &session, message).await.unwrap();
    }
    let before = ask::session(&connection, &session).await;

    let mut wrong = Vec::new();
    let mut made = BTreeMap::new();
    for method in methods() {
        for case in cases(&method) {
            let answer = raw::call(&connection, &method.path, case.call.clone()).await;
            let code = answer.code();
            let fits = if case.codes.is_empty() {
                !UNCLEAR.contains(&code)
            } else {
                case.codes.contains(&code)
            };
            if !fits || (code != Code::Ok && answer.status.message().is_empty()) {
                wrong.push(format!("{} {}: {:?}", method.path, case.name, answer.status));
            }
            *made.entry(format!("{}: {code:?}", case.name)).or_insert(0) += 1;
        }
    }
    println!("{made:#?}");
    assert!(
        wrong.is_empty(),
        "{} unclear answers:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    all_serve(&connection).await;
    assert_eq!(ask::session(&connection, &session).await, before);
    site.answers().await;
    for daemon in Daemon::ALL {
        let ended = site.process(daemon).ended();
        assert_eq!(ended, None, "{daemon} runs on");
    }
}

#[tokio::test]
async fn unknown_methods_and_services_are_unimplemented() {
    let mut site = Site::new();
    site.up(&[Daemon::Orchestrator]).await;
    let connection = site.connect();
    for path in [
        "/orchestrator.v1.OrchestratorService/NoSuchCall",
        "/orchestrator.v9.OrchestratorService/GetSession",
        "/no.such.Service/Call",
        "/nonsense",
        "/",
    ] {
        let answer = raw::call(&connection, path, raw::Call::message(b"")).await;
        assert_eq!(answer.code(), Code::Unimplemented, "{path}: {:?}", answer.status);
    }
    // The prefix of the documents works, and its own unknown calls are unknown.
    let answer = raw::call(
        &connection,
        "/proto.orchestrator.v1.OrchestratorService/GetStatus",
        raw::Call::message(b""),
    );
    assert_eq!(answer.await.code(), Code::Ok);
    // Nobody is behind the front door; the answer says what to do.
    for path in [
        "/gateway.v1.GatewayService/GetStatus",
        "/proto.llm.v1.LLMService/GetStatus",
    ] {
        let answer = raw::call(&connection, path, raw::Call::message(b"")).await;
        assert_eq!(answer.code(), Code::Unavailable);
        assert!(answer.status.message().contains("nexus up"), "{:?}", answer.status);
    }
    let headers = vec![("grpc-timeout", "soon".to_owned())];
    let call = raw::Call {
        headers,
        ..raw::Call::message(b"")
    };
    let answer = raw::call(&connection, "/orchestrator.v1.OrchestratorService/GetStatus", call).await;
    assert_eq!(answer.code(), Code::InvalidArgument);
}

/// Calls with a message that can be read and says the wrong thing, and the code each has to be refused with.
struct Asked<'a> {
    connection: &'a Connection,
    service: &'static str,
}

impl Asked<'_> {
    async fn refused(&self, call: &str, message: impl Message + std::fmt::Debug, code: Code) -> Status {
        let path = format!("/{}/{call}", self.service);
        let call = raw::Call::message(&message.encode_to_vec()).deadline(Duration::from_secs(5));
        let answer = raw::call(self.connection, &path, call).await;
        assert_eq!(answer.code(), code, "{path} {message:?}: {:?}", answer.status);
        assert!(
            answer.reason.is_some(),
            "{path} {message:?} has no reason: {:?}",
            answer.status
        );
        answer.status
    }
}

const NOBODY: &str = "00000000000000000000000000000000";

#[tokio::test]
async fn what_names_nothing_or_the_wrong_thing_is_refused_orchestrator() {
    use orchestrator::*;
    let mut site = Site::new();
    site.up(&[Daemon::Orchestrator]).await;
    let connection = site.connect();
    let asked = Asked {
        connection: &connection,
        service: "orchestrator.v1.OrchestratorService",
    };
    let open = ask::create(&connection, "open").await;
    let closed = ask::create(&connection, "closed").await;
    let close = CloseSessionRequest {
        session_id: closed.clone(),
        reason: String::new(),
    };
    connection.orchestrator().close_session(close).await.unwrap();
    ask::send(&connection, &open, ask::message("taken", MessageRole::System, "one"))
        .await
        .unwrap();

    for id in [
        "",
        NOBODY,
        "not an id",
        "../..",
        "\u{0}",
        &"9".repeat(100_000),
        &open.to_uppercase(),
    ] {
        let code = if id.is_empty() {
            Code::InvalidArgument
        } else {
            Code::NotFound
        };
        let id = id.to_owned();
        asked
            .refused(
                "GetSession",
                GetSessionRequest {
                    session_id: id.clone(),
                    ..Default::default()
                },
                code,
            )
            .await;
        asked
            .refused(
                "CloseSession",
                CloseSessionRequest {
                    session_id: id.clone(),
                    ..Default::default()
                },
                code,
            )
            .await;
        asked
            .refused("DeleteSession", DeleteSessionRequest { session_id: id.clone() }, code)
            .await;
        asked
            .refused(
                "UpdateSession",
                UpdateSessionRequest {
                    session_id: id.clone(),
                    ..Default::default()
                },
                code,
            )
            .await;
        let message = Some(ask::message("", MessageRole::System, "x"));
        asked
            .refused(
                "SendMessage",
                SendMessageRequest {
                    session_id: id,
                    message,
                },
                code,
            )
            .await;
    }
    let send = |message: Option<orchestrator::Message>| SendMessageRequest {
        session_id: open.clone(),
        message,
    };
    let mut odd = ask::message("", MessageRole::System, "x");
    odd.role = 99;
    let long = ask::message(&"i".repeat(5000), MessageRole::System, "x");
    for message in [None, Some(odd), Some(long)] {
        asked.refused("SendMessage", send(message), Code::InvalidArgument).await;
    }
    let mut model = ask::message("taken", MessageRole::System, "one");
    model
        .metadata
        .get_or_insert_default()
        .extra
        .insert("k".into(), "v".into());
    let others = [
        ask::message("taken", MessageRole::User, "one"),
        ask::message("taken", MessageRole::System, "two"),
        model,
    ];
    for other in others {
        asked
            .refused("SendMessage", send(Some(other)), Code::AlreadyExists)
            .await;
    }
    let late = ask::message("", MessageRole::System, "late");
    let late = SendMessageRequest {
        session_id: closed.clone(),
        message: Some(late),
    };
    asked.refused("SendMessage", late, Code::FailedPrecondition).await;
    let update = UpdateSessionRequest {
        session_id: closed,
        ..Default::default()
    };
    asked.refused("UpdateSession", update, Code::FailedPrecondition).await;

    for config in [
        SessionConfig {
            max_duration_ns: -1,
            ..Default::default()
        },
        SessionConfig {
            idle_timeout_ns: i64::MIN,
            ..Default::default()
        },
        SessionConfig {
            max_containers: -5,
            ..Default::default()
        },
    ] {
        let create = CreateSessionRequest {
            config: Some(config.clone()),
            ..Default::default()
        };
        asked.refused("CreateSession", create, Code::InvalidArgument).await;
        let context = SessionContext {
            config: Some(config),
            ..Default::default()
        };
        let update = UpdateSessionRequest {
            session_id: open.clone(),
            context: Some(context),
            ..Default::default()
        };
        asked.refused("UpdateSession", update, Code::InvalidArgument).await;
    }
    let get = GetSessionRequest {
        session_id: open.clone(),
        message_limit: -1,
        ..Default::default()
    };
    asked.refused("GetSession", get, Code::InvalidArgument).await;
    let page = ListSessionsRequest {
        page_token: "nonsense".into(),
        page_size: 5,
        ..Default::default()
    };
    asked.refused("ListSessions", page, Code::InvalidArgument).await;
    let page = ListSessionsRequest {
        page_size: -5,
        ..Default::default()
    };
    asked.refused("ListSessions", page, Code::InvalidArgument).await;
    let beyond = SubscribeEventsRequest {
        after_sequence: Some(u64::MAX),
        ..Default::default()
    };
    asked.refused("SubscribeEvents", beyond, Code::OutOfRange).await;
    for call in [
        "CreateContainer",
        "GetContainer",
        "ListContainers",
        "StopContainer",
        "RemoveContainer",
    ] {
        asked
            .refused(call, GetContainerRequest::default(), Code::Unimplemented)
            .await;
    }
    let messages = ask::messages(&connection, &open).await;
    assert_eq!(messages.len(), 1, "nothing of it was stored: {messages:?}");
}

#[tokio::test]
async fn what_names_nothing_or_the_wrong_thing_is_refused_agent() {
    use agent::*;
    let mut site = Site::new();
    site.up(&[Daemon::Orchestrator]).await;
    let connection = site.connect();
    let asked = Asked {
        connection: &connection,
        service: "agent.v1.AgentService",
    };
    asked
        .refused("Register", RegisterRequest::default(), Code::InvalidArgument)
        .await;
    let register = RegisterRequest {
        name: "a".into(),
        ..Default::default()
    };
    let known = connection
        .agent()
        .register(register)
        .await
        .unwrap()
        .into_inner()
        .agent_id;
    for id in ["", NOBODY, "not an id", &"9".repeat(100_000)] {
        let code = if id.is_empty() {
            Code::InvalidArgument
        } else {
            Code::NotFound
        };
        let id = id.to_owned();
        asked
            .refused(
                "Unregister",
                UnregisterRequest {
                    agent_id: id.clone(),
                    ..Default::default()
                },
                code,
            )
            .await;
        asked
            .refused(
                "Heartbeat",
                HeartbeatRequest {
                    agent_id: id.clone(),
                    ..Default::default()
                },
                code,
            )
            .await;
        asked
            .refused("GetTaskStatus", GetTaskStatusRequest { task_id: id.clone() }, code)
            .await;
        asked
            .refused(
                "CancelTask",
                CancelTaskRequest {
                    task_id: id.clone(),
                    ..Default::default()
                },
                code,
            )
            .await;
        let message = Some(AgentMessage::default());
        asked
            .refused(
                "SendMessage",
                AgentSendMessageRequest {
                    agent_id: id.clone(),
                    message,
                },
                code,
            )
            .await;
        asked
            .refused(
                "StreamTask",
                StreamTaskRequest {
                    task_id: id.clone(),
                    payload: None,
                },
                code,
            )
            .await;
        asked
            .refused(
                "StreamAgent",
                StreamAgentRequest {
                    agent_id: id.clone(),
                    payload: None,
                },
                code,
            )
            .await;
        if !id.is_empty() {
            let config = Some(TaskConfig::default());
            let task = ExecuteTaskRequest {
                agent_id: id,
                session_id: "s".into(),
                config,
                ..Default::default()
            };
            asked.refused("ExecuteTask", task, code).await;
        }
    }
    let send = AgentSendMessageRequest {
        agent_id: known.clone(),
        message: None,
    };
    asked.refused("SendMessage", send, Code::InvalidArgument).await;
    asked
        .refused("ListTasks", ListTasksRequest::default(), Code::InvalidArgument)
        .await;
    let task = |change: fn(&mut ExecuteTaskRequest)| {
        let config = Some(TaskConfig {
            command: "true".into(),
            ..Default::default()
        });
        let mut task = ExecuteTaskRequest {
            agent_id: known.clone(),
            session_id: "s".into(),
            config,
            ..Default::default()
        };
        change(&mut task);
        task
    };
    let changes: [fn(&mut ExecuteTaskRequest); 6] = [
        |task| task.session_id.clear(),
        |task| task.config = None,
        |task| task.r#type = 77,
        |task| task.priority = -1,
        |task| task.config.as_mut().unwrap().timeout_ns = -1,
        |task| task.config.as_mut().unwrap().max_retries = -1,
    ];
    for change in changes {
        asked.refused("ExecuteTask", task(change), Code::InvalidArgument).await;
    }
    // A task that is over stays over.
    let made = connection
        .agent()
        .execute_task(task(|_| {}))
        .await
        .unwrap()
        .into_inner()
        .task_id;
    let cancel = CancelTaskRequest {
        task_id: made.clone(),
        ..Default::default()
    };
    let first = connection
        .agent()
        .cancel_task(cancel.clone())
        .await
        .unwrap()
        .into_inner();
    assert!(first.cancelled);
    let again = connection.agent().cancel_task(cancel).await.unwrap().into_inner();
    assert_eq!((again.cancelled, again.state()), (false, TaskState::Cancelled));
    let tasks = connection
        .agent()
        .list_tasks(ListTasksRequest {
            agent_id: known,
            filter: None,
        })
        .await
        .unwrap();
    assert_eq!(tasks.into_inner().tasks.len(), 1);
}

#[tokio::test]
async fn what_names_nothing_or_the_wrong_thing_is_refused_behind_the_front_door() {
    let mut site = Site::new();
    site.up(&[Daemon::Orchestrator, Daemon::Llm, Daemon::Gateway]).await;
    let connection = site.connect();
    through_the_door(&connection).await;
    let asked = Asked {
        connection: &connection,
        service: "llm.v1.LLMService",
    };
    asked
        .refused("CompleteLLM", llm::CompleteLlmRequest::default(), Code::InvalidArgument)
        .await;
    let request = Some(llm::LlmRequest::default());
    asked
        .refused(
            "CompleteLLM",
            llm::CompleteLlmRequest { request },
            Code::InvalidArgument,
        )
        .await;
    asked
        .refused("StreamLLM", llm::StreamLlmRequest::default(), Code::InvalidArgument)
        .await;
    let lost = llm::LlmRequest {
        request_id: "r".into(),
        model: "nobody/has-this".into(),
        messages: vec![llm::LlmMessage {
            role: "user".into(),
            content: "hi".into(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let path = "/llm.v1.LLMService/CompleteLLM";
    let call = raw::Call::message(&llm::CompleteLlmRequest { request: Some(lost) }.encode_to_vec());
    let answer = raw::call(&connection, path, call).await;
    assert!(
        !UNCLEAR.contains(&answer.code()) && answer.code() != Code::Ok,
        "{:?}",
        answer.status
    );

    use gateway::*;
    let asked = Asked {
        connection: &connection,
        service: "gateway.v1.GatewayService",
    };
    for id in ["", NOBODY, "not an id"] {
        let code = if id.is_empty() {
            Code::InvalidArgument
        } else {
            Code::NotFound
        };
        let id = id.to_owned();
        asked
            .refused(
                "GetGatewaySession",
                GetGatewaySessionRequest { session_id: id.clone() },
                code,
            )
            .await;
        let close = CloseGatewaySessionRequest {
            session_id: id.clone(),
            ..Default::default()
        };
        asked.refused("CloseGatewaySession", close, code).await;
        let message = Some(GatewayMessage {
            content: "x".into(),
            ..Default::default()
        });
        let send = GatewaySendMessageRequest {
            session_id: id.clone(),
            message,
        };
        asked.refused("GatewaySendMessage", send, code).await;
        asked
            .refused(
                "StreamChat",
                StreamChatRequest {
                    session_id: id.clone(),
                    payload: None,
                },
                code,
            )
            .await;
        let stream = StreamResponsesRequest {
            session_id: id,
            ..Default::default()
        };
        asked.refused("StreamResponses", stream, code).await;
    }
}

fn first(session: &str, payload: Option<stream_message_request::Payload>) -> StreamMessageRequest {
    StreamMessageRequest {
        session_id: session.into(),
        payload,
        ..Default::default()
    }
}

#[tokio::test]
async fn a_stream_in_the_wrong_order_is_told_so() {
    use stream_message_request::Payload;
    let mut site = Site::new();
    site.up(&[Daemon::Orchestrator]).await;
    let connection = site.connect();
    let session = ask::create(&connection, "order").await;
    let words = || Payload::Message(ask::message("", MessageRole::User, "too early"));
    let talk = async |frames: Vec<StreamMessageRequest>| {
        let bytes = frames.iter().map(|frame| raw::framed(&frame.encode_to_vec())).collect();
        let path = "/orchestrator.v1.OrchestratorService/StreamMessages";
        raw::call(
            &connection,
            path,
            raw::Call {
                bytes,
                ..Default::default()
            },
        )
        .await
    };
    // Half-closed at once, with nothing said.
    assert_eq!(talk(vec![]).await.code(), Code::Ok);
    assert_eq!(talk(vec![first(&session, None)]).await.code(), Code::Ok);
    // A heartbeat needs no session, and one that does not exist is only a heartbeat.
    for id in ["", NOBODY] {
        let answer = talk(vec![first(id, Some(Payload::Heartbeat(())))]).await;
        assert_eq!((answer.code(), answer.messages.len()), (Code::Ok, 1), "{id}");
    }
    assert_eq!(talk(vec![first("", Some(words()))]).await.code(), Code::InvalidArgument);
    assert_eq!(talk(vec![first("", None)]).await.code(), Code::InvalidArgument);
    assert_eq!(
        talk(vec![first("", Some(Payload::Cancel(Default::default())))])
            .await
            .code(),
        Code::InvalidArgument
    );
    assert_eq!(talk(vec![first(NOBODY, Some(words()))]).await.code(), Code::NotFound);
    // A message in the middle that cannot be read ends the stream; what came before it is stored.
    let said = first(
        &session,
        Some(Payload::Message(ask::message("kept", MessageRole::System, "kept"))),
    );
    let bytes = vec![raw::framed(&said.encode_to_vec()), raw::framed(&[0xff; 40])];
    let path = "/orchestrator.v1.OrchestratorService/StreamMessages";
    let call = raw::Call {
        bytes,
        stays_open: true,
        ..Default::default()
    };
    let answer = raw::call(&connection, path, call).await;
    assert_eq!(answer.code(), Code::InvalidArgument, "{:?}", answer.status);
    let messages = ask::messages(&connection, &session).await;
    assert_eq!(
        messages.iter().map(|message| &*message.id).collect::<Vec<_>>(),
        ["kept"]
    );

    // What is wrong with one message is told in band, and the stream goes on for the next.
    let mut talk = Talk::open(&connection, &session, None, true).await.unwrap();
    let mut odd = ask::message("odd", MessageRole::System, "x");
    odd.role = 99;
    talk.message(odd).await;
    match talk.next().await.unwrap() {
        Some(Frame::Failed { message_id, error }) => {
            assert_eq!(message_id, "odd");
            assert!(error.starts_with("INVALID_ARGUMENT"), "{error}");
        }
        other => panic!("a refusal was due, not {other:?}"),
    }
    // Nothing runs that could be cancelled.
    talk.cancel("nothing").await;
    talk.cancel("").await;
    talk.message(ask::message("good", MessageRole::System, "y")).await;
    assert_eq!(
        talk.next().await.unwrap(),
        Some(Frame::Ack {
            message_id: "good".into(),
            sequence: 2
        })
    );
}

#[tokio::test]
async fn a_message_beyond_the_limit_is_refused_and_one_below_it_is_kept() {
    const LIMIT: usize = 100 << 20;
    let mut site = Site::new();
    site.up(&[Daemon::Orchestrator]).await;
    let connection = site.connect();
    let session = ask::create(&connection, "large").await;
    let path = "/orchestrator.v1.OrchestratorService/SendMessage";
    let request = |bytes: usize| {
        let message = Some(ask::message("", MessageRole::System, &"z".repeat(bytes)));
        let request = orchestrator::SendMessageRequest {
            session_id: session.clone(),
            message,
        };
        raw::Call::message(&request.encode_to_vec())
    };
    let answer = raw::call(&connection, path, request(LIMIT + 1)).await;
    assert_eq!(answer.code(), Code::ResourceExhausted, "{:?}", answer.status);
    // A large one that fits, there and back.
    let answer = raw::call(&connection, path, request(40 << 20)).await;
    assert_eq!(answer.code(), Code::Ok, "{:?}", answer.status);
    let messages = ask::messages(&connection, &session).await;
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].content.len(), 40 << 20);
    // An answer that outgrows the limit names what to ask for instead.
    for _ in 0..2 {
        assert_eq!(raw::call(&connection, path, request(40 << 20)).await.code(), Code::Ok);
    }
    let status = ask::refused(ask::find(&connection, &session).await, Code::ResourceExhausted);
    assert!(status.message().contains("message_limit"), "{status:?}");
    let get = orchestrator::GetSessionRequest {
        session_id: session,
        message_limit: 1,
        messages_before: 0,
    };
    let newest = connection
        .orchestrator()
        .get_session(get)
        .await
        .unwrap()
        .into_inner()
        .session
        .unwrap();
    assert_eq!(newest.context.unwrap().messages[0].sequence, 3);
}
