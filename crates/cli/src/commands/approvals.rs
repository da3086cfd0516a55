//! `nexus approvals`: what waits for consent, and the consents that hold.

use std::io::{self, IsTerminal, Write};

use clap::{Args, Subcommand, ValueEnum};
use nexus_client::Connection;
use nexus_proto::orchestrator::v1::{
    Approval, ApprovalState, DecideApprovalRequest, GetApprovalRequest, Grant, GrantKind, GrantScope,
    ListApprovalsRequest, ListGrantsRequest, RevokeGrantRequest, WatchApprovalsRequest,
};
use serde_json::{Value, json};

use super::sessions;
use crate::{
    chat::consent::decide,
    context::{Context, approvals},
    failure::{Exit, Failure},
    output::{
        Output,
        approval::{Choice, choice, choices, decided, is_whole, kind, lines, offer, scope},
        calls, runs as shown,
        table::{cut, one_line, table},
        time::ago,
        view::word,
    },
};

const EXAMPLES: &str = "\
A call whose effect stays in its session's sandbox and workspace runs without asking. Anything else waits here until its
session's owner or an administrator decides; after an hour it is refused. What runs is what was shown, to the byte.

Examples:
  nexus approvals list                        what waits
  nexus approvals show 0f3c                   the whole plan, with what may be answered
  nexus approvals allow 0f3c                  this once; the plan is shown, and asked for once more at a terminal
  nexus approvals allow 0f3c --always prefix --for session
  nexus approvals deny 0f3c \"not on a Friday\"
  nexus approvals watch                       decide at this terminal as they come
  nexus approvals grants                      consents that hold; end one with: nexus approvals revoke ID";

#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum ApprovalsCommand {
    /// List what waits for approval
    List(ListArgs),
    /// Show one approval whole
    Show(ShowArgs),
    /// Allow a call
    Allow(AllowArgs),
    /// Deny a call; the model is told why and goes on
    Deny(DenyArgs),
    /// Show approvals as they come, and decide them here
    Watch(WatchArgs),
    /// List standing consents (grants)
    Grants(GrantsArgs),
    /// End a standing consent
    Revoke(RevokeArgs),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum State {
    Pending,
    Approved,
    Denied,
    Expired,
    Withdrawn,
    Superseded,
    All,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Show only those of this session
    #[arg(long, value_name = "ID")]
    pub session: Option<String>,
    /// Show only those in this state
    #[arg(long, default_value = "pending")]
    pub state: State,
    /// Show at most N
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(i32).range(1..=1_000))]
    pub limit: i32,
    /// Continue where a list ended
    #[arg(long, value_name = "TOKEN")]
    pub page: Option<String>,
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The approval's id, or an unambiguous prefix of it while it waits
    pub id: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Always {
    /// The same arguments in the same directory
    Exact,
    /// Commands that begin with the same words
    Prefix,
    /// The same file
    Path,
    /// The same host
    Host,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum For {
    Run,
    Session,
    /// 30 days, in every session
    Everywhere,
}

#[derive(Debug, Args)]
pub struct AllowArgs {
    /// The approval's id, or an unambiguous prefix of it
    pub id: String,
    /// Also allow later calls that are like it in this way, if the approval offers that
    #[arg(long, value_name = "KIND")]
    pub always: Option<Always>,
    /// For how long --always holds
    #[arg(long = "for", value_name = "SCOPE", default_value = "session", requires = "always")]
    pub scope: For,
    /// The digest of the plan that was seen; another plan is then not allowed
    #[arg(long, value_name = "HEX")]
    pub digest: Option<String>,
    /// Do not ask for confirmation
    #[arg(long)]
    pub yes: bool,
}

#[derive(Debug, Args)]
pub struct DenyArgs {
    /// The approval's id, or an unambiguous prefix of it
    pub id: String,
    /// Why; the model is told
    pub reason: Vec<String>,
}

#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Only those of this session
    #[arg(long, value_name = "ID")]
    pub session: Option<String>,
}

#[derive(Debug, Args)]
pub struct GrantsArgs {
    /// Show only those of this session
    #[arg(long, value_name = "ID")]
    pub session: Option<String>,
}

#[derive(Debug, Args)]
pub struct RevokeArgs {
    #[arg(required = true)]
    pub ids: Vec<String>,
}

/// Approvals that are looked at for one by the beginning of its id.
const LOOKED_AT: i32 = 1_000;
/// Ids are this long; what is shorter is the beginning of one.
const ID_LENGTH: usize = 32;

pub async fn run(context: &Context, command: ApprovalsCommand, output: &Output) -> Result<Exit, Failure> {
    let connection = context.connection();
    match command {
        ApprovalsCommand::List(args) => list(&connection, args, output).await,
        ApprovalsCommand::Show(args) => {
            let one = find(&connection, &args.id).await?;
            show(&one, output)?;
            Ok(Exit::Ok)
        }
        ApprovalsCommand::Allow(args) => allow(&connection, args, output).await,
        ApprovalsCommand::Deny(args) => {
            let one = find(&connection, &args.id).await?;
            let request = DecideApprovalRequest {
                reason: args.reason.join(" "),
                ..request(&one, false)
            };
            tell(&decide(&connection, request).await?, output)
        }
        ApprovalsCommand::Watch(args) => watch(&connection, args, output).await,
        ApprovalsCommand::Grants(args) => grants(&connection, args, output).await,
        ApprovalsCommand::Revoke(args) => revoke(&connection, args, output).await,
    }
}

async fn list(connection: &Connection, args: ListArgs, output: &Output) -> Result<Exit, Failure> {
    let session_id = session(connection, args.session.as_ref()).await?;
    let state = match args.state {
        State::Pending => ApprovalState::Pending,
        State::Approved => ApprovalState::Approved,
        State::Denied => ApprovalState::Denied,
        State::Expired => ApprovalState::Expired,
        State::Withdrawn => ApprovalState::Withdrawn,
        State::Superseded => ApprovalState::Superseded,
        State::All => ApprovalState::Unspecified,
    };
    let request = ListApprovalsRequest {
        session_id,
        state: state.into(),
        page_size: args.limit,
        page_token: args.page.unwrap_or_default(),
        ..ListApprovalsRequest::default()
    };
    let answer = approvals(connection).list(request).await?.into_inner();
    if output.json {
        let all: Vec<_> = answer.approvals.iter().map(shown::approval).collect();
        output.value(&json!({ "approvals": all, "next_page": answer.next_page_token }))?;
        return Ok(Exit::Ok);
    }
    if answer.approvals.is_empty() {
        output.note(match args.state {
            State::Pending => "nothing waits for approval",
            _ => "there are none",
        });
    } else {
        let rows = answer.approvals.iter().map(|one| {
            [
                one.id.clone(),
                word(one.state().as_str_name(), "APPROVAL_STATE_"),
                cut(&title(one), 60),
                ago(one.created_at.as_ref()),
                one.session_id.clone(),
            ]
        });
        output.line(table(output, ["ID", "STATE", "CALL", "ASKED", "SESSION"], rows))?;
        if args.state == State::Pending {
            output.note("\nsee one whole: nexus approvals show ID   then: nexus approvals allow ID, or deny ID");
        }
    }
    if !answer.next_page_token.is_empty() {
        output.note(&format!("more with: --page {}", one_line(&answer.next_page_token)));
    }
    Ok(Exit::Ok)
}

fn title(one: &Approval) -> String {
    match serde_json::from_str::<Value>(&one.plan_json) {
        Ok(plan) => calls::title(&one.tool, &plan["arguments"].to_string()),
        Err(_) => one_line(&one.tool),
    }
}

async fn session(connection: &Connection, given: Option<&String>) -> Result<String, Failure> {
    match given {
        Some(given) => sessions::find(connection, given).await,
        None => Ok(String::new()),
    }
}

/// By its id, or the beginning of the id of one that waits.
async fn find(connection: &Connection, given: &str) -> Result<Approval, Failure> {
    if given.len() >= ID_LENGTH {
        let request = GetApprovalRequest {
            approval_id: given.to_owned(),
        };
        let answer = approvals(connection).get(request).await?.into_inner();
        return Ok(answer.approval.unwrap_or_default());
    }
    let request = ListApprovalsRequest {
        state: ApprovalState::Pending.into(),
        page_size: LOOKED_AT,
        ..ListApprovalsRequest::default()
    };
    let answer = approvals(connection).list(request).await?.into_inner();
    let mut found = answer.approvals.into_iter().filter(|one| one.id.starts_with(given));
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (Some(_), Some(_)) => {
            Err(Failure::usage(format!("several approvals begin with {given}")).hint("give more of the id"))
        }
        (None, _) => Err(
            Failure::new(Exit::NotFound, format!("no approval that waits begins with {given}"))
                .hint("see them with: nexus approvals list; one that is decided needs its whole id"),
        ),
    }
}

fn show(one: &Approval, output: &Output) -> Result<(), Failure> {
    if output.json {
        output.value(&shown::approval(one))?;
        return Ok(());
    }
    for line in lines(one) {
        output.line(line)?;
    }
    if one.state() == ApprovalState::Pending {
        for offer in &one.offers {
            let said = format!("  --always {:<8} {}", kind(offer), one_line(&offer.description));
            output.line(said)?;
        }
    }
    Ok(())
}

fn request(one: &Approval, allow: bool) -> DecideApprovalRequest {
    DecideApprovalRequest {
        approval_id: one.id.clone(),
        allow,
        digest: one.digest.clone(),
        surface: "cli".into(),
        ..DecideApprovalRequest::default()
    }
}

async fn allow(connection: &Connection, args: AllowArgs, output: &Output) -> Result<Exit, Failure> {
    let one = find(connection, &args.id).await?;
    if !is_whole(&one) {
        return Err(Failure::new(
            Exit::Refused,
            "the approval's digest is not that of its plan: it is not allowed",
        )
        .hint("deny it: nexus approvals deny ID"));
    }
    if args.digest.as_ref().is_some_and(|seen| *seen != one.digest) {
        return Err(Failure::new(
            Exit::Refused,
            format!("the plan now has the digest {}: it is another one", one.digest),
        )
        .hint("look at it: nexus approvals show ID"));
    }
    let mut request = request(&one, true);
    if let Some(always) = args.always {
        request.grant = Some(granted(&one, always, args.scope)?);
    }
    let person = io::stdin().is_terminal() && io::stderr().is_terminal();
    if !args.yes && args.digest.is_none() {
        if !person {
            return Err(Failure::usage("nobody is here to look at the plan")
                .hint("say which plan was looked at with --digest, or that none needs to be with --yes"));
        }
        for line in lines(&one) {
            output.note(&line);
        }
        if !agreed("Allow this?")? {
            return Err(Failure::new(Exit::Failed, "nothing decided"));
        }
    }
    tell(&decide(connection, request).await?, output)
}

fn granted(one: &Approval, always: Always, scope: For) -> Result<Grant, Failure> {
    let kind = match always {
        Always::Exact => GrantKind::Exact,
        Always::Prefix => GrantKind::Prefix,
        Always::Path => GrantKind::Path,
        Always::Host => GrantKind::Host,
    };
    let scope = match scope {
        For::Run => GrantScope::Run,
        For::Session => GrantScope::Session,
        For::Everywhere => GrantScope::Owner,
    };
    let found = offer(one, kind).cloned();
    let mut grant = found.ok_or_else(|| {
        let failure = Failure::usage("this approval does not offer that");
        failure.hint("see what it offers: nexus approvals show ID")
    })?;
    grant.set_scope(scope);
    Ok(grant)
}

fn agreed(question: &str) -> Result<bool, Failure> {
    let mut error = io::stderr().lock();
    write!(error, "{question} [y/N] ")?;
    error.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn tell(one: &Approval, output: &Output) -> Result<Exit, Failure> {
    if output.json {
        output.value(&shown::approval(one))?;
    } else {
        output.line(format!("{}: {}", one_line(&one.id), decided(one)))?;
        if !one.grant_id.is_empty() {
            output.note(&format!(
                "a standing consent was given; end it with: nexus approvals revoke {}",
                one.grant_id
            ));
        }
    }
    Ok(Exit::Ok)
}

async fn watch(connection: &Connection, args: WatchArgs, output: &Output) -> Result<Exit, Failure> {
    let session_id = session(connection, args.session.as_ref()).await?;
    let mut news = approvals(connection)
        .watch(WatchApprovalsRequest { session_id })
        .await?
        .into_inner();
    let person = !output.json && io::stdin().is_terminal() && io::stderr().is_terminal();
    while let Some(one) = news.message().await? {
        if output.json {
            output.record(&shown::approval(&one))?;
            continue;
        }
        if one.state() != ApprovalState::Pending {
            output.line(format!("{}: {}", one_line(&one.id), decided(&one)))?;
            continue;
        }
        show(&one, output)?;
        if person {
            ask(connection, &one, output).await?;
        }
    }
    Ok(Exit::Ok)
}

/// Asks until it is decided, or left for later by an empty line.
async fn ask(connection: &Connection, one: &Approval, output: &Output) -> Result<(), Failure> {
    for line in choices(one) {
        output.note(&line);
    }
    output.note("  Enter alone leaves it for later");
    loop {
        let read = tokio::task::spawn_blocking(|| {
            let mut line = String::new();
            io::stdin().read_line(&mut line).map(|_| line)
        });
        let line = read
            .await
            .map_err(|error| Failure::new(Exit::Failed, error.to_string()))??;
        if line.trim().is_empty() {
            return Ok(());
        }
        let request = match choice(&line, one) {
            Choice::Once => request(one, true),
            Choice::No(reason) => DecideApprovalRequest {
                reason,
                ..request(one, false)
            },
            Choice::Always(grant) => DecideApprovalRequest {
                grant: Some(*grant),
                ..request(one, true)
            },
            Choice::Unclear => {
                output.note("that is no answer");
                continue;
            }
        };
        // Somebody else may have been faster: that is told, and the next one is looked at.
        if let Err(failure) = decide(connection, request).await {
            output.fail(&failure);
        }
        return Ok(());
    }
}

async fn grants(connection: &Connection, args: GrantsArgs, output: &Output) -> Result<Exit, Failure> {
    let session_id = session(connection, args.session.as_ref()).await?;
    let answer = approvals(connection)
        .list_grants(ListGrantsRequest { session_id })
        .await?;
    let grants = answer.into_inner().grants;
    if output.json {
        output.value(&grants.iter().map(shown::grant).collect::<Vec<_>>())?;
        return Ok(Exit::Ok);
    }
    if grants.is_empty() {
        output.note("no standing consents");
        return Ok(Exit::Ok);
    }
    let rows = grants.iter().map(|grant| {
        [
            grant.id.clone(),
            scope(grant).to_owned(),
            cut(&grant.description, 70),
            ago(grant.created_at.as_ref()),
            grant.given_by.clone(),
        ]
    });
    output.line(table(output, ["ID", "FOR", "COVERS", "GIVEN", "BY"], rows))?;
    Ok(Exit::Ok)
}

async fn revoke(connection: &Connection, args: RevokeArgs, output: &Output) -> Result<Exit, Failure> {
    for id in args.ids {
        let request = RevokeGrantRequest { grant_id: id.clone() };
        let revoked = approvals(connection).revoke_grant(request).await?.into_inner().revoked;
        if !revoked {
            return Err(Failure::new(Exit::NotFound, format!("no standing consent {id}"))
                .hint("see them with: nexus approvals grants"));
        }
        if output.json {
            output.record(&json!({ "revoked": id }))?;
        } else {
            output.line(format!("revoked {}", one_line(&id)))?;
        }
    }
    Ok(Exit::Ok)
}
