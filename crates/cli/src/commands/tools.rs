//! `nexus tools`: what agents can call, and calling it yourself.

mod args;

use std::{collections::BTreeMap, fs, io::Read, path::Path};

use nexus_client::Connection;
use nexus_proto::{
    common::v1::{ToolDefinition, ToolExecutionStatus, ToolType},
    orchestrator::v1::{CloseSessionRequest, CreateSessionRequest, SessionMetadata},
    tool::v1::{
        CancelExecutionCommand, DisableToolRequest, EnableToolRequest, ExecuteToolRequest, GetExecutionStatusRequest,
        GetStatsRequest, GetToolRequest, ListToolsRequest, RegisterToolRequest, StreamToolRequest, ToolExecution,
        ToolFilter, ToolInstance, UnregisterToolRequest, stream_tool_request, stream_tool_response::Payload,
    },
};
use serde_json::{Value, json};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;

pub use args::ToolsCommand;
use args::{AddArgs, CallArgs, ListArgs, NamesArgs, RemoveArgs, StatsArgs};

use super::sessions;
use crate::{
    context::Context,
    failure::{Exit, Failure},
    output::{
        Output, calls, clean, runs as shown,
        table::{cut, one_line, table},
        time::ago,
        view::word,
    },
};

/// Bytes of a file of arguments or of a schema.
const LARGEST_FILE: u64 = 4 << 20;
/// Frames on their way out: the name of the execution and a cancel.
const OUTBOX: usize = 4;

pub async fn run(context: &Context, command: ToolsCommand, output: &Output) -> Result<Exit, Failure> {
    let connection = context.connection();
    match command {
        ToolsCommand::List(args) => list(&connection, args, output).await,
        ToolsCommand::Show { name } => show(&connection, name, output).await,
        ToolsCommand::Call(args) => call(&connection, args, output).await,
        ToolsCommand::Enable(args) => enable(&connection, args, output).await,
        ToolsCommand::Disable(args) => disable(&connection, args, output).await,
        ToolsCommand::Add(args) => add(&connection, args, output).await,
        ToolsCommand::Remove(args) => remove(&connection, args, output).await,
        ToolsCommand::Stats(args) => stats(&connection, args, output).await,
    }
}

async fn list(connection: &Connection, args: ListArgs, output: &Output) -> Result<Exit, Failure> {
    let filter = ToolFilter {
        enabled: args.enabled,
        name_pattern: args.pattern.unwrap_or_default(),
        ..ToolFilter::default()
    };
    let request = ListToolsRequest { filter: Some(filter) };
    let tools = connection.tool().list_tools(request).await?.into_inner().tools;
    if output.json {
        output.value(&tools.iter().map(shown::tool).collect::<Vec<_>>())?;
        return Ok(Exit::Ok);
    }
    if tools.is_empty() {
        output.note("no such tool; all of them: nexus tools list");
        return Ok(Exit::Ok);
    }
    let rows = tools.iter().map(|tool| {
        let definition = tool.definition.clone().unwrap_or_default();
        [
            tool.name.clone(),
            if tool.enabled { "on" } else { "off" }.to_owned(),
            definition.source,
            tool.usage_stats
                .as_ref()
                .map_or(0, |used| used.total_executions)
                .to_string(),
            cut(&definition.description, 70),
        ]
    });
    output.line(table(output, ["NAME", "", "FROM", "CALLS", "DOES"], rows))?;
    Ok(Exit::Ok)
}

async fn get(connection: &Connection, name: String) -> Result<ToolInstance, Failure> {
    let answer = connection.tool().get_tool(GetToolRequest { name: name.clone() }).await;
    match answer {
        Ok(answer) => Ok(answer.into_inner().tool.unwrap_or_default()),
        Err(status) => {
            let failure = Failure::from(status);
            Err(match failure.exit {
                Exit::NotFound => failure.hint("see those there are: nexus tools list"),
                _ => failure,
            })
        }
    }
}

async fn show(connection: &Connection, name: String, output: &Output) -> Result<Exit, Failure> {
    let tool = get(connection, name).await?;
    if output.json {
        output.value(&shown::tool(&tool))?;
        return Ok(Exit::Ok);
    }
    let definition = tool.definition.clone().unwrap_or_default();
    let yes = |set: bool, said: &str| if set { said.to_owned() } else { String::new() };
    let facts = [
        ("name", tool.name.clone()),
        ("enabled", if tool.enabled { "yes" } else { "no" }.to_owned()),
        ("from", definition.source.clone()),
        ("version", tool.version.clone()),
        ("does", definition.description.clone()),
        ("command", definition.command.join(" ")),
        ("image", definition.container_image.clone()),
        ("changes", yes(definition.read_only, "nothing")),
        ("repeatable", yes(definition.idempotent, "yes")),
        (
            "used",
            tool.last_used_at.as_ref().map(|at| ago(Some(at))).unwrap_or_default(),
        ),
        ("digest", definition.digest.clone()),
    ];
    for (name, fact) in facts.iter().filter(|(_, fact)| !fact.is_empty()) {
        output.line(format!("{} {}", output.dim(&format!("{name:<12}")), one_line(fact)))?;
    }
    output.line(output.dim("arguments"))?;
    let schema = shown::schema(&definition);
    let required: Vec<&str> = schema["required"]
        .as_array()
        .map(|names| names.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let properties = schema["properties"].as_object().cloned().unwrap_or_default();
    let rows = properties.iter().map(|(name, property)| {
        let kind = property["type"].as_str().unwrap_or("any").to_owned();
        let needed = if required.contains(&name.as_str()) {
            "required"
        } else {
            ""
        };
        let said = property["description"].as_str().unwrap_or_default();
        [
            format!("  {}", one_line(name)),
            kind,
            needed.to_owned(),
            said.to_owned(),
        ]
    });
    let rows: Vec<_> = rows.collect();
    match rows.is_empty() {
        true => output.line("  none")?,
        false => output.line(table(output, ["  NAME", "TYPE", "", "MEANS"], rows))?,
    }
    Ok(Exit::Ok)
}

async fn enable(connection: &Connection, args: NamesArgs, output: &Output) -> Result<Exit, Failure> {
    for name in args.names {
        let request = EnableToolRequest { name };
        let enabled = connection.tool().enable_tool(request).await?.into_inner();
        done(&enabled.name, "enabled", output)?;
    }
    Ok(Exit::Ok)
}

async fn disable(connection: &Connection, args: args::DisableArgs, output: &Output) -> Result<Exit, Failure> {
    for name in args.names {
        let request = DisableToolRequest {
            name,
            cancel_active_executions: args.cancel,
        };
        let disabled = connection.tool().disable_tool(request).await?.into_inner();
        done(&disabled.name, "disabled", output)?;
        if disabled.cancelled_executions > 0 {
            output.note(&format!("cancelled calls: {}", disabled.cancelled_executions));
        }
    }
    Ok(Exit::Ok)
}

async fn remove(connection: &Connection, args: RemoveArgs, output: &Output) -> Result<Exit, Failure> {
    for name in args.names {
        let request = UnregisterToolRequest {
            name: name.clone(),
            force: args.force,
        };
        let removed = connection.tool().unregister_tool(request).await?.into_inner();
        if !removed.success {
            return Err(Failure::new(Exit::Failed, one_line(&removed.message)));
        }
        done(&name, "removed", output)?;
    }
    Ok(Exit::Ok)
}

fn done(name: &str, what: &str, output: &Output) -> Result<(), Failure> {
    if output.json {
        output.record(&json!({ "name": name, "done": what }))?;
    } else {
        output.line(format!("{what} {}", one_line(name)))?;
    }
    Ok(())
}

async fn add(connection: &Connection, args: AddArgs, output: &Output) -> Result<Exit, Failure> {
    let schema = match &args.schema {
        Some(path) => object(path, "schema")?.to_string(),
        None => json!({ "type": "object", "properties": {}, "additionalProperties": false }).to_string(),
    };
    let definition = ToolDefinition {
        name: args.name,
        description: args.description,
        command: args.command,
        container_image: args.image.unwrap_or_default(),
        input_schema_json: schema,
        read_only: args.read_only,
        idempotent: args.idempotent,
        timeout_ns: args
            .timeout
            .map_or(0, |time| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)),
        enabled: !args.disabled,
        r#type: ToolType::Custom.into(),
        version: args.version.unwrap_or_default(),
        ..ToolDefinition::default()
    };
    let request = RegisterToolRequest {
        definition: Some(definition),
        force: args.replace,
    };
    let added = match connection.tool().register_tool(request).await {
        Ok(added) => added.into_inner(),
        Err(status) if status.code() == tonic::Code::AlreadyExists => {
            return Err(Failure::from(status).hint("replace it with: --replace"));
        }
        Err(status) => return Err(status.into()),
    };
    if output.json {
        output.value(&added.tool.as_ref().map(shown::tool))?;
    } else {
        output.line(format!("added {}", one_line(&added.name)))?;
        output.note(&format!("try it: nexus tools call {} '{{}}'", one_line(&added.name)));
    }
    Ok(Exit::Ok)
}

async fn stats(connection: &Connection, args: StatsArgs, output: &Output) -> Result<Exit, Failure> {
    let request = GetStatsRequest {
        tool_name: args.name.unwrap_or_default(),
    };
    let answer = connection.tool().get_stats(request).await?.into_inner();
    let used: Vec<_> = answer
        .tool_stats
        .into_iter()
        .map(|tool| (tool.tool_name, tool.usage_stats.unwrap_or_default()))
        .collect();
    if output.json {
        let tools: BTreeMap<&String, Value> = used.iter().map(|(name, used)| (name, shown::stats(used))).collect();
        let all = answer.service_stats.unwrap_or_default();
        output.value(&json!({
            "total": all.total_executions, "successful": all.successful_executions,
            "failed": all.failed_executions, "active": all.active_executions, "tools": tools,
        }))?;
        return Ok(Exit::Ok);
    }
    let rows = used
        .iter()
        .filter(|(_, used)| args.all || used.total_executions > 0)
        .map(|(name, used)| {
            let average = std::time::Duration::from_nanos(u64::try_from(used.avg_duration_ns).unwrap_or(0));
            [
                name.clone(),
                used.total_executions.to_string(),
                used.successful_executions.to_string(),
                used.failed_executions.to_string(),
                used.timeout_executions.to_string(),
                used.cancelled_executions.to_string(),
                calls::seconds(average),
                ago(used.last_execution.as_ref()),
            ]
        });
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        output.note("no tool was called yet");
        return Ok(Exit::Ok);
    }
    let header = [
        "NAME",
        "CALLS",
        "DONE",
        "FAILED",
        "TIMEOUT",
        "CANCELLED",
        "AVERAGE",
        "LAST",
    ];
    output.line(table(output, header, rows))?;
    Ok(Exit::Ok)
}

/// The arguments: one JSON object, or `name=value` for each.
fn arguments(given: &[String], file: Option<&Path>) -> Result<Value, Failure> {
    if let Some(path) = file {
        return object(path, "arguments");
    }
    if let [one] = given
        && one.trim_start().starts_with('{')
    {
        let wrong = |error: serde_json::Error| Failure::usage(format!("the arguments are not a JSON object: {error}"));
        return serde_json::from_str(one).map_err(wrong);
    }
    let mut arguments = serde_json::Map::new();
    for word in given {
        let Some((name, value)) = word.split_once('=') else {
            return Err(Failure::usage(format!("{:?} is not name=value", one_line(word)))
                .hint("write name=value for each argument, or one JSON object"));
        };
        // The schema of the tool turns "5" into a number where it wants one.
        arguments.insert(name.to_owned(), value.into());
    }
    Ok(arguments.into())
}

/// A JSON object in a file; `-` is standard input.
fn object(path: &Path, what: &str) -> Result<Value, Failure> {
    let failed = |error: std::io::Error| Failure::file("read", path, &error);
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin()
            .lock()
            .take(LARGEST_FILE)
            .read_to_string(&mut text)
            .map_err(failed)?;
    } else {
        let file = fs::File::open(path).map_err(failed)?;
        file.take(LARGEST_FILE).read_to_string(&mut text).map_err(failed)?;
    }
    match serde_json::from_str(&text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(Failure::usage(format!(
            "the {what} in {} are not a JSON object",
            path.display()
        ))),
        Err(error) => Err(Failure::usage(format!(
            "the {what} in {} are not JSON: {error}",
            path.display()
        ))),
    }
}

async fn call(connection: &Connection, args: CallArgs, output: &Output) -> Result<Exit, Failure> {
    let arguments = arguments(&args.arguments, args.file.as_deref())?;
    let (session_id, own) = match &args.session {
        Some(given) => (sessions::find(connection, given).await?, false),
        None => (begin(connection, &args.tool).await?, true),
    };
    let called = follow(connection, &args, arguments, &session_id, output).await;
    if own {
        let request = CloseSessionRequest {
            session_id,
            reason: "the call has ended".into(),
        };
        connection.orchestrator().close_session(request).await?;
    }
    tell(&called?, output)
}

async fn begin(connection: &Connection, tool: &str) -> Result<String, Failure> {
    let metadata = SessionMetadata {
        name: format!("nexus tools call {}", cut(tool, 60)),
        ..SessionMetadata::default()
    };
    let request = CreateSessionRequest {
        metadata: Some(metadata),
        config: None,
    };
    Ok(connection
        .orchestrator()
        .create_session(request)
        .await?
        .into_inner()
        .session_id)
}

/// Starts it, shows what it writes, and waits for its end. Ctrl-C cancels it.
async fn follow(
    connection: &Connection,
    args: &CallArgs,
    arguments: Value,
    session_id: &str,
    output: &Output,
) -> Result<ToolExecution, Failure> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let request = ExecuteToolRequest {
        tool_name: args.tool.clone(),
        session_id: session_id.to_owned(),
        timeout_ns: args
            .timeout
            .map_or(0, |time| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)),
        arguments_json: arguments.to_string(),
        ..ExecuteToolRequest::default()
    };
    let started = match connection.tool().execute_tool(request).await {
        Ok(started) => started.into_inner(),
        Err(status) if status.code() == tonic::Code::NotFound => {
            return Err(Failure::from(status).hint("see those there are: nexus tools list"));
        }
        Err(status) => return Err(status.into()),
    };
    let execution_id = started.execution_id;
    if let Some(approval_id) = started.execution.map(|one| one.approval_id).filter(|id| !id.is_empty()) {
        let id = one_line(&approval_id);
        output.warn(&format!(
            "it waits for approval; see it: nexus approvals show {id}   then: nexus approvals allow {id}, or deny {id}"
        ));
    }
    let (outbox, frames) = mpsc::channel(OUTBOX);
    let frame = |payload| StreamToolRequest {
        execution_id: execution_id.clone(),
        payload: Some(payload),
    };
    let _room = outbox.try_send(frame(stream_tool_request::Payload::Heartbeat(())));
    let mut inbox = connection
        .tool()
        .stream_tool(ReceiverStream::new(frames))
        .await?
        .into_inner();
    loop {
        let answer = tokio::select! {
            answer = inbox.message() => answer?,
            _ = interrupt.recv() => {
                let cancel = CancelExecutionCommand { reason: "cancelled at the terminal".into(), force: false };
                let _room = outbox.try_send(frame(stream_tool_request::Payload::Cancel(cancel)));
                continue;
            }
        };
        match answer.and_then(|answer| answer.payload) {
            Some(Payload::Output(piece)) if args.stream && !output.json => {
                output.piece(&String::from_utf8_lossy(&piece.data))?;
            }
            Some(Payload::Complete(_) | Payload::Error(_)) | None => break,
            Some(_) => {}
        }
    }
    let request = GetExecutionStatusRequest { execution_id };
    let ended = connection.tool().get_execution_status(request).await?.into_inner();
    Ok(ended.execution.unwrap_or_default())
}

fn tell(one: &ToolExecution, output: &Output) -> Result<Exit, Failure> {
    if output.json {
        output.value(&shown::execution(one))?;
    } else if let Some(result) = one.result.as_ref().filter(|result| !result.output_text.is_empty()) {
        output.line(clean(result.output_text.trim_end()))?;
    }
    let failed = |exit, what: String| match output.json {
        true => Ok(exit),
        false => Err(Failure::new(exit, what)),
    };
    match one.status() {
        ToolExecutionStatus::Completed => Ok(Exit::Ok),
        ToolExecutionStatus::Cancelled => Ok(Exit::Interrupted),
        ToolExecutionStatus::Timeout => failed(Exit::TimedOut, "the call took too long".into()),
        _ => {
            let exit = match one.code.as_str() {
                "denied" | "not_allowed" | "approval_expired" => Exit::Refused,
                "unknown_tool" => Exit::NotFound,
                "invalid_arguments" => Exit::Usage,
                _ => Exit::Failed,
            };
            let status = word(one.status().as_str_name(), "TOOL_EXECUTION_STATUS_");
            let code = if one.code.is_empty() { &status } else { &one.code };
            failed(exit, format!("the call failed: {}", one_line(code)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_an_object_or_words() {
        let read = |words: &[&str]| arguments(&words.iter().map(ToString::to_string).collect::<Vec<_>>(), None);
        assert_eq!(read(&[]).unwrap(), json!({}));
        assert_eq!(
            read(&["path=a=b", "limit=5"]).unwrap(),
            json!({ "path": "a=b", "limit": "5" })
        );
        assert_eq!(read(&[r#" {"limit": 5}"#]).unwrap(), json!({ "limit": 5 }));
        assert!(read(&["{broken"]).is_err());
        assert!(read(&["path"]).unwrap_err().hint.unwrap().contains("name=value"));
    }
}
