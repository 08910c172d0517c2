//! One switch: a bridge that learns MACs. Its own port is a gateway that leads to the world: a host
//! that answers everybody, and knows the way to nodes alone.

use std::net::IpAddr;

use anyhow::{Context, Result};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use watari_model::IfName;
use watari_netlink::{Change, Handle, NewRoute};

use super::index_of;
use crate::echo::{EchoOptions, echo_then};
use crate::layout::{GATEWAY_MAC, GATEWAY6, Lab, WORLD, WORLD6};
use crate::node;

/// The switch.
const BRIDGE: &str = "switch";
/// What the world's server calls itself.
const WORLD_NAME: &str = "world";

/// Makes the switch and what is beyond it, in the fabric's namespaces.
pub fn make(lab: &Lab) -> Result<()> {
    settings()?;
    let mut handle = Handle::open()?;
    let name = IfName::new(BRIDGE)?;
    handle
        .batch(&[Change::CreateBridge {
            name: &name,
            mac: GATEWAY_MAC,
            mtu: lab.mtu,
        }])
        .context("make the switch")?;
    let (bridge, lo) = (index_of(&mut handle, BRIDGE)?, index_of(&mut handle, "lo")?);
    let mut changes = vec![Change::Up(bridge), Change::Up(lo)];
    if lab.ipv4 {
        let gateway = Ipv4Net::new(lab.gateway, lab.subnet.prefix_len())?;
        changes.push(Change::AddAddressWithRoute(bridge, gateway.into()));
        let world = IpNet::V4(Ipv4Net::from(WORLD));
        changes.push(Change::AddAddress(lo, world));
    }
    if let Some(prefix) = lab.ipv6_prefix {
        let own = Ipv6Net::new(
            u128::from(prefix.network()).saturating_add(1).into(),
            prefix.prefix_len(),
        )?;
        for (index, net) in [
            (bridge, Ipv6Net::new_assert(GATEWAY6, 64)),
            (bridge, own),
            (lo, Ipv6Net::from(WORLD6)),
        ] {
            changes.push(Change::AddAddressWithRoute(index, net.into()));
            // The kernel makes the local route later.
            let local = NewRoute::local(index, IpAddr::V6(net.addr()));
            changes.push(Change::AddRoute(local));
        }
    }
    handle.batch(&changes).context("set up the gateway")
}

/// The gateway forwards nothing: what it does not know the way to is lost, pods' addresses too.
fn settings() -> Result<()> {
    let mut settings = vec![
        ("ipv4/ip_forward", "0"),
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
    ];
    if node::has_ipv6() {
        settings.push(("ipv6/conf/default/accept_dad", "0"));
        settings.push(("ipv6/conf/default/accept_ra", "0"));
        // Ports of a switch have no addresses.
        settings.push(("ipv6/conf/default/addr_gen_mode", "1"));
    }
    node::set_all(&settings)
}

/// Plugs a cable into the switch.
pub fn join(here: &mut Handle, port: &IfName) -> Result<()> {
    let (bridge, index) = (index_of(here, BRIDGE)?, index_of(here, port.as_str())?);
    here.batch(&[Change::Join(index, bridge), Change::Up(index)])
        .with_context(|| format!("plug {port} into the switch"))
}

/// The world's server: says whom it saw, once `ready` has told that it listens.
pub fn serve(ready: impl FnOnce() -> Result<()>) -> Result<()> {
    let options = EchoOptions {
        name: Some(WORLD_NAME.to_owned()),
        ..EchoOptions::default()
    };
    echo_then(options, ready)
}
