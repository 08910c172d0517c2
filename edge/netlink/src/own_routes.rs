use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use netlink_packet_route::route::{RouteHeader, RouteMessage, RouteProtocol, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use watari_tables::Route;

use crate::change::OWN_PROTOCOL;
use crate::query::{next_hop, route_destination};
use crate::{Change, Handle, NetlinkError, NewRoute, RouteKind};

/// Changes in one batch: their acknowledgements must fit into the socket's receive buffer.
const BATCH: usize = 64;

/// What [`Handle::set_own_routes`] did.
#[derive(Debug, Default)]
pub struct OwnRoutes {
    /// Routes that were missing, or led elsewhere, and stand now.
    pub set: Vec<Route>,
    /// Routes that should not have been, and are gone.
    pub removed: Vec<Route>,
    /// Routes that the kernel refused to make or to remove, and why. One whose destination
    /// somebody else's route has is refused with `EEXIST`: theirs stays.
    pub failed: Vec<(Route, NetlinkError)>,
}

impl OwnRoutes {
    /// All is as it was, and as it should be.
    pub fn is_unchanged(&self) -> bool {
        self.set.is_empty() && self.removed.is_empty() && self.failed.is_empty()
    }
}

impl Handle {
    /// The routes of [`OWN_PROTOCOL`] in the main table, by whatever link.
    pub fn own_routes(&mut self) -> Result<BTreeSet<Route>, NetlinkError> {
        let mut routes = BTreeSet::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            message.header.table = RouteHeader::RT_TABLE_MAIN;
            message.header.protocol = RouteProtocol::Other(OWN_PROTOCOL);
            let ask = RouteNetlinkMessage::GetRoute(message);
            let answers = self.ask("cannot list Watari's own routes", ask, true)?;
            routes.extend(answers.iter().filter_map(own_route));
        }
        Ok(routes)
    }

    /// Brings the routes of [`OWN_PROTOCOL`] to these, and touches no other. A route that leads
    /// elsewhere is replaced in one step; what is no longer wanted goes last.
    pub fn set_own_routes(&mut self, wanted: &BTreeSet<Route>) -> Result<OwnRoutes, NetlinkError> {
        let there = self.own_routes()?;
        let mut by_destination: BTreeMap<IpNet, Route> = BTreeMap::new();
        for route in &there {
            by_destination.insert(route.destination, *route);
        }
        let mut done = OwnRoutes::default();
        let missing: Vec<Route> = wanted.difference(&there).copied().collect();
        let replaced = |route: &Route| by_destination.contains_key(&route.destination);
        let changes = missing.iter().map(|route| {
            Change::AddRoute(NewRoute {
                replace: replaced(route),
                ..own(*route)
            })
        });
        for (route, result) in missing.iter().zip(self.each(&changes.collect::<Vec<_>>())?) {
            match result {
                Ok(()) => done.set.push(*route),
                Err(error) => done.failed.push((*route, error)),
            }
        }
        // What was replaced is gone already; what could not be replaced is not wanted either.
        let left: Vec<Route> = self.own_routes()?.difference(wanted).copied().collect();
        let changes: Vec<_> = left
            .iter()
            .map(|route| Change::DeleteRoute(own(*route)))
            .collect();
        for (route, result) in left.iter().zip(self.each(&changes)?) {
            match result {
                Err(error) if !error.is_absent() => done.failed.push((*route, error)),
                _ => done.removed.push(*route),
            }
        }
        Ok(done)
    }

    /// A result for each change, however many there are.
    fn each(
        &mut self,
        changes: &[Change<'_>],
    ) -> Result<Vec<Result<(), NetlinkError>>, NetlinkError> {
        let mut results = Vec::with_capacity(changes.len());
        for batch in changes.chunks(BATCH) {
            results.extend(self.batch_each(batch)?);
        }
        Ok(results)
    }
}

/// The kernel finds the link of the next hop.
fn own(route: Route) -> NewRoute {
    NewRoute {
        route,
        index: None,
        protocol: crate::RouteProtocol::Own,
        kind: RouteKind::Unicast,
        scope_link: false,
        onlink: false,
        replace: false,
    }
}

pub(crate) fn own_route(answer: &RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = answer else {
        return None;
    };
    let header = &message.header;
    let ours = header.protocol == RouteProtocol::Other(OWN_PROTOCOL)
        && header.kind == RouteType::Unicast
        && header.table == RouteHeader::RT_TABLE_MAIN;
    let destination = route_destination(message).filter(|_| ours)?;
    let (_, via) = next_hop(message);
    Some(Route { destination, via })
}
