//! Whether this host has a way out, and when that changed: rtnetlink says "look again", the kernel's own route tables
//! say what there is. Bridges and containers that come and go change no default route, so they are not told.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::time::Duration;

/// The default routes: interface and gateway, as the kernel writes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DefaultRoutes(BTreeSet<String>);

impl DefaultRoutes {
    /// Whether there is a way out of this host.
    pub fn is_up(&self) -> bool {
        !self.0.is_empty()
    }

    fn now() -> DefaultRoutes {
        let read = |path: &str| std::fs::read_to_string(Path::new(path)).unwrap_or_default();
        DefaultRoutes::of(&read("/proc/net/route"), &read("/proc/net/ipv6_route"))
    }

    /// IPv4: interface, destination, gateway, flags ... mask is the eighth. IPv6: destination, its length, source, its
    /// length, next hop, metric, two counters, flags, interface.
    fn of(v4: &str, v6: &str) -> DefaultRoutes {
        const UP: u32 = 1;
        const REJECT: u32 = 0x200;
        let usable = |flags: &str| u32::from_str_radix(flags, 16).is_ok_and(|f| f & UP != 0 && f & REJECT == 0);
        let mut ways = BTreeSet::new();
        for line in v4.lines().skip(1) {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            if let [interface, "00000000", gateway, flags, _, _, _, "00000000", ..] = fields[..]
                && usable(flags)
            {
                ways.insert(format!("{interface} {gateway}"));
            }
        }
        for line in v6.lines() {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            if let [destination, "00", _, _, gateway, _, _, _, flags, interface] = fields[..]
                && destination.bytes().all(|b| b == b'0')
                && usable(flags)
                && interface != "lo"
            {
                ways.insert(format!("{interface} {gateway}"));
            }
        }
        DefaultRoutes(ways)
    }
}

/// Changes come in bursts: the state is read once they have been over for so long.
const QUIET: Duration = Duration::from_millis(200);

/// Tells each change of the ways out, for ever.
///
/// # Errors
/// This host does not let us listen.
#[cfg(target_os = "linux")]
pub(crate) async fn follow(mut tell: impl FnMut(&DefaultRoutes)) -> io::Result<std::convert::Infallible> {
    use nix::errno::Errno;
    use nix::sys::socket::{self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType};
    use std::os::fd::AsRawFd;

    // Links, addresses and routes of both families: RTMGRP_* of linux/rtnetlink.h.
    const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;
    let socket = socket::socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        SockProtocol::NetlinkRoute,
    )?;
    socket::bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
    let socket = super::readable::watch(socket)?;
    let mut known = DefaultRoutes::now();
    let mut buffer = [0; 4096];
    let mut drain = async || -> io::Result<()> {
        let mut ready = socket.readable().await?;
        // What they say is not read. Too many to be kept (ENOBUFS) is news as well.
        while !matches!(
            socket::recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()),
            Err(Errno::EAGAIN)
        ) {}
        ready.clear_ready();
        Ok(())
    };
    loop {
        drain().await?;
        while let Ok(more) = tokio::time::timeout(QUIET, drain()).await {
            more?;
        }
        let now = DefaultRoutes::now();
        if now != known {
            known = now;
            tell(&known);
        }
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) async fn follow(_tell: impl FnMut(&DefaultRoutes)) -> io::Result<std::convert::Infallible> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
        eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
        eth0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
        docker0\t000012AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n";
    const REJECTED: &str = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
        00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo\n";

    #[test]
    fn only_default_routes_that_lead_somewhere_count() {
        let ways = DefaultRoutes::of(V4, REJECTED);
        assert_eq!(ways, DefaultRoutes(["eth0 010011AC".to_owned()].into()));
        let without_default: String = V4
            .lines()
            .filter(|l| !l.contains("010011AC"))
            .fold(String::new(), |all, line| all + line + "\n");
        assert!(!DefaultRoutes::of(&without_default, REJECTED).is_up());
        let more_bridges = V4.to_owned() + "br-1\t000013AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n";
        assert_eq!(DefaultRoutes::of(&more_bridges, ""), ways);
        let v6 = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
            fe800000000000000000000000000001 00000400 00000001 00000000 00000003    wlan0\n";
        assert!(DefaultRoutes::of("", v6).is_up());
    }
}
