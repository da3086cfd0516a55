//! Server reflection, v1 and v1alpha, made at the first question: decoding all descriptors costs memory and time that
//! a daemon nobody asks never spends. Lists only what is really served here.

use std::{
    future::ready,
    sync::{Arc, OnceLock},
};

use tonic::{Code, body::Body};
use tonic_reflection::server::{Builder, Error};

use crate::{
    caller::Access,
    services::{Answer, Services, Target, erase},
    status::status,
};

pub(crate) const V1: &str = "grpc.reflection.v1.ServerReflection";
pub(crate) const V1ALPHA: &str = "grpc.reflection.v1alpha.ServerReflection";

/// Adds both versions, which list `names` and know every type in the descriptor sets.
pub(crate) fn add(services: Services, names: Vec<String>) -> Services {
    let services = services
        .describe(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
        .describe(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET);
    let listing = Arc::new(Listing {
        names,
        descriptors: services.descriptors(),
    });
    let lazy = |build| {
        Arc::new(Lazy {
            listing: listing.clone(),
            built: OnceLock::new(),
            build,
        })
    };
    let (v1, v1alpha) = (lazy(build_v1), lazy(build_v1alpha));
    services
        .add_target(V1, Access::ALL, v1)
        .add_target(V1ALPHA, Access::ALL, v1alpha)
}

struct Listing {
    names: Vec<String>,
    descriptors: Vec<&'static [u8]>,
}

impl Listing {
    fn builder(&self) -> Builder<'static> {
        let mut builder = Builder::configure();
        for set in &self.descriptors {
            builder = builder.register_encoded_file_descriptor_set(set);
        }
        self.names
            .iter()
            .fold(builder, |builder, name| builder.with_service_name(name))
    }
}

type Build = fn(&Listing) -> Result<Arc<dyn Target>, Error>;

fn build_v1(listing: &Listing) -> Result<Arc<dyn Target>, Error> {
    Ok(erase(listing.builder().build_v1()?))
}

fn build_v1alpha(listing: &Listing) -> Result<Arc<dyn Target>, Error> {
    Ok(erase(listing.builder().build_v1alpha()?))
}

struct Lazy {
    listing: Arc<Listing>,
    built: OnceLock<Option<Arc<dyn Target>>>,
    build: Build,
}

impl Target for Lazy {
    fn call(&self, request: http::Request<Body>) -> Answer {
        let built = self.built.get_or_init(|| {
            (self.build)(&self.listing)
                .inspect_err(|error| tracing::error!(%error, "no reflection: the descriptor sets cannot be read"))
                .ok()
        });
        match built {
            Some(target) => target.call(request),
            None => {
                let refusal = status(
                    Code::Internal,
                    "reflection is not available; see the log",
                    "DESCRIPTORS",
                );
                Box::pin(ready(Ok(refusal.into_http())))
            }
        }
    }
}
