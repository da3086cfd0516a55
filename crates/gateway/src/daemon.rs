//! Builds the parts in order and wires them.

use std::sync::Arc;

use nexus_client::{Address, Options, register_forever};
use nexus_config::Setting;
use nexus_daemon::{Access, Boot, BootError, Built, Daemon, Services};
use nexus_proto::words;
use nexus_proto::{
    PROTOCOL,
    agent::v1::{AgentMetadata, AgentType, RegisterRequest},
    gateway::v1::gateway_service_server::{GatewayServiceServer, SERVICE_NAME},
};
use nexus_store::{Durability, Error as Engine, Sqlite};

use crate::{
    Config, Error,
    engine::{Handle, PART},
    remote::Orchestrator,
    service::Service,
    store::Store,
};

/// The daemon `nexus-gateway`.
pub struct Gateway;

impl Daemon for Gateway {
    const NAME: &'static str = "gateway";
    const ABOUT: &'static str = "The gateway: sessions of user interfaces, and answers in chunks as they are produced";
    type Config = Config;

    fn settings() -> Vec<Setting> {
        Config::settings()
    }

    fn check(config: &Config) -> Vec<String> {
        config.check()
    }

    async fn build(boot: Boot<Config>) -> Result<Built<Config>, BootError> {
        let Boot {
            config,
            common,
            root,
            socket,
            health,
            own_token,
            stop,
            wake,
            ..
        } = boot;
        let backend = Sqlite::new(root.db_dir().join("gateway.db"), Durability::Full);
        let (store, sessions) = Store::open(Arc::new(backend), &nexus_store::Options::default()).map_err(failed)?;
        tracing::info!(sessions = sessions.len(), "store open");

        let options = Options {
            dial_timeout: common.dial_timeout,
            rpc_timeout: common.rpc_timeout,
            reconnect_interval: common.reconnect_interval,
            max_message_bytes: common.max_message_bytes,
            max_send_bytes: common.max_message_bytes,
            traceparent: Some(nexus_daemon::spans::outgoing),
            own_token: own_token.as_ref().map(|own| own.file().to_owned()),
            ..Options::default()
        };
        let (redial, health_of_watch) = (options.redial.clone(), health.clone());
        wake.on_wake("orchestrator", move |_| {
            // Recovers with the watch, once it has compared all sessions.
            health_of_watch.degrade(PART, Some("dials again after a wake".into()));
            redial.now();
            let health_of_watch = health_of_watch.clone();
            async move { health_of_watch.wait_recovered(PART).await }
        });
        let orchestrator = Orchestrator::new(Address::Unix(common.orchestrator.clone()), options);

        let known = health.clone();
        let registration = register_forever(
            orchestrator.connection().clone(),
            move || registration(&socket),
            stop.token(),
            move |told| {
                if let Ok(agent_id) = told {
                    tracing::info!(agent_id, "registered with the orchestrator");
                }
                known.unlinked(told.err().map(ToString::to_string));
            },
        );
        tokio::spawn(registration);

        let handle = Handle::spawn(store, sessions, orchestrator, config, health, &stop);
        let service = GatewayServiceServer::new(Service::new(handle.clone()))
            .max_decoding_message_size(common.max_message_bytes)
            .max_encoding_message_size(common.max_message_bytes);
        // A quarter of the stop's budget is kept for the flush, which waits twice.
        let flush_within = common.stop_budget / 10;
        let (reloaded, flushed) = (handle.clone(), handle);
        Ok(Built::new(Services::new().add(Access::USERS, service).alias())
            .reload(move |config| reloaded.reload(config))
            .flush(async move { flushed.flush(flush_within).await }))
    }
}

fn registration(socket: &std::path::Path) -> RegisterRequest {
    let labels = [
        (words::label::SOCKET, socket.display().to_string()),
        (words::label::SERVICES, SERVICE_NAME.to_owned()),
        (words::label::VERSION, env!("CARGO_PKG_VERSION").to_owned()),
        (words::label::PROTOCOL, PROTOCOL.to_string()),
    ];
    RegisterRequest {
        name: Gateway::NAME.into(),
        r#type: AgentType::Gateway.into(),
        metadata: Some(AgentMetadata {
            labels: labels.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
            ..AgentMetadata::default()
        }),
        ..RegisterRequest::default()
    }
}

fn failed(error: Error) -> BootError {
    match error {
        Error::Store(error @ (Engine::Damaged { .. } | Engine::TooNew { .. })) => BootError::Data(error.to_string()),
        Error::Unreadable(_) => BootError::Data(error.to_string()),
        Error::Store(error @ Engine::InUse { .. }) => BootError::Taken(error.to_string()),
        Error::Store(error) => BootError::Failed(error.to_string()),
        other => BootError::Failed(other.to_string()),
    }
}
