//! 100,000 random lives of a conversation (answers, crashes in the middle of calls, cancelled answers, compaction,
//! changes of provider and model, mistakes of models), each written as a request to every provider: a checker that is as
//! strict as the provider accepts all of them.

use std::{sync::Arc, time::Duration};

use nexus_llm::{
    domain::{
        block::{Block, Image, Opaque, Part, ToolCall, ToolResult},
        failure::{Failure, Kind},
        request::{Effort, Message, Parameters, Request, Role, Thinking, Tool, ToolChoice},
    },
    provider::{Call, Limits, anthropic, gemini, openai, responses},
};
use nexus_model_server::{Family, check::check, seal};
use serde_json::{Value, json};

const HISTORIES: u64 = 100_000;
const THREADS: u64 = 2;
const FAMILIES: [Family; 4] = [Family::Anthropic, Family::Chat, Family::Responses, Family::Gemini];
const NAMES: [&str; 3] = ["look", "write_file", "exec"];

/// The same numbers for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11
    }

    fn below(&mut self, most: u64) -> u64 {
        self.next() % most
    }

    fn one_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize].clone()
    }
}

fn provider(family: Family) -> &'static str {
    match family {
        Family::Anthropic => "anthropic",
        Family::Chat | Family::Responses => "openai",
        Family::Gemini => "gemini",
    }
}

fn models(family: Family) -> &'static [&'static str] {
    match family {
        Family::Anthropic => &["claude-sonnet-4-5-20250929", "claude-x", "claude-opus-5-5"],
        Family::Chat | Family::Responses => &["gpt-5", "o-next"],
        Family::Gemini => &["gemini-3-pro", "gemini-2.5-pro"],
    }
}

/// What a model of this family has sealed.
fn sealed(random: &mut Random, family: Family, model: &str) -> Block {
    let thought = format!("hm {}", random.below(100));
    let data = match family {
        Family::Anthropic if random.one_in(4) => {
            json!({"type": "redacted_thinking", "data": seal::of(model, &thought)})
        }
        Family::Anthropic => {
            json!({"type": "thinking", "thinking": thought, "signature": seal::of(model, &thought)})
        }
        Family::Chat => json!({"reasoning_content": format!("{} ", seal::of(model, &thought))}),
        Family::Responses => {
            json!({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": seal::of(model, &thought)})
        }
        Family::Gemini => json!({"thoughtSignature": seal::of(model, &thought)}),
    };
    Block::Opaque(Opaque {
        provider: provider(family).into(),
        model: model.into(),
        data: data.to_string().into_bytes(),
    })
}

fn text(random: &mut Random) -> String {
    random
        .of(&[
            "Let me see.",
            "done\n",
            " ",
            "",
            "a\u{0}b",
            "Grüße 世界",
            "trailing   ",
            "\n\n",
            "ok",
        ])
        .to_owned()
}

fn image() -> Image {
    Image {
        media_type: "image/png".into(),
        data: vec![137, 80, 78, 71],
    }
}

fn call(random: &mut Random, number: u64) -> ToolCall {
    let id = match random.below(12) {
        0 => String::new(),
        1 => "same".into(),
        2 => "x".repeat(70),
        3 => "with.dots and blanks".into(),
        4 => format!("nexus_call_{}", random.below(6)),
        _ => format!("call_{number}"),
    };
    let name = match random.below(12) {
        0 => "functions.unknown tool".into(),
        1 => "7zip".into(),
        2 => String::new(),
        3 => "ü".repeat(80),
        _ => random.of(&NAMES).to_owned(),
    };
    let arguments = random.of(&[
        "",
        "{}",
        "{\"path\":\"a\"}",
        "{\"path\": \"a",
        "[1,2]",
        "null",
        "\"text\"",
        "{\"a\":{\"b\":[1]}}",
    ]);
    ToolCall {
        id,
        name,
        arguments: arguments.to_owned(),
    }
}

fn result(random: &mut Random, call: &ToolCall) -> Block {
    let mut content = Vec::new();
    for _ in 0..random.below(3) {
        content.push(if random.one_in(6) {
            Part::Image(image())
        } else {
            Part::Text(text(random))
        });
    }
    Block::Result(ToolResult {
        call_id: call.id.clone(),
        name: call.name.clone(),
        content,
        is_error: random.one_in(5),
    })
}

/// One life.
struct Life {
    messages: Vec<Message>,
    calls: u64,
}

impl Life {
    fn lived(random: &mut Random) -> Self {
        let mut life = Self {
            messages: Vec::new(),
            calls: 0,
        };
        if random.one_in(2) {
            life.messages.push(Message::text(Role::System, "Be kind."));
        }
        let mut family = random.of(&FAMILIES);
        let mut model = random.of(models(family));
        for _ in 0..=random.below(3) {
            life.asked(random);
            for _ in 0..=random.below(3) {
                if random.one_in(6) {
                    family = random.of(&FAMILIES);
                    model = random.of(models(family));
                }
                life.step(random, family, model);
            }
            if random.one_in(6) {
                life.compacted(random);
            }
        }
        if random.one_in(3) {
            life.asked(random);
        }
        life
    }

    fn asked(&mut self, random: &mut Random) {
        let mut blocks = vec![Block::Text(text(random))];
        if random.one_in(8) {
            blocks.push(Block::Image(image()));
        }
        self.messages.push(Message::new(Role::User, blocks));
    }

    fn step(&mut self, random: &mut Random, family: Family, model: &str) {
        let mut blocks = Vec::new();
        let mut calls = Vec::new();
        let thinks = random.one_in(2);
        if thinks {
            blocks.push(sealed(random, family, model));
        }
        for _ in 0..random.below(3) {
            blocks.push(Block::Text(text(random)));
        }
        for _ in 0..random.below(4) {
            self.calls += 1;
            let call = call(random, self.calls);
            calls.push(call.clone());
            blocks.push(Block::Call(call));
            if thinks && random.one_in(5) {
                blocks.push(sealed(random, family, model));
            }
        }
        // Cancelled: what came stays.
        if random.one_in(6) {
            blocks.truncate(random.below(blocks.len() as u64 + 1) as usize);
        }
        self.messages.push(Message {
            role: Role::Assistant,
            blocks,
            origin: random.one_in(2).then(|| provider(family).to_owned()),
        });
        if random.one_in(8) {
            self.asked(random);
        }
        self.results(random, calls);
    }

    /// Some crashed, some came twice or in another order, some belong to nothing.
    fn results(&mut self, random: &mut Random, mut calls: Vec<ToolCall>) {
        calls.retain(|_| !random.one_in(6));
        if random.one_in(4) {
            calls.reverse();
        }
        let mut blocks: Vec<Block> = calls.iter().map(|call| result(random, call)).collect();
        if let Some(call) = calls.first().filter(|_| random.one_in(8)) {
            blocks.push(result(random, call));
        }
        if random.one_in(12) {
            let orphan = ToolCall {
                id: "orphan".into(),
                name: "look".into(),
                arguments: String::new(),
            };
            blocks.insert(0, result(random, &orphan));
        }
        blocks.retain(|block| !matches!(block, Block::Result(result) if result.call_id.is_empty()));
        if blocks.is_empty() {
            return;
        }
        if random.one_in(6) {
            blocks.push(Block::Text("Your budget is nearly used up.".into()));
        }
        if random.one_in(2) {
            self.messages.push(Message::new(Role::Tool, blocks));
        } else {
            for block in blocks {
                let role = if matches!(block, Block::Result(_)) {
                    Role::Tool
                } else {
                    Role::User
                };
                self.messages.push(Message::new(role, vec![block]));
            }
        }
    }

    /// Everything before some place is a summary, cut as badly as can be.
    fn compacted(&mut self, random: &mut Random) {
        let from = random.below(self.messages.len() as u64) as usize;
        self.messages.drain(..from);
        if random.one_in(2) {
            self.messages
                .insert(0, Message::text(Role::User, "Summary: we looked around."));
        }
    }
}

fn request(random: &mut Random, messages: Vec<Message>) -> Request {
    let mut tools = Vec::new();
    for name in NAMES {
        if !random.one_in(3) {
            let description = if random.one_in(3) { "" } else { "Does it." };
            tools.push(Tool {
                name: name.into(),
                description: description.into(),
                schema: json!({"type": "object", "properties": {"path": {"type": "string"}}}),
            });
        }
    }
    let tool_choice = match (random.below(6), tools.first()) {
        (0, _) => ToolChoice::None,
        (1, Some(_)) => ToolChoice::Required,
        (2, Some(tool)) => ToolChoice::Named(tool.name.clone()),
        _ => ToolChoice::Auto,
    };
    Request {
        messages,
        tools,
        tool_choice,
        parallel_tool_calls: random.of(&[None, None, Some(true), Some(false)]),
        thinking: random.of(&[None, Some(Thinking::Tokens(500)), Some(Thinking::Effort(Effort::High))]),
        parameters: Parameters {
            max_tokens: random.of(&[None, Some(100), Some(2_000), Some(50_000)]),
            ..Parameters::default()
        },
        session: random.of(&["", "session-1"]).into(),
        ..Request::new("r")
    }
}

fn body(family: Family, call: &Call) -> Result<Value, Failure> {
    let provider = provider(family);
    match family {
        Family::Anthropic => anthropic::body(provider, call),
        Family::Chat => openai::body(provider, call),
        Family::Responses => responses::body(provider, call),
        Family::Gemini => gemini::body(provider, call),
    }
}

/// Whether there is anything that a model could answer.
fn says_something(messages: &[Message]) -> bool {
    messages
        .iter()
        .filter(|message| message.role != Role::System)
        .any(|message| {
            message.blocks.iter().any(|block| match block {
                Block::Text(text) => !text.trim().is_empty(),
                Block::Image(_) | Block::Call(_) => true,
                // A signature of Gemini's goes back alone.
                Block::Opaque(_) => true,
                Block::Result(_) => false,
            })
        })
}

fn lives(from: u64, to: u64) -> u64 {
    let mut sent = 0;
    for seed in from..to {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let life = Life::lived(&mut random);
        let request = Arc::new(request(&mut random, life.messages));
        for family in FAMILIES {
            let model = random.of(models(family));
            let call = Call {
                request: request.clone(),
                model: model.into(),
                key: None,
                limits: Limits {
                    first_byte: Duration::ZERO,
                    idle: Duration::ZERO,
                    max_output_tokens: 4_096,
                },
            };
            match body(family, &call) {
                Ok(body) => {
                    if let Err(refused) = check(family, model, &body) {
                        panic!(
                            "seed {seed}, {family:?} {model}: {}\n{body:#}\n{:#?}",
                            refused.message, request.messages
                        );
                    }
                    sent += 1;
                }
                Err(failure) => {
                    assert_eq!(failure.kind, Kind::Invalid, "seed {seed}: {failure}");
                    let only_sealed = request.messages.iter().all(|message| {
                        message.role != Role::Assistant
                            || message
                                .blocks
                                .iter()
                                .all(|block| matches!(block, Block::Opaque(_) | Block::Text(_)))
                    });
                    assert!(
                        only_sealed || !says_something(&request.messages),
                        "seed {seed}, {family:?}: {failure}\n{:#?}",
                        request.messages
                    );
                }
            }
        }
    }
    sent
}

#[test]
fn every_provider_accepts_each_of_a_hundred_thousand_histories() {
    let share = HISTORIES / THREADS;
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| std::thread::spawn(move || lives(thread * share, (thread + 1) * share)))
        .collect();
    let sent: u64 = threads
        .into_iter()
        .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        .sum();
    assert!(
        sent > HISTORIES * 3,
        "nearly every history has something to answer, but {sent} requests were made"
    );
}

/// The checker sees each thing that the requests above never have.
#[test]
fn the_checkers_refuse_what_the_providers_refuse() {
    let refused = |family: Family, model: &str, body: Value, why: &str| {
        let told = check(family, model, &body).expect_err(why).message;
        assert!(told.contains(why), "{told} does not say {why}");
    };
    let user = json!({"role": "user", "content": "hi"});
    let anthropic = |messages: Value| json!({"model": "m", "max_tokens": 9, "messages": messages, "tools": [{"name": "t", "input_schema": {"type": "object"}}]});
    let used = json!({"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "t", "input": {}}]});
    let result =
        |id: &str| json!({"role": "user", "content": [{"type": "tool_result", "tool_use_id": id, "content": "1"}]});
    for (messages, why) in [
        (json!([user, user]), "must alternate"),
        (json!([used, result("a")]), "first message"),
        (json!([user, used]), "without `tool_result`"),
        (json!([user, used, result("b")]), "without `tool_result`"),
        (
            json!([user, used, result("a"), {"role": "assistant", "content": "x"}, result("a")]),
            "unexpected `tool_use_id`",
        ),
        (json!([{"role": "user", "content": " "}]), "non-whitespace"),
        (
            json!([user, {"role": "assistant", "content": "x "}]),
            "trailing whitespace",
        ),
        (
            json!([user, {"role": "assistant", "content": [{"type": "thinking", "thinking": "x", "signature": "eA=="}, {"type": "text", "text": "x"}]}]),
            "Invalid `signature`",
        ),
    ] {
        refused(Family::Anthropic, "m", anthropic(messages), why);
    }
    let mut unknown = anthropic(json!([user]));
    unknown["reasoning_effort"] = "low".into();
    refused(Family::Anthropic, "m", unknown, "Extra inputs");
    let calls = json!([{"id": "a", "type": "function", "function": {"name": "t", "arguments": "{}"}}]);
    let asked = json!({"role": "assistant", "content": null, "tool_calls": calls});
    for (messages, why) in [
        (json!([user, asked, user]), "must be followed by tool messages"),
        (
            json!([user, {"role": "tool", "tool_call_id": "a", "content": "1"}]),
            "must be a response",
        ),
        (
            json!([user, {"role": "assistant", "content": "x", "reasoning_content": "x"}]),
            "reasoning_content",
        ),
    ] {
        refused(Family::Chat, "m", json!({"model": "m", "messages": messages}), why);
    }
    let reasoning = json!({"type": "reasoning", "summary": [], "encrypted_content": seal::of("m", "x")});
    let called = json!({"type": "function_call", "call_id": "a", "name": "t", "arguments": "{}"});
    for (input, why) in [
        (
            json!([reasoning, {"role": "user", "content": "hi"}]),
            "without its required following item",
        ),
        (json!([called]), "No tool output found"),
        (
            json!([{"type": "function_call_output", "call_id": "a", "output": ""}]),
            "No tool call found",
        ),
    ] {
        refused(Family::Responses, "m", json!({"model": "m", "input": input}), why);
    }
    let said = |role: &str, part: Value| json!({"role": role, "parts": [part]});
    let (hi, function) = (
        said("user", json!({"text": "hi"})),
        json!({"functionCall": {"name": "t", "args": {}}}),
    );
    let answer = said("user", json!({"functionResponse": {"name": "t", "response": {}}}));
    for (contents, why) in [
        (
            json!([hi, said("model", function.clone()), answer]),
            "missing a thought_signature",
        ),
        (
            json!([hi, said("model", function), hi]),
            "number of function response parts",
        ),
        (json!([hi, said("model", json!({"text": "x"}))]), "end with a user turn"),
    ] {
        refused(Family::Gemini, "gemini-3-pro", json!({"contents": contents}), why);
    }
}
