//! The settings all daemons share, and one daemon's plan: everything known before anything is opened.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use nexus_config::{Kind, Origin, Root, Schema, Setting, Settings, Sources};
use serde::Deserialize;

use crate::caller::Role;
use crate::daemon::Daemon;
use crate::listener::ListenOptions;
use crate::metrics::MetricsBind;
use crate::peer::Rules;
use crate::serve::ServeOptions;
use crate::shares::Limit;
use crate::spans::{self, Target};
use crate::token_check::Checker;

/// The section `[common]`. Each field is the setting of its name, which `nexus_config::common` describes with its unit and its
/// default; sizes are in bytes.
#[expect(missing_docs, reason = "the schema says what each setting means")]
#[derive(Debug, Clone, Deserialize)]
pub struct Common {
    /// The orchestrator's socket.
    pub orchestrator: PathBuf,
    pub log_level: String,
    pub log_format: String,
    pub worker_threads: usize,
    pub stop_budget: Duration,
    pub max_message_bytes: usize,
    pub max_unfinished_bytes: usize,
    /// Unset: half of `max_unfinished_bytes`, and room for one message.
    pub max_unfinished_bytes_per_caller: Option<usize>,
    pub message_timeout: Duration,
    pub max_connections: usize,
    pub max_connections_per_caller: usize,
    pub max_streams: u32,
    pub max_open_streams: usize,
    pub max_open_streams_per_caller: usize,
    pub max_in_flight: usize,
    pub max_in_flight_per_caller: usize,
    pub default_deadline: Option<Duration>,
    pub metrics: String,
    pub otlp_endpoint: Option<String>,
    pub otlp_sampling: f64,
    pub roles: BTreeMap<String, String>,
    pub require_token: bool,
    pub dial_timeout: Duration,
    pub rpc_timeout: Duration,
    pub reconnect_interval: Duration,
    pub reconnect_max_attempts: u32,
    /// How often the clocks are compared, and how much between two looks is a sleep.
    pub wake_check: Duration,
    pub wake_threshold: Duration,
    /// Not a setting: the user this process runs as.
    #[serde(skip)]
    pub own_uid: u32,
}

/// What every daemon has in its own section.
#[derive(Debug, Clone, Deserialize)]
struct Own {
    socket_path: Option<PathBuf>,
    socket_mode: String,
    socket_group: Option<String>,
    tcp_listen: Option<String>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    allow_anonymous_loopback: bool,
}

fn own_settings() -> Vec<Setting> {
    vec![
        Setting::new(
            "socket_path",
            Kind::Path,
            "",
            "where it listens; unset: its own place in state/run",
        )
        .flag("socket-path"),
        Setting::new("socket_mode", Kind::Text, "0600", "mode of the socket file, octal"),
        Setting::new(
            "socket_group",
            Kind::Text,
            "",
            "group the socket file is given to; it needs socket_mode \"0660\"",
        ),
        Setting::new(
            "tcp_listen",
            Kind::Text,
            "",
            "also listen on this address:port; unset: no TCP",
        ),
        Setting::new(
            "tls_cert",
            Kind::Path,
            "",
            "certificate chain (PEM) for the TCP listener",
        ),
        Setting::new("tls_key", Kind::Path, "", "its private key (PEM)"),
        Setting::new(
            "allow_anonymous_loopback",
            Kind::Bool,
            "false",
            "TCP from this host needs no token",
        ),
    ]
}

/// The table of a daemon's section: its own settings and those every daemon has.
pub fn schema<D: Daemon>() -> Schema {
    let mut settings = D::settings();
    for setting in own_settings() {
        if !settings.iter().any(|s| s.key == setting.key) {
            settings.push(setting);
        }
    }
    Schema::new(D::NAME, settings)
}

/// Everything known before anything is opened.
pub(crate) struct Plan<D: Daemon> {
    pub root: Root,
    pub config: D::Config,
    pub common: Common,
    pub service: String,
    pub listen: ListenOptions,
    pub serve: ServeOptions,
    pub metrics: Option<MetricsBind>,
    pub traces: Option<Target>,
    pub shown: Shown,
}

/// The settings as loaded, for dumps and comparisons.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    pub common: Settings,
    pub own: Settings,
}

impl Shown {
    pub fn dump(&self) -> String {
        format!("{}\n{}", self.common.dump(), self.own.dump())
    }
}

/// Reads all sources and checks everything that can be checked without opening anything.
pub(crate) fn load<D: Daemon>(sources: &Sources<'_>) -> Result<Plan<D>, Vec<String>> {
    let (own, common) = (schema::<D>(), nexus_config::common());
    let mut loaded = nexus_config::read(&[&own, &common], sources);
    let mut mistakes = loaded.mistakes.lines();
    let shown = match (loaded.settings.pop(), loaded.settings.pop()) {
        (Some(common), Some(own)) => Shown { common, own },
        _ => return Err(mistakes),
    };
    match plan(sources.root, shown, &mut mistakes) {
        Some(plan) if mistakes.is_empty() => Ok(plan),
        _ => Err(mistakes),
    }
}

/// Typed from checked values; what does not fit together is added to `mistakes`.
pub(crate) fn plan<D: Daemon>(root: &Root, shown: Shown, mistakes: &mut Vec<String>) -> Option<Plan<D>> {
    let config = typed::<D::Config>(&shown.own, mistakes);
    let common = typed::<Common>(&shown.common, mistakes);
    let own = typed::<Own>(&shown.own, mistakes);
    let (config, mut common, own) = (config?, common?, own?);
    common.own_uid = nix::unistd::geteuid().as_raw();
    for mistake in D::check(&config) {
        mistakes.push(format!("[{}]: {mistake}", D::NAME));
    }
    let mut wrong = |settings: &Settings, key: &str, reason: String| {
        let origin = settings.origin(key).unwrap_or(&Origin::Default);
        mistakes.push(format!("{origin}: {}.{key}: {reason}", settings.section()));
    };
    let mode = u32::from_str_radix(&own.socket_mode, 8)
        .ok()
        .filter(|mode| *mode <= 0o777);
    if mode.is_none() {
        wrong(
            &shown.own,
            "socket_mode",
            "expected an octal mode such as \"0660\"".to_owned(),
        );
    }
    let tcp = own
        .tcp_listen
        .as_deref()
        .and_then(|text| match text.parse::<SocketAddr>() {
            Ok(address) => Some(address),
            Err(_) => {
                wrong(
                    &shown.own,
                    "tcp_listen",
                    "expected an address with a port such as \"127.0.0.1:50051\"".to_owned(),
                );
                None
            }
        });
    let tls = match (own.tls_cert, own.tls_key) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        (Some(_), None) => {
            wrong(&shown.own, "tls_key", "must be set too, since tls_cert is".to_owned());
            None
        }
        (None, Some(_)) => {
            wrong(&shown.own, "tls_cert", "must be set too, since tls_key is".to_owned());
            None
        }
    };
    if let Some(address) = tcp.filter(|address| !address.ip().is_loopback() && tls.is_none()) {
        wrong(
            &shown.own,
            "tcp_listen",
            format!("{address} is reachable from other hosts: set tls_cert and tls_key"),
        );
    }
    let mut roles = BTreeMap::new();
    for (who, role) in &common.roles {
        let role = match role.parse::<Role>() {
            Ok(role) => role,
            Err(error) => {
                wrong(&shown.common, "roles", format!("{who:?}: {error}"));
                Role::User
            }
        };
        // One by one, by the code that will use them, so that each wrong name is told.
        let one = BTreeMap::from([(who.clone(), role)]);
        if let Err(error) = Rules::new(common.own_uid, &one, false, Checker::new(root.token_file())) {
            wrong(&shown.common, "roles", error.to_string());
        }
        roles.insert(who.clone(), role);
    }
    let metrics = match common.metrics.as_str() {
        "" => None,
        text => match text.parse::<MetricsBind>() {
            Ok(bind) => Some(bind),
            Err(error) => {
                wrong(&shown.common, "metrics", error.to_string());
                None
            }
        },
    };
    let traces = common.otlp_endpoint.clone().map(|endpoint| Target {
        endpoint,
        ratio: common.otlp_sampling,
    });
    if let Some(mistake) = traces.as_ref().and_then(|target| spans::check(&target.endpoint).err()) {
        wrong(&shown.common, "otlp_endpoint", mistake);
    }
    if !(0.0..=1.0).contains(&common.otlp_sampling) {
        wrong(&shown.common, "otlp_sampling", "expected a part: 0 to 1".to_owned());
    }
    for (key, value) in [
        ("wake_check", common.wake_check),
        ("wake_threshold", common.wake_threshold),
    ] {
        if value.is_zero() {
            wrong(&shown.common, key, "must be longer than nothing".to_owned());
        }
    }
    let unfinished_bytes = unfinished_bytes(&common);
    if unfinished_bytes.without_kept() < common.max_message_bytes {
        let reason = "must hold one message of max_message_bytes and a tenth more, which is kept for admins".to_owned();
        wrong(&shown.common, "max_unfinished_bytes", reason);
    }
    if unfinished_bytes.each < common.max_message_bytes {
        let reason = "must hold one message of max_message_bytes".to_owned();
        wrong(&shown.common, "max_unfinished_bytes_per_caller", reason);
    }
    let service = D::service(&config);
    let listen = ListenOptions {
        socket: own.socket_path.unwrap_or_else(|| D::socket(&config, root)),
        mode: mode.unwrap_or(0o600),
        group: own.socket_group,
        tcp,
        tls,
        allow_anonymous_loopback: own.allow_anonymous_loopback,
    };
    if let Some(reason) = nexus_config::socket_path_too_long(&listen.socket) {
        wrong(&shown.own, "socket_path", reason);
    }
    if let Some(reason) = nexus_config::socket_path_too_long(&common.orchestrator) {
        wrong(&shown.common, "orchestrator", reason);
    }
    let serve = ServeOptions {
        max_message_bytes: common.max_message_bytes,
        unfinished_bytes,
        message_timeout: common.message_timeout,
        max_connections: common.max_connections,
        max_connections_per_caller: common.max_connections_per_caller,
        max_streams_per_connection: common.max_streams,
        max_in_flight: common.max_in_flight,
        max_in_flight_per_caller: common.max_in_flight_per_caller,
        open_streams: Limit {
            all: common.max_open_streams,
            each: common.max_open_streams_per_caller,
        },
        default_deadline: common.default_deadline,
        // The rest is for the flush.
        stop_budget: common.stop_budget * 3 / 4,
        roles,
        require_token: common.require_token,
        own_token: None,
        token_file: root.token_file(),
        own_uid: common.own_uid,
    };
    Some(Plan {
        root: root.clone(),
        config,
        common,
        service,
        listen,
        serve,
        metrics,
        traces,
        shown,
    })
}

fn unfinished_bytes(common: &Common) -> Limit {
    let all = common.max_unfinished_bytes;
    let half = (all / 2).max(common.max_message_bytes);
    Limit {
        all,
        each: common.max_unfinished_bytes_per_caller.unwrap_or(half),
    }
}

fn typed<T: serde::de::DeserializeOwned>(settings: &Settings, mistakes: &mut Vec<String>) -> Option<T> {
    settings
        .extract()
        .map_err(|errors| mistakes.extend(errors.lines()))
        .ok()
}
