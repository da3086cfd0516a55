//! Server reflection, v1 and v1alpha, made at the first question: decoding all descriptors costs memory and time that
//! a daemon nobody asks never spends. Lists only what is really served here. A question that has no answer is answered
//! with an error, and the stream goes on.

mod index;

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
};

use futures_core::Stream;
use futures_util::StreamExt;
use http::Uri;
use tonic::{Code, Request, Response, Status, Streaming, body::Body};
use tonic_reflection::pb::v1::{
    ErrorResponse, ExtensionNumberResponse, FileDescriptorResponse, ListServiceResponse, ServerReflectionRequest,
    ServerReflectionResponse, ServiceResponse,
    server_reflection_request::MessageRequest as Ask,
    server_reflection_response::MessageResponse as Told,
    server_reflection_server::{ServerReflection, ServerReflectionServer},
};

use crate::{
    caller::Access,
    services::{Answer, Services, Target, erase},
};
use index::Index;

pub(crate) const V1: &str = "grpc.reflection.v1.ServerReflection";
pub(crate) const V1ALPHA: &str = "grpc.reflection.v1alpha.ServerReflection";
const INFO: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

/// Adds both versions, which list `names` and know every type in the descriptor sets.
pub(crate) fn add(services: Services, mut names: Vec<String>) -> Services {
    let services = services
        .describe(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
        .describe(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET);
    names.sort();
    names.dedup();
    let reflection = Reflection(Arc::new(Listing {
        names,
        descriptors: services.descriptors(),
        index: OnceLock::new(),
    }));
    let v1 = erase(ServerReflectionServer::new(reflection));
    services
        .add_target(V1, Access::ALL, v1.clone())
        .add_target(V1ALPHA, Access::ALL, Arc::new(Alpha(v1)))
}

/// The messages of v1alpha are those of v1 on the wire; only its path is another.
struct Alpha(Arc<dyn Target>);

impl Target for Alpha {
    fn call(&self, mut request: http::Request<Body>) -> Answer {
        if request.uri().path().ends_with("/ServerReflectionInfo") {
            *request.uri_mut() = Uri::from_static(INFO);
        }
        self.0.call(request)
    }
}

struct Listing {
    names: Vec<String>,
    descriptors: Vec<&'static [u8]>,
    index: OnceLock<Index>,
}

#[derive(Clone)]
struct Reflection(Arc<Listing>);

type Answers = Pin<Box<dyn Stream<Item = Result<ServerReflectionResponse, Status>> + Send>>;

#[tonic::async_trait]
impl ServerReflection for Reflection {
    type ServerReflectionInfoStream = Answers;

    async fn server_reflection_info(
        &self,
        request: Request<Streaming<ServerReflectionRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let listing = self.0.clone();
        let answers = request
            .into_inner()
            .map(move |asked| asked.map(|asked| listing.answer(asked)));
        Ok(Response::new(Box::pin(answers)))
    }
}

impl Listing {
    fn answer(&self, asked: ServerReflectionRequest) -> ServerReflectionResponse {
        let told = asked
            .message_request
            .as_ref()
            .ok_or_else(|| (Code::InvalidArgument, "the question is empty".to_owned()))
            .and_then(|ask| self.told(ask));
        ServerReflectionResponse {
            valid_host: asked.host.clone(),
            original_request: Some(asked),
            message_response: Some(told.unwrap_or_else(|(code, error_message)| {
                Told::ErrorResponse(ErrorResponse {
                    error_code: code as i32,
                    error_message,
                })
            })),
        }
    }

    fn told(&self, ask: &Ask) -> Result<Told, (Code, String)> {
        let index = self.index.get_or_init(|| Index::of(&self.descriptors));
        let unknown = |what: &str, name: &str| (Code::NotFound, format!("unknown {what} {name:?}"));
        let file = |bytes: &[u8]| {
            Told::FileDescriptorResponse(FileDescriptorResponse {
                file_descriptor_proto: vec![bytes.to_vec()],
            })
        };
        match ask {
            Ask::FileByFilename(name) => index.file(name).map(file).ok_or_else(|| unknown("file", name)),
            Ask::FileContainingSymbol(name) => index.symbol(name).map(file).ok_or_else(|| unknown("symbol", name)),
            Ask::FileContainingExtension(asked) => {
                let name = format!("{}, number {}", asked.containing_type, asked.extension_number);
                Err(unknown("extension of", &name))
            }
            Ask::AllExtensionNumbersOfType(name) => match index.symbol(name) {
                Some(_) => Ok(Told::AllExtensionNumbersResponse(ExtensionNumberResponse {
                    base_type_name: name.clone(),
                    extension_number: Vec::new(),
                })),
                None => Err(unknown("type", name)),
            },
            Ask::ListServices(_) => Ok(Told::ListServicesResponse(ListServiceResponse {
                service: self
                    .names
                    .iter()
                    .map(|name| ServiceResponse { name: name.clone() })
                    .collect(),
            })),
        }
    }
}
