//! The words of the contract that the generated code does not carry: names of metadata, keys in maps, labels of a
//! registration, and names of events. Both ends of a call take them from here.

/// Metadata of a call: HTTP/2 header names, lowercase.
pub mod metadata {
    /// The id under which a message is followed through the logs of all daemons.
    pub const CORRELATION_ID: &str = "x-correlation-id";
    /// A key chosen by the caller of a unary call that changes something. Repeating the call with the same key within
    /// 24 hours returns the first answer.
    pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
    /// The id of the event log that an answer's sequence numbers belong to.
    pub const LOG_ID: &str = "nexus-log-id";
    /// The agent that opens a task's stream.
    pub const AGENT_ID: &str = "agent-id";
    /// The uid of the caller of a call that the orchestrator passes on. Believed only from the orchestrator's own uid.
    pub const PEER_UID: &str = "nexus-peer-uid";
    /// What that caller owns things as: `uid:<uid>`, `token:<id>` or `anonymous`. Believed as [`PEER_UID`] is.
    pub const PEER_PRINCIPAL: &str = "nexus-peer-principal";
    /// That caller's role: `admin`, `agent` or `user`. Believed as [`PEER_UID`] is.
    pub const PEER_ROLE: &str = "nexus-peer-role";
    /// The id of the token that that caller showed. Believed as [`PEER_UID`] is.
    pub const PEER_TOKEN: &str = "nexus-peer-token";
    /// The scopes of that token, separated by spaces. Absent: all that the role may. Believed as [`PEER_UID`] is.
    pub const PEER_SCOPES: &str = "nexus-peer-scopes";
    /// The position in a trace, as W3C Trace Context has it.
    pub const TRACEPARENT: &str = "traceparent";
}

/// Keys of `metadata.extra` of a message.
pub mod extra {
    /// The id of the message that an answer answers.
    pub const IN_REPLY_TO: &str = "in_reply_to";
    /// See [`super::metadata::CORRELATION_ID`].
    pub const CORRELATION_ID: &str = "correlation_id";
    /// Why the model ended an answer: `stop`, `length`, `tool_uses`, `filter`, `cancelled` or `error`.
    pub const FINISH_REASON: &str = "finish_reason";
    /// By what an answer was cut short, and what helps, in words.
    pub const CUT_SHORT: &str = "cut_short";
    /// `true`: an answer ends where its reader stopped it.
    pub const CANCELLED: &str = "cancelled";
    /// `true`: an answer broke off in the middle, with [`ERROR`]; its turn has failed.
    pub const INCOMPLETE: &str = "incomplete";
    /// Why an answer broke off: the provider's own words.
    pub const ERROR: &str = "error";
    /// The tool calls that were made for an answer, one a line, without their results.
    pub const TOOL_CALLS: &str = "tool_calls";
}

/// Keys of `Event.data`.
pub mod data {
    /// The id of the message that the event is about.
    pub const MESSAGE_ID: &str = "message_id";
}

/// Labels of a registration.
pub mod label {
    /// The absolute path of the daemon's own socket.
    pub const SOCKET: &str = "nexus.socket";
    /// The full names of the gRPC services that the daemon serves for others, comma-separated.
    pub const SERVICES: &str = "nexus.services";
    /// The version of the build.
    pub const VERSION: &str = "nexus.version";
    /// The protocol generation, [`crate::PROTOCOL`].
    pub const PROTOCOL: &str = "nexus.protocol";
}

/// Words of `AgentCapabilities.supported_protocols`.
pub mod protocol {
    /// An assistant that takes steps of runs (`AgentMessage.step`) and finishes them by `DriverService`.
    pub const RUNS: &str = "runs";
}

/// Names of events. Those that the enum `EventType` has no value for travel in `Event.name` alone.
pub mod event {
    /// A message was stored.
    pub const MESSAGE_SENT: &str = "message.sent";
    /// A turn ended without an answer.
    pub const TURN_FAILED: &str = "turn.failed";
    /// A session was created.
    pub const SESSION_CREATED: &str = "session.created";
    /// A session's metadata or configuration changed.
    pub const SESSION_UPDATED: &str = "session.updated";
    /// A session was closed, by a call or by a timeout.
    pub const SESSION_CLOSED: &str = "session.closed";
    /// A session was deleted with its messages and events.
    pub const SESSION_DELETED: &str = "session.deleted";
    /// An agent registered.
    pub const AGENT_REGISTERED: &str = "agent.registered";
    /// An agent's heartbeats stopped.
    pub const AGENT_LOST: &str = "agent.lost";
    /// A lost agent sent a heartbeat again.
    pub const AGENT_RECOVERED: &str = "agent.recovered";
    /// An agent unregistered, or its registration expired.
    pub const AGENT_UNREGISTERED: &str = "agent.unregistered";
    /// A task was created.
    pub const TASK_CREATED: &str = "task.created";
    /// A task changed its state or progress.
    pub const TASK_UPDATED: &str = "task.updated";
    /// A task ended with a result.
    pub const TASK_COMPLETED: &str = "task.completed";
    /// A task failed, was cancelled or ran out of time.
    pub const TASK_FAILED: &str = "task.failed";
    /// A summary took the place of older messages and steps of a session.
    pub const SESSION_COMPACTED: &str = "session.compacted";
    /// A run ended that asked for tool calls.
    pub const RUN_ENDED: &str = "run.ended";
    /// Runs of an agent, or all, were stopped until they are resumed.
    pub const RUN_STOPPED: &str = "run.stopped";
    /// They may begin again.
    pub const RUN_RESUMED: &str = "run.resumed";
    /// A worker was given a call.
    pub const CALL_STARTED: &str = "call.started";
    /// A call ended, or was refused.
    pub const CALL_FINISHED: &str = "call.finished";
    /// A call waits for consent.
    pub const APPROVAL_REQUESTED: &str = "approval.requested";
    /// An approval was decided, expired, was withdrawn or superseded.
    pub const APPROVAL_DECIDED: &str = "approval.decided";
    /// A tool was registered.
    pub const TOOL_REGISTERED: &str = "tool.registered";
    /// A tool was removed.
    pub const TOOL_UNREGISTERED: &str = "tool.unregistered";
    /// A container was created.
    pub const CONTAINER_CREATED: &str = "container.created";
    /// A container was started.
    pub const CONTAINER_STARTED: &str = "container.started";
    /// A container ended or was stopped.
    pub const CONTAINER_STOPPED: &str = "container.stopped";
    /// A container was removed.
    pub const CONTAINER_REMOVED: &str = "container.removed";
    /// A container could not be created or run.
    pub const CONTAINER_ERROR: &str = "container.error";
    /// A container was created by the backend that isolates nothing.
    pub const CONTAINER_UNISOLATED: &str = "container.unisolated";
    /// An agent sent a message to another agent.
    pub const IPC_MESSAGE: &str = "ipc.message";
    /// A request for a container broke its session's policy.
    pub const POLICY_VIOLATION: &str = "policy.violation";
    /// A container's memory passed a share of its limit.
    pub const RESOURCE_THRESHOLD: &str = "resource.threshold";
    /// The orchestrator started.
    pub const SYSTEM_STARTUP: &str = "system.startup";
    /// The orchestrator stops.
    pub const SYSTEM_SHUTDOWN: &str = "system.shutdown";
    /// The host is about to sleep.
    pub const SYSTEM_SLEEP: &str = "system.sleep";
    /// The host slept, the process was frozen, or the clock was set.
    pub const SYSTEM_WAKE: &str = "system.wake";
    /// The default routes of the host changed.
    pub const SYSTEM_NETWORK: &str = "system.network";
}
