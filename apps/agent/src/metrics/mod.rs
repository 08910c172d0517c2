//! What Prometheus is told: kube-proxy's metrics by its names, and ours.
//!
//! Names, labels and limits of `kubeproxy_*` are those of `pkg/proxy/metrics/metrics.go`
//! (Kubernetes 1.35), as far as they say something here: there are no rules of iptables or nftables
//! to count. What is counted by `ip_family` counts the syncs in which something of that family
//! changed.

mod datapath;
mod page;

use std::time::{Duration, SystemTime};

pub use datapath::{Datapath, Usage, datapath, write_usage};
pub use page::{CONTENT_TYPE, Histogram, Kind, Page};

/// From 1 ms, twice as much each time, 15 times.
const SYNC_LIMITS: &[f64] = &[
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096,
    8.192, 16.384,
];

/// 0.25 s, 0.5 s; 1 to 59 s; 60 to 115 s by 5; 2 to 5 minutes by half ones.
const PROGRAMMING_LIMITS: &[f64] = &[
    0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0,
    16.0, 17.0, 18.0, 19.0, 20.0, 21.0, 22.0, 23.0, 24.0, 25.0, 26.0, 27.0, 28.0, 29.0, 30.0, 31.0,
    32.0, 33.0, 34.0, 35.0, 36.0, 37.0, 38.0, 39.0, 40.0, 41.0, 42.0, 43.0, 44.0, 45.0, 46.0, 47.0,
    48.0, 49.0, 50.0, 51.0, 52.0, 53.0, 54.0, 55.0, 56.0, 57.0, 58.0, 59.0, 60.0, 65.0, 70.0, 75.0,
    80.0, 85.0, 90.0, 95.0, 100.0, 105.0, 110.0, 115.0, 120.0, 150.0, 180.0, 210.0, 240.0, 270.0,
    300.0,
];

const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];

type Pick = fn(&Family) -> &Histogram;
type Time = fn(&Family) -> f64;

/// What is measured of one family.
#[derive(Debug, Clone)]
struct Family {
    sync: Histogram,
    full: Histogram,
    partial: Histogram,
    programming: Histogram,
    last: f64,
    queued: f64,
}

impl Default for Family {
    fn default() -> Self {
        Self {
            sync: Histogram::new(SYNC_LIMITS),
            full: Histogram::new(SYNC_LIMITS),
            partial: Histogram::new(SYNC_LIMITS),
            programming: Histogram::new(PROGRAMMING_LIMITS),
            last: 0.0,
            queued: 0.0,
        }
    }
}

/// What the agent measures of its work on Services.
#[derive(Debug, Clone, Default)]
pub struct Numbers {
    families: [Family; 2],
    /// Ports that keep to this node's endpoints and have none here: internal, external policy.
    no_local: [usize; 2],
    endpoint_changes: u64,
    service_changes: u64,
    endpoint_pending: u64,
    service_pending: u64,
    failures: u64,
    /// Answers of `/healthz` and `/livez`: 200, 503.
    healthz: [u64; 2],
    livez: [u64; 2],
    /// What there is.
    pub held: Held,
    /// What removals ended.
    pub ended: Ended,
}

/// What the tables of Services hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Services that are programmed.
    pub services: u64,
    /// Their ports, by family.
    pub ports: u64,
    /// Addresses with ports where they are reached.
    pub frontends: u64,
    /// Endpoints, by address and port, that get connections of this node or had some lately.
    pub backends: u64,
    /// Writes of entries since the start.
    pub writes: u64,
}

/// What was ended since the start since its endpoint was gone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ended {
    /// Entries of connections.
    pub connections: u64,
    /// Sockets of local clients.
    pub sockets: u64,
}

/// What came of a sync.
#[derive(Debug, Clone, Copy)]
pub struct Synced {
    /// How long it took.
    pub took: Duration,
    /// Everything was compared.
    pub full: bool,
    /// Something of IPv4, of IPv6 was changed.
    pub families: [bool; 2],
}

impl Numbers {
    /// A change was heard of: so many Services, so many slices of endpoints.
    pub fn heard(&mut self, services: u64, endpoints: u64, at: SystemTime) {
        self.service_changes += services;
        self.endpoint_changes += endpoints;
        self.service_pending += services;
        self.endpoint_pending += endpoints;
        for family in &mut self.families {
            family.queued = unix(at);
        }
    }

    /// All that was heard of is in the kernel.
    pub fn synced(&mut self, synced: &Synced, at: SystemTime) {
        self.nothing_pending();
        let took = synced.took.as_secs_f64();
        for (family, changed) in self.families.iter_mut().zip(synced.families) {
            family.last = unix(at);
            if changed || synced.full {
                family.sync.observe(took);
                if synced.full {
                    family.full.observe(took);
                } else {
                    family.partial.observe(took);
                }
            }
        }
    }

    /// A slice of endpoints was programmed so long after it changed.
    pub fn programmed(&mut self, v6: bool, after: Duration) {
        let family = &mut self.families[usize::from(v6)];
        family.programming.observe(after.as_secs_f64());
    }

    /// A sync failed.
    pub fn failed(&mut self) {
        self.failures += 1;
    }

    /// How many ports of Services keep to this node's endpoints by their internal, by their external
    /// policy, and have none here though there are some elsewhere.
    pub fn no_local(&mut self, internal: usize, external: usize) {
        self.no_local = [internal, external];
    }

    /// What was heard of changes nothing for the kernel.
    pub fn nothing_pending(&mut self) {
        (self.service_pending, self.endpoint_pending) = (0, 0);
    }

    /// `/healthz` was answered.
    pub fn healthz(&mut self, well: bool) {
        self.healthz[usize::from(!well)] += 1;
    }

    /// `/livez` was answered.
    pub fn livez(&mut self, well: bool) {
        self.livez[usize::from(!well)] += 1;
    }

    /// Writes them.
    pub fn write(&self, page: &mut Page) {
        self.write_syncs(page);
        self.write_changes(page);
        self.write_probes(page);
        self.write_own(page);
    }

    fn write_syncs(&self, page: &mut Page) {
        let histograms: [(&'static str, &str, Pick); 4] = [
            (
                "kubeproxy_sync_proxy_rules_duration_seconds",
                "SyncProxyRules latency in seconds",
                |family| &family.sync,
            ),
            (
                "kubeproxy_sync_full_proxy_rules_duration_seconds",
                "SyncProxyRules latency in seconds for full resyncs",
                |family| &family.full,
            ),
            (
                "kubeproxy_sync_partial_proxy_rules_duration_seconds",
                "SyncProxyRules latency in seconds for partial resyncs",
                |family| &family.partial,
            ),
            (
                "kubeproxy_network_programming_duration_seconds",
                "In Cluster Network Programming Latency in seconds",
                |family| &family.programming,
            ),
        ];
        for (name, help, pick) in histograms {
            let mut metric = page.metric(name, Kind::Histogram, help);
            for (label, family) in FAMILIES.iter().zip(&self.families) {
                metric.histogram(&[("ip_family", label)], pick(family));
            }
        }
        let times: [(&'static str, &str, Time); 2] = [
            (
                "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
                "The last time proxy rules were successfully synced",
                |family| family.last,
            ),
            (
                "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
                "The last time a sync of proxy rules was queued",
                |family| family.queued,
            ),
        ];
        for (name, help, pick) in times {
            let mut metric = page.metric(name, Kind::Gauge, help);
            for (label, family) in FAMILIES.iter().zip(&self.families) {
                metric.sample(&[("ip_family", label)], pick(family));
            }
        }
    }

    fn write_changes(&self, page: &mut Page) {
        for (name, kind, help, value) in [
            (
                "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
                Kind::Gauge,
                "Pending proxy rules Endpoint changes",
                self.endpoint_pending,
            ),
            (
                "kubeproxy_sync_proxy_rules_endpoint_changes_total",
                Kind::Counter,
                "Cumulative proxy rules Endpoint changes",
                self.endpoint_changes,
            ),
            (
                "kubeproxy_sync_proxy_rules_service_changes_pending",
                Kind::Gauge,
                "Pending proxy rules Service changes",
                self.service_pending,
            ),
            (
                "kubeproxy_sync_proxy_rules_service_changes_total",
                Kind::Counter,
                "Cumulative proxy rules Service changes",
                self.service_changes,
            ),
        ] {
            page.metric(name, kind, help).sample(&[], value);
        }
        let mut metric = page.metric(
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
            Kind::Gauge,
            "Number of services with a Local traffic policy and no endpoints",
        );
        for (policy, count) in ["internal", "external"].into_iter().zip(self.no_local) {
            metric.sample(&[("traffic_policy", policy)], count);
        }
    }

    fn write_probes(&self, page: &mut Page) {
        for (name, help, counts) in [
            (
                "kubeproxy_proxy_healthz_total",
                "Cumulative proxy healthz HTTP status",
                self.healthz,
            ),
            (
                "kubeproxy_proxy_livez_total",
                "Cumulative proxy livez HTTP status",
                self.livez,
            ),
        ] {
            let mut metric = page.metric(name, Kind::Counter, help);
            for (code, count) in ["200", "503"].into_iter().zip(counts) {
                metric.sample(&[("code", code)], count);
            }
        }
    }

    fn write_own(&self, page: &mut Page) {
        let Held {
            services,
            ports,
            frontends,
            backends,
            writes,
        } = self.held;
        for (name, help, value) in [
            ("watari_services", "Services that are programmed.", services),
            (
                "watari_service_ports",
                "Ports of Services that are programmed, by family of addresses.",
                ports,
            ),
            (
                "watari_service_frontends",
                "Addresses with ports at which Services are reached.",
                frontends,
            ),
            (
                "watari_service_backends",
                "Endpoints that get connections of this node, or had some lately.",
                backends,
            ),
        ] {
            page.metric(name, Kind::Gauge, help).sample(&[], value);
        }
        for (name, help, value) in [
            (
                "watari_service_writes_total",
                "Entries of the tables of Services that were written.",
                writes,
            ),
            (
                "watari_service_sync_failures_total",
                "Syncs of Services that failed.",
                self.failures,
            ),
        ] {
            page.metric(name, Kind::Counter, help).sample(&[], value);
        }
        let mut metric = page.metric(
            "watari_service_ended_total",
            Kind::Counter,
            "What was ended since its endpoint was removed.",
        );
        for (what, count) in [
            ("connection", self.ended.connections),
            ("socket", self.ended.sockets),
        ] {
            metric.sample(&[("what", what)], count);
        }
    }
}

/// Seconds since 1970.
fn unix(at: SystemTime) -> f64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(numbers: &Numbers) -> String {
        let mut page = Page::default();
        numbers.write(&mut page);
        page.into_text()
    }

    #[test]
    fn the_limits_are_those_of_kube_proxy() {
        assert_eq!(SYNC_LIMITS.len(), 15);
        for (at, limit) in SYNC_LIMITS.iter().enumerate() {
            let exponent = i32::try_from(at).unwrap();
            assert!((limit - 0.001 * 2f64.powi(exponent)).abs() < 1e-9);
        }
        assert_eq!(PROGRAMMING_LIMITS.len(), 2 + 59 + 12 + 7);
        assert!(PROGRAMMING_LIMITS.is_sorted());
    }

    #[test]
    fn a_sync_is_counted_where_something_changed() {
        let mut numbers = Numbers::default();
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        numbers.heard(2, 3, at);
        assert!(text(&numbers).contains("kubeproxy_sync_proxy_rules_endpoint_changes_pending 3\n"));
        let synced = Synced {
            took: Duration::from_millis(3),
            full: false,
            families: [true, false],
        };
        numbers.synced(&synced, at + Duration::from_secs(1));
        numbers.programmed(true, Duration::from_millis(700));
        numbers.healthz(true);
        numbers.livez(false);
        numbers.no_local(0, 4);
        let text = text(&numbers);
        for line in [
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family=\"IPv4\",le=\"0.002\"} 0",
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family=\"IPv4\",le=\"0.004\"} 1",
            "kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv6\"} 0",
            "kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 1",
            "kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 0",
            "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family=\"IPv4\"} 1000",
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv6\"} 1001",
            "kubeproxy_network_programming_duration_seconds_bucket{ip_family=\"IPv6\",le=\"1\"} 1",
            "kubeproxy_sync_proxy_rules_endpoint_changes_pending 0",
            "kubeproxy_sync_proxy_rules_endpoint_changes_total 3",
            "kubeproxy_sync_proxy_rules_service_changes_total 2",
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total{traffic_policy=\"external\"} 4",
            "kubeproxy_proxy_healthz_total{code=\"200\"} 1",
            "kubeproxy_proxy_livez_total{code=\"503\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }
}
