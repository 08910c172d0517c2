use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use watari_http::{Handler, Server};
use watari_model::ServiceName;

use super::board::{Board, HealthCheck};

/// Who answers at a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Node,
    Metrics,
    Service(ServiceName),
}

/// The ports of health and metrics, kept open as they should be.
#[derive(Debug)]
pub struct Ports {
    server: Server,
    board: Arc<Board>,
    fixed: BTreeMap<SocketAddr, Who>,
    open: BTreeMap<SocketAddr, Who>,
    errors: BTreeSet<String>,
}

impl Ports {
    /// Opens nothing yet.
    pub fn new(
        board: Arc<Board>,
        healthz: Option<SocketAddr>,
        metrics: Option<SocketAddr>,
    ) -> Result<Self> {
        let fixed = [(healthz, Who::Node), (metrics, Who::Metrics)];
        let fixed = fixed.into_iter().filter_map(|(at, who)| Some((at?, who)));
        Ok(Self {
            server: Server::start().context("start the HTTP server")?,
            board,
            fixed: fixed.collect(),
            open: BTreeMap::new(),
            errors: BTreeSet::new(),
        })
    }

    /// Opens what is missing and closes what is not wanted; tries again what failed. Says nothing
    /// where all is as it should be.
    pub fn keep(&mut self, checks: &BTreeMap<ServiceName, HealthCheck>) {
        let mut wanted = self.fixed.clone();
        let mut errors = BTreeSet::new();
        for (service, check) in checks {
            let at = SocketAddr::from(([0, 0, 0, 0], check.port));
            let taken = wanted.get(&at).cloned();
            let who = wanted.entry(at).or_insert(Who::Service(service.clone()));
            if let Some(taken) = taken {
                errors.insert(format!(
                    "the health check port {} of {service} is {}'s already",
                    check.port,
                    name(&taken)
                ));
            } else {
                debug_assert_eq!(*who, Who::Service(service.clone()));
            }
        }
        let unwanted: Vec<SocketAddr> = self
            .open
            .iter()
            .filter(|(at, who)| wanted.get(*at) != Some(*who))
            .map(|(at, _)| *at)
            .collect();
        for at in unwanted {
            self.server.close(at);
            self.open.remove(&at);
        }
        for (at, who) in wanted {
            if self.open.contains_key(&at) {
                continue;
            }
            match self.server.open(at, self.handler(&who)) {
                Ok(()) => drop(self.open.insert(at, who)),
                Err(error) => drop(errors.insert(format!("{}: {error}", name(&who)))),
            }
        }
        for error in errors.difference(&self.errors) {
            tracing::warn!("{error}; tried again");
        }
        self.errors = errors;
    }

    /// What could not be opened.
    pub fn errors(&self) -> impl Iterator<Item = &String> {
        self.errors.iter()
    }

    fn handler(&self, who: &Who) -> Handler {
        let board = self.board.clone();
        match who.clone() {
            Who::Node => Arc::new(move |path: &str| board.node(path)),
            Who::Metrics => Arc::new(move |path: &str| board.metrics(path)),
            Who::Service(service) => Arc::new(move |_: &str| board.service(&service)),
        }
    }
}

fn name(who: &Who) -> String {
    match who {
        Who::Node => "the node's health".to_owned(),
        Who::Metrics => "metrics".to_owned(),
        Who::Service(service) => format!("the health of {service}"),
    }
}
