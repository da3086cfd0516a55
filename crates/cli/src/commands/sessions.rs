//! `nexus sessions`: lists, shows and closes conversations. An unambiguous prefix of an id is accepted as the id.

use nexus_client::Connection;
use nexus_proto::orchestrator::v1::{
    CloseSessionRequest, GetSessionRequest, ListSessionsRequest, Session, SessionFilter, SessionState,
};
use serde_json::json;

use crate::{
    args::{CloseArgs, ListArgs, ShowArgs, State},
    context::Context,
    failure::{Exit, Failure},
    output::{
        Output, clean,
        ended::ended,
        table::{cut, table},
        time::ago,
        view,
    },
};

/// Sessions in one answer while all of them are read.
const PAGE: i32 = 1_000;
const ID_LENGTH: usize = 32;

pub async fn list(context: &Context, args: &ListArgs, output: &Output) -> Result<Exit, Failure> {
    let filter = SessionFilter {
        state: args.state.map_or(SessionState::Unspecified, state).into(),
        owner_id: args.owner.clone().unwrap_or_default(),
        labels: args.label.iter().cloned().collect(),
        ..SessionFilter::default()
    };
    let connection = context.connection();
    let (sessions, next) = match (args.limit, &args.page) {
        (None, None) => (all(&connection, filter).await?, String::new()),
        (limit, token) => {
            page(
                &connection,
                filter,
                limit.unwrap_or(PAGE),
                token.clone().unwrap_or_default(),
            )
            .await?
        }
    };
    if output.json {
        let shown: Vec<_> = sessions.iter().map(view::session).collect();
        output.value(&json!({ "sessions": shown, "next_page": next }))?;
        return Ok(Exit::Ok);
    }
    if sessions.is_empty() {
        output.note("no conversations; start one with: nexus chat");
        return Ok(Exit::Ok);
    }
    output.line(show_table(output, &sessions))?;
    if !next.is_empty() {
        output.note(&format!("more with: --page {next}"));
    }
    Ok(Exit::Ok)
}

pub fn show_table(output: &Output, sessions: &[Session]) -> String {
    let rows = sessions.iter().map(|session| {
        let shown = view::session(session);
        [
            session.id.clone(),
            cut(&shown.name, 40),
            shown.state,
            shown.owner_id,
            ago(session.updated_at.as_ref()),
        ]
    });
    table(output, ["ID", "NAME", "STATE", "OWNER", "CHANGED"], rows)
}

pub async fn show(context: &Context, args: &ShowArgs, output: &Output) -> Result<Exit, Failure> {
    let connection = context.connection();
    let id = find(&connection, &args.id).await?;
    let request = GetSessionRequest {
        session_id: id,
        message_limit: args.limit,
        messages_before: 0,
    };
    let session = connection
        .orchestrator()
        .get_session(request)
        .await?
        .into_inner()
        .session
        .unwrap_or_default();
    let context = session.context.clone().unwrap_or_default();
    let shown = view::session(&session);
    if output.json {
        let messages: Vec<_> = context.messages.iter().map(view::message).collect();
        let value = json!({ "session": shown, "messages_omitted": context.messages_omitted, "messages": messages });
        output.value(&value)?;
        return Ok(Exit::Ok);
    }
    let facts = [
        ("id", Some(shown.id)),
        ("name", Some(shown.name)),
        ("description", Some(shown.description)),
        ("state", Some(shown.state)),
        ("owner", Some(shown.owner_id)),
        (
            "labels",
            Some(
                shown
                    .labels
                    .iter()
                    .map(|(k, v)| format!("{k}={v}"))
                    .collect::<Vec<_>>()
                    .join(" "),
            ),
        ),
        ("created", shown.created_at),
        ("changed", shown.updated_at),
        ("expires", shown.expires_at),
        ("closed", shown.closed_at),
    ];
    for (name, fact) in facts {
        if let Some(fact) = fact.filter(|fact| !fact.is_empty()) {
            output.line(format!("{} {}", output.dim(&format!("{name:<12}")), cut(&fact, 400)))?;
        }
    }
    if context.messages_omitted > 0 {
        output.line(format!(
            "\n{}",
            output.dim(&format!("({} older messages: --limit 0)", context.messages_omitted))
        ))?;
    }
    for message in &context.messages {
        let role = view::word(message.role().as_str_name(), "MESSAGE_ROLE_");
        let head = format!("#{} {role}, {}", message.sequence, ago(message.timestamp.as_ref()));
        output.line(format!("\n{}\n{}", output.dim(&head), clean(&message.content)))?;
        if let Some(how) = ended(message) {
            output.line(output.dim(&how.line()))?;
        }
    }
    Ok(Exit::Ok)
}

pub async fn close(context: &Context, args: &CloseArgs, output: &Output) -> Result<Exit, Failure> {
    let connection = context.connection();
    for given in &args.ids {
        let session_id = find(&connection, given).await?;
        let request = CloseSessionRequest {
            session_id: session_id.clone(),
            reason: args.reason.clone(),
        };
        let state = connection
            .orchestrator()
            .close_session(request)
            .await?
            .into_inner()
            .state();
        if output.json {
            output.record(&json!({ "id": session_id, "state": view::word(state.as_str_name(), "SESSION_STATE_") }))?;
        } else {
            output.line(format!("closed {session_id}"))?;
        }
    }
    Ok(Exit::Ok)
}

pub fn state(state: State) -> SessionState {
    match state {
        State::Active => SessionState::Active,
        State::Idle => SessionState::Idle,
        State::Closed => SessionState::Closed,
    }
}

async fn page(
    connection: &Connection,
    filter: SessionFilter,
    page_size: i32,
    page_token: String,
) -> Result<(Vec<Session>, String), Failure> {
    let request = ListSessionsRequest {
        filter: Some(filter),
        page_size,
        page_token,
        without_messages: true,
    };
    let answer = connection.orchestrator().list_sessions(request).await?.into_inner();
    Ok((answer.sessions, answer.next_page_token))
}

/// Every session that matches, without its messages, page by page.
pub async fn all(connection: &Connection, filter: SessionFilter) -> Result<Vec<Session>, Failure> {
    let mut found = Vec::new();
    let mut token = String::new();
    loop {
        let (sessions, next) = page(connection, filter.clone(), PAGE, token).await?;
        found.extend(sessions);
        if next.is_empty() {
            return Ok(found);
        }
        token = next;
    }
}

/// The id that `given` is, or is the only one to begin with.
pub async fn find(connection: &Connection, given: &str) -> Result<String, Failure> {
    let hex = given.bytes().all(|b| b.is_ascii_hexdigit());
    if given.len() >= ID_LENGTH || !hex || given.is_empty() {
        return Ok(given.to_owned());
    }
    let wanted = given.to_ascii_lowercase();
    let sessions = all(connection, SessionFilter::default()).await?;
    let mut matches = sessions
        .into_iter()
        .map(|session| session.id)
        .filter(|id| id.starts_with(&wanted));
    match (matches.next(), matches.count()) {
        (Some(id), 0) => Ok(id),
        (Some(_), more) => Err(Failure::usage(format!("{} conversations begin with {given}", more + 1))
            .hint("give more of the id: nexus sessions list")),
        (None, _) => Err(
            Failure::new(Exit::NotFound, format!("no conversation begins with {given}"))
                .hint("see them with: nexus sessions list"),
        ),
    }
}
