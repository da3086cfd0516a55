//! Which calls of the contract are streams, known by path alone.

/// Unary calls get the default deadline; a stream may stay open for hours.
pub(crate) fn is_stream(path: &str) -> bool {
    let method = path.rsplit('/').next().unwrap_or(path);
    method.starts_with("Stream")
        || method.starts_with("Subscribe")
        || matches!(method, "Watch" | "ServerReflectionInfo" | "ContainerLogs" | "PullImage")
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    #[test]
    fn the_rule_agrees_with_every_method_of_the_contract() {
        let set = prost_types::FileDescriptorSet::decode(nexus_proto::FILE_DESCRIPTOR_SET).unwrap();
        let mut seen = 0;
        for file in &set.file {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    let streams = method.client_streaming() || method.server_streaming();
                    assert_eq!(is_stream(&path), streams, "{path}");
                    seen += 1;
                }
            }
        }
        assert!(seen > 50, "only {seen} methods in the descriptors");
        assert!(is_stream("/grpc.health.v1.Health/Watch"));
        assert!(!is_stream("/grpc.health.v1.Health/Check"));
    }
}
