//! Questions that the demonstration puts to a network, from inside one of its namespaces.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use watari_model::MacAddr;
use watari_netlink::{Handle, Netns};

use crate::layout::WIRE_SERVER;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a server may take from its start to its first answer.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// The kernel asks three times, a second apart.
const ARP_PATIENCE: Duration = Duration::from_secs(6);
/// The discard service (RFC 863): nobody listens, and the datagram only makes the kernel ask.
const DISCARD: u16 = 9;

/// What a built-in server said.
#[derive(Debug, PartialEq, Eq)]
pub struct Said {
    /// Who it is.
    pub name: String,
    /// Whom it saw.
    pub peer: IpAddr,
}

/// Asks a built-in server over HTTP, from inside `from`.
pub fn ask(from: &Netns, address: IpAddr, port: u16) -> Result<Said> {
    let server = SocketAddr::new(address, port);
    let answer = from.within(|| fetch(server))?;
    let answer = answer.with_context(|| format!("ask http://{server}/"))?;
    let field = |name: &str| {
        let text = answer.get(name).and_then(Value::as_str);
        text.with_context(|| format!("the answer of {server} has no {name}: {answer}"))
    };
    let peer: SocketAddr = field("peer")?.parse().context("whom the server saw")?;
    Ok(Said {
        name: field("name")?.to_owned(),
        peer: peer.ip(),
    })
}

/// Waits until a built-in server answers.
pub fn wait_for_server(from: &Netns, address: IpAddr, port: u16) -> Result<()> {
    let end = Instant::now() + START_PATIENCE;
    loop {
        match ask(from, address, port) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > end => {
                return Err(error.context(format!("no answer within {START_PATIENCE:?}")));
            }
            Err(_) => sleep(Duration::from_millis(20)),
        }
    }
}

/// What the wire server tells a node, in one line.
pub fn owned(node: &Netns) -> Result<String> {
    let url = format!("http://{WIRE_SERVER}{}", watari_azure::PATH);
    let document = node
        .within(|| get(&url))?
        .with_context(|| format!("ask {url}"))?;
    let addresses: Vec<&str> = document
        .split("<IPAddress Address=\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .collect();
    let [primary, rest @ ..] = addresses.as_slice() else {
        bail!("{url} told no addresses: {document}");
    };
    let (first, last) = (
        rest.first().unwrap_or(primary),
        rest.last().unwrap_or(primary),
    );
    let count = rest.len();
    Ok(format!(
        "the wire server tells node1: you own {primary} and {count} more, {first} to {last}"
    ))
}

fn fetch(server: SocketAddr) -> Result<Value> {
    Ok(serde_json::from_str(&get(&format!("http://{server}/"))?)?)
}

fn get(url: &str) -> Result<String> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(PATIENCE))
        .proxy(None)
        .build()
        .into();
    Ok(agent.get(url).call()?.body_mut().read_to_string()?)
}

/// Who answers ARP for an address, asked by the kernel of `from`; none if nobody does.
pub fn resolve(from: &Netns, address: IpAddr) -> Result<Option<MacAddr>> {
    from.within(|| UdpSocket::bind("0.0.0.0:0")?.send_to(b"?", (address, DISCARD)))?
        .with_context(|| format!("send a datagram to {address}"))?;
    let mut handle = Handle::open_in(from)?;
    let end = Instant::now() + ARP_PATIENCE;
    loop {
        let seen = handle.all_neighbours()?;
        if let Some(entry) = seen.iter().find(|entry| entry.address == address) {
            match (entry.state.as_str(), entry.mac) {
                ("FAILED", _) => return Ok(None),
                (_, Some(mac)) => return Ok(Some(mac)),
                _ => {}
            }
        }
        if Instant::now() > end {
            bail!("the kernel still asks for {address} after {ARP_PATIENCE:?}");
        }
        sleep(Duration::from_millis(20));
    }
}
