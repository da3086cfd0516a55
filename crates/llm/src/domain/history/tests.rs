use super::*;
use crate::domain::block::Opaque;

const TO: Recipient<'static> = Recipient {
    provider: "anthropic",
    model: "m",
    longest_id: 40,
};

fn call(id: &str, arguments: &str) -> Block {
    Block::Call(ToolCall {
        id: id.into(),
        name: "t".into(),
        arguments: arguments.into(),
    })
}

fn result(id: &str, text: &str) -> Block {
    Block::Result(ToolResult {
        call_id: id.into(),
        name: String::new(),
        content: vec![Part::Text(text.into())],
        is_error: false,
    })
}

fn opaque(provider: &str, model: &str) -> Block {
    Block::Opaque(Opaque {
        provider: provider.into(),
        model: model.into(),
        data: b"x".to_vec(),
    })
}

fn assistant(blocks: Vec<Block>) -> Message {
    Message::new(Role::Assistant, blocks)
}

fn tool(blocks: Vec<Block>) -> Message {
    Message::new(Role::Tool, blocks)
}

/// Each turn in a word: ids of calls, ids of results with the beginning of their text.
fn shown(turns: &[Turn]) -> Vec<String> {
    let said = |said: &Said| match said {
        Said::Text(text) => text.clone(),
        Said::Call(call) => format!("call {}", call.id),
        Said::Opaque(_) => "opaque".into(),
    };
    let text = |part: &Part| match part {
        Part::Text(text) => text.split(' ').take(2).collect::<Vec<_>>().join(" "),
        Part::Image(_) => "image".into(),
    };
    let answered = |one: &Answered| {
        format!(
            "{}={}",
            one.id,
            one.content.iter().map(text).collect::<Vec<_>>().join("+")
        )
    };
    let turn = |turn: &Turn| match turn {
        Turn::System(text) => format!("system: {text}"),
        Turn::User(parts) => format!("user: {}", parts.iter().map(text).collect::<Vec<_>>().join(", ")),
        Turn::Assistant(all) => format!("assistant: {}", all.iter().map(said).collect::<Vec<_>>().join(", ")),
        Turn::Results(all) => format!("results: {}", all.iter().map(answered).collect::<Vec<_>>().join(", ")),
    };
    turns.iter().map(turn).collect()
}

#[test]
fn a_result_follows_its_call_wherever_it_came() {
    let messages = [
        Message::text(Role::User, "go"),
        assistant(vec![call("a", "{}"), call("b", "{}")]),
        tool(vec![result("b", "second")]),
        Message::text(Role::User, "hurry"),
        tool(vec![result("a", "first")]),
    ];
    let want = [
        "user: go",
        "assistant: call a, call b",
        "results: a=first, b=second",
        "user: hurry",
    ];
    assert_eq!(shown(&turns(&messages, TO)), want);
}

#[test]
fn a_hole_is_filled_and_an_orphan_left_out() {
    let messages = [
        Message::text(Role::User, "go"),
        tool(vec![result("early", "nobody asked")]),
        assistant(vec![call("a", "{}"), call("b", "{}")]),
        tool(vec![
            result("a", "one"),
            result("a", "again"),
            result("c", "nobody asked"),
        ]),
        Message::text(Role::User, "and?"),
    ];
    let turns = turns(&messages, TO);
    let want = [
        "user: go",
        "assistant: call a, call b",
        "results: a=one, b=error interrupted:",
        "user: and?",
    ];
    assert_eq!(shown(&turns), want);
    let Turn::Results(results) = &turns[2] else {
        panic!("results")
    };
    assert_eq!([results[0].is_error, results[1].is_error], [false, true]);
}

#[test]
fn a_repeated_id_is_replaced_and_each_call_keeps_its_own_result() {
    let messages = [
        assistant(vec![call("x", "{}"), call("x", "{}")]),
        tool(vec![result("x", "one"), result("x", "two")]),
        assistant(vec![call("x", "{}")]),
        tool(vec![result("x", "three")]),
    ];
    let want = [
        "assistant: call x, call nexus_call_2",
        "results: x=one, nexus_call_2=two",
        "assistant: call nexus_call_3",
        "results: nexus_call_3=three",
    ];
    assert_eq!(shown(&turns(&messages, TO)), want);
}

#[test]
fn ids_go_back_to_their_own_provider_only() {
    let of = |provider: &str| Message {
        origin: Some(provider.into()),
        ..assistant(vec![call("toolu_1", "{}")])
    };
    let first = |message: Message| shown(&turns(&[message], TO)).remove(0);
    assert_eq!(first(of("anthropic")), "assistant: call toolu_1");
    assert_eq!(first(of("openai")), "assistant: call nexus_call_1");
    assert_eq!(
        first(assistant(vec![call("toolu_1", "{}")])),
        "assistant: call toolu_1",
        "unknown origin"
    );
    assert_eq!(
        first(assistant(vec![opaque("gemini", "g"), call("toolu_1", "{}")])),
        "assistant: call nexus_call_1",
        "what is opaque tells the origin"
    );
    for wrong in ["", "a.b", "ü", &"x".repeat(41)] {
        assert_eq!(
            first(assistant(vec![call(wrong, "{}")])),
            "assistant: call nexus_call_1",
            "{wrong}"
        );
    }
}

#[test]
fn what_is_opaque_goes_to_its_provider_and_model_only() {
    let messages = [
        Message::text(Role::User, "go"),
        assistant(vec![opaque("anthropic", "m"), Block::Text("a".into())]),
        assistant(vec![opaque("anthropic", "other"), Block::Text("b".into())]),
        assistant(vec![opaque("openai", "m")]),
        Message::text(Role::User, " \n"),
    ];
    assert_eq!(
        shown(&turns(&messages, TO)),
        ["user: go", "assistant: opaque, a", "assistant: b"]
    );
}

#[test]
fn arguments_are_an_object_and_what_is_none_goes_within_one() {
    let sent = |text: &str| {
        let turns = turns(&[assistant(vec![call("a", text)])], TO);
        let Turn::Assistant(said) = &turns[0] else {
            panic!("assistant")
        };
        let Said::Call(call) = &said[0] else { panic!("a call") };
        assert_eq!(serde_json::from_str::<Value>(&call.text).expect("JSON"), call.arguments);
        call.arguments.clone()
    };
    assert_eq!(sent(""), json!({}));
    assert_eq!(sent("{\"a\": 1}"), json!({"a": 1}));
    for wrong in ["{\"a\": ", "[1]", "null", "7", &"[".repeat(100_000)] {
        assert_eq!(sent(wrong), json!({"malformed_arguments": wrong}));
    }
}

#[test]
fn a_name_that_nobody_takes_is_made_plain() {
    assert_eq!(plain_name("functions.read file"), "functions_read_file");
    assert_eq!(plain_name(""), "unnamed");
    assert_eq!(plain_name(&"ü".repeat(100)), "_".repeat(63));
}

#[test]
fn the_beginning_stays_the_same_while_a_conversation_grows() {
    let mut messages = vec![
        Message::text(Role::User, "go"),
        assistant(vec![call("x", "{}"), call("", "{}")]),
        tool(vec![result("x", "one"), result("", "two")]),
    ];
    let before = turns(&messages, TO);
    messages.push(assistant(vec![call("x", "{}")]));
    messages.push(tool(vec![result("x", "three")]));
    assert_eq!(turns(&messages, TO)[..before.len()], before);
}
