//! What the agent's loop does for Services.

use std::path::{Path, PathBuf};

use anyhow::Result;
use watari_bpf::balance::Departed;
use watari_bpf::{Datapath, PinDir};
use watari_netlink::{Snapshot, read_setting};

use crate::daemon::{Daemon, POLL};
use crate::pinned::{Services, monotonic};
use crate::services::{Told, source_ports, tell};

/// What is worth knowing of Services, and no trouble.
#[derive(Debug, Default)]
pub struct Notes {
    ports: Option<String>,
    untold: Option<String>,
}

impl<K: Datapath> Daemon<K> {
    /// Looks at the folder, and hears what it says of Services; true if what it says of the rest is
    /// different.
    pub(crate) fn poll_folder(&mut self) -> bool {
        let services = &mut self.node.services;
        let cluster = self.folder.poll(&mut |event| services.hear(event));
        if cluster && let Some(found) = self.folder.cluster() {
            let own = found
                .nodes
                .iter()
                .find(|node| node.name == self.options.node);
            let mut cidrs = found.cidrs.clone();
            cidrs.extend(&self.options.service_cidrs);
            self.node.services.set_cluster(own, cidrs);
        }
        self.node.services.heard(self.folder.is_answer());
        cluster
    }

    /// Looks at what Services need of the node, and has their tables compared.
    pub(crate) fn survey_services(&mut self, snapshot: &Snapshot) {
        let links = snapshot.links();
        let addresses = links.flat_map(|link| snapshot.addresses(link.index));
        let addresses = addresses.map(|net| net.addr()).collect();
        self.node.services.set_addresses(addresses);
        self.node.services.compare();
        self.service_names = Services::new(&PinDir::current(&self.options.bpf_root));
        self.register_clients();
        let ports = self.take_source_ports();
        self.trouble("source ports", ports);
    }

    /// Says whose processes are in which namespace: clients at their sockets are known by that.
    pub(crate) fn register_clients(&mut self) {
        let Some(pins) = &self.node.pins else { return };
        let own = self.folder.cluster().and_then(|cluster| {
            let mut nodes = cluster.nodes.iter();
            nodes.find(|node| node.name == self.options.node)
        });
        let own = own.map(|node| &node.addresses[..]);
        let registered = self.clients.register(pins, own, self.node.book.records());
        self.trouble("clients", registered);
    }

    fn take_source_ports(&mut self) -> Result<()> {
        let read = |name: &str| {
            let setting = format!("/proc/sys/net/ipv4/{name}");
            read_setting(Path::new(&setting)).map(Option::unwrap_or_default)
        };
        let local = read("ip_local_port_range")?;
        let reserved = read("ip_local_reserved_ports")?;
        let (ports, note) = source_ports(self.options.source_ports, &local, &reserved)?;
        self.node.services.set_ports(ports);
        self.services_notes.ports = note;
        Ok(())
    }

    /// What is to be done once the tables were looked at.
    pub(crate) fn after_services(&mut self) {
        let gone = self.node.services.take_gone();
        if !gone.is_empty() {
            let pods: Vec<PathBuf> = self
                .node
                .book
                .records()
                .iter()
                .filter_map(|record| record.netns.clone())
                .collect();
            let ended = self.end(&pods, &gone);
            self.trouble("ending", ended);
        }
        if self.node.services.write_board(&*self.node.balancing) {
            let checks = self.node.services.health_checks();
            self.checks = checks;
        }
        let now = self.now();
        if now >= self.next_tidy {
            self.next_tidy = now + POLL;
            self.ports.keep(&self.checks);
            let tidied = self.node.balancing.tidy(monotonic());
            self.trouble("services", tidied.map(drop).map_err(Into::into));
        }
    }

    /// Ends what leads to endpoints that are gone.
    fn end(&mut self, pods: &[PathBuf], gone: &[Departed]) -> Result<()> {
        let ended = self.node.kernel.end(gone)?;
        let connections = u64::try_from(ended.connections).unwrap_or(u64::MAX);
        // Without programs no socket was given anything.
        let told = match &self.node.pins {
            Some(pins) => tell(pins, pods, gone, &ended.sockets)?,
            None => Told::default(),
        };
        let sockets = told.sockets;
        self.board.numbers(|numbers| {
            numbers.ended.connections += connections;
            numbers.ended.sockets += sockets;
        });
        if connections > 0 || sockets > 0 {
            tracing::info!(connections, sockets, "ended what led to removed endpoints");
        }
        self.services_notes.untold = told.untold.map(|error| {
            format!(
                "clients on this node of removed endpoints are not told, and wait until they give \
                 up: {error}"
            )
        });
        Ok(())
    }

    /// Says how many connections backends have: the programs count, and are corrected.
    pub(crate) fn recount(&mut self) {
        if !self.node.services.stands() {
            return;
        }
        let now = monotonic();
        let counted = self.node.kernel.connection_counts(now);
        let recounted = counted.and_then(|counts| self.node.balancing.recount(&counts, now));
        self.trouble("loads", recounted.map_err(Into::into));
    }

    /// What is worth knowing of Services.
    pub(crate) fn services_notes(&self) -> impl Iterator<Item = String> {
        let notes = &self.services_notes;
        let own = [&notes.ports, &notes.untold].into_iter().flatten().cloned();
        let ports = self.ports.errors().cloned();
        own.chain(ports).chain(self.node.services.notes())
    }
}
