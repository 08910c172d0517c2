use std::os::unix::fs::MetadataExt;

use serde_json::Value;
use watari_cni_spec::{CniError, Code, Command, Dns, IpConfig, NetConf, Request, ResultRoute};
use watari_ipam::{Holder, IpamConf, Kind};
use watari_model::Attachment;
use watari_runtime::delegate;
use watari_store::{EndpointRecord, Store};

use super::conf::InterfaceConf;
use crate::Plugin;
use crate::ipam;

/// Azure's second plugin for addresses, called where `ipv6Mode` is set.
const SECOND: &str = "azure-vnet-ipamv6";

/// What a pod gets.
#[derive(Debug, Clone, Default)]
pub struct Granted {
    /// Addresses; at least one.
    pub ips: Vec<IpConfig>,
    /// Destinations; none: everything.
    pub routes: Vec<ResultRoute>,
    /// Resolver settings.
    pub dns: Dns,
}

impl Granted {
    /// Adds what one plugin gave; the first that has resolver settings decides them.
    fn take(&mut self, ips: &[IpConfig], routes: &[ResultRoute], dns: &Dns) {
        self.ips.extend_from_slice(ips);
        self.routes.extend_from_slice(routes);
        if self.dns.is_empty() {
            self.dns.clone_from(dns);
        }
    }
}

/// The IPAM plugins of a configuration. Ours run in this process, in the transaction that records
/// the endpoint; others are executed, as the specification says (section 4).
pub struct Addresses<'a> {
    request: &'a Request,
    conf: &'a NetConf,
    plugins: Vec<Ipam>,
}

enum Ipam {
    Ours(Kind),
    Other(String),
}

impl<'a> Addresses<'a> {
    /// Finds out who hands out addresses.
    pub fn of(
        request: &'a Request,
        conf: &'a NetConf,
        own: &InterfaceConf,
    ) -> Result<Self, CniError> {
        let kind = conf.ipam_kind()?.ok_or_else(|| {
            CniError::new(
                Code::INVALID_CONFIG,
                format!("network {}: no ipam.type", conf.name),
            )
            .because("say who hands out addresses, as {\"ipam\":{\"type\":\"azure-vnet-ipam\"}}")
        })?;
        let mut plugins = vec![which(kind, request)];
        if own.ipv6 && kind != SECOND {
            plugins.push(which(SECOND, request));
        }
        Ok(Self {
            request,
            conf,
            plugins,
        })
    }

    /// Gets the addresses and records the endpoint that `record` makes of them: with our own IPAM
    /// all in one transaction.
    pub fn grant(
        &self,
        store: &Store,
        attachment: &Attachment,
        record: impl Fn(&Granted) -> EndpointRecord,
    ) -> Result<(Granted, EndpointRecord), CniError> {
        let mut granted = Granted::default();
        for (done, plugin) in self.plugins.iter().enumerate() {
            let Ipam::Other(kind) = plugin else { continue };
            if let Err(error) = self.add_other(kind, &mut granted) {
                self.undo_others(&self.plugins[..done]);
                return Err(error);
            }
        }
        self.record(store, attachment, &granted, record)
            .inspect_err(|_| {
                self.undo_others(&self.plugins);
            })
    }

    fn record(
        &self,
        store: &Store,
        attachment: &Attachment,
        others: &Granted,
        record: impl Fn(&Granted) -> EndpointRecord,
    ) -> Result<(Granted, EndpointRecord), CniError> {
        let mut confs = Vec::new();
        for plugin in &self.plugins {
            if let Ipam::Ours(kind) = plugin {
                confs.push(IpamConf::parse(self.conf, &self.request.args, *kind)?);
            }
        }
        let holder = Holder {
            network: self.conf.name.clone(),
            attachment: attachment.clone(),
        };
        ipam::with_addresses(store, &confs, &holder, |tx, assigned| {
            let mut granted = others.clone();
            for assigned in assigned {
                granted.take(&assigned.ips, &assigned.routes, &assigned.dns);
            }
            if granted.ips.is_empty() {
                return Err(CniError::new(
                    Code::DELEGATE,
                    "no IPAM plugin gave an address",
                ));
            }
            let record = record(&granted);
            tx.put_endpoint(&record)?;
            Ok((granted, record))
        })
    }

    fn add_other(&self, kind: &str, granted: &mut Granted) -> Result<(), CniError> {
        let result = self.call(kind, Command::Add)?.unwrap_or_default();
        granted.take(&result.ips, &result.routes, &result.dns);
        Ok(())
    }

    /// Takes back what other IPAM plugins gave to an ADD that failed. Our own leases went with
    /// the endpoint.
    pub fn undo(&self) -> Result<(), CniError> {
        self.others(Command::Del)
    }

    /// DEL: like [`Self::undo`].
    pub fn release(&self) -> Result<(), CniError> {
        self.others(Command::Del)
    }

    fn undo_others(&self, plugins: &[Ipam]) {
        for plugin in plugins {
            // The error that led here says more than one of its undoing; DEL comes again.
            if let Ipam::Other(kind) = plugin {
                drop(self.call(kind, Command::Del));
            }
        }
    }

    fn others(&self, command: Command) -> Result<(), CniError> {
        for plugin in &self.plugins {
            if let Ipam::Other(kind) = plugin {
                self.call(kind, command)?;
            }
        }
        Ok(())
    }

    /// CHECK, on every plugin.
    pub fn check(&self) -> Result<(), CniError> {
        for kind in self.ours() {
            ipam::check(self.request, self.conf, kind)?;
        }
        self.others(Command::Check)
    }

    /// GC, on every plugin. Our leases are of the network, whichever of our plugins gave them.
    pub fn gc(&self) -> Result<(), CniError> {
        if self.ours().next().is_some() {
            ipam::gc(self.conf)?;
        }
        self.others(Command::Gc)
    }

    /// STATUS, on every plugin.
    pub fn status(&self) -> Result<(), CniError> {
        for kind in self.ours() {
            ipam::status(self.conf, kind)?;
        }
        self.others(Command::Status)
    }

    fn ours(&self) -> impl Iterator<Item = Kind> {
        self.plugins.iter().filter_map(|plugin| match plugin {
            Ipam::Ours(kind) => Some(*kind),
            Ipam::Other(_) => None,
        })
    }

    fn call(
        &self,
        kind: &str,
        command: Command,
    ) -> Result<Option<watari_cni_spec::CniResult>, CniError> {
        let request = Request {
            command,
            ..self.request.clone()
        };
        let stdin = Value::Object(self.conf.raw.clone()).to_string();
        delegate(kind, &request, stdin.as_bytes()).map_err(CniError::from)
    }
}

/// Ours, unless `CNI_PATH` holds another program under the name.
fn which(kind: &str, request: &Request) -> Ipam {
    let ours = match Plugin::ipam(kind) {
        Some(Plugin::Ipam(families)) if is_this_program(kind, request) => Some(families),
        _ => None,
    };
    ours.map_or_else(|| Ipam::Other(kind.to_owned()), Ipam::Ours)
}

fn is_this_program(kind: &str, request: &Request) -> bool {
    let Ok(found) = watari_runtime::find_plugin(&request.path, kind) else {
        return true;
    };
    let identity = |path: &std::path::Path| {
        std::fs::metadata(path)
            .map(|data| (data.dev(), data.ino()))
            .ok()
    };
    identity(&found) == identity("/proc/self/exe".as_ref())
}
