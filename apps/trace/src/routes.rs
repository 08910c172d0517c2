//! The kernel's routes, as the programs ask them (`bpf_fib_lookup`).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;

use watari_abi::Address;
use watari_datapath::desk::Routes;
use watari_datapath::{Route, RouteQuery};
use watari_model::IfName;
use watari_netlink::{Forwarded, Handle, Link, NetlinkError, Way, read_setting};

/// IPv6 carries packets of this many bytes on every link (RFC 8200).
const IPV6_MINIMUM: u32 = 1280;

/// The routes of the calling thread's network namespace.
pub struct Kernel {
    /// Where they are asked.
    pub handle: Handle,
    links: BTreeMap<u32, Link>,
    failed: Option<NetlinkError>,
}

impl Kernel {
    /// Of these links.
    pub fn new(handle: Handle, links: BTreeMap<u32, Link>) -> Self {
        Self {
            handle,
            links,
            failed: None,
        }
    }

    /// What went wrong while a program asked, which cannot be told to it.
    pub fn failure(&mut self) -> Result<(), NetlinkError> {
        self.failed.take().map_or(Ok(()), Err)
    }

    /// The MTU of a way in bytes.
    pub fn mtu(&self, index: u32, route: Option<u32>, is_ipv4: bool) -> u32 {
        let link = self.links.get(&index).map_or(u32::MAX, |link| link.mtu);
        let mtu = link.min(route.unwrap_or(u32::MAX));
        if is_ipv4 { mtu } else { mtu.max(IPV6_MINIMUM) }
    }

    fn ask(&mut self, index: u32, query: &RouteQuery) -> Result<Route, NetlinkError> {
        let next_hop = IpAddr::from(query.next_hop);
        if !next_hop.is_ipv4() && !self.forwards_ipv6(index)? {
            return Ok(Route::None);
        }
        let way = self.handle.way_of_program(&Forwarded {
            source: Some(IpAddr::from(query.source)),
            destination: next_hop,
            from_link: Some(index),
        })?;
        let Way::Out {
            index, via, mtu, ..
        } = way
        else {
            return Ok(Route::None);
        };
        if u32::from(query.length) > self.mtu(index, mtu, next_hop.is_ipv4()) {
            return Ok(Route::TooLong);
        }
        Ok(Route::Via {
            ifindex: index,
            next_hop: Address::from(via.unwrap_or(next_hop)),
        })
    }

    fn forwards_ipv6(&self, index: u32) -> Result<bool, NetlinkError> {
        let Some(link) = self.links.get(&index) else {
            return Ok(false);
        };
        forwards_ipv6(&link.name)
    }
}

/// Whether IPv6 packets that come in by a link are forwarded.
fn forwards_ipv6(link: &IfName) -> Result<bool, NetlinkError> {
    let path = format!("/proc/sys/net/ipv6/conf/{link}/forwarding");
    Ok(read_setting(path.as_ref())?.as_deref() == Some("1"))
}

/// Whether the stack forwards IPv6 at all.
pub fn stack_forwards_ipv6() -> Result<bool, NetlinkError> {
    let path = "/proc/sys/net/ipv6/conf/all/forwarding";
    Ok(read_setting(path.as_ref())?.as_deref() == Some("1"))
}

/// How they answer a program at that link.
pub fn routes(kernel: &Rc<RefCell<Kernel>>, index: u32) -> Routes {
    let kernel = Rc::clone(kernel);
    Box::new(move |query| {
        let mut kernel = kernel.borrow_mut();
        kernel.ask(index, query).unwrap_or_else(|error| {
            kernel.failed = Some(error);
            Route::None
        })
    })
}
