//! Holds the compiled descriptors against the contract, row by row and in both directions.
//!
//! `data/baaaht.tsv` is what existing clients were built with and never changes. `data/extensions.tsv` lists, in the
//! same form, everything of ours beside it. A row has five columns: `rpc service method input output`,
//! `field message name number type`, or `enum type value number` and an empty one.

use std::collections::{BTreeSet, HashSet};

use nexus_proto::FILE_DESCRIPTOR_SET;
use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
    ServiceDescriptorProto,
};

const CONTRACT: &str = include_str!("data/baaaht.tsv");
const EXTENSIONS: &str = include_str!("data/extensions.tsv");
const PACKAGES: [&str; 6] = [
    "common.v1",
    "orchestrator.v1",
    "agent.v1",
    "gateway.v1",
    "llm.v1",
    "tool.v1",
];

/// The files in `proto/`: one for each package, and the runs beside the rest of `orchestrator.v1`.
const FILES: usize = 7;

#[test]
fn descriptors_are_the_contract_and_the_listed_extensions() {
    let listed: BTreeSet<String> = rows(CONTRACT).chain(rows(EXTENSIONS)).collect();
    let compiled = compiled();
    let missing: Vec<_> = listed.difference(&compiled).collect();
    let unlisted: Vec<_> = compiled.difference(&listed).collect();
    assert!(
        missing.is_empty() && unlisted.is_empty(),
        "listed but not in proto/: {missing:#?}\nin proto/ but not listed: {unlisted:#?}"
    );
}

#[test]
fn the_contract_is_whole() {
    for (kind, count) in [("rpc\t", 60), ("field\t", 807), ("enum\t", 179)] {
        let rows = rows(CONTRACT).filter(|row| row.starts_with(kind));
        assert_eq!(rows.count(), count, "rows of kind {kind}");
    }
    let distinct: HashSet<String> = rows(CONTRACT).collect();
    assert_eq!(distinct.len(), 60 + 807 + 179);
}

#[test]
fn extensions_of_old_types_are_numbered_from_100() {
    let old: HashSet<&str> = CONTRACT.lines().filter_map(|row| row.split('\t').nth(1)).collect();
    for row in EXTENSIONS.lines() {
        let columns: Vec<&str> = row.split('\t').collect();
        if columns[0] == "rpc" || !old.contains(columns[1]) {
            continue;
        }
        let number: i32 = columns[3].parse().expect("the fourth column is a number");
        assert!(number >= 100, "an old client may know this number: {row}");
    }
}

#[test]
fn every_message_and_enum_is_known() {
    // A type without fields has no row, so it would pass unseen.
    let listed: HashSet<String> = rows(CONTRACT)
        .chain(rows(EXTENSIONS))
        .flat_map(|row| {
            let columns: Vec<&str> = row.split('\t').collect();
            let named = if columns[0] == "rpc" { vec![1, 3, 4] } else { vec![1] };
            named
                .into_iter()
                .map(|n| columns[n].trim_start_matches("stream ").to_owned())
                .collect::<Vec<_>>()
        })
        .collect();
    for file in ours() {
        let messages = file.message_type.iter().map(DescriptorProto::name);
        let enums = file.enum_type.iter().map(EnumDescriptorProto::name);
        let services = file.service.iter().map(ServiceDescriptorProto::name);
        for name in messages.chain(enums).chain(services) {
            let name = format!("{}.{name}", file.package());
            assert!(listed.contains(&name), "not listed: {name}");
        }
    }
}

#[test]
fn every_service_has_a_twin_with_the_same_methods() {
    let set = set();
    let services_of = |package: &str| -> Vec<ServiceDescriptorProto> {
        let files = set.file.iter().filter(|file| file.package() == package);
        files.flat_map(|file| file.service.clone()).collect()
    };
    for package in PACKAGES {
        let twins = services_of(&format!("proto.{package}"));
        assert_eq!(twins, services_of(package), "in {package}");
    }
    let foreign: Vec<_> = set
        .file
        .iter()
        .filter(|file| !PACKAGES.contains(&file.package().trim_start_matches("proto.")))
        .map(FileDescriptorProto::package)
        .collect();
    assert!(
        foreign
            .iter()
            .all(|package| ["google.protobuf", "google.rpc"].contains(package)),
        "{foreign:?}"
    );
}

#[test]
fn a_reader_of_the_descriptors_finds_every_import() {
    let mut seen = HashSet::new();
    for file in set().file {
        for import in &file.dependency {
            assert!(
                seen.contains(import),
                "{} comes before its import {import}",
                file.name()
            );
        }
        seen.insert(file.name().to_owned());
    }
}

#[test]
fn services_keep_their_names_on_the_wire() {
    use nexus_proto::{agent, gateway, llm, orchestrator, tool};
    let generated = BTreeSet::from([
        agent::v1::agent_service_server::SERVICE_NAME,
        gateway::v1::gateway_service_server::SERVICE_NAME,
        llm::v1::llm_service_server::SERVICE_NAME,
        orchestrator::v1::orchestrator_service_server::SERVICE_NAME,
        tool::v1::tool_service_server::SERVICE_NAME,
    ]);
    let listed: BTreeSet<&str> = CONTRACT
        .lines()
        .filter_map(|row| row.strip_prefix("rpc\t")?.split('\t').next())
        .collect();
    assert_eq!(generated, listed);
}

fn rows(table: &str) -> impl Iterator<Item = String> {
    table.lines().map(str::to_owned)
}

fn set() -> FileDescriptorSet {
    FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("the build wrote a descriptor set")
}

fn ours() -> Vec<FileDescriptorProto> {
    let files: Vec<_> = set()
        .file
        .into_iter()
        .filter(|file| PACKAGES.contains(&file.package()))
        .collect();
    assert_eq!(files.len(), FILES);
    files
}

/// Everything the descriptors say, in the form of the tables.
fn compiled() -> BTreeSet<String> {
    let mut rows = BTreeSet::new();
    for file in ours() {
        assert_eq!(file.syntax(), "proto3", "{}", file.name());
        let package = file.package();
        for service in &file.service {
            for method in &service.method {
                let input = streamed(method.client_streaming(), method.input_type());
                let output = streamed(method.server_streaming(), method.output_type());
                let (service, method) = (service.name(), method.name());
                rows.insert(format!("rpc\t{package}.{service}\t{method}\t{input}\t{output}"));
            }
        }
        for one in &file.enum_type {
            for value in &one.value {
                let (one, name, number) = (one.name(), value.name(), value.number());
                rows.insert(format!("enum\t{package}.{one}\t{name}\t{number}\t"));
            }
        }
        for message in &file.message_type {
            assert!(message.enum_type.is_empty(), "in {}", message.name());
            for field in &message.field {
                let (name, number) = (field.name(), field.number());
                let shape = shape(message, field);
                let message = message.name();
                rows.insert(format!("field\t{package}.{message}\t{name}\t{number}\t{shape}"));
            }
        }
    }
    rows
}

fn streamed(stream: bool, name: &str) -> String {
    let prefix = if stream { "stream " } else { "" };
    format!("{prefix}{}", name.trim_start_matches('.'))
}

fn shape(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    if let Some(entry) = map_entry(message, field) {
        let [key, value] = &entry.field[..] else {
            panic!("a map entry has a key and a value");
        };
        return format!("map<{},{}>", type_name(key), type_name(value));
    }
    let label = match (field.label(), field.proto3_optional()) {
        (Label::Repeated, _) => "repeated ",
        (_, true) => "optional ",
        (_, false) => "",
    };
    let oneof = match field.oneof_index {
        Some(index) if !field.proto3_optional() => {
            format!(" [oneof {}]", message.oneof_decl[index as usize].name())
        }
        _ => String::new(),
    };
    format!("{label}{}{oneof}", type_name(field))
}

fn map_entry<'a>(message: &'a DescriptorProto, field: &FieldDescriptorProto) -> Option<&'a DescriptorProto> {
    let last = field.type_name().rsplit('.').next()?;
    message
        .nested_type
        .iter()
        .find(|nested| nested.name() == last)
        .inspect(|nested| assert!(nested.options.as_ref().is_some_and(|o| o.map_entry())))
}

fn type_name(field: &FieldDescriptorProto) -> String {
    match field.r#type() {
        Type::Message | Type::Enum => field.type_name().trim_start_matches('.').to_owned(),
        scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    }
}
