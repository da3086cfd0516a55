//! Writes the first inputs of each target into `corpus/`: small and valid, so that the fuzzer begins behind the first
//! check. The directory is named by `NEXUS_FUZZ_CORPUS`.
//!
//! It is linked as the targets are, with libFuzzer, which the counters in every branch need: it writes before the first
//! input, and ends.
#![no_main]

use std::{fs, io::Write, path::PathBuf};

use flate2::{Compression, write::GzEncoder};
use libfuzzer_sys::fuzz_target;
use nexus_proto::{agent::v1 as agent, gateway::v1 as gateway, orchestrator::v1 as orchestrator};
use prost::Message;
use sha2::{Digest, Sha256};

fuzz_target!(
    init: write_and_end(),
    |_data: &[u8]| {}
);

fn write_and_end() {
    write_all();
    std::process::exit(0);
}

fn write_all() {
    let corpus = std::env::var_os("NEXUS_FUZZ_CORPUS").map(PathBuf::from);
    let corpus = corpus.expect("NEXUS_FUZZ_CORPUS names the directory of the corpora");
    let write = |target: &str, seeds: Vec<Vec<u8>>| {
        let folder = corpus.join(target);
        fs::create_dir_all(&folder).expect("the directory of a corpus");
        for (number, seed) in seeds.iter().enumerate() {
            fs::write(folder.join(format!("seed-{number}")), seed).expect("a seed");
        }
    };
    write("authority", authority());
    write("sse", with(&[3], events()));
    write("provider", provider());
    write("layers", layers());
    write("backup", vec![backup(1), backup(2)]);
    write(
        "config",
        vec![
            include_bytes!("../../deploy/config.example.toml").to_vec(),
            TOML.to_vec(),
        ],
    );
    write("protobuf", protobuf());
    write("front_door", front_door());
    write("tools", tools());
}

fn with(head: &[u8], seeds: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    seeds.into_iter().map(|seed| [head, seed.as_slice()].concat()).collect()
}

const TOML: &[u8] =
    b"[common]\nlog_level = \"debug\"\nroles = { \"uid:1001\" = \"user\" }\n[orchestrator]\nmax_sessions = 0x10\n\
    session_idle_timeout = \"1h 30m\"\n[llm]\nendpoints = { rack = \"http://[::1]:1/v1\" }\n";

/// One for each kind of text.
fn tools() -> Vec<Vec<u8>> {
    [
        (0, "10%\r50%\r\x1b[K\x1b[31mdone\x1b[0m\nzw\u{f6}lf\n\x1b[2A\x1b[Jend"),
        (
            1,
            "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"$ref\":\"#\"}}}\n{\"a\":\"5\",\"b\":{\"a\":1.0}}",
        ),
        (2, "one\ntwo\u{1}three\u{1}zero\r\none\r\ntwo\r\n"),
        (
            3,
            "*** Begin Patch\n*** Update File: ab\n*** Move to: c\n@@ one\n-two\n+2\n*** Add File: d\n+x\n*** End Patch",
        ),
        (4, "git log --oneline 'a b' \"c\""),
    ]
    .into_iter()
    .map(|(kind, text)| [&[kind, 7], text.as_bytes()].concat())
    .collect()
}

/// A preface, settings, and HEADERS with the authority that a client of Go sends over a socket.
fn authority() -> Vec<Vec<u8>> {
    let mut block = vec![0x83, 0x86, 0x44, 2, b'/', b'x', 0x41, 9];
    block.extend_from_slice(b"/tmp/a.so");
    let mut frames = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
    frames.extend([0, 0, u8::try_from(block.len()).expect("short"), 1, 4, 0, 0, 0, 1]);
    frames.extend(&block);
    vec![
        [&[1, 7], frames.as_slice()].concat(),
        [&[0, 7], frames.as_slice()].concat(),
    ]
}

fn events() -> Vec<Vec<u8>> {
    [
        "\u{feff}event: ping\r\ndata: {}\r\n\r\n: a comment\ndata: zw\u{f6}lf\ndata:second\n\nid: 7\n\ndata: [DONE]\n\n",
        "event: error\ndata: {\"error\":{\"message\":\"overloaded\"}}\n\nerror: no\r\rretry: 5\n\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

fn provider() -> Vec<Vec<u8>> {
    let anthropic = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":3}}}\n\n\
        event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n\
        event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"hi\"}}\n\n\
        event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":2}}\n\n\
        event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    let openai = "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"hi\"}}]}\n\n\
        data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"c1\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":\"}}]}}]}\n\n\
        data: {\"choices\":[{\"index\":0,\"delta\":{\"reasoning\":\"hm\",\"content\":[{\"type\":\"text\",\"text\":\"x\"}]},\"finish_reason\":\"stop\"}],\
        \"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n";
    let whole = "{\"choices\":[{\"message\":{\"role\":\"assistant\",\"content\":\"hi\"},\"finish_reason\":\"stop\"}],\"usage\":{}}";
    let error = "{\"error\":{\"message\":\"no such model\",\"type\":\"not_found\",\"code\":404}}";
    [(0u8, anthropic), (1, openai), (3, whole), (3, error), (2, error)]
        .map(|(kind, text)| [&[kind], text.as_bytes()].concat())
        .to_vec()
}

fn tar(entries: &[(&str, tar::EntryType, &str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, kind, link, bytes) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        if !link.is_empty() {
            header.set_link_name(link).expect("a short name");
        }
        archive.append_data(&mut header, name, *bytes).expect("a vector grows");
    }
    archive.into_inner().expect("a vector grows")
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(bytes).expect("a vector grows");
    packed.finish().expect("a vector grows")
}

fn layers() -> Vec<Vec<u8>> {
    use tar::EntryType as Kind;
    let plain = tar(&[
        ("etc", Kind::Directory, "", b""),
        ("etc/passwd", Kind::Regular, "", b"root:x:0:0::/:/bin/sh\n"),
        ("etc/same", Kind::Link, "etc/passwd", b""),
        ("bin", Kind::Symlink, "usr/bin", b""),
        ("etc/.wh.old", Kind::Regular, "", b""),
        ("etc/.wh..wh..opq", Kind::Regular, "", b""),
    ]);
    let out = tar(&[
        ("a", Kind::Symlink, "/../../canary", b""),
        ("a", Kind::Regular, "", b"x"),
        ("b", Kind::Symlink, "..", b""),
        ("b/canary", Kind::Regular, "", b"x"),
    ]);
    vec![packed(&plain), plain, out]
}

/// In both shapes that are read; the second with a directory, an owner and a hole.
fn backup(schema: u32) -> Vec<u8> {
    let text = b"[common]\n";
    let digest = hex::encode(Sha256::digest(text));
    let mut files = vec![serde_json::json!({
        "path": "state/nexus/config.toml", "bytes": text.len(), "mode": 0o600, "sha256": digest,
    })];
    if schema > 1 {
        files[0]["owner"] = serde_json::json!([0, 0]);
        files[0]["modified"] = serde_json::json!([1, 2]);
        files[0]["bytes"] = serde_json::json!(4096 + text.len());
        files[0]["ranges"] = serde_json::json!([{"at": 4096, "bytes": text.len()}]);
        files.push(serde_json::json!({"path": "state/run", "kind": "dir", "bytes": 0, "mode": 0o700, "sha256": ""}));
    }
    let manifest = serde_json::json!({
        "schema": schema, "created_at": "2026-01-01T00:00:00Z", "nexus": "0.1.0", "root": "/root/nexus", "with_keys": false,
        "files": files, "left_out": [],
    });
    let manifest = serde_json::to_vec(&manifest).expect("it is JSON");
    use tar::EntryType as Kind;
    packed(&tar(&[
        ("manifest.json", Kind::Regular, "", &manifest),
        ("state/nexus/config.toml", Kind::Regular, "", text),
    ]))
}

fn message() -> orchestrator::Message {
    orchestrator::Message {
        id: "m1".into(),
        role: 1,
        content: "hello".into(),
        timestamp: Some(prost_types::Timestamp { seconds: 1, nanos: 1 }),
        metadata: Some(orchestrator::MessageMetadata {
            extra: [("correlation_id".to_owned(), "c".to_owned())].into(),
            ..orchestrator::MessageMetadata::default()
        }),
        ..orchestrator::Message::default()
    }
}

fn register() -> agent::RegisterRequest {
    agent::RegisterRequest {
        name: "worker".into(),
        r#type: 1,
        metadata: Some(agent::AgentMetadata {
            labels: [("role".to_owned(), "assistant".to_owned())].into(),
            ..agent::AgentMetadata::default()
        }),
        ..agent::RegisterRequest::default()
    }
}

fn sent() -> orchestrator::SendMessageRequest {
    orchestrator::SendMessageRequest {
        session_id: "s".into(),
        message: Some(message()),
    }
}

fn chat() -> gateway::StreamChatRequest {
    gateway::StreamChatRequest {
        session_id: "s".into(),
        payload: Some(gateway::stream_chat_request::Payload::Message(
            gateway::GatewayMessage {
                id: "m".into(),
                content: "hello".into(),
                ..gateway::GatewayMessage::default()
            },
        )),
    }
}

/// The numbers are places in the target's list of messages.
fn protobuf() -> Vec<Vec<u8>> {
    vec![
        [&[2], sent().encode_to_vec().as_slice()].concat(),
        [&[7], register().encode_to_vec().as_slice()].concat(),
        [&[15], chat().encode_to_vec().as_slice()].concat(),
    ]
}

fn front_door() -> Vec<Vec<u8>> {
    let call = |head: &str, body: Vec<u8>| [head.as_bytes(), b"\n", body.as_slice()].concat();
    let mut seeds = vec![
        call(
            "/orchestrator.v1.OrchestratorService/CreateSession\nidempotency-key: k\ngrpc-timeout: 1S\n",
            Vec::new(),
        ),
        call(
            "/proto.orchestrator.v1.OrchestratorService/SendMessage\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\n",
            sent().encode_to_vec(),
        ),
        call(
            "/agent.v1.AgentService/Register\nauthorization: Bearer x\n",
            register().encode_to_vec(),
        ),
        call(
            "/gateway.v1.GatewayService/StreamChat\nraw\n",
            [&[0, 0, 0, 0, 3], b"\x0a\x01s".as_slice()].concat(),
        ),
    ];
    // Every method that the descriptors know, with an empty message: the fuzzer fills it.
    let set = prost_types::FileDescriptorSet::decode(nexus_proto::FILE_DESCRIPTOR_SET).expect("our own descriptors");
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                let path = format!("/{}.{}/{}\n", file.package(), service.name(), method.name());
                seeds.push(call(&path, Vec::new()));
            }
        }
    }
    seeds
}
