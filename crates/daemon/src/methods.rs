//! Reads from an encoded `FileDescriptorSet` only which methods there are and whether they stream. Messages, which are
//! most of it, are skipped unread, so this is cheap enough for every start.

use prost::Message;

#[derive(Clone, PartialEq, Message)]
struct FileSet {
    #[prost(message, repeated, tag = "1")]
    file: Vec<File>,
}

#[derive(Clone, PartialEq, Message)]
struct File {
    #[prost(string, tag = "2")]
    package: String,
    #[prost(message, repeated, tag = "6")]
    service: Vec<Service>,
}

#[derive(Clone, PartialEq, Message)]
struct Service {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    method: Vec<Method>,
}

#[derive(Clone, PartialEq, Message)]
struct Method {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bool, tag = "5")]
    client_streaming: bool,
    #[prost(bool, tag = "6")]
    server_streaming: bool,
}

pub(crate) struct Described {
    pub service: String,
    pub method: String,
    pub streams: bool,
}

/// Every method of every service in `set`, which was made by our own build or a dependency's: one that cannot be read
/// is a broken build, and says so in the log.
pub(crate) fn of(set: &[u8]) -> Vec<Described> {
    let files = match FileSet::decode(set) {
        Ok(set) => set.file,
        Err(error) => {
            tracing::error!(%error, "a descriptor set cannot be read, its services are not known by method");
            return Vec::new();
        }
    };
    let mut found = Vec::new();
    for file in files {
        for service in file.service {
            let name = match file.package.as_str() {
                "" => service.name,
                package => format!("{package}.{}", service.name),
            };
            found.extend(service.method.into_iter().map(|method| Described {
                service: name.clone(),
                method: method.name,
                streams: method.client_streaming || method.server_streaming,
            }));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    #[test]
    fn health_has_one_unary_and_one_streaming_method() {
        let mut found: Vec<_> = super::of(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .into_iter()
            .map(|d| (d.service, d.method, d.streams))
            .filter(|(_, method, _)| method != "List")
            .collect();
        found.sort();
        let health = "grpc.health.v1.Health".to_string();
        assert_eq!(
            found,
            [(health.clone(), "Check".into(), false), (health, "Watch".into(), true)]
        );
    }
}
