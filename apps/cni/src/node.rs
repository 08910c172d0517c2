//! What a plugin must know of the node, and the two settings without which no pod is reached.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use watari_cni_spec::{CniError, Code};
use watari_model::IfName;
use watari_netlink::{Handle, Link, NetlinkError, read_setting, write_setting};

/// Addresses set aside for documentation (RFC 5737, RFC 3849): nobody routes them, so the way to
/// them is the default route.
const NOWHERE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

const FORWARD_V4: &str = "/proc/sys/net/ipv4/ip_forward";
const FORWARD_V6: &str = "/proc/sys/net/ipv6/conf/all/forwarding";
const IPV6: &str = "/proc/sys/net/ipv6";

/// A refusal by the kernel as the runtime is told of it.
pub fn kernel_error(error: &NetlinkError) -> CniError {
    CniError::new(Code::KERNEL, error.to_string())
}

/// Does the kernel have IPv6?
pub fn has_ipv6() -> bool {
    Path::new(IPV6).exists()
}

/// The node's primary interface: `master` if the configuration names one, else the one that the
/// default route goes over, else the first that is up and has an address.
pub fn primary(host: &mut Handle, master: Option<&IfName>) -> Result<Link, CniError> {
    if let Some(name) = master {
        return host
            .link(name)
            .map_err(|error| kernel_error(&error))?
            .ok_or_else(|| {
                CniError::new(
                    Code::INVALID_CONFIG,
                    format!("master: the node has no interface {name}"),
                )
            });
    }
    find_primary(host)
        .map_err(|error| kernel_error(&error))?
        .ok_or_else(|| {
            CniError::new(Code::NOT_AVAILABLE, "the node has no primary interface").because(
                "no default route, and no interface that is up with an address; \
             wait for the node's own network, or name one as `master`",
            )
        })
}

fn find_primary(host: &mut Handle) -> Result<Option<Link>, NetlinkError> {
    for nowhere in NOWHERE {
        if let Some(way) = host.route_to(nowhere)?
            && let Some(link) = host.link_by_index(way.index)?
            && !link.loopback
        {
            return Ok(Some(link));
        }
    }
    for link in host.links()? {
        if link.up && !link.loopback && !host.addresses(link.index)?.is_empty() {
            return Ok(Some(link));
        }
    }
    Ok(None)
}

/// Makes the node forward packets of the families that a pod has.
pub fn forward(v4: bool, v6: bool, primary: &Link) -> Result<(), NetlinkError> {
    if v4 {
        enable(FORWARD_V4)?;
    }
    if v6 && read_setting(FORWARD_V6.as_ref())?.as_deref() == Some("0") {
        // A router does not listen to other routers unless told to (accept_ra 2): without it the
        // node would lose the default route that it got by router advertisement.
        let accept_ra = format!("/proc/sys/net/ipv6/conf/{}/accept_ra", primary.name);
        if read_setting(accept_ra.as_ref())?.as_deref() == Some("1") {
            write_setting(accept_ra.as_ref(), "2")?;
        }
        enable(FORWARD_V6)?;
    }
    Ok(())
}

/// Written only where it is off: on a node with a read-only `/proc/sys` that forwards already
/// there is nothing to do.
fn enable(path: &str) -> Result<(), NetlinkError> {
    match read_setting(path.as_ref())?.as_deref() {
        Some("0") => write_setting(path.as_ref(), "1"),
        _ => Ok(()),
    }
}
