//! Which addresses a registry may lead to. A registry answers with redirects and names a server for tokens: neither may
//! make this host ask its own services, or those of its network, unless the registry is there itself.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Where an address is, from this host. A registry leads to its own kind and to those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Public,
    /// Of a private network, or shared by a provider.
    Private,
    Loopback,
    /// Link-local (where clouds tell their secrets), multicast, reserved: nothing is fetched from there.
    Special,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Public => "public",
            Kind::Private => "private",
            Kind::Loopback => "loopback",
            Kind::Special => "link-local or reserved",
        })
    }
}

pub fn kind(address: IpAddr) -> Kind {
    match address {
        IpAddr::V4(address) => kind_v4(address),
        IpAddr::V6(address) => kind_v6(address),
    }
}

fn kind_v4(address: Ipv4Addr) -> Kind {
    let [a, b, c, _] = address.octets();
    match (a, b, c) {
        (127, ..) => Kind::Loopback,
        (10, ..) | (172, 16..=31, _) | (192, 168, _) | (100, 64..=127, _) | (198, 18..=19, _) => Kind::Private,
        (0 | 224..=255, ..) | (169, 254, _) | (192, 0, 0) => Kind::Special,
        _ => Kind::Public,
    }
}

fn kind_v6(address: Ipv6Addr) -> Kind {
    if address == Ipv6Addr::LOCALHOST {
        return Kind::Loopback;
    }
    let parts = address.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        kind_v4(Ipv4Addr::new(a, b, c, d))
    };
    match parts {
        // An IPv4 address in other clothes: mapped, compatible, translated (NAT64), or tunnelled (6to4).
        [0, 0, 0, 0, 0, 0xffff | 0, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        [first, ..] if first & 0xfe00 == 0xfc00 => Kind::Private,
        [first, ..] if first & 0xffc0 == 0xfe80 || first & 0xffc0 == 0xfec0 || first & 0xff00 == 0xff00 => {
            Kind::Special
        }
        _ => Kind::Public,
    }
}

/// An address or a URL that a registry may not lead to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("it leads to {host}, which is a {kind} address, and the registry itself is not")]
    Address { host: String, kind: Kind },
    #[error("it leads to {host} without TLS")]
    Plain { host: String },
    #[error("it leads to what is not a web address")]
    Scheme,
}

/// The registry's own host, and what it may lead to.
#[derive(Debug)]
pub struct Reach {
    pub(super) host: String,
    /// The addresses of `host` when it was looked up first; it has no other ones for as long as this lives, so that
    /// its name cannot come to mean something else. Empty if it could not be looked up.
    pub(super) own: Vec<IpAddr>,
    pub(super) kind: Kind,
    /// Whether the registry is asked without TLS, as only one on loopback is.
    pub(super) plain: bool,
    /// Hosts of proxies that the environment names: they are the administrator's choice.
    pub(super) proxies: BTreeSet<String>,
}

impl Reach {
    /// Looks up the registry's host.
    pub async fn of(origin: &Url) -> Reach {
        let host = origin.host_str().unwrap_or_default().to_owned();
        let own = match literal(origin) {
            Some(address) => vec![address],
            None => {
                let found = tokio::net::lookup_host((host.as_str(), 0)).await;
                found.map_or_else(|_| Vec::new(), |all| all.map(|one| one.ip()).collect())
            }
        };
        let mut reach = Reach::fixed(&host, own, origin.scheme() == "http");
        reach.proxies = proxies();
        reach
    }

    /// A host whose addresses are known. Of several kinds the most public one counts, and the others are not used.
    pub fn fixed(host: &str, mut own: Vec<IpAddr>, plain: bool) -> Reach {
        let nearest = own.iter().copied().map(kind).min().unwrap_or(Kind::Public);
        own.retain(|address| kind(*address) == nearest);
        Reach {
            host: host.to_owned(),
            own,
            kind: nearest,
            plain,
            proxies: BTreeSet::new(),
        }
    }

    fn allows(&self, address: IpAddr) -> bool {
        let kind = kind(address);
        self.own.contains(&address) || (kind <= self.kind && kind != Kind::Special)
    }

    /// Whether a URL that the registry gave may be asked. A name in it is looked up when it is, and judged then.
    pub fn check(&self, url: &Url) -> Result<(), Refused> {
        let host = url.host_str().ok_or(Refused::Scheme)?;
        let address = literal(url);
        let is_loopback = host == "localhost" || address.is_some_and(|address| kind(address) == Kind::Loopback);
        match url.scheme() {
            "https" => {}
            "http" if self.plain && is_loopback => {}
            "http" => return Err(Refused::Plain { host: host.to_owned() }),
            _ => return Err(Refused::Scheme),
        }
        match address {
            Some(address) if !self.allows(address) => Err(Refused::Address {
                host: host.to_owned(),
                kind: kind(address),
            }),
            _ => Ok(()),
        }
    }
}

/// The address that a URL names in place of a host.
fn literal(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?;
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

fn proxies() -> BTreeSet<String> {
    let names = ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"];
    let values = names
        .iter()
        .flat_map(|name| [(*name).to_owned(), name.to_lowercase()])
        .filter_map(|name| std::env::var(name).ok());
    let hosts = values.filter_map(|value| {
        let url = Url::parse(&value).or_else(|_| Url::parse(&format!("http://{value}")));
        url.ok()?.host_str().map(str::to_owned)
    });
    hosts.collect()
}

/// Looks up names for the HTTP client, and leaves out addresses that may not be asked.
pub struct Guard(pub Arc<Reach>);

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = Arc::clone(&self.0);
        Box::pin(async move {
            let host = name.as_str();
            if host == reach.host && !reach.own.is_empty() {
                let own: Vec<SocketAddr> = reach.own.iter().map(|address| SocketAddr::new(*address, 0)).collect();
                return Ok(Box::new(own.into_iter()) as Addrs);
            }
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host, 0)).await?.collect();
            let trusted = reach.proxies.contains(host);
            let allowed = found.iter().copied().filter(|one| trusted || reach.allows(one.ip()));
            let allowed: Vec<SocketAddr> = allowed.collect();
            match (allowed.is_empty(), found.first()) {
                (true, Some(refused)) => Err(Box::new(Refused::Address {
                    host: host.to_owned(),
                    kind: kind(refused.ip()),
                }) as _),
                _ => Ok(Box::new(allowed.into_iter()) as Addrs),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, Reach, Refused, kind};

    fn at(text: &str) -> std::net::IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_are_told_apart_whatever_they_wear() {
        for (text, wanted) in [
            ("93.184.216.34", Kind::Public),
            ("172.32.0.1", Kind::Public),
            ("2606:2800:220:1::1", Kind::Public),
            ("10.0.0.1", Kind::Private),
            ("172.31.255.255", Kind::Private),
            ("192.168.1.1", Kind::Private),
            ("100.64.0.1", Kind::Private),
            ("fd00::1", Kind::Private),
            ("127.0.0.1", Kind::Loopback),
            ("127.255.0.9", Kind::Loopback),
            ("::1", Kind::Loopback),
            ("::ffff:127.0.0.1", Kind::Loopback),
            ("::127.0.0.1", Kind::Loopback),
            ("64:ff9b::7f00:1", Kind::Loopback),
            ("64:ff9b::a00:1", Kind::Private),
            ("2002:a00:1::", Kind::Private),
            ("169.254.169.254", Kind::Special),
            ("::ffff:169.254.169.254", Kind::Special),
            ("fe80::1", Kind::Special),
            ("0.0.0.0", Kind::Special),
            ("::", Kind::Special),
            ("255.255.255.255", Kind::Special),
            ("224.0.0.1", Kind::Special),
            ("ff02::1", Kind::Special),
        ] {
            assert_eq!(kind(at(text)), wanted, "{text}");
        }
    }

    #[test]
    fn a_registry_leads_to_its_own_kind_and_to_the_world() {
        let check = |reach: &Reach, url: &str| reach.check(&url.parse().unwrap());
        let public = Reach::fixed("registry.example", vec![at("93.184.216.34"), at("127.0.0.1")], false);
        let private = Reach::fixed("10.0.0.5", vec![at("10.0.0.5")], false);
        let own = Reach::fixed("127.0.0.1", vec![at("127.0.0.1")], true);
        let elsewhere = "https://cdn.example/blob";
        for reach in [&public, &private, &own] {
            check(reach, elsewhere).unwrap();
            for never in [
                "https://169.254.169.254/latest",
                "https://[fe80::1]/",
                "https://0.0.0.0/",
            ] {
                assert!(matches!(check(reach, never), Err(Refused::Address { .. })), "{never}");
            }
            assert_eq!(check(reach, "file:///etc/passwd"), Err(Refused::Scheme));
            assert!(matches!(
                check(reach, "http://cdn.example/blob"),
                Err(Refused::Plain { .. })
            ));
        }
        for near in [
            "https://127.0.0.1/x",
            "https://[::1]/x",
            "https://2130706433/x",
            "https://0x7f.1/x",
        ] {
            assert!(
                check(&public, near).is_err() && check(&private, near).is_err(),
                "{near}"
            );
            check(&own, near).unwrap();
        }
        check(&private, "https://10.9.9.9/x").unwrap();
        assert!(check(&public, "https://10.9.9.9/x").is_err());
        check(&own, "http://127.0.0.1:9/x").unwrap();
        assert!(matches!(
            check(&public, "http://127.0.0.1:9/x"),
            Err(Refused::Plain { .. })
        ));
    }
}
