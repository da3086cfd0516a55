use crate::ORCHESTRATOR_SOCKET;
use crate::kind::Kind;
use crate::setting::{Schema, Setting};

const COUNT: Kind = Kind::Int { min: 1, max: 1_000_000 };

/// What all daemons and the command share: the section `[common]`.
pub fn common() -> Schema {
    Schema::new(
        "common",
        vec![
            Setting::new(
                "log_level",
                Kind::Choice(&["error", "warn", "info", "debug", "trace"]),
                "info",
                "how much is logged; RUST_LOG wins over it",
            )
            .live()
            .env(&["LOG_LEVEL"])
            .flag("log-level"),
            Setting::new(
                "log_format",
                Kind::Choice(&["text", "json"]),
                "text",
                "lines for people, or one JSON object a line",
            )
            .env(&["LOG_FORMAT"])
            .flag("log-format"),
            Setting::new(
                "orchestrator",
                Kind::Path,
                ORCHESTRATOR_SOCKET,
                "the orchestrator's socket; by default what [orchestrator] socket_path says",
            )
            .env(&["GRPC_SOCKET_PATH"])
            .borrow("orchestrator", "socket_path"),
            Setting::new(
                "worker_threads",
                Kind::Int { min: 1, max: 256 },
                "1",
                "threads that answer calls; one is quickest on a small host",
            ),
            Setting::new(
                "stop_budget",
                Kind::Duration,
                "10s",
                "how long a stop may take: calls end, then everything is flushed",
            )
            .env(&["SHUTDOWN_TIMEOUT"]),
            Setting::new(
                "max_message_bytes",
                Kind::Size,
                "100MiB",
                "the largest message, in and out",
            )
            .env(&["GRPC_MAX_RECV_MSG_SIZE", "GRPC_MAX_SEND_MSG_SIZE"])
            .flag("grpc-max-recv-msg-size")
            .flag_aliases(&["grpc-max-send-msg-size"])
            .alias(&["MaxRecvMsgSize", "MaxSendMsgSize"]),
            Setting::new(
                "max_unfinished_bytes",
                Kind::Size,
                "256MiB",
                "bytes of messages that are not whole yet, of all callers together",
            ),
            Setting::new(
                "max_unfinished_bytes_per_caller",
                Kind::Size,
                "",
                "the same for each caller except admins; unset: half of max_unfinished_bytes",
            ),
            Setting::new(
                "message_timeout",
                Kind::Duration,
                "60s",
                "from the first byte of a message to its last",
            ),
            Setting::new(
                "max_connections",
                COUNT,
                "1000",
                "connections open at once, and as many over TCP; a tenth of them is for admins only",
            )
            .env(&["GRPC_MAX_CONNECTIONS"])
            .flag("grpc-max-connections"),
            Setting::new(
                "max_connections_per_caller",
                COUNT,
                "250",
                "connections open at once for each uid, token or address, except admins",
            ),
            Setting::new("max_streams", COUNT, "1000", "calls open at once on one connection"),
            Setting::new(
                "max_open_streams",
                COUNT,
                "20000",
                "streaming calls open at once in all; a tenth of them is for admins only",
            ),
            Setting::new(
                "max_open_streams_per_caller",
                COUNT,
                "1000",
                "the same for each caller except admins",
            ),
            Setting::new(
                "max_in_flight",
                COUNT,
                "10000",
                "unary calls at work at once in all; a tenth of them is for admins only",
            ),
            Setting::new(
                "max_in_flight_per_caller",
                COUNT,
                "2500",
                "the same for each caller except admins",
            ),
            Setting::new(
                "default_deadline",
                Kind::Duration,
                "",
                "deadline of a unary call that names none; unset: none",
            ),
            Setting::new(
                "metrics",
                Kind::Text,
                "",
                "where Prometheus reads metrics: 127.0.0.1:port or a socket's path; unset: nowhere",
            ),
            Setting::new(
                "otlp_endpoint",
                Kind::Text,
                "",
                "where OpenTelemetry traces go: a collector's URL such as http://127.0.0.1:4317; unset: none are made",
            )
            .env(&["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"]),
            Setting::new(
                "otlp_sampling",
                Kind::Float,
                "1",
                "the part of the messages that is traced, 0 to 1; a caller that traces decides for its own",
            )
            .env(&["OTEL_TRACES_SAMPLER_ARG"]),
            Setting::new(
                "roles",
                Kind::Map,
                "",
                "who else may call: \"uid:1001\" or \"gid:100\" = admin, agent or user",
            ),
            Setting::new(
                "require_token",
                Kind::Bool,
                "false",
                "demand a bearer token on the socket too; the daemons and nexus of this user have one of their own",
            ),
            Setting::new(
                "dial_timeout",
                Kind::Duration,
                "10s",
                "how long connecting to a daemon may take",
            )
            .alias(&["DialTimeout"]),
            Setting::new("rpc_timeout", Kind::Duration, "10s", "deadline of our own unary calls")
                .env(&["GRPC_TIMEOUT"])
                .flag("grpc-timeout")
                .alias(&["RPCTimeout"]),
            Setting::new(
                "reconnect_interval",
                Kind::Duration,
                "5s",
                "the longest pause between two attempts to connect",
            )
            .alias(&["ReconnectInterval"]),
            Setting::new(
                "reconnect_max_attempts",
                Kind::Int {
                    min: 0,
                    max: u32::MAX as i64,
                },
                "0",
                "attempts to connect before giving up; 0: for ever",
            )
            .alias(&["ReconnectMaxAttempts"]),
            Setting::new(
                "wake_check",
                Kind::Duration,
                "5s",
                "how often the clocks are compared, to notice that the host slept",
            ),
            Setting::new(
                "wake_threshold",
                Kind::Duration,
                "10s",
                "a shorter sleep or freeze is ignored; after a longer one all connections are reconnected",
            ),
        ],
    )
}
