//! What a host says of its interfaces: the Azure wire server's XML (`getinterfaceinfov1`) and
//! Azure Stack's `interfaces.json`. Strict where a mistake would give a wrong address, deaf to
//! elements, attributes and fields that it does not know.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};
use serde::Deserialize;
use watari_model::MacAddr;

use crate::pool::first_host;
use crate::{PoolError, Span, Subnet};

/// The longest document that is read, in bytes.
pub const MAX_DOCUMENT: usize = 1 << 20;
/// The most addresses in one document.
pub const MAX_ADDRESSES: usize = 32_768;
/// The deepest nesting of elements.
const MAX_DEPTH: usize = 16;

/// A document that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// More than a bound allows.
    #[error("the document has {found} {what}, more than the {limit} that are read")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// How many.
        found: usize,
        /// The bound.
        limit: usize,
    },
    /// Not well-formed.
    #[error("the document is not well-formed {form}: {why}")]
    Form {
        /// XML or JSON.
        form: &'static str,
        /// What the parser says.
        why: String,
    },
    /// Something that a document must not hold.
    #[error("the document holds {0}, which is refused")]
    Forbidden(&'static str),
    /// A value that is missing or wrong.
    #[error("{path}: {why}")]
    Value {
        /// Where it stands.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// No interface fits.
    #[error("{0}")]
    NoInterface(String),
}

/// The interfaces of a node, as its host knows them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Document {
    /// In the document's order.
    pub interfaces: Vec<NodeInterface>,
}

/// One interface of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInterface {
    /// `MacAddress`; none for `*`, which fits every interface.
    pub mac: Option<MacAddr>,
    /// `IsPrimary`.
    pub primary: bool,
    /// `IPSubnet`s.
    pub subnets: Vec<NodeSubnet>,
}

/// One subnet of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSubnet {
    /// `Prefix`.
    pub net: IpNet,
    /// `IPAddress`es for containers.
    pub addresses: BTreeSet<IpAddr>,
    /// Those with `IsPrimary`: the node's own.
    pub primary: BTreeSet<IpAddr>,
}

/// Which interface of a document to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Select {
    /// The primary one, or the only one.
    Primary,
    /// The one with this MAC (that of the configuration's `master`).
    Mac(MacAddr),
}

impl Document {
    /// Parses the wire server's XML. No document type, hence no entities but the five of XML.
    pub fn from_xml(bytes: &[u8]) -> Result<Self, DocumentError> {
        limit("bytes", bytes.len(), MAX_DOCUMENT)?;
        let text = std::str::from_utf8(bytes).map_err(|error| form("XML", &error))?;
        let mut builder = Builder::default();
        let mut reader = Reader::from_str(text.trim_start_matches('\u{feff}'));
        loop {
            match reader.read_event().map_err(|error| form("XML", &error))? {
                Event::Start(element) => builder.open(&element)?,
                Event::Empty(element) => {
                    builder.open(&element)?;
                    builder.close();
                }
                Event::End(_) => builder.close(),
                Event::Text(text) if builder.open.is_empty() && !is_blank(&text) => {
                    return Err(form("XML", &"there is text outside of the root element"));
                }
                Event::DocType(_) => return Err(DocumentError::Forbidden("a document type")),
                Event::Eof => return builder.finish(),
                _ => {}
            }
        }
    }

    /// Parses Azure Stack's `interfaces.json`.
    pub fn from_json(bytes: &[u8]) -> Result<Self, DocumentError> {
        limit("bytes", bytes.len(), MAX_DOCUMENT)?;
        let file: StackFile =
            serde_json::from_slice(bytes).map_err(|error| form("JSON", &error))?;
        let mut document = Self::default();
        let mut count = 0;
        for (i, interface) in file.interfaces.into_iter().enumerate() {
            let path = format!("Interfaces[{i}]");
            let mut subnets = Vec::new();
            for (s, subnet) in interface.subnets.into_iter().enumerate() {
                let path = format!("{path}.IPSubnets[{s}]");
                let mut node = NodeSubnet::new(&path, &subnet.prefix)?;
                for (a, address) in subnet.addresses.into_iter().enumerate() {
                    count += 1;
                    limit("addresses", count, MAX_ADDRESSES)?;
                    let path = format!("{path}.IPAddresses[{a}]");
                    node.add(&path, &address.address, address.primary)?;
                }
                subnets.push(node);
            }
            document.interfaces.push(NodeInterface {
                mac: mac(&path, &interface.mac)?,
                primary: interface.primary,
                subnets,
            });
        }
        Ok(document)
    }

    /// The interface to take addresses from.
    pub fn select(&self, which: Select) -> Result<&NodeInterface, DocumentError> {
        let mut of = self.interfaces.iter().filter(|interface| match which {
            Select::Primary => interface.primary || self.interfaces.len() == 1,
            Select::Mac(mac) => interface.mac.is_none_or(|its| its == mac),
        });
        let found = of.next();
        found.ok_or_else(|| {
            let wanted = match which {
                Select::Primary => "none of them primary".to_owned(),
                Select::Mac(mac) => format!("none of them {mac}"),
            };
            let count = self.interfaces.len();
            DocumentError::NoInterface(format!("the document has {count} interfaces, {wanted}"))
        })
    }
}

impl NodeInterface {
    /// What it can give to containers, in both families. The gateway of a subnet is the first
    /// address of its prefix, as the Azure plugins have it.
    pub fn for_containers(&self) -> Result<Vec<Subnet>, PoolError> {
        let give = |subnet: &NodeSubnet| {
            let spans = subnet.addresses.iter().copied().map(Span::one).collect();
            let reserved = subnet.primary.iter().copied();
            Subnet::new(subnet.net, first_host(subnet.net), spans, reserved)
        };
        self.subnets.iter().map(give).collect()
    }
}

impl NodeSubnet {
    fn new(path: &str, prefix: &str) -> Result<Self, DocumentError> {
        let net: IpNet = value(path, "Prefix", prefix, "a prefix as 10.240.0.0/16")?;
        Ok(Self {
            net: net.trunc(),
            addresses: BTreeSet::new(),
            primary: BTreeSet::new(),
        })
    }

    fn add(&mut self, path: &str, text: &str, primary: bool) -> Result<(), DocumentError> {
        let address: IpAddr = value(path, "Address", text, "an IP address")?;
        let address = address.to_canonical();
        if !self.net.contains(&address) {
            return Err(DocumentError::Value {
                path: path.to_owned(),
                why: format!("the address {address} is not in the prefix {}", self.net),
            });
        }
        let set = if primary {
            &mut self.primary
        } else {
            &mut self.addresses
        };
        set.insert(address);
        Ok(())
    }
}

/// Gathers a document from the elements of XML.
#[derive(Default)]
struct Builder {
    document: Document,
    /// The names of the open elements.
    open: Vec<String>,
    addresses: usize,
    seen_root: bool,
}

impl Builder {
    fn open(&mut self, element: &BytesStart<'_>) -> Result<(), DocumentError> {
        let name = element.name().local_name().as_ref().to_owned();
        limit("levels of elements", self.open.len() + 1, MAX_DEPTH)?;
        for attribute in element.attributes() {
            // Each name once (XML 1.0, section 3.1), also where we look at none.
            attribute.map_err(|error| form("XML", &format!("{name}: {error}")))?;
        }
        if self.open.is_empty() {
            if self.seen_root || name != "Interfaces" {
                return Err(wrong_root(&name));
            }
            self.seen_root = true;
        }
        let parents: Vec<&str> = self.open.iter().map(String::as_str).collect();
        match (parents.as_slice(), name.as_str()) {
            (["Interfaces"], "Interface") => {
                let path = self.path("Interface", self.document.interfaces.len());
                let mac = mac(
                    &path,
                    &attribute(&path, element, "MacAddress")?.unwrap_or_default(),
                )?;
                let primary = flag(&path, element)?;
                self.document.interfaces.push(NodeInterface {
                    mac,
                    primary,
                    subnets: Vec::new(),
                });
            }
            (["Interfaces", "Interface"], "IPSubnet") => {
                let count = self
                    .interface()
                    .map_or(0, |interface| interface.subnets.len());
                let path = self.path("IPSubnet", count);
                let prefix = attribute(&path, element, "Prefix")?.unwrap_or_default();
                let subnet = NodeSubnet::new(&path, &prefix)?;
                if let Some(interface) = self.interface() {
                    interface.subnets.push(subnet);
                }
            }
            (["Interfaces", "Interface", "IPSubnet"], "IPAddress") => {
                self.addresses += 1;
                limit("addresses", self.addresses, MAX_ADDRESSES)?;
                let path = self.path("IPAddress", self.addresses - 1);
                let address = attribute(&path, element, "Address")?.unwrap_or_default();
                let primary = flag(&path, element)?;
                if let Some(subnet) = self.interface().and_then(|i| i.subnets.last_mut()) {
                    subnet.add(&path, &address, primary)?;
                }
            }
            _ => {}
        }
        self.open.push(name);
        Ok(())
    }

    fn close(&mut self) {
        self.open.pop();
    }

    fn finish(self) -> Result<Document, DocumentError> {
        if let Some(name) = self.open.last() {
            return Err(form("XML", &format!("it ends within {name}")));
        }
        if !self.seen_root {
            return Err(form("XML", &"it has no root element"));
        }
        Ok(self.document)
    }

    fn interface(&mut self) -> Option<&mut NodeInterface> {
        self.document.interfaces.last_mut()
    }

    /// Where an element stands, for messages: the last index of each kind is enough to find it.
    fn path(&self, name: &str, at: usize) -> String {
        format!("{}/{name}[{at}]", self.open.join("/"))
    }
}

/// White space of XML (section 2.3).
fn is_blank(text: &str) -> bool {
    text.trim_matches([' ', '\t', '\r', '\n']).is_empty()
}

fn wrong_root(name: &str) -> DocumentError {
    DocumentError::Value {
        path: format!("element {:?}", name.chars().take(64).collect::<String>()),
        why: "want one root element, Interfaces".to_owned(),
    }
}

fn attribute(
    path: &str,
    element: &BytesStart<'_>,
    name: &str,
) -> Result<Option<String>, DocumentError> {
    let found = element
        .try_get_attribute(name)
        .map_err(|error| form("XML", &format!("{path}: {error}")))?;
    found
        .map(|found| {
            found
                .normalized_value(XmlVersion::Implicit1_0)
                .map(|value| value.trim().to_owned())
                .map_err(|error| form("XML", &format!("{path}: {error}")))
        })
        .transpose()
}

/// `IsPrimary`: absent means false; the case of the value does not matter.
fn flag(path: &str, element: &BytesStart<'_>) -> Result<bool, DocumentError> {
    match attribute(path, element, "IsPrimary")? {
        None => Ok(false),
        Some(text) => value(
            path,
            "IsPrimary",
            &text.to_ascii_lowercase(),
            "true or false",
        ),
    }
}

fn mac(path: &str, text: &str) -> Result<Option<MacAddr>, DocumentError> {
    if text == "*" {
        return Ok(None);
    }
    value(path, "MacAddress", text, "12 hexadecimal digits or *").map(Some)
}

fn value<T: std::str::FromStr>(
    path: &str,
    name: &str,
    text: &str,
    want: &str,
) -> Result<T, DocumentError> {
    text.parse().map_err(|_| DocumentError::Value {
        path: path.to_owned(),
        why: format!(
            "{name} is {:?}, want {want}",
            text.chars().take(64).collect::<String>()
        ),
    })
}

fn limit(what: &'static str, found: usize, limit: usize) -> Result<(), DocumentError> {
    if found > limit {
        return Err(DocumentError::TooMuch { what, found, limit });
    }
    Ok(())
}

fn form(form: &'static str, why: &dyn std::fmt::Display) -> DocumentError {
    DocumentError::Form {
        form,
        why: why.to_string(),
    }
}

#[derive(Deserialize)]
struct StackFile {
    #[serde(rename = "Interfaces")]
    interfaces: Vec<StackInterface>,
}

#[derive(Deserialize)]
struct StackInterface {
    #[serde(rename = "MacAddress")]
    mac: String,
    #[serde(rename = "IsPrimary", default)]
    primary: bool,
    #[serde(rename = "IPSubnets", default)]
    subnets: Vec<StackSubnet>,
}

#[derive(Deserialize)]
struct StackSubnet {
    #[serde(rename = "Prefix")]
    prefix: String,
    #[serde(rename = "IPAddresses", default)]
    addresses: Vec<StackAddress>,
}

#[derive(Deserialize)]
struct StackAddress {
    #[serde(rename = "Address")]
    address: String,
    #[serde(rename = "IsPrimary", default)]
    primary: bool,
}
