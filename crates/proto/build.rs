//! Compiles `proto/*.proto` without protoc: Rust code for the packages, and one descriptor set for reflection.
//!
//! The descriptor set carries one thing more than the files: for each `X.v1` service its twin in package
//! `proto.X.v1`, over the very same messages. The documents call services by that prefix; a layer of the daemons
//! strips it from the path, so the twins need descriptors and no code.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;
use prost_types::{FileDescriptorProto, FileDescriptorSet};
use protox::prost_reflect::DescriptorPool;

const FILES: [&str; 7] = [
    "common.proto",
    "orchestrator.proto",
    "agent.proto",
    "gateway.proto",
    "llm.proto",
    "tool.proto",
    "runs.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let source = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    println!("cargo::rerun-if-changed=build.rs");
    for file in FILES {
        println!("cargo::rerun-if-changed={}", source.join(file).display());
    }

    let details = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("reflected");
    println!("cargo::rerun-if-changed={}", details.display());

    let parsed = protox::compile(FILES.map(|file| source.join(file)), [&source])?;
    let details = protox::compile(["google/rpc/error_details.proto"], [&details])?;
    fs::write(out.join("nexus.bin"), reflected(&parsed, details)?)?;

    tonic_prost_build::configure()
        .build_transport(false)
        .codec_path("crate::Codec")
        .bytes(".")
        .emit_rerun_if_changed(false)
        .compile_fds(parsed)?;
    Ok(())
}

/// The files as a client sees them: twins and the details of errors added, comments and positions left out. Fails if a
/// name does not resolve.
fn reflected(parsed: &FileDescriptorSet, details: FileDescriptorSet) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut file = parsed.file.clone();
    file.extend(details.file);
    file.extend(parsed.file.iter().filter_map(twin));
    for one in &mut file {
        one.source_code_info = None;
    }
    let bytes = FileDescriptorSet { file }.encode_to_vec();
    DescriptorPool::decode(bytes.as_slice())?;
    Ok(bytes)
}

fn twin(original: &FileDescriptorProto) -> Option<FileDescriptorProto> {
    if original.service.is_empty() {
        return None;
    }
    let package = original.package();
    let mut dependency = original.dependency.clone();
    dependency.push(original.name().to_owned());
    Some(FileDescriptorProto {
        name: Some(format!("proto/{}/{}", package.replace('.', "/"), original.name())),
        package: Some(format!("proto.{package}")),
        dependency,
        service: original.service.clone(),
        syntax: original.syntax.clone(),
        ..FileDescriptorProto::default()
    })
}
