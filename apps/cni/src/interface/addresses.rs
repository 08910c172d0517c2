use std::borrow::Cow;
use std::os::unix::fs::MetadataExt;

use serde_json::Value;
use watari_cni_spec::{
    CniError, CniResult, Code, Command, Dns, IpConfig, NetConf, Request, ResultRoute,
};
use watari_ipam::{Holder, IpamConf, Kind};
use watari_model::{Attachment, NetworkName};
use watari_runtime::delegate;
use watari_store::{EndpointRecord, Store};

use super::conf::InterfaceConf;
use crate::ipam;

/// Azure's second plugin for addresses, called where `ipv6Mode` is set.
const SECOND: &str = "azure-vnet-ipamv6";
/// The environment that it is called with.
const SECOND_ENVIRONMENT: &str = "ipv6NodeIpam";

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
    plugins: Vec<Ipam<'a>>,
}

/// One IPAM plugin, and the configuration that it is called with.
struct Ipam<'a> {
    who: Who,
    conf: Cow<'a, NetConf>,
}

enum Who {
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
        let mut plugins = vec![Ipam {
            who: which(kind, request),
            conf: Cow::Borrowed(conf),
        }];
        if own.ipv6 && kind != SECOND {
            plugins.push(Ipam {
                who: which(SECOND, request),
                conf: Cow::Owned(second(conf)),
            });
        }
        Ok(Self { request, plugins })
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
            if let Err(error) = self.add_other(plugin, &mut granted) {
                self.undo_others(&self.plugins[..done]);
                return Err(error);
            }
        }
        let network = &self.plugins[0].conf.name;
        self.record(store, network, attachment, &granted, record)
            .inspect_err(|_| {
                self.undo_others(&self.plugins);
            })
    }

    fn record(
        &self,
        store: &Store,
        network: &NetworkName,
        attachment: &Attachment,
        others: &Granted,
        record: impl Fn(&Granted) -> EndpointRecord,
    ) -> Result<(Granted, EndpointRecord), CniError> {
        let mut confs = Vec::new();
        for (conf, kind) in self.ours() {
            confs.push(IpamConf::parse(conf, &self.request.args, kind)?);
        }
        let holder = Holder {
            network: network.clone(),
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

    fn add_other(&self, plugin: &Ipam<'_>, granted: &mut Granted) -> Result<(), CniError> {
        let result = self.call(plugin, Command::Add)?.unwrap_or_default();
        granted.take(&result.ips, &result.routes, &result.dns);
        Ok(())
    }

    /// Takes back what other IPAM plugins gave, for DEL and for an ADD that failed. Our own
    /// leases go with the endpoint.
    pub fn release(&self) -> Result<(), CniError> {
        self.others(Command::Del)
    }

    fn undo_others(&self, plugins: &[Ipam<'_>]) {
        for plugin in plugins {
            // The error that led here says more than one of its undoing; DEL comes again.
            drop(self.call(plugin, Command::Del));
        }
    }

    fn others(&self, command: Command) -> Result<(), CniError> {
        for plugin in &self.plugins {
            self.call(plugin, command)?;
        }
        Ok(())
    }

    /// CHECK, on every plugin.
    pub fn check(&self) -> Result<(), CniError> {
        for (conf, kind) in self.ours() {
            ipam::check(self.request, conf, kind)?;
        }
        self.others(Command::Check)
    }

    /// GC, on every plugin. Our leases are of the network, whichever of our plugins gave them.
    pub fn gc(&self) -> Result<(), CniError> {
        if let Some((conf, _)) = self.ours().next() {
            ipam::gc(conf)?;
        }
        self.others(Command::Gc)
    }

    /// STATUS, on every plugin.
    pub fn status(&self) -> Result<(), CniError> {
        for (conf, kind) in self.ours() {
            ipam::status(conf, kind)?;
        }
        self.others(Command::Status)
    }

    fn ours(&self) -> impl Iterator<Item = (&NetConf, Kind)> {
        self.plugins.iter().filter_map(|plugin| match plugin.who {
            Who::Ours(kind) => Some((plugin.conf.as_ref(), kind)),
            Who::Other(_) => None,
        })
    }

    /// Executes a plugin that is not ours; ours do their part in this process.
    fn call(&self, plugin: &Ipam<'_>, command: Command) -> Result<Option<CniResult>, CniError> {
        let Who::Other(kind) = &plugin.who else {
            return Ok(None);
        };
        let request = Request {
            command,
            ..self.request.clone()
        };
        let stdin = Value::Object(plugin.conf.raw.clone()).to_string();
        delegate(kind, &request, stdin.as_bytes()).map_err(CniError::from)
    }
}

/// The configuration for the second plugin, as Azure's makes it: IPv6 comes of the node's Pod
/// CIDR, unless the configuration says otherwise.
fn second(conf: &NetConf) -> NetConf {
    let mut conf = conf.clone();
    let mut ipam = conf.ipam.unwrap_or_default();
    ipam.insert("type".to_owned(), SECOND.into());
    ipam.entry("environment")
        .or_insert_with(|| SECOND_ENVIRONMENT.into());
    conf.raw
        .insert("ipam".to_owned(), Value::Object(ipam.clone()));
    conf.ipam = Some(ipam);
    conf
}

/// Ours, unless `CNI_PATH` holds another program under the name.
fn which(kind: &str, request: &Request) -> Who {
    match Kind::of(kind) {
        Some(ours) if is_this_program(kind, request) => Who::Ours(ours),
        _ => Who::Other(kind.to_owned()),
    }
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
