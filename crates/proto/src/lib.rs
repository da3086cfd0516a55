//! The wire contract of Nexus as Rust: messages, enums, clients and servers generated from `proto/*.proto`, and their
//! descriptors.
//!
//! A module has the name of its package: `orchestrator.v1` is [`orchestrator::v1`]. `bytes` fields are
//! [`bytes::Bytes`], so payloads pass through without a copy; `google.protobuf.Empty` is `()`.
//!
//! There is no logic here, and never any: no conversion, no default, no validation. Who gives a field a meaning does
//! so in its own `service/convert.rs`.

#![warn(missing_docs)]

mod codec;
pub mod words;

pub use codec::{Codec, Exact};
pub use prost_types::{Duration, Timestamp};

/// Messages and enums that the other packages share.
pub mod common {
    #[expect(missing_docs, reason = "written by the code generator")]
    pub mod v1 {
        tonic::include_proto!("common.v1");
    }
}

/// Sessions, messages, events and containers.
pub mod orchestrator {
    #[expect(missing_docs, clippy::allow_attributes, reason = "written by the code generator")]
    pub mod v1 {
        tonic::include_proto!("orchestrator.v1");
    }
}

/// Agents and the tasks they are given.
pub mod agent {
    #[expect(
        missing_docs,
        clippy::allow_attributes,
        clippy::large_enum_variant,
        reason = "written by the code generator"
    )]
    pub mod v1 {
        tonic::include_proto!("agent.v1");
    }
}

/// What user interfaces talk to.
pub mod gateway {
    #[expect(missing_docs, clippy::allow_attributes, reason = "written by the code generator")]
    pub mod v1 {
        tonic::include_proto!("gateway.v1");
    }
}

/// Language models behind one interface.
pub mod llm {
    #[expect(
        missing_docs,
        clippy::allow_attributes,
        clippy::large_enum_variant,
        reason = "written by the code generator"
    )]
    pub mod v1 {
        tonic::include_proto!("llm.v1");
    }
}

/// Tools and their executions.
pub mod tool {
    #[expect(
        missing_docs,
        clippy::allow_attributes,
        clippy::large_enum_variant,
        reason = "written by the code generator"
    )]
    pub mod v1 {
        tonic::include_proto!("tool.v1");
    }
}

/// An encoded `google.protobuf.FileDescriptorSet`: the six files, the Google files they import, and the services
/// once more in packages `proto.X.v1`, over the same messages.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("nexus");

/// The protocol generation that daemons tell each other. It rises only when two builds can no longer work together;
/// a new field or call never raises it.
pub const PROTOCOL: u32 = 1;
