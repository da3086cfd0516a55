//! Builds the daemon's parts in order and wires them.

use futures_util::FutureExt;
use nexus_client::{Address, Connection, Options, register_forever};
use nexus_config::Setting;
use nexus_credential::{Kind, Resolver, Shell, Store, protect};
use nexus_daemon::{Access, Boot, BootError, Built, Daemon, Services};
use nexus_proto::words;
use nexus_proto::{
    agent::v1::{AgentMetadata, AgentType, RegisterRequest},
    llm::v1::llm_service_server::{LlmServiceServer, SERVICE_NAME},
};
use nexus_store::Error as StoreError;

use crate::{
    config::{self, Config},
    engine::{Books, Engine, Ledger, RedialReason},
    keys::{Keys, references::References},
    service,
    store::{self, UsageFile},
};

/// The part of this daemon's health that says whether it can have its secrets.
const CREDENTIALS: &str = "credentials";

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
        protect::process().map_err(BootError::Failed)?;
        let shell = Shell::from_environment().map_err(|error| BootError::Config(vec![error.to_string()]))?;
        let from_shell = shell.is_some();
        let resolver =
            Resolver::new(Store::at(boot.root.credential_dir()), shell).deadline(boot.config.credential_timeout);
        let references = References::new(resolver, from_shell);
        references.want(boot.config.keys());
        let keys = Keys::new(boot.root.key_file(), boot.common.own_uid, |name| {
            std::env::var(name).ok()
        })
        .with(references.clone());
        let ledger = Ledger::open(UsageFile::new(&boot.root.db_dir())).map_err(|error| match error {
            store::Error::Damaged { .. } => BootError::Data(error.to_string()),
            store::Error::Io { .. } => BootError::Failed(error.to_string()),
        })?;
        let books = Books::open(&boot.root.db_dir()).await.map_err(|error| match error {
            StoreError::Damaged { .. } | StoreError::TooNew { .. } => BootError::Data(error.to_string()),
            StoreError::InUse { .. } => BootError::Taken(error.to_string()),
            error => BootError::Failed(error.to_string()),
        })?;
        let engine = Engine::new(boot.config.clone(), keys, ledger.clone(), books.clone());
        if let Some(trouble) = engine.key_trouble() {
            tracing::warn!(trouble, "keys in the file cannot be used");
        }

        let health = boot.health.clone();
        health.follow(CREDENTIALS);
        let told = references.clone();
        tokio::spawn(references.keep(boot.stop.token(), move || {
            let named = told.named();
            let waits = named.iter().any(|credential| credential.status == Kind::Locked.name());
            health.named(named);
            health.set(CREDENTIALS, !waits);
            health.degrade(CREDENTIALS, told.trouble());
        }));
        let health = boot.health.clone();
        tokio::spawn(
            ledger
                .clone()
                .keep(boot.stop.token(), move |trouble| health.degrade("usage", trouble)),
        );
        // The front door may open later than we do; being ready does not wait for it.
        let options = Options {
            dial_timeout: boot.common.dial_timeout,
            rpc_timeout: boot.common.rpc_timeout,
            reconnect_interval: boot.common.reconnect_interval,
            own_token: boot.own_token.as_ref().map(|own| own.file().to_owned()),
            ..Options::default()
        };
        let orchestrator = Connection::lazy(&Address::Unix(boot.common.orchestrator.clone()), &options);
        boot.wake.on_wake("orchestrator", {
            let (redial, connection) = (options.redial.clone(), orchestrator.clone());
            move |_| {
                redial.now();
                let connection = connection.clone();
                async move {
                    // Without an end of attempts; what no attempt could change is told by the registration.
                    let _refused = connection.connected().await;
                }
            }
        });
        boot.wake.on_wake("providers", {
            let engine = engine.clone();
            move |_| {
                engine.redial(RedialReason::Wake);
                std::future::ready(())
            }
        });
        boot.wake.on_network({
            let engine = engine.clone();
            move |up| {
                if up {
                    engine.redial(RedialReason::Network);
                }
            }
        });
        let socket = boot.socket.display().to_string();
        let health = boot.health.clone();
        tokio::spawn(register_forever(
            orchestrator,
            move || registration(&socket),
            boot.stop.token(),
            move |told| {
                if let Ok(agent_id) = told {
                    tracing::info!(agent_id, "registered with the orchestrator");
                }
                health.unlinked(told.err().map(ToString::to_string));
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
                books.close().await;
            }
            .boxed(),
        );
        Ok(built)
    }
}

fn registration(socket: &str) -> RegisterRequest {
    let labels = [
        (words::label::SOCKET, socket.to_owned()),
        (words::label::SERVICES, SERVICE_NAME.to_owned()),
        (words::label::VERSION, env!("CARGO_PKG_VERSION").to_owned()),
        (words::label::PROTOCOL, nexus_proto::PROTOCOL.to_string()),
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
