//! The address of a daemon, in every form that the documents use.

use std::{fmt, path::PathBuf, str::FromStr};

use nexus_config::{ORCHESTRATOR_SOCKET, Root};

/// A daemon's address. `Display` gives a form that [`FromStr`] reads back.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// The path of a Unix socket.
    Unix(PathBuf),
    /// `host:port`, and whether TLS is spoken there.
    Tcp(String, bool),
}

/// A text that is no address of a daemon.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not an address: {reason}; write /path, unix:/path, host:port, http://host:port or https://host:port"
)]
pub struct BadAddress {
    text: String,
    reason: &'static str,
}

impl Address {
    /// The usual place of a service of this tree. The orchestrator's is fixed by its existing clients.
    pub fn of(root: &Root, service: &str) -> Address {
        match service {
            "orchestrator" => Address::Unix(ORCHESTRATOR_SOCKET.into()),
            other => Address::Unix(root.socket(other)),
        }
    }

    /// What `:authority` says: sockets have no name of their own, and `localhost` is what servers expect there.
    pub(crate) fn authority(&self) -> &str {
        match self {
            Address::Unix(_) => "localhost",
            Address::Tcp(authority, _) => authority,
        }
    }
}

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let bad = |reason| BadAddress {
            text: text.to_owned(),
            reason,
        };
        let path = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:"));
        if let Some(path) = path.or_else(|| text.starts_with(['/', '.']).then_some(text)) {
            if path.is_empty() {
                return Err(bad("the path is missing"));
            }
            return Ok(Address::Unix(path.into()));
        }
        let (rest, tls) = if let Some(rest) = text.strip_prefix("https://") {
            (rest, true)
        } else {
            (text.strip_prefix("http://").unwrap_or(text), false)
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = authority.rsplit_once(':').ok_or_else(|| bad("the port is missing"))?;
        if host.is_empty() || host.contains(['/', '@', ' ']) {
            return Err(bad("the host is not a name"));
        }
        if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
            return Err(bad("an IPv6 host needs brackets"));
        }
        match port.parse::<u16>() {
            Ok(0) | Err(_) => Err(bad("the port is not a number from 1 to 65535")),
            Ok(_) => Ok(Address::Tcp(authority.to_owned(), tls)),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Tcp(authority, false) => f.write_str(authority),
            Address::Tcp(authority, true) => write!(f, "https://{authority}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_form_is_read() {
        let socket = Address::Unix("/tmp/x.sock".into());
        for text in ["/tmp/x.sock", "unix:/tmp/x.sock", "unix:///tmp/x.sock"] {
            assert_eq!(text.parse::<Address>().unwrap(), socket, "{text}");
        }
        let tcp = |tls| Address::Tcp("localhost:50051".into(), tls);
        assert_eq!("localhost:50051".parse::<Address>().unwrap(), tcp(false));
        assert_eq!("http://localhost:50051/".parse::<Address>().unwrap(), tcp(false));
        assert_eq!("https://localhost:50051".parse::<Address>().unwrap(), tcp(true));
        assert_eq!(
            "[::1]:9".parse::<Address>().unwrap(),
            Address::Tcp("[::1]:9".into(), false)
        );
    }

    #[test]
    fn what_is_shown_can_be_read_back() {
        for text in ["/a b/c", "unix:rel.sock", "h:1", "https://h:1"] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string().parse::<Address>().unwrap(), address);
        }
    }

    #[test]
    fn mistakes_say_what_is_wrong() {
        for (text, part) in [
            ("", "port"),
            ("unix:", "path"),
            ("localhost", "port"),
            ("localhost:http", "65535"),
            ("localhost:0", "65535"),
            ("::1:80", "brackets"),
            ("http://:80", "host"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
