//! Messages that foreign clients send: bytes that are understood mean the same after they were written again.
//!
//! The first byte says which message the rest is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nexus_proto::{
    agent::v1 as agent, gateway::v1 as gateway, llm::v1 as llm, orchestrator::v1 as orchestrator, tool::v1 as tool,
};
use prost::Message;

fn again<T: Message + Default + PartialEq>(bytes: &[u8]) {
    let Ok(message) = T::decode(bytes) else { return };
    let written = message.encode_to_vec();
    let read = T::decode(written.as_slice()).expect("what we wrote");
    // Numbers that are no numbers are unequal to themselves, but are written alike.
    assert!(read == message || read.encode_to_vec() == written);
}

const MESSAGES: &[fn(&[u8])] = &[
    again::<orchestrator::CreateSessionRequest>,
    again::<orchestrator::UpdateSessionRequest>,
    again::<orchestrator::SendMessageRequest>,
    again::<orchestrator::StreamMessageRequest>,
    again::<orchestrator::SubscribeEventsRequest>,
    again::<orchestrator::ListSessionsRequest>,
    again::<orchestrator::CreateContainerRequest>,
    again::<agent::RegisterRequest>,
    again::<agent::HeartbeatRequest>,
    again::<agent::ExecuteTaskRequest>,
    again::<agent::StreamTaskRequest>,
    again::<agent::StreamAgentRequest>,
    again::<agent::AgentSendMessageRequest>,
    again::<gateway::CreateGatewaySessionRequest>,
    again::<gateway::GatewaySendMessageRequest>,
    again::<gateway::StreamChatRequest>,
    again::<gateway::StreamResponsesRequest>,
    again::<gateway::SubscribeToEventsRequest>,
    again::<llm::CompleteLlmRequest>,
    again::<llm::StreamLlmRequest>,
    again::<tool::ExecuteToolRequest>,
    again::<tool::RegisterToolRequest>,
];

fuzz_target!(|data: &[u8]| {
    let [kind, bytes @ ..] = data else { return };
    MESSAGES[usize::from(*kind) % MESSAGES.len()](bytes);
});
