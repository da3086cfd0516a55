//! Why a request is refused, in the words that its caller reads.

#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("{0} is required")]
    Required(&'static str),
    #[error("{0}")]
    Invalid(String),
    #[error("first message must contain {0}")]
    FirstMessage(&'static str),
    #[error("session not found: {0}")]
    SessionNotFound(String),
    #[error("cannot {doing} closed session")]
    SessionClosed { doing: &'static str },
    #[error("session is not active: {id} (state: {state})")]
    SessionNotActive { id: String, state: &'static str },
    #[error("message {0} exists with another role, content or metadata")]
    MessageExists(String),
    #[error("message not found: {0}")]
    MessageNotFound(String),
    #[error("agent not found")]
    AgentNotFound,
    /// The caller's role never allows it.
    #[error("the role {role} may not {doing}")]
    RoleRefused { role: &'static str, doing: &'static str },
    /// Only callers that the settings name may do it.
    #[error("{principal} may not {doing}; an administrator allows it by naming {principal} in {setting}")]
    NotNamed {
        principal: String,
        doing: &'static str,
        setting: &'static str,
    },
    #[error("task not found")]
    TaskNotFound,
    #[error("run not found: {0}")]
    RunNotFound(String),
    #[error("step {step} (attempt {attempt}) of run {run} is not this agent's any more")]
    StepOver { run: String, step: i32, attempt: i32 },
    #[error("execution not found: {0}")]
    CallNotFound(String),
    #[error("approval not found: {0}")]
    ApprovalNotFound(String),
    #[error("approval {id} is {state} already")]
    ApprovalDecided { id: String, state: String },
    #[error("the digest is not that of approval {0}: what was shown is not what would run")]
    ApprovalChanged(String),
    #[error("grant not found: {0}")]
    GrantNotFound(String),
    #[error("tool not found: {0}")]
    ToolNotFound(String),
    #[error("tool already registered: {0}; force replaces it")]
    ToolExists(String),
    #[error("the tool {0} comes with Nexus: it can be enabled and disabled, and not replaced or removed")]
    BuiltinTool(String),
    #[error("tool is disabled: {0}")]
    ToolDisabled(String),
    #[error("the tool {0} is running; force cancels its executions")]
    ToolInUse(String),
    #[error("{0} tools are registered, which is the most")]
    TooManyTools(usize),
    #[error("{0} executions are not over, which is the most")]
    TooManyCalls(usize),
    #[error("{0} grants are valid, which is the most; revoke some")]
    TooManyGrants(usize),
    #[error("container not found: {0}")]
    ContainerNotFound(String),
    #[error("container {id} is {state}: {wanted}")]
    ContainerState {
        id: String,
        state: &'static str,
        wanted: &'static str,
    },
    /// A policy says no.
    #[error("{0}")]
    Forbidden(String),
    #[error("{0} cannot be limited on this host, and orchestrator.container_require_limits is set")]
    Unenforced(String),
    #[error("{0}")]
    Runtime(nexus_runtime::Error),
    #[error("task {id} is {state} and cannot become {wanted}")]
    TaskState {
        id: String,
        state: &'static str,
        wanted: &'static str,
    },
    #[error("the lease on task {0} is over: it was offered again")]
    LeaseOver(String),
    #[error("this stream only watches task {0}; what its worker says comes from another")]
    OnlyWatches(String),
    #[error("replaced by a newer stream of agent {0}")]
    StreamReplaced(String),
    #[error("the agent does not read its stream: {0} messages are queued")]
    LinkFull(usize),
    #[error("the task has no worker yet, and more than {0} bytes of input are queued")]
    InputFull(usize),
    #[error("{what} limit reached: {max}; raise it with {setting}")]
    Limit {
        what: &'static str,
        max: usize,
        setting: &'static str,
    },
    #[error("the answer would be larger than {max} bytes; ask for less with {with}")]
    TooLarge { max: usize, with: &'static str },
    #[error("this reader was too slow: {0} frames were dropped; reconnect with after_sequence")]
    TooSlow(usize),
    #[error("idempotency-key {0} was used for another request")]
    KeyReused(String),
    #[error("{0}")]
    OutOfRange(String),
    #[error("daemon uses protocol {theirs}, and the orchestrator {version} uses {ours}; run the same version of both")]
    Protocol {
        ours: u32,
        theirs: String,
        version: &'static str,
    },
    #[error("{0}")]
    Store(#[from] nexus_store::Error),
}
