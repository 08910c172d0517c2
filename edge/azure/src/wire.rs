use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::{Duration, Instant};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use watari_ipam::{Document, MAX_DOCUMENT};

use crate::SourceError;

/// What is asked of the wire server: the interfaces and addresses that the host knows of.
pub const PATH: &str = "/machine/plugins?comp=nmagent&type=getinterfaceinfov1";

/// How long one connection may take.
const CONNECT: Duration = Duration::from_secs(2);
/// How long all tries may take together when nothing is known yet, as with the Azure plugins.
pub const PATIENT: Duration = Duration::from_secs(10);
/// The same when an older answer can be used.
pub const HASTY: Duration = Duration::from_secs(2);
/// The pauses between tries; one more try than pauses.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(400)];

/// Asks the wire server at `base` (`http://ADDRESS[:PORT]`) for the node's interfaces; all
/// tries together take at most `total`.
pub fn wire_server(base: &str, total: Duration) -> Result<Document, SourceError> {
    check(base)?;
    let url = format!("{base}{PATH}");
    let deadline = Instant::now() + total;
    let mut tries = 0;
    loop {
        tries += 1;
        let left = deadline.saturating_duration_since(Instant::now());
        let failure = match get(&url, left) {
            Ok(bytes) => {
                return Document::from_xml(&bytes)
                    .map_err(|why| SourceError::Document { from: url, why });
            }
            Err(failure) => failure,
        };
        let pause = PAUSES.get(tries - 1).copied();
        match pause.filter(|pause| failure.again && Instant::now() + *pause < deadline) {
            Some(pause) => sleep(pause),
            None => {
                return Err(SourceError::Fetch {
                    url,
                    why: failure.why,
                    tries: u32::try_from(tries).unwrap_or(u32::MAX),
                });
            }
        }
    }
}

struct Failure {
    why: String,
    /// Another try may help.
    again: bool,
}

fn get(url: &str, timeout: Duration) -> Result<Vec<u8>, Failure> {
    let config = Config::builder()
        .timeout_global(Some(timeout))
        .timeout_connect(Some(CONNECT))
        .max_redirects(0)
        .http_status_as_error(false)
        .proxy(None)
        .user_agent("watari-cni")
        .build();
    let agent = ureq::Agent::with_parts(config, DefaultConnector::default(), Literal);
    let failed = |error: ureq::Error| Failure {
        again: !matches!(
            error,
            ureq::Error::BodyExceedsLimit(_) | ureq::Error::HostNotFound | ureq::Error::BadUri(_)
        ),
        why: error.to_string(),
    };
    let mut answer = agent.get(url).call().map_err(failed)?;
    let status = answer.status();
    if status != 200 {
        return Err(Failure {
            why: format!("it answered {status}"),
            again: status.is_server_error() || matches!(status.as_u16(), 408 | 429),
        });
    }
    // Whatever content type it claims: the document itself is checked.
    let bound = u64::try_from(MAX_DOCUMENT).unwrap_or(u64::MAX);
    answer
        .body_mut()
        .with_config()
        .limit(bound)
        .read_to_vec()
        .map_err(failed)
}

/// The address in `http://ADDRESS[:PORT]`, the port being 80 when absent.
fn check(base: &str) -> Result<SocketAddr, SourceError> {
    let error = |why| SourceError::Url {
        url: base.chars().take(256).collect(),
        why,
    };
    let rest = base
        .strip_prefix("http://")
        .ok_or_else(|| error("want http://ADDRESS[:PORT]"))?;
    let whole: Option<SocketAddr> = rest.parse().ok();
    let host = rest.trim_start_matches('[').trim_end_matches(']');
    whole
        .or_else(|| host.parse::<IpAddr>().ok().map(|ip| (ip, 80).into()))
        .ok_or_else(|| error("want an IP address in place of a name, and no path"))
}

/// Resolves IP literals only.
#[derive(Debug)]
struct Literal;

impl Resolver for Literal {
    fn resolve(
        &self,
        uri: &Uri,
        _: &Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let ip: IpAddr = bare.parse().map_err(|_| ureq::Error::HostNotFound)?;
        let mut found = self.empty();
        found.push((ip, uri.port_u16().unwrap_or(80)).into());
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_is_an_address() {
        let at = |base| check(base).map(|at| at.to_string());
        assert_eq!(at("http://168.63.129.16").unwrap(), "168.63.129.16:80");
        assert_eq!(at("http://127.0.0.1:8080").unwrap(), "127.0.0.1:8080");
        assert_eq!(at("http://[::1]:8080").unwrap(), "[::1]:8080");
        assert_eq!(at("http://[::1]").unwrap(), "[::1]:80");
        for bad in [
            "",
            "168.63.129.16",
            "https://1.2.3.4",
            "http://host",
            "http://1.2.3.4/x",
        ] {
            at(bad).expect_err(bad);
        }
    }
}
