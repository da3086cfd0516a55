//! Whose socket it is, and who may call.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nexus_client::{Address, Connection, Options};
use nexus_proto::{
    agent::v1::*,
    llm::v1::ListModelsRequest,
    orchestrator::v1::{
        CreateSessionRequest, CreateSessionResponse, GetSessionRequest, ListSessionsRequest, ListSessionsResponse,
        MessageRole, SendMessageRequest, SubscribeEventsRequest,
    },
};
use nexus_tests::{Daemon, NOBODY, PATIENCE, Process, Site, as_nobody, ask, binary, skipped};
use prost::Message;
use tempfile::TempDir;

const TAKEN: i32 = 75;
const CONFIG: i32 = 78;

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
}

/// How a daemon ends that cannot start, and what it says.
async fn fails(site: &Site, daemon: Daemon) -> (Option<i32>, String) {
    let log = site.folder().path().join("second.out");
    let mut process = Process::spawn(&mut site.command(daemon), &log).unwrap();
    let ended = process.end(PATIENCE).await.expect("it gives up");
    (ended.code(), fs::read_to_string(log).unwrap())
}

#[tokio::test]
async fn a_stale_socket_is_taken_over_and_what_we_make_is_ours_alone() {
    let mut site = Site::new();
    site.up(&[Daemon::Orchestrator, Daemon::Llm]).await;
    let socket = site.socket(Daemon::Orchestrator);
    assert_eq!(mode(&socket), 0o600);
    assert_eq!(mode(&site.socket(Daemon::Llm)), 0o600);
    assert_eq!(mode(site.root().path()), 0o700);
    assert_eq!(mode(&site.root().run_dir()), 0o700);
    assert_eq!(mode(&site.root().db_dir()), 0o700);
    let store = site.root().db_dir().join("orchestrator.db");
    assert_eq!(mode(&store) & 0o077, 0, "nobody else reads the store");

    site.kill(Daemon::Orchestrator);
    assert!(socket.exists(), "a killed daemon leaves its socket behind");
    site.up(&[Daemon::Orchestrator]).await;
    ask::create(&site.connect(), "after").await;
    site.stopped(Daemon::Orchestrator).await;
    assert!(!socket.exists(), "one that stops takes it along");
}

#[tokio::test]
async fn a_socket_that_answers_is_never_taken() {
    let mut first = Site::new();
    first.up(&[Daemon::Orchestrator]).await;
    let session = ask::create(&first.connect(), "first").await;
    let pid = first.process(Daemon::Orchestrator).pid().to_string();
    let folder = first.folder().clone();

    // The same socket, another root.
    let other = Site::at(
        folder.clone(),
        &folder.path().join("other"),
        &first.socket(Daemon::Orchestrator),
    );
    let (code, said) = fails(&other, Daemon::Orchestrator).await;
    assert_eq!(code, Some(TAKEN), "{said}");
    assert!(said.contains(&format!("pid {pid}")), "the owner is named: {said}");
    assert!(said.contains("socket"), "and the setting: {said}");

    // The same root, another socket: its store is in use.
    let same = Site::at(folder.clone(), first.root().path(), &folder.path().join("second.sock"));
    let (code, said) = fails(&same, Daemon::Orchestrator).await;
    assert_eq!(code, Some(TAKEN), "{said}");

    // Neither took anything away.
    ask::session(&first.connect(), &session).await;
    first.stopped(Daemon::Orchestrator).await;
}

#[tokio::test]
async fn two_roots_with_two_sockets_run_side_by_side() {
    let mut one = Site::new();
    let mut two = Site::new();
    one.up(&[Daemon::Orchestrator]).await;
    two.up(&[Daemon::Orchestrator]).await;
    let session = ask::create(&one.connect(), "one").await;
    ask::refused(ask::find(&two.connect(), &session).await, tonic::Code::NotFound);
}

#[tokio::test]
async fn what_is_no_socket_is_left_alone() {
    let site = Site::new();
    let path = site.socket(Daemon::Orchestrator);
    fs::write(&path, "somebody's notes").unwrap();
    let (code, said) = fails(&site, Daemon::Orchestrator).await;
    assert_eq!(code, Some(CONFIG), "{said}");
    assert!(said.contains("not a socket"), "{said}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "somebody's notes");

    // Another program's socket that answers.
    fs::remove_file(&path).unwrap();
    let theirs = UnixListener::bind(&path).unwrap();
    let (code, said) = fails(&site, Daemon::Orchestrator).await;
    assert_eq!(code, Some(TAKEN), "{said}");
    drop(theirs);

    // A path that is too long says so.
    let long = site.folder().path().join("x".repeat(120));
    let site = Site::at(site.folder().clone(), site.root().path(), &long);
    let (code, said) = fails(&site, Daemon::Orchestrator).await;
    assert!(code.is_some_and(|code| code != 0), "{said}");
    assert!(said.contains("at most"), "{said}");
}

/// A second user: their program, in a place that they can reach.
struct Other {
    command: PathBuf,
    place: TempDir,
}

impl Other {
    fn new(test: &str) -> Option<Other> {
        let program = Path::new(env!("CARGO_BIN_EXE_nexus-tests-call"));
        let place = tempfile::Builder::new().prefix("nexus-other-").tempdir().unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let command = place.path().join("call");
        fs::copy(program, &command).unwrap();
        fs::set_permissions(&command, fs::Permissions::from_mode(0o755)).unwrap();
        match as_nobody(&command) {
            Ok(_) => Some(Other { command, place }),
            Err(missing) => {
                skipped(test, &missing);
                None
            }
        }
    }

    /// A site whose orchestrator's socket they can reach.
    fn site(&self, settings: &str) -> Site {
        let own = Site::new();
        Site::at(own.folder().clone(), own.root().path(), &self.place.path().join("s")).settings(settings)
    }

    /// What they get for a call: the code, the words, and the first message.
    fn call(&self, site: &Site, path: &str, message: &impl Message) -> (String, String, Vec<u8>) {
        self.call_with(site, None, path, message)
    }

    /// The same with a token.
    fn call_with(
        &self,
        site: &Site,
        token: Option<&str>,
        path: &str,
        message: &impl Message,
    ) -> (String, String, Vec<u8>) {
        let hex = hex::encode(message.encode_to_vec());
        let mut command: Command = as_nobody(&self.command).unwrap();
        let socket = site.socket(Daemon::Orchestrator);
        let out = command
            .envs(token.map(|token| ("NEXUS_TOKEN", token)))
            .arg(socket)
            .args([path, &hex])
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(out.status.success(), "the call cannot be made");
        let text = String::from_utf8(out.stdout).unwrap();
        let mut lines = text.lines();
        let (code, words) = lines.next().unwrap().split_once(' ').unwrap();
        let first = lines.next().unwrap_or_default();
        (code.into(), words.into(), hex::decode(first).unwrap())
    }
}

/// Our own command on this site: what it prints.
fn nexus(site: &Site, args: &[&str]) -> String {
    let mut command = Command::new(binary("nexus"));
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", site.folder().path())
        .env("NEXUS_ROOT", site.root().path())
        .env("NEXUS_COMMON__ORCHESTRATOR", site.socket(Daemon::Orchestrator))
        .args(args)
        .stdin(Stdio::null());
    let done = command.output().unwrap();
    let beside = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{args:?}: {beside}");
    String::from_utf8(done.stdout).unwrap()
}

const LIST: &str = "/orchestrator.v1.OrchestratorService/ListSessions";
const CREATE: &str = "/orchestrator.v1.OrchestratorService/CreateSession";
const GET: &str = "/orchestrator.v1.OrchestratorService/GetSession";
const EVENTS: &str = "/orchestrator.v1.OrchestratorService/SubscribeEvents";
const REGISTER: &str = "/agent.v1.AgentService/Register";
const MODELS: &str = "/llm.v1.LLMService/ListModels";
const GATEWAY: &str = "/gateway.v1.GatewayService/ListGatewaySessions";
const HEALTH: &str = "/grpc.health.v1.Health/Check";

fn register() -> RegisterRequest {
    RegisterRequest {
        name: "theirs".into(),
        ..RegisterRequest::default()
    }
}

#[tokio::test]
async fn another_user_is_refused_by_name() {
    let Some(other) = Other::new("another_user_is_refused_by_name") else {
        return;
    };
    // As it is made nobody else can even connect.
    let mut site = other.site("");
    site.up(&[Daemon::Orchestrator]).await;
    let (code, words, _) = other.call(&site, LIST, &ListSessionsRequest::default());
    assert_eq!(code, "PermissionDenied", "{words}");
    site.stopped(Daemon::Orchestrator).await;

    // And where the file lets them in, the peer check does not.
    let mut site = other.site("[orchestrator]\nsocket_mode = \"0666\"\n");
    site.up(&[Daemon::Orchestrator]).await;
    for path in [LIST, CREATE, EVENTS, REGISTER, MODELS, GATEWAY] {
        let (code, words, _) = other.call(&site, path, &ListSessionsRequest::default());
        assert_eq!(code, "PermissionDenied", "{path}: {words}");
        assert!(
            words.contains(&NOBODY.to_string()) && words.contains('0'),
            "both are named: {words}"
        );
    }
    ask::create(&site.connect(), "we go on").await;
}

fn role(role: &str) -> String {
    format!("[common]\nroles = {{ \"uid:{NOBODY}\" = \"{role}\" }}\n[orchestrator]\nsocket_mode = \"0666\"\n")
}

#[tokio::test]
async fn a_user_has_their_own_sessions_and_nothing_else() {
    let Some(other) = Other::new("a_user_has_their_own_sessions_and_nothing_else") else {
        return;
    };
    let mut site = other.site(&role("user"));
    site.up(&[Daemon::Orchestrator]).await;
    let connection = site.connect();
    let ours = ask::create(&connection, "ours").await;

    let (code, words, made) = other.call(&site, CREATE, &CreateSessionRequest::default());
    assert_eq!(code, "Ok", "{words}");
    let theirs = CreateSessionResponse::decode(&*made).unwrap().session_id;
    let (_, _, listed) = other.call(&site, LIST, &ListSessionsRequest::default());
    let listed = ListSessionsResponse::decode(&*listed).unwrap();
    let ids: Vec<_> = listed.sessions.iter().map(|session| &*session.id).collect();
    assert_eq!(ids, [&*theirs], "only their own are listed");
    assert_eq!(listed.total_count, 1, "and counted");

    let get = |id: &str| GetSessionRequest {
        session_id: id.into(),
        ..GetSessionRequest::default()
    };
    assert_eq!(other.call(&site, GET, &get(&theirs)).0, "Ok");
    let (code, words, _) = other.call(&site, GET, &get(&ours));
    assert_eq!(code, "NotFound", "another's session is as good as none: {words}");
    let delete = "/orchestrator.v1.OrchestratorService/DeleteSession";
    assert_eq!(other.call(&site, delete, &get(&ours)).0, "NotFound");
    // Events of their sessions only: the first that they see from the beginning is the making of theirs.
    ask::send(&connection, &ours, ask::message("", MessageRole::System, "secret"))
        .await
        .unwrap();
    let all = SubscribeEventsRequest {
        filter: None,
        after_sequence: Some(0),
    };
    let (code, _, first) = other.call(&site, EVENTS, &all);
    assert_eq!(code, "DeadlineExceeded", "the stream is open until its deadline");
    let first = nexus_proto::orchestrator::v1::Event::decode(&*first).unwrap();
    assert_eq!(first.data.get("session_id"), Some(&theirs), "{first:?}");

    for path in [REGISTER, MODELS] {
        let (code, words, _) = other.call(&site, path, &register());
        assert_eq!(code, "PermissionDenied", "{path}: {words}");
    }
    // They may ask the gateway; here none runs.
    let (code, words, _) = other.call(&site, GATEWAY, &ListSessionsRequest::default());
    assert_eq!(code, "Unavailable", "{words}");
    assert!(words.contains("nexus up"), "{words}");
    assert_eq!(other.call(&site, HEALTH, &ListSessionsRequest::default()).0, "Ok");
    // The admin sees both.
    ask::session(&connection, &theirs).await;
}

#[tokio::test]
async fn an_agent_has_what_agents_need_and_nothing_else() {
    let Some(other) = Other::new("an_agent_has_what_agents_need_and_nothing_else") else {
        return;
    };
    let mut site = other.site(&role("agent"));
    site.up(&[Daemon::Orchestrator, Daemon::Llm]).await;
    let (code, words, _) = other.call(&site, REGISTER, &register());
    assert_eq!(code, "Ok", "{words}");
    // The model daemon registers by itself; then its models are behind the front door.
    let until = std::time::Instant::now() + PATIENCE;
    let answer = loop {
        let answer = other.call(&site, MODELS, &ListModelsRequest::default());
        if answer.0 != "Unavailable" || std::time::Instant::now() > until {
            break answer;
        }
    };
    assert_eq!(answer.0, "Ok", "{}", answer.1);
    assert_eq!(other.call(&site, HEALTH, &ListSessionsRequest::default()).0, "Ok");
    for path in [LIST, CREATE, EVENTS, GATEWAY] {
        let (code, words, _) = other.call(&site, path, &ListSessionsRequest::default());
        assert_eq!(code, "PermissionDenied", "{path}: {words}");
    }
}

/// The attack: with nothing but the socket, a process of the daemons' own uid, and one of another uid with a role, call; and
/// one with a narrow token does more than that allows.
#[tokio::test]
async fn with_require_token_our_own_work_and_others_need_one() {
    let Some(other) = Other::new("with_require_token_our_own_work_and_others_need_one") else {
        return;
    };
    let settings = role("user").replacen("[common]\n", "[common]\nrequire_token = true\n", 1);
    let mut site = other.site(&settings);
    // Each daemon by itself, as init systems start them. A question is answered only if they reach each other.
    site.up_line().await;
    site.up(&[Daemon::Gateway]).await;
    let file = site.root().own_token_file();
    assert_eq!(mode(&file), 0o600);
    let own = fs::read_to_string(&file).unwrap();

    // Our own command finds the token, for the daemons and for what is behind the front door.
    for command in [["sessions", "list"], ["models", "list"], ["chat", "hello"]] {
        nexus(&site, &command);
    }

    let bare = Connection::lazy(&Address::Unix(site.socket(Daemon::Orchestrator)), &Options::default());
    for socket in [Daemon::Orchestrator, Daemon::Llm, Daemon::Agent, Daemon::Gateway] {
        let bare = Connection::lazy(&Address::Unix(site.socket(socket)), &Options::default());
        let request = tonic_health::pb::HealthCheckRequest { service: String::new() };
        ask::refused(bare.health().check(request).await, tonic::Code::Unauthenticated);
    }
    // What it says of another caller is not believed either.
    let mut stamped = tonic::Request::new(ListSessionsRequest::default());
    stamped
        .metadata_mut()
        .insert("nexus-peer-role", "admin".parse().unwrap());
    stamped
        .metadata_mut()
        .insert("nexus-peer-principal", "uid:0".parse().unwrap());
    let refused = bare.orchestrator().list_sessions(stamped).await;
    ask::refused(refused, tonic::Code::Unauthenticated);

    let (code, words, _) = other.call(&site, LIST, &ListSessionsRequest::default());
    assert_eq!(code, "Unauthenticated", "{words}");
    let token = nexus(&site, &["token", "new", "theirs", "--role", "user", "--scope", "read"]);
    let token = token.trim();
    let (code, words, _) = other.call_with(&site, Some(token), LIST, &ListSessionsRequest::default());
    assert_eq!(code, "Ok", "{words}");
    let (code, words, _) = other.call_with(&site, Some(token), CREATE, &CreateSessionRequest::default());
    assert_eq!(code, "PermissionDenied", "{words}");
    // Passed on by the front door with the name of its token.
    let (code, words, _) = other.call_with(&site, Some(token), GATEWAY, &ListSessionsRequest::default());
    assert_eq!(code, "Ok", "{words}");
    for log in fs::read_dir(site.root().log_dir()).unwrap() {
        let log = fs::read_to_string(log.unwrap().path()).unwrap();
        assert!(!log.contains(&own) && !log.contains(token), "{log}");
    }
}

/// The attack: a user whose uid has a role shows a token of less, or one that was revoked, and is heard as the uid.
#[tokio::test]
async fn a_token_that_is_shown_on_a_socket_counts() {
    let Some(other) = Other::new("a_token_that_is_shown_on_a_socket_counts") else {
        return;
    };
    let mut site = other.site(&role("user"));
    site.up(&[Daemon::Orchestrator]).await;
    let token = nexus(&site, &["token", "new", "theirs", "--role", "user", "--scope", "read"]);
    let token = token.trim();
    let create = CreateSessionRequest::default();
    assert_eq!(other.call(&site, CREATE, &create).0, "Ok");
    let (code, words, _) = other.call_with(&site, Some(token), CREATE, &create);
    assert_eq!(code, "PermissionDenied", "{words}");
    // It is another owner than the uid.
    let (_, _, listed) = other.call_with(&site, Some(token), LIST, &ListSessionsRequest::default());
    assert_eq!(ListSessionsResponse::decode(&*listed).unwrap().total_count, 0);
    nexus(&site, &["token", "revoke", "theirs"]);
    let until = std::time::Instant::now() + PATIENCE;
    loop {
        let (code, words, _) = other.call_with(&site, Some(token), LIST, &ListSessionsRequest::default());
        if code == "Unauthenticated" {
            break;
        }
        assert!(std::time::Instant::now() < until, "{code}: {words}");
    }
    assert!(!site.root().own_token_file().exists(), "nothing asked for it");
}

const TASK_CALLS: [&str; 4] = [
    "/agent.v1.AgentService/GetTaskStatus",
    "/agent.v1.AgentService/CancelTask",
    "/agent.v1.AgentService/StreamTask",
    "/agent.v1.AgentService/ListTasks",
];

/// Attack: an agent of another uid reads, feeds, completes and cancels the tasks of others, gives them tasks, speaks to
/// them as the orchestrator, takes their stream, and registers as a second assistant to hear every user.
#[tokio::test]
async fn an_agent_of_another_uid_touches_nothing_that_is_not_its_own() {
    let Some(other) = Other::new("an_agent_of_another_uid_touches_nothing_that_is_not_its_own") else {
        return;
    };
    let mut site = other.site(&role("agent"));
    site.up(&[Daemon::Orchestrator]).await;
    let connection = site.connect();
    let session = ask::create(&connection, "ours").await;
    let ours = connection
        .agent()
        .register(register())
        .await
        .unwrap()
        .into_inner()
        .agent_id;
    let give = |agent: &str| ExecuteTaskRequest {
        agent_id: agent.into(),
        session_id: session.clone(),
        r#type: TaskType::CodeExecution.into(),
        config: Some(TaskConfig::default()),
        ..ExecuteTaskRequest::default()
    };
    let task = connection
        .agent()
        .execute_task(give(&ours))
        .await
        .unwrap()
        .into_inner()
        .task_id;

    let (code, words, made) = other.call(&site, REGISTER, &register());
    assert_eq!(code, "Ok", "{words}");
    let theirs = RegisterResponse::decode(&*made).unwrap().agent_id;
    let said = stream_task_request::Payload::Complete(TaskComplete::default());
    let done = StreamTaskRequest {
        task_id: task.clone(),
        payload: Some(said),
    };
    let status = GetTaskStatusRequest { task_id: task.clone() };
    let cancel = CancelTaskRequest {
        task_id: task.clone(),
        ..CancelTaskRequest::default()
    };
    let [get, stop, stream, list] = TASK_CALLS;
    assert_eq!(other.call(&site, get, &status).0, "NotFound");
    assert_eq!(other.call(&site, stop, &cancel).0, "NotFound");
    assert_eq!(other.call(&site, stream, &done).0, "NotFound");
    let of_ours = ListTasksRequest {
        agent_id: ours.clone(),
        ..ListTasksRequest::default()
    };
    assert_eq!(other.call(&site, list, &of_ours).0, "NotFound");
    let execute = "/agent.v1.AgentService/ExecuteTask";
    assert_eq!(other.call(&site, execute, &give(&ours)).0, "NotFound");
    assert_eq!(
        other.call(&site, execute, &give(&theirs)).0,
        "NotFound",
        "the session is not theirs"
    );
    let message = AgentSendMessageRequest {
        agent_id: ours.clone(),
        message: Some(AgentMessage {
            source_id: "orchestrator".into(),
            ..AgentMessage::default()
        }),
    };
    let send = "/agent.v1.AgentService/SendMessage";
    assert_eq!(other.call(&site, send, &message).0, "NotFound");
    let link = StreamAgentRequest {
        agent_id: ours.clone(),
        payload: None,
    };
    assert_eq!(
        other.call(&site, "/agent.v1.AgentService/StreamAgent", &link).0,
        "NotFound"
    );
    let gone = UnregisterRequest {
        agent_id: ours.clone(),
        ..UnregisterRequest::default()
    };
    assert_eq!(
        other.call(&site, "/agent.v1.AgentService/Unregister", &gone).0,
        "NotFound"
    );
    let (_, _, agents) = other.call(&site, "/agent.v1.AgentService/ListAgents", &ListAgentsRequest {});
    let agents = ListAgentsResponse::decode(&*agents).unwrap().agents;
    let known: Vec<_> = agents.iter().map(|agent| &*agent.id).collect();
    assert_eq!(known, [&*theirs]);
    let read = GetSessionRequest {
        session_id: session.clone(),
        ..GetSessionRequest::default()
    };
    assert_eq!(other.call(&site, GET, &read).0, "NotFound");

    let assistant = RegisterRequest {
        name: "assistant".into(),
        ..RegisterRequest::default()
    };
    let labels = [
        ("nexus.socket", "/tmp/x"),
        ("nexus.services", "gateway.v1.GatewayService"),
    ];
    let daemon = RegisterRequest {
        metadata: Some(AgentMetadata {
            labels: labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            ..AgentMetadata::default()
        }),
        ..register()
    };
    for (request, setting) in [
        (assistant, "orchestrator.assistants"),
        (daemon, "orchestrator.front_door"),
    ] {
        let (code, words, _) = other.call(&site, REGISTER, &request);
        assert_eq!(code, "PermissionDenied", "{words}");
        assert!(
            words.contains(setting) && words.contains(&NOBODY.to_string()),
            "{words}"
        );
    }
    let still = connection.agent().get_task_status(status).await.unwrap().into_inner();
    assert_eq!(
        still.task.unwrap().state(),
        TaskState::Pending,
        "nothing of it reached the task"
    );
}

/// Attack: one user makes sessions without end, and fills the disk, until nobody else gets any.
#[tokio::test]
async fn a_user_takes_their_share_and_not_that_of_others() {
    let Some(other) = Other::new("a_user_takes_their_share_and_not_that_of_others") else {
        return;
    };
    let settings = format!("{}user_sessions = 2\nuser_stored_bytes = \"8KiB\"\n", role("user"));
    let mut site = other.site(&settings);
    site.up(&[Daemon::Orchestrator]).await;
    let (code, words, made) = other.call(&site, CREATE, &CreateSessionRequest::default());
    assert_eq!(code, "Ok", "{words}");
    let theirs = CreateSessionResponse::decode(&*made).unwrap().session_id;
    assert_eq!(other.call(&site, CREATE, &CreateSessionRequest::default()).0, "Ok");
    let (code, words, _) = other.call(&site, CREATE, &CreateSessionRequest::default());
    assert_eq!(code, "ResourceExhausted", "{words}");
    assert!(words.contains("orchestrator.user_sessions"), "{words}");
    let large = SendMessageRequest {
        session_id: theirs,
        message: Some(ask::message("", MessageRole::System, &"x".repeat(8 << 10))),
    };
    let send = "/orchestrator.v1.OrchestratorService/SendMessage";
    let (code, words, _) = other.call(&site, send, &large);
    assert_eq!(code, "ResourceExhausted", "{words}");
    assert!(words.contains("orchestrator.user_stored_bytes"), "{words}");
    ask::create(&site.connect(), "we go on").await;
}

#[tokio::test]
async fn an_admin_by_config_may_do_all() {
    let Some(other) = Other::new("an_admin_by_config_may_do_all") else {
        return;
    };
    let mut site = other.site(&role("admin"));
    site.up(&[Daemon::Orchestrator]).await;
    let ours = ask::create(&site.connect(), "ours").await;
    let get = GetSessionRequest {
        session_id: ours,
        ..GetSessionRequest::default()
    };
    assert_eq!(other.call(&site, GET, &get).0, "Ok");
    assert_eq!(other.call(&site, REGISTER, &register()).0, "Ok");
}
