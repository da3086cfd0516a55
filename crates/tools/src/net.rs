//! Where an agent may connect to: URLs, and addresses. Everything that is not plainly public is refused: this host and its networks,
//! metadata services of clouds, and addresses that carry one of those within them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

use crate::error::{Code, Error};

/// Most redirects that are followed.
pub const MAX_REDIRECTS: usize = 5;

/// Where a request may go, as far as its URL says. The host's addresses are asked [`is_public`] once they are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The whole URL, without its fragment, in its normal form.
    pub url: Url,
    /// Whether it is https.
    pub secure: bool,
    /// A name in lower case and ASCII, or an address.
    pub host: String,
    /// 80 or 443.
    pub port: u16,
}

/// Reads a URL: http or https, port 80 or 443, no user and password, and no address that is not public.
pub fn target(url: &str) -> Result<Target, Error> {
    let refused = |what: &str| {
        Error::new(
            Code::NotAllowed,
            format!("{:?}: {what}", &url[..url.floor_char_boundary(200)]),
        )
        .with_next("Use a public http or https URL.")
    };
    let mut parsed =
        Url::parse(url).map_err(|error| Error::new(Code::InvalidArguments, format!("at /url: not a URL: {error}")))?;
    let secure = match parsed.scheme() {
        "https" => true,
        "http" => false,
        other => return Err(refused(&format!("the scheme is {other}, not http or https"))),
    };
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err(refused("there is a user or password in it"));
    }
    let port = parsed
        .port_or_known_default()
        .filter(|port| matches!(port, 80 | 443))
        .ok_or_else(|| refused("the port is not 80 or 443"))?;
    let address = match parsed.host() {
        Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
        Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
        Some(Host::Domain(_)) => None,
        None => return Err(refused("there is no host")),
    };
    if address.is_some_and(|address| !is_public(address)) {
        return Err(refused("the address is not public"));
    }
    let host = parsed.host_str().unwrap_or_default().to_owned();
    parsed.set_fragment(None);
    Ok(Target {
        url: parsed,
        secure,
        host,
        port,
    })
}

/// Where a redirect leads: checked like any URL, and never from https to http. The flag says whether it is another origin,
/// for which credentials are dropped.
pub fn redirect(from: &Target, location: &str) -> Result<(Target, bool), Error> {
    let to = from
        .url
        .join(location)
        .map_err(|error| Error::new(Code::Unavailable, format!("the redirect is not a URL: {error}")))?;
    let to = target(to.as_str())?;
    if from.secure && !to.secure {
        return Err(Error::new(Code::NotAllowed, "the redirect leads from https to http")
            .with_next("Fetch the new URL itself, if it is right."));
    }
    let other = from.url.origin() != to.url.origin();
    Ok((to, other))
}

/// Whether an address is one of the public internet. Addresses that carry another one (IPv4-mapped and -compatible,
/// NAT64, 6to4, Teredo) are public if what they carry is.
///
/// The ranges are those of the IANA special-purpose registries (RFC 6890) that are not globally reachable, and those that
/// are, but lead to something other than a host of the internet. The caller refuses addresses of this host's own besides.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

/// Networks by their first address and the length of their prefix.
const NOT_PUBLIC_V4: [([u8; 4], u32); 18] = [
    ([0, 0, 0, 0], 8),       // "this network", unspecified (RFC 791)
    ([10, 0, 0, 0], 8),      // private (RFC 1918)
    ([100, 64, 0, 0], 10),   // shared by carriers (RFC 6598); metadata of some clouds
    ([127, 0, 0, 0], 8),     // loopback (RFC 1122)
    ([169, 254, 0, 0], 16),  // link-local (RFC 3927); metadata of most clouds
    ([172, 16, 0, 0], 12),   // private (RFC 1918)
    ([192, 0, 0, 0], 24),    // IETF protocol assignments (RFC 6890); metadata of some clouds
    ([192, 0, 2, 0], 24),    // documentation (RFC 5737)
    ([192, 31, 196, 0], 24), // AS112 (RFC 7535)
    ([192, 52, 193, 0], 24), // AMT relays (RFC 7450)
    ([192, 88, 99, 0], 24),  // 6to4 relays (RFC 7526)
    ([192, 168, 0, 0], 16),  // private (RFC 1918)
    ([192, 175, 48, 0], 24), // AS112 (RFC 7534)
    ([198, 18, 0, 0], 15),   // benchmarks (RFC 2544)
    ([198, 51, 100, 0], 24), // documentation (RFC 5737)
    ([203, 0, 113, 0], 24),  // documentation (RFC 5737)
    ([224, 0, 0, 0], 4),     // multicast (RFC 5771)
    ([240, 0, 0, 0], 4),     // reserved, broadcast (RFC 1112)
];

/// Single addresses in public networks that clouds answer on from within only.
const METADATA_V4: [Ipv4Addr; 1] = [Ipv4Addr::new(168, 63, 129, 16)];

/// Within 2000::/3, which is all that is assigned.
const NOT_PUBLIC_V6: [([u16; 8], u32); 6] = [
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), // IETF protocol assignments (RFC 2928): ORCHID, benchmarks; Teredo is asked first
    ([0x2001, 0x0db8, 0, 0, 0, 0, 0, 0], 32), // documentation (RFC 3849)
    ([0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0], 48), // AS112 (RFC 7534)
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), // documentation (RFC 9637)
    ([0x3ffe, 0, 0, 0, 0, 0, 0, 0], 16), // 6bone, returned (RFC 3701)
    ([0x2d00, 0, 0, 0, 0, 0, 0, 0], 8),  // not assigned
];

fn is_public_v4(address: Ipv4Addr) -> bool {
    let bits = u32::from(address);
    let special = NOT_PUBLIC_V4
        .iter()
        .any(|(network, length)| (bits ^ u32::from(Ipv4Addr::from(*network))) >> (32 - length) == 0);
    !special && !METADATA_V4.contains(&address)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    match carried(address) {
        Carried::Addresses(inner) => inner.into_iter().flatten().all(is_public_v4),
        Carried::Hidden => false,
        Carried::Nothing => {
            let bits = u128::from(address);
            // Everything outside of 2000::/3 is loopback, unique-local, link-local, multicast or not assigned.
            bits >> 125 == 1
                && !NOT_PUBLIC_V6
                    .iter()
                    .any(|(network, length)| (bits ^ u128::from(Ipv6Addr::from(*network))) >> (128 - length) == 0)
        }
    }
}

/// Addresses of IPv4 within one of IPv6.
enum Carried {
    Nothing,
    /// All of them have to be public.
    Addresses([Option<Ipv4Addr>; 2]),
    /// A form that carries one in a way only its network knows.
    Hidden,
}

fn carried(address: Ipv6Addr) -> Carried {
    let parts = address.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    let one = |inner| Carried::Addresses([Some(inner), None]);
    match parts {
        // IPv4-mapped (RFC 4291) and -compatible, which `::` and `::1` look like too; both are not public either way.
        [0, 0, 0, 0, 0, 0xffff | 0, high, low] => one(v4(high, low)),
        // IPv4-translated (RFC 2765).
        [0, 0, 0, 0, 0xffff, 0, high, low] => one(v4(high, low)),
        // NAT64, the well-known prefix (RFC 6052); every other address below it is not one.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => one(v4(high, low)),
        // NAT64, a network's own prefix (RFC 8215).
        [0x64, 0xff9b, ..] => Carried::Hidden,
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => one(v4(high, low)),
        // Teredo (RFC 4380): its server, and the client with its bits turned.
        [0x2001, 0, high, low, _, _, client_high, client_low] => {
            Carried::Addresses([Some(v4(high, low)), Some(v4(!client_high, !client_low))])
        }
        // ISATAP (RFC 5214) below any prefix.
        [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => one(v4(high, low)),
        _ => Carried::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::{is_public, redirect, target};

    #[test]
    fn the_public_internet_is_reached() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "93.184.216.34",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2606:4700:4700::1111",
            "2001:4860:4860::8888",
            "2a00:1450:4001:81b::200e",
            "2003::1",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2002:808:808::1",
        ] {
            assert!(is_public(address.parse::<IpAddr>().unwrap()), "{address}");
        }
    }

    /// A page, a name or a redirect leads to this host, its network or a cloud's metadata, in any spelling.
    #[test]
    fn nothing_else_is() {
        for address in [
            // unspecified, "this network"
            "0.0.0.0",
            "0.1.2.3",
            "0.255.255.255",
            // private
            "10.0.0.0",
            "10.255.255.255",
            "172.16.0.0",
            "172.31.255.255",
            "192.168.0.0",
            "192.168.255.255",
            // carriers, and metadata of Alibaba
            "100.64.0.0",
            "100.127.255.255",
            "100.100.100.200",
            // loopback
            "127.0.0.1",
            "127.255.255.255",
            // link-local, and metadata of AWS, GCP, Azure, ECS
            "169.254.0.0",
            "169.254.169.254",
            "169.254.170.2",
            "169.254.255.255",
            // metadata of Azure's hosts and of Oracle
            "168.63.129.16",
            "192.0.0.192",
            // assignments, documentation, AS112, relays, benchmarks
            "192.0.0.0",
            "192.0.0.170",
            "192.0.0.255",
            "192.0.2.1",
            "198.51.100.7",
            "203.0.113.9",
            "192.31.196.1",
            "192.175.48.1",
            "192.52.193.1",
            "192.88.99.1",
            "198.18.0.0",
            "198.19.255.255",
            // multicast, reserved, broadcast
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.0",
            "255.255.255.254",
            "255.255.255.255",
            // IPv6: unspecified, loopback, discard, link-local, site-local, unique-local (AWS metadata), multicast
            "::",
            "::1",
            "100::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "fc00::1",
            "fd00:ec2::254",
            "fdff::1",
            "ff02::1",
            "ff0e::1",
            // documentation, benchmarks, ORCHID, assignments, not assigned
            "2001:db8::1",
            "3fff::1",
            "2001:2::1",
            "2001:10::1",
            "2001:20::1",
            "2001:1::1",
            "5f00::1",
            "4000::1",
            "1::1",
            "2620:4f:8000::1",
            // IPv4-mapped
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:7f00:1",
            "::ffff:0.0.0.0",
            // IPv4-compatible
            "::127.0.0.1",
            "::10.0.0.1",
            "::169.254.169.254",
            "::a9fe:a9fe",
            // translated
            "::ffff:0:127.0.0.1",
            "::ffff:0:a9fe:a9fe",
            // NAT64
            "64:ff9b::7f00:1",
            "64:ff9b::10.0.0.1",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::808:808",
            "64:ff9b::1:808:808",
            // 6to4
            "2002:7f00:1::1",
            "2002:a00:1::1",
            "2002:a9fe:a9fe::1",
            "2002:c0a8:101::",
            "2002::",
            // Teredo: a server, or a client with its bits turned
            "2001:0:7f00:1::1",
            "2001:0:808:808::80ff:fffe",
            "2001:0:808:808::5601:5601",
            "2001:0:4136:e378:8000:63bf:f5ff:fffe",
            // ISATAP
            "2606:4700::5efe:127.0.0.1",
            "2606:4700::200:5efe:10.0.0.1",
        ] {
            assert!(!is_public(address.parse::<IpAddr>().unwrap()), "{address}");
        }
    }

    #[test]
    fn urls_are_taken_or_refused() {
        let taken = target("HTTPS://Example.COM/a?b#c").unwrap();
        assert_eq!(
            (taken.url.as_str(), taken.host.as_str(), taken.port, taken.secure),
            ("https://example.com/a?b", "example.com", 443, true)
        );
        assert_eq!(target("http://example.com:443/").unwrap().port, 443);
        assert!(target("https://[2606:4700:4700::1111]/").is_ok());
        for url in [
            "ftp://example.com",
            "file:///etc/passwd",
            "gopher://a",
            "javascript:1",
            "data:text/plain,x",
            "example.com",
            "",
            "https://",
            "http://example.com:8080/",
            "https://user@example.com",
            "https://user:pass@example.com",
            "http://127.0.0.1",
            "http://2130706433/",
            "http://0x7f000001/",
            "http://0177.0.0.1/",
            "http://127.1/",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://169.254.169.254/latest",
            "http://0/",
            "http://127.0.0.1.:80/",
            "http://\u{ff11}27.0.0.1/",
        ] {
            assert!(target(url).is_err(), "{url}");
        }
    }

    #[test]
    fn redirects_are_checked_like_urls() {
        let from = target("https://a.example/dir/page").unwrap();
        let (to, other) = redirect(&from, "../x").unwrap();
        assert_eq!((to.url.as_str(), other), ("https://a.example/x", false));
        assert!(redirect(&from, "https://b.example/").unwrap().1);
        assert!(redirect(&from, "//b.example/").unwrap().1);
        for location in [
            "http://a.example/",
            "http://127.0.0.1/",
            "//127.0.0.1/",
            "https://10.0.0.1/",
            "file:///etc/passwd",
            "https://u@a.example/",
            "https://a.example:22/",
        ] {
            assert!(redirect(&from, location).is_err(), "{location}");
        }
        assert!(
            redirect(&target("http://a.example/").unwrap(), "https://a.example/")
                .unwrap()
                .1
        );
    }
}
