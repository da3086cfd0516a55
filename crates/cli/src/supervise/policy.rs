//! What may be set about supervision: the section `[cli]`.

use std::time::Duration;

use nexus_config::{Kind, Root, Schema, Setting, Sources};
use serde::Deserialize;

use super::machine;
use crate::failure::{Exit, Failure};

#[derive(Clone, Debug, Deserialize)]
pub struct Policy {
    pub start_timeout: Duration,
    pub stop_timeout: Duration,
    pub probe_interval: Duration,
    pub probe_timeout: Duration,
    probe_failures: u32,
    backoff_min: Duration,
    backoff_max: Duration,
    healthy_after: Duration,
    crash_limit: usize,
    crash_window: Duration,
}

pub fn schema() -> Schema {
    Schema::new(
        "cli",
        vec![
            Setting::new(
                "start_timeout",
                Kind::Duration,
                "1m",
                "a daemon that does not serve within this time is restarted",
            ),
            Setting::new(
                "stop_timeout",
                Kind::Duration,
                "15s",
                "a daemon that has not stopped within this time is killed",
            ),
            Setting::new(
                "probe_interval",
                Kind::Duration,
                "5s",
                "between two health checks of a daemon",
            ),
            Setting::new(
                "probe_timeout",
                Kind::Duration,
                "3s",
                "how long a health check may take",
            ),
            Setting::new(
                "probe_failures",
                Kind::Int { min: 0, max: 1_000 },
                "3",
                "checks in a row without an answer after which a daemon is started again; 0: never",
            ),
            Setting::new(
                "backoff_min",
                Kind::Duration,
                "1s",
                "ceiling of the first pause before a restart",
            ),
            Setting::new(
                "backoff_max",
                Kind::Duration,
                "1m",
                "no pause before a restart is longer",
            ),
            Setting::new(
                "healthy_after",
                Kind::Duration,
                "1m",
                "after this time without a crash the crash count is reset",
            ),
            Setting::new(
                "crash_limit",
                Kind::Int { min: 1, max: 1_000 },
                "5",
                "after this many crashes within crash_window a daemon is not restarted",
            ),
            Setting::new("crash_window", Kind::Duration, "2m", "see crash_limit"),
        ],
    )
}

impl Policy {
    pub fn load(root: &Root) -> Result<Policy, Failure> {
        let schema = schema();
        let settings = nexus_config::load(&schema, &Sources::new(root).with_process_env())
            .map_err(|mistakes| Failure::new(Exit::Config, mistakes.to_string()).hint("correct it, then try again"))?;
        settings
            .extract()
            .map_err(|mistakes| Failure::new(Exit::Config, mistakes.to_string()))
    }

    pub fn machine(&self) -> machine::Policy {
        machine::Policy {
            start_timeout: self.start_timeout,
            stop_timeout: self.stop_timeout,
            probe_failures: self.probe_failures,
            backoff_min: self.backoff_min,
            backoff_max: self.backoff_max,
            healthy_after: self.healthy_after,
            crash_limit: self.crash_limit,
            crash_window: self.crash_window,
        }
    }
}
