//! The settings of `[gateway]`.

use std::time::Duration;

use nexus_config::{Kind, Setting};
use serde::Deserialize;

const COUNT: Kind = Kind::Int { min: 1, max: 1_000_000 };

#[derive(Clone, Debug, Deserialize)]
pub struct Config {
    pub max_sessions: usize,
    pub max_open_streams: usize,
    /// Bytes of one message's content.
    pub max_message_size: u64,
    pub answer_timeout: Duration,
    pub orchestrator_patience: Duration,
    pub heartbeat_interval: Duration,
    pub event_retention: Duration,
}

impl Config {
    pub fn settings() -> Vec<Setting> {
        vec![
            Setting::new(
                "max_sessions",
                COUNT,
                "10000",
                "gateway sessions that may be open at once",
            )
            .live(),
            Setting::new(
                "max_open_streams",
                COUNT,
                "1000",
                "StreamChat, StreamResponses and SubscribeToEvents at once",
            )
            .live(),
            Setting::new(
                "max_message_size",
                Kind::Size,
                "100MiB",
                "the longest content of a message",
            )
            .live(),
            Setting::new(
                "answer_timeout",
                Kind::Duration,
                "1h",
                "how long an answer may keep silent",
            )
            .live(),
            Setting::new(
                "orchestrator_patience",
                Kind::Duration,
                "1m",
                "how long questions wait for an orchestrator that is away",
            )
            .live(),
            Setting::new(
                "heartbeat_interval",
                Kind::Duration,
                "30s",
                "between two heartbeats of an idle StreamResponses",
            )
            .live(),
            Setting::new(
                "event_retention",
                Kind::Duration,
                "7d",
                "how long events can be read again",
            )
            .live(),
        ]
    }

    /// What is wrong between settings.
    pub fn check(&self) -> Vec<String> {
        let zero = [
            ("answer_timeout", self.answer_timeout),
            ("orchestrator_patience", self.orchestrator_patience),
            ("heartbeat_interval", self.heartbeat_interval),
        ];
        zero.into_iter()
            .filter(|(_, value)| value.is_zero())
            .map(|(key, _)| format!("gateway.{key} must be longer than 0"))
            .collect()
    }
}
