//! Exports one conversation, oldest message first, read in pages that fit the message limit.

use std::{
    fs::OpenOptions,
    io::{self, BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
};

use nexus_client::Connection;
use nexus_proto::orchestrator::v1::{GetSessionRequest, Message, Session};

use super::sessions::find;
use crate::{
    args::{ExportArgs, Format},
    context::Context,
    failure::{Exit, Failure},
    output::{Output, clean, escaped, table::one_line, time::exact, view},
};

/// Messages in one answer.
const PAGE: i32 = 500;

pub async fn run(context: &Context, args: &ExportArgs, output: &Output) -> Result<Exit, Failure> {
    let connection = context.connection();
    let id = find(&connection, &args.id).await?;
    let (session, messages) = read(&connection, id).await?;
    let Some(path) = &args.output else {
        let mut out = BufWriter::new(io::stdout().lock());
        write(&mut out, args.format, &session, &messages)?;
        out.flush()?;
        return Ok(Exit::Ok);
    };
    let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let file = created.map_err(|error| Failure::file("create", path, &error))?;
    let mut out = BufWriter::new(file);
    let written = write(&mut out, args.format, &session, &messages).and_then(|()| out.flush());
    written
        .and_then(|()| out.get_ref().sync_all())
        .map_err(|error| Failure::file("write", path, &error))?;
    output.note(&format!("wrote {} messages to {}", messages.len(), path.display()));
    Ok(Exit::Ok)
}

async fn read(connection: &Connection, id: String) -> Result<(Session, Vec<Message>), Failure> {
    let mut pages = Vec::new();
    let mut before = 0;
    loop {
        let request = GetSessionRequest {
            session_id: id.clone(),
            message_limit: PAGE,
            messages_before: before,
        };
        let answer = connection.orchestrator().get_session(request).await?.into_inner();
        let mut session = answer.session.unwrap_or_default();
        let context = session.context.take().unwrap_or_default();
        let first = context.messages.first().map_or(0, |message| message.sequence);
        let complete = context.messages_omitted == 0 || first <= 1;
        pages.push(context.messages);
        if complete {
            return Ok((session, pages.into_iter().rev().flatten().collect()));
        }
        before = first;
    }
}

fn write(out: &mut impl Write, format: Format, session: &Session, messages: &[Message]) -> io::Result<()> {
    match format {
        Format::Jsonl => {
            let head = serde_json::json!({ "session": view::session(session) });
            writeln!(out, "{}", escaped(&head.to_string()))?;
            for message in messages {
                let message = serde_json::to_string(&view::message(message))?;
                writeln!(out, "{}", escaped(&message))?;
            }
        }
        Format::Markdown => {
            let shown = view::session(session);
            let title = if shown.name.is_empty() { &shown.id } else { &shown.name };
            writeln!(out, "# {}\n\nSession `{}`, {}.", one_line(title), shown.id, shown.state)?;
            for message in messages {
                let role = view::word(message.role().as_str_name(), "MESSAGE_ROLE_");
                let when = exact(message.timestamp.as_ref()).unwrap_or_default();
                writeln!(out, "\n## {role} ({when})\n\n{}", clean(&message.content))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use nexus_proto::orchestrator::v1::MessageRole;

    use super::*;

    #[test]
    fn each_line_of_jsonl_reads_back_alone() {
        let message = Message {
            content: "two\nlines".into(),
            role: MessageRole::User.into(),
            sequence: 1,
            ..Default::default()
        };
        let mut out = Vec::new();
        write(
            &mut out,
            Format::Jsonl,
            &Session {
                id: "s".into(),
                ..Default::default()
            },
            &[message],
        )
        .unwrap();
        let lines: Vec<serde_json::Value> = std::str::from_utf8(&out)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines[0]["session"]["id"], "s");
        assert_eq!(lines[1]["content"], "two\nlines");
        assert_eq!(lines[1]["role"], "user");
    }
}
