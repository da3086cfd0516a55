//! Builds the daemon's parts in order and wires them.

use futures_util::FutureExt;
use nexus_client::{Address, Connection, Options, register_forever};
use nexus_config::Setting;
use nexus_daemon::{Access, Boot, BootError, Built, Daemon, Services};
use nexus_proto::{
    agent::v1::{AgentMetadata, AgentType, RegisterRequest},
    llm::v1::llm_service_server::LlmServiceServer,
};

use crate::{
    config::{self, Config},
    engine::{Engine, Ledger},
    keys::Keys,
    service,
    store::{self, UsageFile},
};

pub struct Llm;

impl Daemon for Llm {
    const NAME: &'static str = "llm";
    const ABOUT: &'static str = "The model daemon: one door to language models";
    type Config = Config;

    fn settings() -> Vec<Setting> {
        config::settings()
    }

    fn check(config: &Config) -> Vec<String> {
        config::check(config)
    }

    async fn build(boot: Boot<Config>) -> Result<Built<Config>, BootError> {
        let keys = Keys::new(boot.root.key_file(), boot.common.own_uid, |name| {
            std::env::var(name).ok()
        });
        let ledger = Ledger::open(UsageFile::new(&boot.root.db_dir())).map_err(|error| match error {
            store::Error::Damaged { .. } => BootError::Data(error.to_string()),
            store::Error::Io { .. } => BootError::Failed(error.to_string()),
        })?;
        let engine = Engine::new(boot.config.clone(), keys, ledger.clone());
        if let Some(trouble) = engine.key_trouble() {
            tracing::warn!(trouble, "keys in the file cannot be used");
        }

        let health = boot.health.clone();
        tokio::spawn(
            ledger
                .clone()
                .keep(boot.stop.token(), move |trouble| health.limp("usage", trouble)),
        );
        // The front door may open later than we do; being ready does not wait for it.
        let options = Options {
            dial_timeout: boot.common.dial_timeout,
            rpc_timeout: boot.common.rpc_timeout,
            reconnect_interval: boot.common.reconnect_interval,
            ..Options::default()
        };
        let orchestrator = Connection::lazy(&Address::Unix(boot.common.orchestrator.clone()), &options);
        let socket = boot.socket.display().to_string();
        tokio::spawn(register_forever(
            orchestrator,
            move || registration(&socket),
            boot.stop.token(),
            |id| {
                tracing::info!(agent_id = id, "registered with the orchestrator");
            },
        ));

        let limit = boot.common.max_message_bytes;
        let server = LlmServiceServer::new(service::Llm::new(engine.clone(), boot.health.clone()))
            .max_decoding_message_size(limit)
            .max_encoding_message_size(limit);
        let mut built = Built::new(Services::new().add(Access::ALL, server).alias());
        built.reload = Some(Box::new(move |config: &Config| engine.reload(config)));
        built.flush = Some(
            async move {
                if let Err(reason) = ledger.save().await {
                    tracing::error!(reason, "the last usage is lost");
                }
            }
            .boxed(),
        );
        Ok(built)
    }
}

fn registration(socket: &str) -> RegisterRequest {
    let labels = [
        ("nexus.socket", socket.to_owned()),
        ("nexus.services", "llm.v1.LLMService".to_owned()),
        ("nexus.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("nexus.protocol", nexus_proto::PROTOCOL.to_string()),
    ];
    RegisterRequest {
        name: "llm".into(),
        r#type: AgentType::Tool.into(),
        metadata: Some(AgentMetadata {
            labels: labels
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            ..AgentMetadata::default()
        }),
        ..RegisterRequest::default()
    }
}
