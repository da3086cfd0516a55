//! A daemon as its callers see it: typed stubs, and whether it is there.

use nexus_proto::{
    agent::v1::agent_service_client::AgentServiceClient,
    gateway::v1::gateway_service_client::GatewayServiceClient,
    llm::v1::llm_service_client::LlmServiceClient,
    orchestrator::v1::{
        approval_service_client::ApprovalServiceClient, driver_service_client::DriverServiceClient,
        orchestrator_service_client::OrchestratorServiceClient, run_service_client::RunServiceClient,
    },
    tool::v1::tool_service_client::ToolServiceClient,
};
use tonic_health::pb::health_client::HealthClient;

use crate::{Address, Backoff, Channel, Error, Options, dial::Link};

/// Cheap to clone; all clones share one HTTP/2 connection, which comes back by itself.
#[derive(Clone, Debug)]
pub struct Connection {
    channel: Channel,
}

impl Connection {
    /// Dials when first used.
    pub fn lazy(address: &Address, options: &Options) -> Connection {
        Connection {
            channel: Channel::new(address, options),
        }
    }

    /// Dials now, once.
    pub async fn open(address: &Address, options: &Options) -> Result<Connection, Error> {
        let connection = Connection::lazy(address, options);
        connection.connect().await?;
        Ok(connection)
    }

    /// Makes sure that a connection stands: one attempt, within the dial deadline.
    pub async fn connect(&self) -> Result<(), Error> {
        self.channel.connect().await.map_err(|dial| Error::from(&*dial))
    }

    /// Waits until a connection stands, trying again with growing pauses as often as the options allow. Ends early
    /// with what no further attempt could change: a socket of another user, an address that cannot be.
    pub async fn connected(&self) -> Result<(), Error> {
        let mut backoff = self.backoff();
        loop {
            match self.connect().await {
                Ok(()) => return Ok(()),
                Err(error) if !error.is_retryable() => return Err(error),
                Err(error) => {
                    if !backoff.wait().await {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// The connection that stands, or stood last.
    pub(crate) fn link(&self) -> Link {
        *self.channel.link().borrow()
    }

    /// Resolves when no connection stands: at once if there is none, else when the present one closes. Notices a
    /// killed daemon without any call.
    pub async fn lost(&self) {
        self.left(self.link().generation).await;
    }

    /// The same for the connection of this number, also where somebody else has dialled again already.
    pub(crate) async fn left(&self, generation: u64) {
        let mut link = self.channel.link();
        // The sender lives in our channel, so this cannot fail while we wait.
        let _gone = link.wait_for(|link| !link.up || link.generation != generation).await;
    }

    /// Whether a connection stands at this moment.
    pub fn is_connected(&self) -> bool {
        self.channel.link().borrow().up
    }

    /// Pauses as this connection's options have them.
    pub fn backoff(&self) -> Backoff {
        let options = self.channel.options();
        Backoff::new(options.reconnect_interval, options.reconnect_max_attempts).woken_by(options.redial.clone())
    }

    /// Where this connection dials.
    pub fn address(&self) -> &Address {
        self.channel.address()
    }

    /// The options it was made with.
    pub fn options(&self) -> &Options {
        self.channel.options()
    }

    /// The channel below all generated clients.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// A client of `orchestrator.v1.OrchestratorService`, with the message limits of the options.
    pub fn orchestrator(&self) -> OrchestratorServiceClient<Channel> {
        OrchestratorServiceClient::new(self.channel())
            .max_decoding_message_size(self.options().max_message_bytes)
            .max_encoding_message_size(self.options().max_send_bytes)
    }

    /// A client of `orchestrator.v1.RunService`, with the message limits of the options.
    pub fn runs(&self) -> RunServiceClient<Channel> {
        RunServiceClient::new(self.channel())
            .max_decoding_message_size(self.options().max_message_bytes)
            .max_encoding_message_size(self.options().max_send_bytes)
    }

    /// A client of `orchestrator.v1.ApprovalService`, with the message limits of the options.
    pub fn approvals(&self) -> ApprovalServiceClient<Channel> {
        ApprovalServiceClient::new(self.channel())
            .max_decoding_message_size(self.options().max_message_bytes)
            .max_encoding_message_size(self.options().max_send_bytes)
    }

    /// A client of `orchestrator.v1.DriverService`, with the message limits of the options.
    pub fn driver(&self) -> DriverServiceClient<Channel> {
        DriverServiceClient::new(self.channel())
            .max_decoding_message_size(self.options().max_message_bytes)
            .max_encoding_message_size(self.options().max_send_bytes)
    }

    /// A client of `agent.v1.AgentService`, with the message limits of the options.
    pub fn agent(&self) -> AgentServiceClient<Channel> {
        AgentServiceClient::new(self.channel())
            .max_decoding_message_size(self.options().max_message_bytes)
            .max_encoding_message_size(self.options().max_send_bytes)
    }

    /// A client of `gateway.v1.GatewayService`, with the message limits of the options.
    pub fn gateway(&self) -> GatewayServiceClient<Channel> {
        GatewayServiceClient::new(self.channel())
            .max_decoding_message_size(self.options().max_message_bytes)
            .max_encoding_message_size(self.options().max_send_bytes)
    }

    /// A client of `llm.v1.LLMService`, with the message limits of the options.
    pub fn llm(&self) -> LlmServiceClient<Channel> {
        LlmServiceClient::new(self.channel())
            .max_decoding_message_size(self.options().max_message_bytes)
            .max_encoding_message_size(self.options().max_send_bytes)
    }

    /// A client of `tool.v1.ToolService`, with the message limits of the options.
    pub fn tool(&self) -> ToolServiceClient<Channel> {
        ToolServiceClient::new(self.channel())
            .max_decoding_message_size(self.options().max_message_bytes)
            .max_encoding_message_size(self.options().max_send_bytes)
    }

    /// A client of `grpc.health.v1.Health`.
    pub fn health(&self) -> HealthClient<Channel> {
        HealthClient::new(self.channel())
    }
}
