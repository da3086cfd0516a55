//! Timeouts and size limits of a connection.

use std::{path::PathBuf, time::Duration};

use crate::Redial;

/// The default limit of one message, both ways.
pub(crate) const MAX_MESSAGE_BYTES: usize = 100 * 1024 * 1024;

/// The time limits are settings of `[common]` with the same names, where the documents' `DialTimeout`, `RPCTimeout`,
/// `ReconnectInterval` and so on are understood too.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long one attempt to connect may take.
    pub dial_timeout: Duration,
    /// The deadline of a unary call that brings none of its own. Streams get none.
    pub rpc_timeout: Duration,
    /// The longest pause between two attempts; the first pauses are much shorter.
    pub reconnect_interval: Duration,
    /// Attempts before giving up; 0 is never.
    pub reconnect_max_attempts: u32,
    /// The largest answer that is taken, in bytes.
    pub max_message_bytes: usize,
    /// The largest request that is sent, in bytes.
    pub max_send_bytes: usize,
    /// With an open call, a server that answers no ping for this long is given up.
    pub keepalive: Duration,
    /// Sent as `authorization: Bearer`.
    pub token: Option<String>,
    /// A file with a token that is sent where no other is: over Unix sockets only, to processes of this user or root. It is
    /// read at each dial, and may be missing.
    pub own_token: Option<PathBuf>,
    /// Who may own the process behind a Unix socket.
    pub server_uid: ServerUid,
    /// PEM file of the authorities trusted for TLS; the system's when absent.
    pub tls_ca: Option<PathBuf>,
    /// Connections that share it reconnect together.
    pub redial: Redial,
    /// Asked at each call: the header `traceparent` that it goes out with, if it is a part of a trace.
    pub traceparent: Option<fn() -> Option<http::HeaderValue>>,
}

/// Anyone can create a name in `/tmp`; so a client looks at who listens before it talks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerUid {
    /// This process's own user.
    Own,
    /// Root too: a system service, or a socket handed over by the init system.
    #[default]
    OwnOrRoot,
    /// Whoever it is: for tests, and servers that prove themselves in another way.
    Any,
    /// This user only.
    Is(u32),
}

impl ServerUid {
    /// Whether nobody but this user and root is talked to.
    pub(crate) fn is_own_or_root(self) -> bool {
        match self {
            ServerUid::Own | ServerUid::OwnOrRoot => true,
            ServerUid::Any => false,
            ServerUid::Is(uid) => ServerUid::OwnOrRoot.allows(uid),
        }
    }

    pub(crate) fn allows(self, uid: u32) -> bool {
        let own = nix::unistd::geteuid().as_raw();
        match self {
            ServerUid::Own => uid == own,
            ServerUid::OwnOrRoot => uid == own || uid == 0,
            ServerUid::Any => true,
            ServerUid::Is(wanted) => uid == wanted,
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Options {
            dial_timeout: Duration::from_secs(10),
            rpc_timeout: Duration::from_secs(10),
            reconnect_interval: Duration::from_secs(5),
            reconnect_max_attempts: 0,
            max_message_bytes: MAX_MESSAGE_BYTES,
            max_send_bytes: MAX_MESSAGE_BYTES,
            keepalive: Duration::from_secs(30),
            token: None,
            own_token: None,
            server_uid: ServerUid::default(),
            tls_ca: None,
            redial: Redial::default(),
            traceparent: None,
        }
    }
}
