//! The model daemon: what models there are, and one streamed answer.

use std::{collections::HashMap, time::SystemTime};

use nexus_client::{Connection, Error};
use nexus_proto::llm::v1::{
    BudgetScope, FinishReason, ListModelsRequest, LlmMessage, LlmMetadata, LlmParameters, LlmRequest, StreamLlmRequest,
    StreamLlmResponse, stream_llm_request, stream_llm_response::Payload,
};
use nexus_proto::words;
use tonic::{Request, Streaming};

use super::message::new_id;
use crate::domain::assistant::{
    answer::{Finish, ModelEvent},
    conversation::PromptMessage,
    window::{Entry, Role},
    work::{Ask, Scope},
};

/// Each model's window in tokens, by every name it can be asked for.
#[derive(Clone, Debug, Default)]
pub struct ContextWindows {
    by_name: HashMap<String, u64>,
    default: Option<u64>,
}

impl ContextWindows {
    /// An empty name is the model daemon's own choice.
    pub fn of(&self, model: &str) -> Option<u64> {
        match model {
            "" => self.default,
            name => self.by_name.get(name).copied(),
        }
    }
}

#[derive(Clone)]
pub struct Models {
    connection: Connection,
}

impl Models {
    pub fn new(connection: Connection) -> Self {
        Models { connection }
    }

    pub fn backoff(&self) -> nexus_client::Backoff {
        self.connection.backoff().endless()
    }

    pub async fn windows(&self) -> Result<ContextWindows, Error> {
        let answer = self.connection.llm().list_models(ListModelsRequest::default()).await?;
        let mut windows = ContextWindows::default();
        for model in answer.into_inner().models {
            let Some(window) = model.metadata.get("context_window").and_then(|text| text.parse().ok()) else {
                continue;
            };
            if model.metadata.get("default").is_some_and(|text| text == "true") {
                windows.default = Some(window);
            }
            windows
                .by_name
                .insert(format!("{}/{}", model.provider, model.id), window);
            windows.by_name.insert(model.id, window);
        }
        Ok(windows)
    }

    /// Dropping what this gives ends the model's work.
    pub async fn ask(&self, ask: Ask) -> Result<AnswerStream, Error> {
        let request = LlmRequest {
            request_id: new_id(),
            session_id: ask.session_id,
            model: ask.model,
            provider: ask.provider,
            messages: ask.messages.into_iter().map(message).collect(),
            tools: ask.tools.to_vec(),
            scopes: ask.scopes.into_iter().map(scope).collect(),
            parameters: Some(LlmParameters {
                max_tokens: i32::try_from(ask.max_tokens).unwrap_or(i32::MAX),
                temperature: ask.temperature.unwrap_or_default(),
                stream: true,
                ..LlmParameters::default()
            }),
            metadata: Some(LlmMetadata {
                created_at: Some(SystemTime::now().into()),
                correlation_id: ask.correlation_id.clone(),
                agent_id: ask.agent_name,
                ..LlmMetadata::default()
            }),
            ..LlmRequest::default()
        };
        let mut request = Request::new(tokio_stream::once(StreamLlmRequest {
            payload: Some(stream_llm_request::Payload::Request(request)),
        }));
        // The id comes from outside; one that no header can carry is not worth an answer.
        if let Ok(value) = ask.followed_by.parse() {
            request.metadata_mut().insert(words::metadata::CORRELATION_ID, value);
        }
        let stream = self.connection.llm().stream_llm(request).await?.into_inner();
        Ok(AnswerStream { stream })
    }
}

/// An answer on its way.
pub struct AnswerStream {
    stream: Streaming<StreamLlmResponse>,
}

impl AnswerStream {
    /// `None` is a sign of life without content.
    pub async fn next(&mut self) -> Result<Option<ModelEvent>, Error> {
        let Some(message) = self.stream.message().await? else {
            return Ok(Some(ModelEvent::End));
        };
        Ok(match message.payload {
            Some(Payload::Chunk(chunk)) if chunk.content.is_empty() && !chunk.thinking.is_empty() => {
                Some(ModelEvent::Thought(chunk.thinking))
            }
            Some(Payload::Chunk(chunk)) => Some(ModelEvent::Text(chunk.content)),
            Some(Payload::Usage(usage)) => usage.usage.map(|usage| ModelEvent::Usage {
                input: usage.input_tokens.try_into().unwrap_or(0),
                output: usage.output_tokens.try_into().unwrap_or(0),
            }),
            Some(Payload::Complete(complete)) => {
                let response = complete.response.unwrap_or_default();
                Some(ModelEvent::Complete {
                    finish: finish(response.finish_reason()),
                    usage: response.usage.map(|usage| {
                        (
                            usage.input_tokens.try_into().unwrap_or(0),
                            usage.output_tokens.try_into().unwrap_or(0),
                        )
                    }),
                    text: response.content,
                    blocks: response.blocks,
                    calls: response.tool_calls,
                    provider: response.provider,
                    model: response.model,
                })
            }
            Some(Payload::Error(error)) => Some(ModelEvent::Failed {
                code: error.code,
                message: error.message,
                retryable: error.retryable,
            }),
            // Calls stand whole in the completion; until then their pieces are signs of life.
            Some(Payload::ToolCall(_) | Payload::Heartbeat(())) | None => None,
        })
    }
}

fn message(message: PromptMessage) -> LlmMessage {
    let role = |name: &str| name.to_owned();
    match message {
        PromptMessage::Text(Entry { role: who, text }) => LlmMessage {
            role: role(match who {
                Role::User => "user",
                Role::Assistant => "assistant",
                Role::System => "system",
            }),
            content: text,
            ..LlmMessage::default()
        },
        PromptMessage::Said { provider, blocks } => LlmMessage {
            role: role("assistant"),
            extra: HashMap::from([("provider".to_owned(), provider)]),
            blocks,
            ..LlmMessage::default()
        },
        PromptMessage::Results(blocks) => LlmMessage {
            role: role("tool"),
            blocks,
            ..LlmMessage::default()
        },
    }
}

fn scope(scope: Scope) -> BudgetScope {
    BudgetScope {
        kind: scope.kind.to_owned(),
        id: scope.id,
        max_tokens: i64::try_from(scope.max_tokens).unwrap_or(i64::MAX),
        // Millionths of a dollar; a conversion of a float stops at the ends of the integer.
        max_cost_micros: (scope.max_dollars * 1e6).ceil() as i64,
    }
}

fn finish(reason: FinishReason) -> Finish {
    match reason {
        FinishReason::Stop | FinishReason::Unspecified => Finish::Stop,
        FinishReason::Length => Finish::Length,
        FinishReason::ToolUses => Finish::ToolUses,
        FinishReason::Error => Finish::Error,
        FinishReason::Filter => Finish::Filter,
    }
}
