use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;
use watari_http::Answer;
use watari_model::ServiceName;

use super::time::rfc3339;
use crate::metrics::{CONTENT_TYPE, Datapath, Kind, Numbers, Page, Usage, write_usage};

/// A change that waits longer than this to be programmed makes the node unhealthy: twice the time
/// between two looks at everything, as kube-proxy has it.
const STALE: Duration = Duration::from_mins(1);

/// What a health check port says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HealthCheck {
    /// `spec.healthCheckNodePort`.
    pub port: u16,
    /// Usable endpoints on this node.
    pub local: usize,
}

/// Where the agent's own task writes how things are, and the HTTP server's thread reads it: so it is
/// answered while the agent is busy, and told when it hangs.
#[derive(Debug)]
pub struct Board {
    now: fn() -> (Instant, SystemTime),
    state: Mutex<State>,
    datapath: Datapath,
}

#[derive(Debug)]
struct State {
    /// Since when the oldest change waits that is not programmed yet.
    queued: Option<Instant>,
    /// When everything was last programmed.
    updated: Option<SystemTime>,
    /// When the agent was last seen at work.
    beat: Instant,
    /// Traffic may be sent to this node: it is not about to be deleted.
    eligible: bool,
    checks: BTreeMap<ServiceName, HealthCheck>,
    numbers: Numbers,
    usage: Vec<Usage>,
}

fn real_time() -> (Instant, SystemTime) {
    (Instant::now(), SystemTime::now())
}

impl Board {
    /// Of an agent that starts: it counts as healthy until it was asked to do something and did not.
    pub fn new(datapath: Datapath) -> Self {
        Self::with_clock(datapath, real_time)
    }

    fn with_clock(datapath: Datapath, now: fn() -> (Instant, SystemTime)) -> Self {
        let state = State {
            queued: None,
            updated: None,
            beat: now().0,
            eligible: true,
            checks: BTreeMap::new(),
            numbers: Numbers::default(),
            usage: Vec::new(),
        };
        Self {
            now,
            state: Mutex::new(state),
            datapath,
        }
    }

    /// Nobody who holds it panics half way through a change.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The agent is at work.
    pub fn beat(&self) {
        self.state().beat = (self.now)().0;
    }

    /// Something is to be programmed.
    pub fn queued(&self) {
        let now = (self.now)().0;
        self.state().queued.get_or_insert(now);
    }

    /// Everything is programmed.
    pub fn updated(&self) {
        let now = (self.now)().1;
        let mut state = self.state();
        (state.queued, state.updated) = (None, Some(now));
    }

    /// Whether this node is to get traffic.
    pub fn set_eligible(&self, eligible: bool) {
        self.state().eligible = eligible;
    }

    /// The Services that have a health check port.
    pub fn set_checks(&self, checks: BTreeMap<ServiceName, HealthCheck>) {
        self.state().checks = checks;
    }

    /// How full the tables of Services are.
    pub fn set_usage(&self, usage: Vec<Usage>) {
        self.state().usage = usage;
    }

    /// Changes what is measured.
    pub fn numbers(&self, change: impl FnOnce(&mut Numbers)) {
        change(&mut self.state().numbers);
    }

    /// `/healthz` and `/livez` of the node.
    pub fn node(&self, path: &str) -> Answer {
        let (is_healthz, now) = match path {
            "/healthz" => (true, (self.now)()),
            "/livez" => (false, (self.now)()),
            _ => return Answer::not_found(),
        };
        let mut state = self.state();
        let well = state.is_fresh(now.0) && (state.eligible || !is_healthz);
        // As kube-proxy: when it is well, it is as of now.
        let last = if well { Some(now.1) } else { state.updated };
        let last = rfc3339(last.unwrap_or(SystemTime::UNIX_EPOCH));
        let current = rfc3339(now.1);
        let body = if is_healthz {
            state.numbers.healthz(well);
            let eligible = state.eligible;
            format!(
                r#"{{"lastUpdated": "{last}","currentTime": "{current}", "nodeEligible": {eligible}}}"#
            )
        } else {
            state.numbers.livez(well);
            format!(r#"{{"lastUpdated": "{last}","currentTime": "{current}"}}"#)
        };
        Answer::json(if well { 200 } else { 503 }, body)
    }

    /// Any path of the health check port of a Service.
    pub fn service(&self, service: &ServiceName) -> Answer {
        let now = (self.now)().0;
        let state = self.state();
        let local = state.checks.get(service).map_or(0, |check| check.local);
        let healthy = state.is_fresh(now);
        let (namespace, name) = (json!(service.namespace), json!(service.name));
        let body = format!(
            "{{\n\t\"service\": {{\n\t\t\"namespace\": {namespace},\n\t\t\"name\": {name}\n\t}},\n\
             \t\"localEndpoints\": {local},\n\t\"serviceProxyHealthy\": {healthy}\n}}"
        );
        let status = if local > 0 && healthy { 200 } else { 503 };
        Answer::json(status, body).with("x-load-balancing-endpoint-weight", local.to_string())
    }

    /// `/metrics`.
    pub fn metrics(&self, path: &str) -> Answer {
        match path {
            "/metrics" => {}
            "/healthz" => return Answer::text(200, "ok"),
            _ => return Answer::not_found(),
        }
        let mut page = Page::default();
        let (numbers, usage) = {
            let state = self.state();
            (state.numbers.clone(), state.usage.clone())
        };
        numbers.write(&mut page);
        write_usage(
            &mut page,
            ("watari_table_entries", "Entries of a table of Services."),
            (
                "watari_table_limit",
                "Entries that a table of Services has room for.",
            ),
            &usage,
        );
        // Without the lock: it reads whole tables of the kernel.
        self.datapath.write(&mut page);
        page.metric("watari_build_info", Kind::Gauge, "The agent's version.")
            .sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
        process(&mut page);
        Answer {
            content_type: CONTENT_TYPE,
            ..Answer::text(200, page.into_text())
        }
    }
}

impl State {
    fn is_fresh(&self, now: Instant) -> bool {
        let recent = |since: Instant| now.saturating_duration_since(since) < STALE;
        self.queued.is_none_or(recent) && recent(self.beat)
    }
}

/// What every exporter tells of its process.
fn process(page: &mut Page) {
    let Ok(text) = std::fs::read_to_string("/proc/self/stat") else {
        return;
    };
    // Behind the name, which may hold anything: state is the first, `utime` the 12th (proc(5)).
    let fields: Vec<&str> = text
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().collect())
        .unwrap_or_default();
    let number = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok());
    // The kernel tells in hundredths of a second on every architecture (USER_HZ).
    if let (Some(user), Some(system)) = (number(11), number(12)) {
        let (name, help) = (
            "process_cpu_seconds_total",
            "Total user and system CPU time spent in seconds.",
        );
        page.metric(name, Kind::Counter, help)
            .sample(&[], (user + system) / 100.0);
    }
    if let Some(pages) = number(21) {
        let (name, help) = (
            "process_resident_memory_bytes",
            "Resident memory size in bytes.",
        );
        let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
        if let Ok(Some(size)) = size
            && let Ok(size) = u32::try_from(size)
        {
            page.metric(name, Kind::Gauge, help)
                .sample(&[], pages * f64::from(size));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::metrics::datapath;

    thread_local! {
        static START: (Instant, SystemTime) = (
            Instant::now(),
            SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_810_504),
        );
        static PASSED: Cell<u64> = const { Cell::new(0) };
    }

    /// A clock that each test has for itself.
    fn clock() -> (Instant, SystemTime) {
        let passed = Duration::from_secs(PASSED.get());
        START.with(|start| (start.0 + passed, start.1 + passed))
    }

    fn board() -> Board {
        Board::with_clock(datapath("/nowhere".into()), clock)
    }

    /// Seconds pass, and the agent is at work.
    fn pass(board: &Board, seconds: u64) {
        PASSED.set(PASSED.get() + seconds);
        board.beat();
    }

    fn service(name: &str) -> ServiceName {
        ServiceName {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
        }
    }

    #[test]
    fn a_node_is_unhealthy_when_a_change_waits_too_long() {
        let board = board();
        let status = |path| board.node(path).status;
        assert_eq!(
            (status("/healthz"), status("/livez")),
            (200, 200),
            "it starts"
        );
        pass(&board, 1000);
        assert_eq!(status("/livez"), 200, "nothing happens");
        board.queued();
        pass(&board, 59);
        board.queued();
        assert_eq!(status("/healthz"), 200);
        pass(&board, 1);
        assert_eq!((status("/healthz"), status("/livez")), (503, 503));
        assert_eq!(board.service(&service("web")).status, 503);
        board.updated();
        assert_eq!((status("/healthz"), status("/livez")), (200, 200));
        assert_eq!(status("/else"), 404);
    }

    #[test]
    fn an_agent_that_hangs_is_unhealthy() {
        let board = board();
        PASSED.set(60);
        assert_eq!(board.node("/livez").status, 503);
        board.beat();
        assert_eq!(board.node("/livez").status, 200);
    }

    #[test]
    fn a_node_that_is_to_be_deleted_lives_on() {
        let board = board();
        board.updated();
        pass(&board, 5);
        board.set_eligible(false);
        let answer = board.node("/healthz");
        assert_eq!(answer.status, 503);
        assert_eq!(answer.content_type, "application/json");
        assert_eq!(
            answer.body,
            "{\"lastUpdated\": \"2026-11-27T20:15:04.000000Z\",\
             \"currentTime\": \"2026-11-27T20:15:09.000000Z\", \"nodeEligible\": false}"
        );
        let answer = board.node("/livez");
        assert_eq!(answer.status, 200);
        assert_eq!(
            answer.body,
            "{\"lastUpdated\": \"2026-11-27T20:15:09.000000Z\",\
             \"currentTime\": \"2026-11-27T20:15:09.000000Z\"}"
        );
        let web = HealthCheck { port: 1, local: 1 };
        board.set_checks([(service("web"), web)].into());
        assert_eq!(
            board.service(&service("web")).status,
            200,
            "its endpoints serve on"
        );
    }

    #[test]
    fn a_service_is_well_where_it_has_endpoints() {
        let board = board();
        let check = |local| HealthCheck {
            port: 30_000,
            local,
        };
        board.set_checks([(service("web"), check(2)), (service("db"), check(0))].into());
        let answer = board.service(&service("web"));
        assert_eq!(answer.status, 200);
        let weight = ("x-load-balancing-endpoint-weight", "2".to_owned());
        assert_eq!(answer.headers, [weight]);
        let expected = "{\n\t\"service\": {\n\t\t\"namespace\": \"shop\",\n\t\t\"name\": \"web\"\n\t},\n\
             \t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}";
        assert_eq!(answer.body, expected);
        assert_eq!(board.service(&service("db")).status, 503);
        assert_eq!(board.service(&service("gone")).status, 503);
    }

    #[test]
    fn metrics_are_told_with_what_was_probed() {
        let board = board();
        board.node("/healthz");
        board.set_usage(vec![Usage {
            table: "frontends",
            used: 7,
            room: 10,
        }]);
        let answer = board.metrics("/metrics");
        assert!(answer.content_type.starts_with("text/plain; version=0.0.4"));
        for line in [
            "kubeproxy_proxy_healthz_total{code=\"200\"} 1",
            "watari_table_entries{table=\"frontends\"} 7",
            "watari_table_limit{table=\"frontends\"} 10",
        ] {
            assert!(answer.body.contains(line), "{line}");
        }
        assert!(answer.body.contains("process_resident_memory_bytes "));
        assert_eq!(board.metrics("/").status, 404);
    }
}
