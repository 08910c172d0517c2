use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use watari_model::{Protocol, ServiceName};
use watari_tables::Frontend;

use crate::compiler::{Compiler, Entry};
use crate::slices::unfit;
use crate::spec::{Item, Programmed, Spec, special};

/// Something of a Service that is not done as it says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Note {
    /// Another Service has an address and port.
    Taken {
        /// Where.
        at: Frontend,
        /// Of which protocol.
        protocol: Protocol,
        /// Who has it: the older one, of two of one age the first by name.
        winner: ServiceName,
        /// Who does not.
        loser: ServiceName,
    },
    /// Two of its ports have one name, or one number and protocol; the first counts.
    SamePort {
        /// The Service.
        service: ServiceName,
        /// The name of the port that does not count.
        port: Arc<str>,
    },
    /// An address of a Service that cannot be one.
    Address {
        /// The Service.
        service: ServiceName,
        /// The address.
        address: IpAddr,
        /// Why it cannot.
        reason: &'static str,
    },
    /// An endpoint whose address cannot be one.
    Endpoint {
        /// The slice.
        slice: ServiceName,
        /// The address.
        address: IpAddr,
        /// Why it cannot.
        reason: &'static str,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken {
                at,
                protocol,
                winner,
                loser,
            } => {
                write!(f, "Service {loser}: {} port {}", at.address, at.first)?;
                if at.first != at.last {
                    write!(f, "-{}", at.last)?;
                }
                write!(
                    f,
                    "/{protocol} is Service {winner}'s, which is older or first by name"
                )
            }
            Self::SamePort { service, port } => write!(
                f,
                "Service {service}: its port {port:?} has a name or number that another of its ports has"
            ),
            Self::Address {
                service,
                address,
                reason,
            } => write!(
                f,
                "Service {service}: address {address} is left out: {reason}"
            ),
            Self::Endpoint {
                slice,
                address,
                reason,
            } => write!(
                f,
                "EndpointSlice {slice}: endpoint {address} is left out: {reason}"
            ),
        }
    }
}

impl Compiler {
    /// What is not done as Services and slices say, in a fixed order. It looks at all of them.
    pub fn notes(&self) -> Vec<Note> {
        let mut notes = Vec::new();
        for entry in self.services() {
            if let Some(spec) = entry.spec.as_ref() {
                self.of_service(entry, spec, &mut notes);
            }
            for slice in &entry.slices {
                let bad = slice.endpoints.iter().filter(|endpoint| !endpoint.fit());
                notes.extend(bad.map(|endpoint| Note::Endpoint {
                    slice: ServiceName {
                        namespace: entry.name.namespace.clone(),
                        name: slice.name.to_string(),
                    },
                    address: endpoint.address,
                    reason: unfit(endpoint.address, slice.v6).unwrap_or_default(),
                }));
            }
        }
        notes.sort();
        notes.dedup();
        notes
    }

    fn of_service(&self, entry: &Entry, spec: &Spec, notes: &mut Vec<Note>) {
        let service = (*entry.name).clone();
        notes.extend(spec.unfit.iter().map(|address| Note::Address {
            service: service.clone(),
            address: *address,
            reason: special(*address).unwrap_or_default(),
        }));
        if spec.programmed != Programmed::Here {
            return;
        }
        for (at, port) in spec.ports.iter().enumerate() {
            let same = spec.ports[..at].iter().any(|first| {
                first.name == port.name
                    || (first.number, first.protocol) == (port.number, port.protocol)
            });
            if same {
                notes.push(Note::SamePort {
                    service: service.clone(),
                    port: self.names.text(port.name).clone(),
                });
            }
        }
        let Some((id, _)) = self.find(&service) else {
            return;
        };
        for claim in &entry.claims {
            let rank = |id| self.rank(id);
            if self.claims.has(claim, id, rank) {
                continue;
            }
            let owner = self.claims.owner(claim, rank);
            let Some(winner) = owner.and_then(|(_, owner)| self.entry(owner)) else {
                continue;
            };
            if winner.name != entry.name || matches!(claim.part.item, Item::Ranges(_)) {
                notes.push(Note::Taken {
                    at: claim.frontend,
                    protocol: claim.protocol,
                    winner: (*winner.name).clone(),
                    loser: service.clone(),
                });
            }
        }
    }
}
