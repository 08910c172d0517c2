//! The node as the reconciler's target: endpoints, the datapath, the routes to other nodes' pods.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use anyhow::{Result, anyhow, bail};
use watari_bpf::{Applied, Datapath, difference};
use watari_model::{Attachment, ClusterNode, IfName};
use watari_netlink::{Handle, Snapshot};
use watari_nft::masquerade::Masquerading;
use watari_plan::{NodeView, Note, datapath};
use watari_reconcile::Target;
use watari_routes::{Beyond, host_routes};
use watari_store::{EndpointRecord, StoreError};
use watari_tables::{Datapath as Tables, Masquerade, Route};

use crate::book::Book;
use crate::endpoint::mend;

/// What the agent keeps as it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// The datapath's tables and programs.
    Datapath,
    /// The routes to the Pod CIDRs of other nodes.
    Routes,
    /// Whose packets leave the cluster with the node's address.
    Masquerade,
    /// The links of one attachment.
    Endpoint(Attachment),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Datapath => f.write_str("datapath"),
            Self::Routes => f.write_str("routes"),
            Self::Masquerade => f.write_str("masquerade"),
            Self::Endpoint(attachment) => write!(f, "endpoint {attachment}"),
        }
    }
}

/// What is desired of a [`Key`].
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    /// That the tables be what the node store, these nodes and these links make of them. Without a
    /// list of nodes the ways to them stay as they are.
    Datapath {
        /// The cluster's nodes.
        nodes: Option<Arc<[ClusterNode]>>,
        /// The links by which packets for pods come.
        uplinks: BTreeSet<IfName>,
    },
    /// That routes lead to the pods of these nodes.
    Routes {
        /// The cluster's nodes.
        nodes: Arc<[ClusterNode]>,
        /// The links whose prefixes need no next hop.
        uplinks: BTreeSet<IfName>,
    },
    /// That these be masqueraded.
    Masquerade(Masquerade),
    /// That the links be what the record says.
    Endpoint(Box<EndpointRecord>),
}

/// Something that was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It was as it should be, and somebody had changed it.
    Repaired(String),
    /// It is desired since now.
    Planned(String),
}

/// A node's kernel and store.
pub struct Node<K> {
    /// The datapath.
    pub kernel: K,
    /// The node's own links and routes.
    pub host: Handle,
    /// The node store.
    pub book: Book,
    own: Arc<str>,
    applied: Option<Tables>,
    routed: Option<BTreeSet<Route>>,
    masqueraded: Option<Masquerade>,
    /// Routes that somebody else has made otherwise.
    taken: BTreeSet<Route>,
    /// Pins are gone: the datapath has to be loaded again.
    pub unpinned: Vec<String>,
    /// Programs that would better be attached otherwise.
    pub to_promote: usize,
    notes: BTreeSet<Note>,
    beyond: BTreeSet<Beyond>,
}

impl<K: Datapath> Node<K> {
    /// Of the calling thread's namespace.
    pub fn new(own: &str, kernel: K, book: Book) -> Result<Self> {
        Ok(Self {
            kernel,
            host: Handle::open()?,
            book,
            own: own.into(),
            applied: None,
            routed: None,
            masqueraded: None,
            taken: BTreeSet::new(),
            unpinned: Vec::new(),
            to_promote: 0,
            notes: BTreeSet::new(),
            beyond: BTreeSet::new(),
        })
    }

    /// What could not be planned.
    pub fn notes(&self) -> Vec<String> {
        let beyond = self.beyond.iter().map(|beyond| {
            format!(
                "no host route leads to {} of node {}: the network itself has to know the way",
                beyond.destination, beyond.node
            )
        });
        let taken = self.taken.iter().map(|route| {
            format!(
                "the route to {} is somebody else's: it stays",
                route.destination
            )
        });
        let notes = self.notes.iter().map(Note::to_string);
        notes.chain(beyond).chain(taken).collect()
    }

    /// The tables that were there last, as they should be.
    pub fn applied(&self) -> Option<&Tables> {
        self.applied.as_ref()
    }

    fn datapath(
        &mut self,
        nodes: Option<&[ClusterNode]>,
        uplinks: &BTreeSet<IfName>,
    ) -> Result<Vec<Change>> {
        if !self.book.was_read() {
            return Err(anyhow!("the node store could not be read yet"));
        }
        let observed = self.kernel.observe()?;
        if !observed.unpinned.is_empty() {
            self.unpinned.clone_from(&observed.unpinned);
            bail!(
                "pins are gone or replaced: {}",
                observed.unpinned.join(", ")
            );
        }
        self.to_promote = observed.to_promote;
        let own = self.own.clone();
        let view = View {
            own: &own,
            nodes,
            uplinks,
        };
        let there = link_names(&mut self.host)?;
        let (desired, left_out) = view.plan(self.book.records(), &there, &observed.tables);
        self.notes = left_out;
        if difference(&observed, &desired).is_empty() {
            self.applied = Some(desired);
            return Ok(Vec::new());
        }
        let (desired, applied) = self.write(&view)?;
        let again = self.applied.as_ref() == Some(&desired);
        self.applied = Some(desired);
        if let Some((change, error)) = applied.failed.first() {
            let more = applied.failed.len() - 1;
            bail!("cannot {change}: {error} (and {more} more)");
        }
        let kind = if again {
            Change::Repaired
        } else {
            Change::Planned
        };
        Ok(applied
            .done
            .iter()
            .map(|done| kind(done.to_string()))
            .collect())
    }

    /// With the store locked no plugin can make or forget an endpoint between the reading and the
    /// change, so no pod is pruned that came meanwhile.
    fn write(&mut self, view: &View<'_>) -> Result<(Tables, Applied)> {
        let (kernel, host) = (&mut self.kernel, &mut self.host);
        let written = self.book.store()?.write(|tx| {
            let observed = kernel.observe().map_err(anyhow::Error::from)?;
            let records = tx.endpoints(None)?;
            let there = link_names(host)?;
            let (desired, _) = view.plan(&records, &there, &observed.tables);
            let applied = kernel.apply(&observed, &desired);
            Ok::<_, Failed>((desired, applied))
        })?;
        Ok(written)
    }

    fn routes(&mut self, nodes: &[ClusterNode], uplinks: &BTreeSet<IfName>) -> Result<Vec<Change>> {
        let mut on_link = Vec::new();
        for name in uplinks {
            let Some(link) = self.host.link(name)? else {
                continue;
            };
            let routes = self.host.routes(link.index)?;
            let direct = routes.into_iter().filter(|route| route.via.is_none());
            on_link.extend(direct.map(|route| route.destination));
        }
        let wanted = host_routes(nodes, &self.own, &on_link);
        self.beyond = wanted.beyond;
        let done = self.host.set_own_routes(&wanted.routes)?;
        let (taken, failed): (Vec<_>, Vec<_>) = done
            .failed
            .into_iter()
            .partition(|(_, error)| error.is_exists());
        self.taken = taken.into_iter().map(|(route, _)| route).collect();
        if let Some((_, error)) = failed.into_iter().next() {
            return Err(error.into());
        }
        let again = self.routed.as_ref() == Some(&wanted.routes);
        self.routed = Some(wanted.routes);
        let kind = if again {
            Change::Repaired
        } else {
            Change::Planned
        };
        let missing = |route: &Route| format!("the route to {} was missing", route.destination);
        let more = |route: &Route| format!("a route to {} was there", route.destination);
        let words = done
            .set
            .iter()
            .map(missing)
            .chain(done.removed.iter().map(more));
        Ok(words.map(kind).collect())
    }
}

impl<K> Node<K> {
    fn masquerade(&mut self, wanted: &Masquerade) -> Result<Vec<Change>> {
        let mut table = Masquerading::open()?;
        let words = table.set(wanted);
        table.leave();
        let again = self.masqueraded.as_ref() == Some(wanted);
        let words = words?;
        self.masqueraded = Some(wanted.clone());
        let kind = if again {
            Change::Repaired
        } else {
            Change::Planned
        };
        Ok(words.into_iter().map(kind).collect())
    }
}

/// An error of either kind inside a transaction.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

/// The names of the node's links.
fn link_names(host: &mut Handle) -> Result<BTreeSet<IfName>> {
    let links = host.links()?;
    Ok(links.into_iter().map(|link| link.name).collect())
}

struct View<'a> {
    own: &'a str,
    nodes: Option<&'a [ClusterNode]>,
    uplinks: &'a BTreeSet<IfName>,
}

impl View<'_> {
    /// Only what has a link can have programs and packets.
    fn plan(
        &self,
        records: &[EndpointRecord],
        there: &BTreeSet<IfName>,
        observed: &Tables,
    ) -> (Tables, BTreeSet<Note>) {
        let living = records
            .iter()
            .filter(|record| there.contains(&record.host_ifname));
        let endpoints: Vec<_> = living.map(|record| &record.tables).collect();
        let uplinks = self.uplinks.intersection(there).cloned().collect();
        let (mut desired, notes) = datapath(&NodeView {
            endpoints: &endpoints,
            nodes: self.nodes.unwrap_or_default(),
            own: self.own,
            uplinks: &uplinks,
        });
        if self.nodes.is_none() {
            desired.remotes.clone_from(&observed.remotes);
        }
        (desired, notes)
    }
}

impl<K: Datapath> Target for Node<K> {
    type Key = Key;
    type Object = Object;
    type Change = Change;
    type Error = anyhow::Error;

    fn update(&mut self, _key: &Key, object: &Object) -> Result<Vec<Change>> {
        match object {
            Object::Datapath { nodes, uplinks } => self.datapath(nodes.as_deref(), uplinks),
            Object::Routes { nodes, uplinks } => self.routes(nodes, uplinks),
            Object::Masquerade(table) => self.masquerade(table),
            Object::Endpoint(record) => {
                let lost = mend(&mut self.host, record)?;
                Ok(lost.into_iter().map(Change::Repaired).collect())
            }
        }
    }

    /// The plugin takes its links away itself, and the datapath's tables follow the store; the
    /// routes stay until other nodes are desired.
    fn delete(&mut self, _key: &Key) -> Result<Vec<Change>> {
        Ok(Vec::new())
    }

    /// What is not desired goes with the tables that it is in: the datapath's and the routes'.
    fn prune(&mut self, _desired: &BTreeMap<Key, Object>) -> Result<Vec<Change>> {
        Ok(Vec::new())
    }
}

/// True if the node's side of an endpoint is all there, at a look at everything.
pub fn host_side_is_well(snapshot: &Snapshot, record: &EndpointRecord) -> Result<bool> {
    let desired = &record.tables.host;
    let Some(observed) = snapshot.observed(desired)? else {
        return Ok(false);
    };
    let found = watari_plan::differences(desired, Some(&observed.tables));
    Ok(observed.up && !found.iter().any(watari_plan::Difference::is_loss))
}
