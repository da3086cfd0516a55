//! Every method of the contract, and what no well-behaved client sends to it.

use std::time::Duration;

use bytes::Bytes;
use nexus_proto::FILE_DESCRIPTOR_SET;
use nexus_tests::raw::{Call, announced, framed};
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::Code;

/// Ends the streams that bad input does not end.
const DEADLINE: Duration = Duration::from_millis(200);
const PACKAGES: [&str; 5] = ["orchestrator.v1", "agent.v1", "gateway.v1", "llm.v1", "tool.v1"];

pub struct Method {
    pub path: String,
    /// It sends one message and no more.
    unary: bool,
}

pub struct Case {
    pub name: &'static str,
    pub call: Call,
    /// Any of these; empty: any that is clear.
    pub codes: Vec<Code>,
}

pub fn methods() -> Vec<Method> {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("the descriptors are in order");
    let mut methods = Vec::new();
    for file in set.file.iter().filter(|file| PACKAGES.contains(&file.package())) {
        for service in &file.service {
            for method in &service.method {
                methods.push(Method {
                    path: format!("/{}.{}/{}", file.package(), service.name(), method.name()),
                    unary: !method.client_streaming(),
                });
            }
        }
    }
    assert!(methods.len() > 50, "the whole contract is there");
    methods
}

/// A field of bytes or text.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut message = vec![number << 3 | 2];
    prost::encoding::encode_varint(bytes.len() as u64, &mut message);
    message.extend_from_slice(bytes);
    message
}

pub fn cases(method: &Method) -> Vec<Case> {
    let case = |name, bytes: Vec<Bytes>, codes: &[Code]| Case {
        name,
        call: Call {
            bytes,
            ..Call::default()
        }
        .deadline(DEADLINE),
        codes: codes.to_vec(),
    };
    // Whether a stream takes what it was sent before it ends is its own affair.
    let unary = |code: Code| if method.unary { vec![code] } else { vec![] };
    let (mut unread, mut large) = (vec![Code::InvalidArgument], vec![Code::ResourceExhausted]);
    // The protocol itself has INTERNAL for a broken envelope.
    let mut envelope = vec![Code::Internal];
    if method.path.starts_with("/tool.") {
        for codes in [&mut unread, &mut large, &mut envelope] {
            codes.push(Code::Unimplemented);
        }
    }
    let mut cut = framed(&[0x0a; 100]).to_vec();
    cut.truncate(20);
    let mut packed = framed(b"").to_vec();
    packed[0] = 1;
    let mut odd_flag = framed(b"").to_vec();
    odd_flag[0] = 0x7f;
    let twice = [framed(b""), framed(b"")].concat();
    vec![
        case("nothing at all", vec![], &unary(Code::InvalidArgument)),
        case("an empty message", vec![framed(b"")], &[]),
        case("garbage", vec![framed(&[0xff; 32])], &unread),
        case(
            "bytes that are no text",
            vec![framed(&field(1, &[0xc3, 0x28, 0xff]))],
            &[],
        ),
        case(
            "a field of the wrong kind",
            vec![framed(&[0x08, 0x01, 0x10, 0x01, 0x18, 0x01])],
            &[],
        ),
        case(
            "a field that is longer than its message",
            vec![framed(&[0x0a, 0x7f, 0x41])],
            &[],
        ),
        case("an endless number", vec![framed(&[0x80; 64])], &unread),
        case("unknown fields", vec![framed(&[0xc0, 0xb8, 0x02, 0x01])], &[]),
        case("a message that breaks off", vec![cut.into()], &[]),
        case("a compressed one without a name for it", vec![packed.into()], &envelope),
        case("a flag that does not exist", vec![odd_flag.into()], &envelope),
        case(
            "a megabyte of one letter",
            vec![framed(&field(1, &vec![b'a'; 1 << 20]))],
            &[],
        ),
        case("101 MiB to come", vec![announced(101 << 20)], &large),
        case("4 GiB to come", vec![announced(u32::MAX)], &large),
        case("two messages", vec![twice.into()], &[]),
    ]
}
