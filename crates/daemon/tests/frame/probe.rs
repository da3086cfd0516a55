//! A daemon that does nothing but show how daemons start, reload and stop. Included by the frame's tests.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use nexus_config::{Kind, Setting};
use nexus_daemon::{Boot, BootError, Built, Daemon, Services};
use serde::Deserialize;

pub struct Probe;

#[derive(Debug, Clone, Deserialize)]
pub struct Config {
    pub greeting: String,
    pub word: Option<String>,
    pub instance: String,
    /// What goes wrong in `build`.
    pub fail: String,
    /// Blocks the thread that answers calls, once a reload sets it.
    pub stuck: bool,
    pub flush_takes: Duration,
    pub low: i64,
    pub high: i64,
}

impl Daemon for Probe {
    const NAME: &'static str = "agent";
    const ABOUT: &'static str = "Does nothing";
    type Config = Config;

    fn settings() -> Vec<Setting> {
        let number = Kind::Int { min: 0, max: 100 };
        vec![
            Setting::new("greeting", Kind::Text, "hello", "what it says")
                .live()
                .flag("greeting")
                .env(&["GREETING"]),
            Setting::new("word", Kind::Text, "", "nobody sees it").secret(),
            Setting::new("instance", Kind::Text, "agent-probe", "its name"),
            Setting::new("fail", Kind::Text, "", "what goes wrong"),
            Setting::new("stuck", Kind::Bool, "false", "hang").live(),
            Setting::new("flush_takes", Kind::Duration, "0ms", "how long the flush takes"),
            Setting::new("low", number, "1", "lower bound").live(),
            Setting::new("high", number, "9", "upper bound"),
        ]
    }

    fn service(config: &Config) -> String {
        config.instance.clone()
    }

    fn check(config: &Config) -> Vec<String> {
        let wrong = config.low > config.high;
        wrong
            .then(|| format!("low ({}) is above high ({})", config.low, config.high))
            .into_iter()
            .collect()
    }

    async fn build(boot: Boot<Config>) -> Result<Built<Config>, BootError> {
        tracing::info!(
            greeting = boot.config.greeting,
            has_word = boot.config.word.is_some(),
            "building"
        );
        match boot.config.fail.as_str() {
            "" => {}
            "data" => return Err(BootError::Data("the log is damaged at 4711".into())),
            "config" => return Err(BootError::Config(vec!["first".into(), "second".into()])),
            "failed" => return Err(BootError::Failed("out of luck".into())),
            "hang" => pending().await,
            "panic" => {
                let task = tokio::spawn(async { panic!("as planned") });
                let panicked = task.await.is_err();
                tracing::info!(panicked, "went on");
            }
            other => return Err(BootError::Failed(format!("no way to fail by {other}"))),
        }
        let here = Arc::new(tokio::runtime::Handle::current());
        let takes = boot.config.flush_takes;
        Ok(Built::new(Services::new())
            .reload(move |config: &Config| {
                tracing::info!(
                    greeting = config.greeting,
                    low = config.low,
                    high = config.high,
                    "reloaded"
                );
                tracing::debug!("said at debug");
                if config.stuck {
                    drop(here.spawn(async { std::thread::sleep(Duration::from_secs(3600)) }));
                }
            })
            .flush(async move {
                tokio::time::sleep(takes).await;
                tracing::info!("flushed");
            }))
    }
}
