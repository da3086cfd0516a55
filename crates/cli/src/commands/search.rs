//! `nexus sessions search`: finds what was said, in the newest messages of every conversation.

use nexus_client::Connection;
use nexus_proto::orchestrator::v1::{ListSessionsRequest, Message, Session};
use serde_json::{Value, json};

use crate::{
    args::SearchArgs,
    context::Context,
    failure::{Exit, Failure},
    output::{
        Output,
        table::{one_line, table},
        time::{ago, exact},
        view,
    },
};

/// Sessions in one answer; each brings its newest messages.
const PAGE: i32 = 100;
/// Characters of a message that are shown around what was found.
const AROUND: usize = 40;

/// A message with the text, and the session that it is in.
struct Hit {
    session: Session,
    message: Message,
    snippet: String,
}

pub async fn run(context: &Context, args: &SearchArgs, output: &Output) -> Result<Exit, Failure> {
    if args.text.trim().is_empty() {
        return Err(Failure::usage("there is nothing to look for"));
    }
    let (mut hits, omitted) = hits(&context.connection(), &args.text).await?;
    hits.sort_by_key(|hit| std::cmp::Reverse(hit.message.timestamp.map(|at| (at.seconds, at.nanos))));
    hits.truncate(args.limit);
    if output.json {
        let shown: Vec<Value> = hits.iter().map(shown).collect();
        output.value(&json!({ "messages": shown, "messages_not_searched": omitted }))?;
    } else if hits.is_empty() {
        output.note("not found");
    } else {
        let rows = hits.iter().map(|hit| {
            [
                hit.session.id.clone(),
                format!("#{}", hit.message.sequence),
                view::word(hit.message.role().as_str_name(), "MESSAGE_ROLE_"),
                ago(hit.message.timestamp.as_ref()),
                hit.snippet.clone(),
            ]
        });
        output.line(table(output, ["SESSION", "", "ROLE", "WHEN", "TEXT"], rows))?;
    }
    if omitted > 0 {
        output.note(&format!(
            "{omitted} older messages were not searched; nexus sessions export has all of a conversation"
        ));
    }
    Ok(if hits.is_empty() { Exit::NotFound } else { Exit::Ok })
}

fn shown(hit: &Hit) -> Value {
    json!({
        "session_id": hit.session.id,
        "session_name": hit.session.metadata.as_ref().map(|metadata| metadata.name.clone()),
        "message_id": hit.message.id, "sequence": hit.message.sequence,
        "role": view::word(hit.message.role().as_str_name(), "MESSAGE_ROLE_"),
        "timestamp": exact(hit.message.timestamp.as_ref()), "snippet": hit.snippet,
    })
}

/// Everything that was found, and how many messages were too old to be looked at.
async fn hits(connection: &Connection, text: &str) -> Result<(Vec<Hit>, u64), Failure> {
    let (mut hits, mut omitted, mut page_token) = (Vec::new(), 0, String::new());
    loop {
        let request = ListSessionsRequest {
            page_size: PAGE,
            page_token,
            ..ListSessionsRequest::default()
        };
        let answer = connection.orchestrator().list_sessions(request).await?.into_inner();
        for mut session in answer.sessions {
            let context = session.context.take().unwrap_or_default();
            omitted += context.messages_omitted;
            for message in context.messages {
                if let Some(snippet) = snippet(&message.content, text) {
                    hits.push(Hit {
                        session: session.clone(),
                        message,
                        snippet,
                    });
                }
            }
        }
        if answer.next_page_token.is_empty() {
            return Ok((hits, omitted));
        }
        page_token = answer.next_page_token;
    }
}

/// What stands around the first place, whatever the case of its letters; `None` if there is none.
fn snippet(content: &str, text: &str) -> Option<String> {
    let wanted: Vec<char> = text.chars().flat_map(char::to_lowercase).collect();
    let chars: Vec<char> = content.chars().collect();
    // A letter whose lower case is two is compared by the first.
    let lower: Vec<char> = chars.iter().filter_map(|c| c.to_lowercase().next()).collect();
    let at = lower.windows(wanted.len().max(1)).position(|window| window == wanted)?;
    let from = at.saturating_sub(AROUND);
    let to = (at + wanted.len() + AROUND).min(chars.len());
    let mut snippet: String = chars[from..to].iter().collect();
    if from > 0 {
        snippet.insert(0, '…');
    }
    if to < chars.len() {
        snippet.push('…');
    }
    Some(one_line(&snippet))
}

#[cfg(test)]
mod tests {
    use super::snippet;

    #[test]
    fn a_place_is_found_whatever_its_case_and_shown_with_its_surroundings() {
        assert_eq!(snippet("Über den Wolken", "ÜBER").unwrap(), "Über den Wolken");
        let long = format!("{}needle\n\u{1b}[2J{}", "a".repeat(100), "b".repeat(100));
        let found = snippet(&long, "Needle").unwrap();
        assert!(found.starts_with("…aaa") && found.ends_with("bbb…"), "{found}");
        assert!(found.contains("needle ␛[2J"), "{found}");
        assert_eq!(snippet("abc", "x"), None);
        assert_eq!(snippet("", "x"), None);
    }
}
