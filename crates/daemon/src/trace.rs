//! Logs: JSON in the file, text or JSON on standard error, and a panic hook that logs where it happened.
//!
//! A supervisor reads the file; under it nothing is said a second time on standard error.
//!
//! Plain `RUST_LOG` directives are handled by a table of targets; the pattern engine behind the richer
//! ones costs milliseconds at start and is built only when they are used.

use std::io::IsTerminal;
use std::str::FromStr;

use nexus_config::Root;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{EnvFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::logfile::Sink;

/// Set by a supervisor for what it starts; it reads the log file.
const SUPERVISED: &str = "NEXUS_SERVICE";

/// Changes the level while the daemon runs; has no effect where `RUST_LOG` decides.
pub(crate) struct Level(Option<reload::Handle<Targets, Registry>>);

impl Level {
    /// Whether the level was changed.
    pub fn set(&self, level: &str) -> bool {
        let (Some(handle), Ok(level)) = (&self.0, LevelFilter::from_str(level)) else {
            return false;
        };
        handle.reload(targets(level)).is_ok()
    }
}

/// Who decides what is logged.
#[expect(clippy::large_enum_variant, reason = "made once at start and taken apart at once")]
enum Filter {
    Config,
    Plain(Targets),
    Rich(EnvFilter),
}

impl Filter {
    fn of(rust_log: Option<String>) -> Result<Filter, String> {
        let Some(text) = rust_log.filter(|text| !text.trim().is_empty()) else {
            return Ok(Filter::Config);
        };
        let wrong = |error: &dyn std::fmt::Display| format!("environment RUST_LOG = {text:?}: {error}");
        if text.contains(['[', '{', '/']) {
            return EnvFilter::builder()
                .parse(&text)
                .map(Filter::Rich)
                .map_err(|e| wrong(&e));
        }
        text.parse().map(Filter::Plain).map_err(|e| wrong(&e))
    }
}

/// Whether `RUST_LOG` can be understood, for the list of mistakes.
pub(crate) fn check() -> Result<(), String> {
    Filter::of(std::env::var("RUST_LOG").ok()).map(|_| ())
}

/// Logs go out from here on.
///
/// # Errors
/// `RUST_LOG` is wrong, or the process logs already.
pub(crate) fn init(level: &str, format: &str, root: &Root, service: &str) -> Result<Level, String> {
    let filter = Filter::of(std::env::var("RUST_LOG").ok())?;
    let path = root.log_dir().join(format!("{service}.log"));
    let (sink, problem) = match Sink::open(&path) {
        Ok(sink) => (Some(sink), None),
        Err(error) => (None, Some(error)),
    };
    let quiet = match &sink {
        Some(sink) => sink.is_stderr() || std::env::var_os(SUPERVISED).is_some(),
        None => false,
    };
    let stderr = match format {
        _ if quiet => Stderr::Quiet,
        "json" => Stderr::Json,
        _ => Stderr::Text,
    };
    let done = match filter {
        Filter::Config => {
            let level = LevelFilter::from_str(level).map_err(|e| e.to_string())?;
            let (filter, handle) = reload::Layer::new(targets(level));
            let done = tracing_subscriber::registry()
                .with(filter)
                .with(lines(stderr, sink))
                .try_init();
            done.map(|()| Level(Some(handle)))
        }
        Filter::Plain(targets) => tracing_subscriber::registry()
            .with(targets)
            .with(lines(stderr, sink))
            .try_init()
            .map(|()| Level(None)),
        Filter::Rich(filter) => tracing_subscriber::registry()
            .with(filter)
            .with(lines(stderr, sink))
            .try_init()
            .map(|()| Level(None)),
    };
    let level = done.map_err(|e| e.to_string())?;
    std::panic::set_hook(Box::new(panicked));
    if let Some(error) = problem {
        tracing::warn!(path = %path.display(), %error, "the log file cannot be written, logs go to standard error only");
    }
    Ok(level)
}

/// The libraries below talk at debug and trace about every frame; asked for by RUST_LOG only.
fn targets(level: LevelFilter) -> Targets {
    let quiet = level.min(LevelFilter::INFO);
    Targets::new()
        .with_default(level)
        .with_targets(["h2", "hyper", "hyper_util", "rustls", "tower"].map(|t| (t, quiet)))
}

/// What standard error gets.
#[derive(Clone, Copy)]
enum Stderr {
    Quiet,
    Text,
    Json,
}

fn lines<S>(stderr: Stderr, sink: Option<Sink>) -> Vec<Box<dyn Layer<S> + Send + Sync>>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let mut layers: Vec<Box<dyn Layer<S> + Send + Sync>> = Vec::new();
    let json = || fmt::layer().json().flatten_event(true).with_span_list(false);
    match stderr {
        Stderr::Quiet => {}
        Stderr::Json => layers.push(json().with_writer(std::io::stderr).boxed()),
        Stderr::Text => {
            let colours = std::io::stderr().is_terminal();
            layers.push(fmt::layer().with_ansi(colours).with_writer(std::io::stderr).boxed());
        }
    }
    if let Some(sink) = sink {
        layers.push(json().with_writer(sink).boxed());
    }
    layers
}

fn panicked(info: &std::panic::PanicHookInfo<'_>) {
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
    let message = info.payload_as_str().unwrap_or("not a text");
    tracing::error!(location, thread, "panicked: {message}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_directives_need_no_pattern_engine() {
        assert!(matches!(Filter::of(None), Ok(Filter::Config)));
        assert!(matches!(Filter::of(Some(" ".into())), Ok(Filter::Config)));
        assert!(matches!(Filter::of(Some("debug".into())), Ok(Filter::Plain(_))));
        assert!(matches!(
            Filter::of(Some("info,nexus_store=trace".into())),
            Ok(Filter::Plain(_))
        ));
        assert!(matches!(
            Filter::of(Some("nexus[call{id=1}]=debug".into())),
            Ok(Filter::Rich(_))
        ));
    }

    #[test]
    fn a_wrong_directive_is_named() {
        let Err(said) = Filter::of(Some("nexus=loud".into())) else {
            panic!("loud is no level")
        };
        assert!(said.contains("RUST_LOG") && said.contains("nexus=loud"), "{said}");
    }

    #[test]
    fn a_chatty_library_stays_quiet_at_debug() {
        use tracing::Level;
        let targets = targets(LevelFilter::DEBUG);
        assert!(targets.would_enable("nexus_llm", &Level::DEBUG));
        assert!(!targets.would_enable("h2::codec", &Level::DEBUG));
        assert!(targets.would_enable("h2", &Level::INFO));
    }
}
