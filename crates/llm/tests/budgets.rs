//! Budgets of runs, sessions, agents and days: reserved before anything is sent, settled by what was used, told in time.

mod support;

use std::collections::BTreeMap;

use futures_util::future::join_all;
use nexus_model_server::{Script, Server, script::Act, script::Turn};
use nexus_proto::llm::v1 as wire;
use support::{World, ask, world};
use tonic::Code;

const KEYS: &[(&str, &str)] = &[("openai", "sk-canary-o"), ("rack", "sk-canary-r")];

async fn served(scripts: &[(&str, Script)], more: &[(&str, &str)]) -> (Server, World) {
    let scripts: BTreeMap<String, Script> = scripts
        .iter()
        .map(|(model, script)| ((*model).to_owned(), script.clone()))
        .collect();
    let server = Server::start(scripts).await.expect("a free port");
    let (url, rack) = (format!("{}/v1", server.url()), format!("rack={}/v1", server.url()));
    let mut settings = vec![
        ("openai_base_url", url.as_str()),
        ("endpoints", rack.as_str()),
        ("max_retries", "0"),
    ];
    settings.extend(more);
    let world = world(KEYS, &settings).await;
    (server, world)
}

fn scope(kind: &str, id: &str, max_tokens: i64, max_cost_micros: i64) -> wire::BudgetScope {
    wire::BudgetScope {
        kind: kind.into(),
        id: id.into(),
        max_tokens,
        max_cost_micros,
    }
}

fn within(mut request: wire::LlmRequest, scopes: &[wire::BudgetScope], longest: i32) -> wire::LlmRequest {
    request.scopes = scopes.to_vec();
    request.parameters = Some(wire::LlmParameters {
        max_tokens: longest,
        ..Default::default()
    });
    request
}

/// Sixteen children ask at once under one budget: it is never overdrawn, and whoever is refused hears the scope and the
/// figure.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_at_once_never_overdraw_a_budget() {
    let slow = Script::of([Turn::default().text("Well, ").act(Act::Pause(200)).text("here.")]).endless();
    let (server, world) = served(&[("m", slow)], &[]).await;
    let limit = 3_000;
    let scopes = [scope("session", "s-1", 1_000_000, 0), scope("run", "r-1", limit, 0)];
    let all = join_all((0..16).map(|number| {
        let request = within(ask(&format!("r{number}"), "rack/m", "hi"), &scopes, 500);
        world.stream(request)
    }))
    .await;
    let (mut used, mut answered, mut refused) = (0, 0, 0);
    for answer in all {
        if answer.complete.is_some() {
            answered += 1;
            used += i64::from(answer.usage.expect("counted").total_tokens);
            continue;
        }
        refused += 1;
        let error = answer.failed();
        assert_eq!((error.code.as_str(), error.retryable), ("budget", false), "{error:?}");
        assert!(
            error.message.contains("run r-1") && error.message.contains("of 3000 tokens left"),
            "{error:?}"
        );
    }
    assert!(answered >= 2 && refused >= 8, "{answered} answered, {refused} refused");
    assert!(used <= limit, "{used} of {limit}");
    assert_eq!(server.recorded().len(), answered, "what was refused was not sent");
    // What was reserved and not used is free again.
    let again = world
        .stream(within(ask("again", "rack/m", "hi"), &scopes, 500))
        .await
        .whole();
    let of_run = again.budgets.iter().find(|one| one.kind == "run").expect("told");
    assert!(of_run.used_tokens > used && of_run.used_tokens <= limit, "{of_run:?}");
    assert_eq!((of_run.max_tokens, of_run.nearly_used_up), (limit, false));
    let of_session = again.budgets.iter().find(|one| one.kind == "session").expect("told");
    assert_eq!(of_session.used_tokens, of_run.used_tokens);
}

/// From four fifths on an answer says that its budget is nearly used up.
#[tokio::test]
async fn a_budget_that_is_nearly_used_up_is_told() {
    let (_server, world) = served(&[("m", Script::says("Hello."))], &[]).await;
    let ask_within = |number: i32, limit: i64| {
        within(
            ask(&format!("r{number}"), "rack/m", "hi"),
            &[scope("agent", "a-1", limit, 0)],
            10,
        )
    };
    let first = world.complete(ask_within(0, 100_000)).await.expect("answered");
    let used = first.budgets[0].used_tokens;
    assert!(used > 0 && !first.budgets[0].nearly_used_up);
    // The limit is the caller's each time: now it is one that this answer nearly uses up.
    let needed = 1_000;
    let told = world.complete(ask_within(1, used + needed)).await.expect("room");
    let limit = told.budgets[0].used_tokens * 5 / 4;
    let refused = world
        .complete(ask_within(2, limit))
        .await
        .expect_err("no room for an estimate");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().starts_with("budget: agent a-1"), "{refused:?}");
}

/// Money needs a price: without one nothing is sent, with one the answer says what it cost.
#[tokio::test]
async fn money_needs_a_price() {
    let (server, world) = served(&[("m", Script::says("Hello."))], &[("prices", "openai/m=2 10")]).await;
    let scopes = [scope("day", "2026-11-30", 0, 1_000_000)];
    let refused = world
        .complete(within(ask("r", "rack/m", "hi"), &scopes, 100))
        .await
        .expect_err("no price");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("no price of rack/m is known"), "{refused:?}");
    assert_eq!(server.recorded().len(), 0);
    let answer = world
        .complete(within(ask("r", "openai/m", "hi"), &scopes, 100))
        .await
        .expect("priced");
    let usage = answer.usage.expect("counted");
    let cost = i64::from(usage.input_tokens) * 2 + i64::from(usage.output_tokens) * 10;
    assert_eq!(answer.cost_micros, Some(cost));
    assert_eq!(answer.budgets[0].used_cost_micros, cost);
    let free = world
        .complete(ask("r", "offline/nexus-offline-1", "hi"))
        .await
        .expect("answered");
    assert_eq!(free.cost_micros, Some(0));
    let small = [scope("day", "2026-11-30", 0, cost + 10)];
    let refused = world
        .complete(within(ask("r", "openai/m", "hi"), &small, 100))
        .await
        .expect_err("used up");
    assert!(
        refused.message().contains("day 2026-11-30 has $0.00001 of"),
        "{refused:?}"
    );
}

/// Usage is told by day, agent, model and session, and outlives a restart; so do budgets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_and_budgets_outlive_a_restart() {
    let (_server, world) = served(&[("m", Script::says("Hello."))], &[]).await;
    let request = |id: &str, agent: &str, session: &str| {
        let mut request = within(ask(id, "rack/m", "hi"), &[scope("session", session, 50_000, 0)], 100);
        request.session_id = session.into();
        request.metadata = Some(wire::LlmMetadata {
            agent_id: agent.into(),
            ..Default::default()
        });
        request
    };
    for (id, agent, session) in [("1", "a", "s"), ("2", "a", "t"), ("3", "b", "s")] {
        world.complete(request(id, agent, session)).await.expect("answered");
    }
    let usage = async |world: &World, group_by: &[&str], session: &str| {
        let asked = wire::GetUsageRequest {
            group_by: group_by.iter().map(ToString::to_string).collect(),
            session_id: session.into(),
            ..Default::default()
        };
        world.llm().get_usage(asked).await.expect("told").into_inner().rows
    };
    let rows = usage(&world, &["agent", "model"], "").await;
    let told: Vec<_> = rows
        .iter()
        .map(|row| {
            (
                row.agent_id.as_str(),
                row.model.as_str(),
                row.requests,
                row.unpriced_requests,
            )
        })
        .collect();
    assert_eq!(told, [("a", "rack/m", 2, 2), ("b", "rack/m", 1, 1)]);
    assert!(
        rows.iter()
            .all(|row| row.input_tokens > 0 && row.output_tokens > 0 && row.day.is_empty())
    );
    let whole = usage(&world, &["day"], "s").await;
    assert_eq!((whole.len(), whole[0].requests, whole[0].day.len()), (1, 2, 10));
    let wrong = wire::GetUsageRequest {
        from_day: "yesterday".into(),
        ..Default::default()
    };
    assert_eq!(
        world.llm().get_usage(wrong).await.expect_err("no day").code(),
        Code::InvalidArgument
    );

    let World {
        dir,
        fake,
        daemon,
        connection,
    } = world;
    drop(connection);
    daemon.stop().await;
    let rack = format!("rack={}/v1", _server.url());
    let daemon = support::start(dir.path(), fake.port, &[("endpoints", rack.as_str())]).await;
    let connection = nexus_client::Connection::lazy(
        &nexus_client::Address::Unix(daemon.socket().to_owned()),
        &nexus_client::Options::default(),
    );
    let world = World {
        dir,
        fake,
        daemon,
        connection,
    };
    assert_eq!(usage(&world, &["day"], "s").await, whole);
    let answer = world.complete(request("4", "a", "s")).await.expect("answered");
    assert!(
        answer.budgets[0].used_tokens > whole[0].input_tokens + whole[0].output_tokens,
        "{:?}",
        answer.budgets
    );
}

/// A request of another kind of budget, or without an id, is refused before anything is sent.
#[tokio::test]
async fn a_budget_that_is_none_is_refused() {
    let (server, world) = served(&[("m", Script::says("Hello."))], &[]).await;
    for (wrong, why) in [
        (scope("week", "x", 1, 0), "scopes[0]: kind is none of"),
        (scope("run", "", 1, 0), "scopes[0]: id has to have"),
        (scope("run", "x", -1, 0), "scopes[0]: a limit is negative"),
    ] {
        let refused = world
            .complete(within(ask("r", "rack/m", "hi"), &[wrong], 10))
            .await
            .expect_err("refused");
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(why), "{refused:?}");
    }
    assert_eq!(server.recorded().len(), 0);
}
