//! Adapts a checked-in property list to one installation.

use crate::units::Installation;

const BIN: &str = "/usr/local/bin/";
const ROOT: &str = "/usr/local/var/nexus";
const SOCKET: &str = "/tmp/baaaht-grpc.sock";

pub fn render(text: &str, here: &Installation) -> String {
    let bin = format!("{}/", here.bin.display());
    let (root, socket) = (here.root.display().to_string(), here.socket.display().to_string());
    let mut out = String::new();
    for line in text.lines() {
        if here.told && line.trim() == "<key>NEXUS_ROOT</key>" {
            out.push_str("        <key>GRPC_SOCKET_PATH</key>\n");
            out.push_str(&format!("        <string>{}</string>\n", escape(&socket)));
        }
        out.push_str(&string(line, &[(BIN, &bin), (ROOT, &root), (SOCKET, &socket)]));
        out.push('\n');
    }
    out
}

/// A `<string>` that begins with one of the package's paths gets ours.
fn string(line: &str, paths: &[(&str, &str)]) -> String {
    let Some((indent, rest)) = line.split_once("<string>") else {
        return line.to_owned();
    };
    let Some(value) = rest.strip_suffix("</string>") else {
        return line.to_owned();
    };
    let ours = paths
        .iter()
        .find_map(|(theirs, ours)| Some(format!("{ours}{}", value.strip_prefix(theirs)?)));
    match ours {
        Some(path) => format!("{indent}<string>{}</string>", escape(&path)),
        None => line.to_owned(),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{Scope, launchd::SERVICES};

    #[test]
    fn paths_are_this_installations_and_escaped() {
        let mut here = Installation {
            scope: Scope::User,
            bin: "/opt/a&b".into(),
            root: "/Users/ada/<nexus>".into(),
            socket: "/s".into(),
            told: false,
        };
        for (service, text) in SERVICES {
            let text = render(text, &here);
            assert!(
                text.contains("<string>/opt/a&amp;b/nexus</string>"),
                "{service}: {text}"
            );
            assert!(
                text.contains("<string>/Users/ada/&lt;nexus&gt;</string>"),
                "{service}: {text}"
            );
            assert!(
                !text.contains("/usr/local") && !text.contains(SOCKET),
                "{service}: {text}"
            );
            assert!(!text.contains("GRPC_SOCKET_PATH"));
        }
        here.told = true;
        let text = render(SERVICES[1].1, &here);
        assert_eq!(
            text.matches("<dict>").count(),
            text.matches("</dict>").count(),
            "{text}"
        );
        assert!(
            text.contains("<key>GRPC_SOCKET_PATH</key>\n        <string>/s</string>\n        <key>NEXUS_ROOT</key>"),
            "{text}"
        );
    }
}
