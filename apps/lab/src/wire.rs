use std::fmt::Write;
use std::net::IpAddr;

use watari_model::MacAddr;

use crate::layout::{Lab, Node};

/// The path and query of the interface document on the wire server.
pub const DOCUMENT: &str = "/machine/plugins?comp=nmagent&type=getinterfaceinfov1";

/// What the wire server tells `node` about its interface: the primary address of each family
/// and all secondary ones. IPv6 is a second `IPSubnet`.
pub fn document(lab: &Lab, node: &Node) -> String {
    let mut text = String::from("<Interfaces>");
    let mac = wire_mac(node.mac);
    let _ = write!(text, r#"<Interface MacAddress="{mac}" IsPrimary="true">"#);
    let secondaries = node.secondaries();
    for primary in node.primaries() {
        let Some(subnet) = lab.subnet_like(primary) else {
            continue;
        };
        let _ = write!(text, r#"<IPSubnet Prefix="{subnet}">"#);
        address(&mut text, primary, true);
        for secondary in &secondaries {
            if secondary.is_ipv4() == primary.is_ipv4() {
                address(&mut text, *secondary, false);
            }
        }
        text.push_str("</IPSubnet>");
    }
    text.push_str("</Interface></Interfaces>\n");
    text
}

fn address(text: &mut String, address: IpAddr, primary: bool) {
    let _ = write!(
        text,
        r#"<IPAddress Address="{address}" IsPrimary="{primary}"/>"#
    );
}

/// Twelve hexadecimal digits in capitals, without separators.
fn wire_mac(mac: MacAddr) -> String {
    mac.to_string().replace(':', "").to_ascii_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Label, Spec};

    #[test]
    fn the_document_names_every_address_of_the_node_alone() {
        let spec = Spec::parse("{nodes: 2, maxPods: 2, ipv6: true}").unwrap();
        let lab = Lab::new(Label::new("t").unwrap(), &spec).unwrap();
        assert_eq!(
            document(&lab, &lab.nodes[1]),
            concat!(
                r#"<Interfaces><Interface MacAddress="02000AF00007" IsPrimary="true">"#,
                r#"<IPSubnet Prefix="10.240.0.0/16">"#,
                r#"<IPAddress Address="10.240.0.7" IsPrimary="true"/>"#,
                r#"<IPAddress Address="10.240.0.8" IsPrimary="false"/>"#,
                r#"<IPAddress Address="10.240.0.9" IsPrimary="false"/></IPSubnet>"#,
                r#"<IPSubnet Prefix="fd10:240::/64">"#,
                r#"<IPAddress Address="fd10:240::7" IsPrimary="true"/>"#,
                r#"<IPAddress Address="fd10:240::8" IsPrimary="false"/>"#,
                r#"<IPAddress Address="fd10:240::9" IsPrimary="false"/></IPSubnet>"#,
                "</Interface></Interfaces>\n"
            )
        );
    }
}
