//! What a connection may take, in time and size.

use std::{path::PathBuf, time::Duration};

use nexus_config::{Kind, Setting};
use serde::Deserialize;

/// The default limit of one message, both ways.
pub(crate) const MAX_MESSAGE_BYTES: usize = 100 * 1024 * 1024;

/// The names in CamelCase are those of the documents' `ClientConfig`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Options {
    /// How long one attempt to connect may take.
    #[serde(alias = "DialTimeout")]
    pub dial_timeout: Duration,
    /// The deadline of a unary call that brings none of its own. Streams get none.
    #[serde(alias = "RPCTimeout")]
    pub rpc_timeout: Duration,
    /// The longest pause between two attempts; the first pauses are much shorter.
    #[serde(alias = "ReconnectInterval")]
    pub reconnect_interval: Duration,
    /// Attempts before giving up; 0 is never.
    #[serde(alias = "ReconnectMaxAttempts")]
    pub reconnect_max_attempts: u32,
    #[serde(alias = "MaxRecvMsgSize")]
    pub max_message_bytes: usize,
    #[serde(alias = "MaxSendMsgSize")]
    pub max_send_bytes: usize,
    /// With an open call, a server that answers no ping for this long is given up.
    pub keepalive: Duration,
    /// Sent as `authorization: Bearer`.
    #[serde(skip)]
    pub token: Option<String>,
    /// Who may own the process behind a Unix socket.
    #[serde(skip)]
    pub server_uid: ServerUid,
    /// PEM file of the authorities trusted for TLS; the system's when absent.
    pub tls_ca: Option<PathBuf>,
}

/// Anyone can create a name in `/tmp`; so a client looks at who listens before it talks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerUid {
    Own,
    /// Root too: a system service, or a socket handed over by the init system.
    #[default]
    OwnOrRoot,
    Any,
    Is(u32),
}

impl ServerUid {
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
            server_uid: ServerUid::default(),
            tls_ca: None,
        }
    }
}

impl Options {
    /// The settings of a daemon that dials others, for its schema; the field names are the keys.
    pub fn settings() -> Vec<Setting> {
        let seconds = |key, default, help| Setting::new(key, Kind::Duration, default, help);
        vec![
            seconds("dial_timeout", "10s", "how long one attempt to connect to another daemon may take")
                .flag("dial-timeout"),
            seconds("rpc_timeout", "10s", "deadline of a call to another daemon").flag("rpc-timeout"),
            seconds("reconnect_interval", "5s", "longest pause between two attempts to reconnect")
                .flag("reconnect-interval"),
            Setting::new(
                "reconnect_max_attempts",
                Kind::Int {
                    min: 0,
                    max: i64::from(u32::MAX),
                },
                "0",
                "attempts to reconnect before giving up; 0 is never",
            )
            .flag("reconnect-max-attempts"),
        ]
    }
}
