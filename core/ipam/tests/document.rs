//! Documents of the wire server and of Azure Stack: what is taken from them, what is refused.

#![allow(clippy::unwrap_used)]

use std::fmt::Write;

use proptest::prelude::*;
use watari_ipam::{Document, DocumentError, MAX_ADDRESSES, MAX_DOCUMENT, Pool, PoolId, Select};

const XML: &str = r#"<?xml version="1.0" encoding="utf-8"?>
<Interfaces>
  <Interface MacAddress="002248263DBD" IsPrimary="true">
    <IPSubnet Prefix="10.240.0.0/16">
      <IPAddress Address="10.240.0.4" IsPrimary="true"/>
      <IPAddress Address="10.240.0.6" IsPrimary="false"/>
      <IPAddress Address="10.240.0.5" IsPrimary="false"/>
      <Later/>
    </IPSubnet>
    <IPSubnet Prefix="fd00:1::/64">
      <IPAddress Address="fd00:1::4" IsPrimary="True"/>
      <IPAddress Address="fd00:1::5" IsPrimary="False"/>
    </IPSubnet>
  </Interface>
  <Interface MacAddress="002248263dbe"><IPSubnet Prefix="10.1.0.0/24"/></Interface>
</Interfaces>"#;

const JSON: &str = r#"{"Interfaces":[{"MacAddress":"002248263DBD","IsPrimary":true,"IPSubnets":[
  {"Prefix":"10.240.0.0/16","IPAddresses":[{"Address":"10.240.0.4","IsPrimary":true},
   {"Address":"10.240.0.6"},{"Address":"10.240.0.5","IsPrimary":false}]},
  {"Prefix":"fd00:1::/64","IPAddresses":[{"Address":"fd00:1::4","IsPrimary":true},
   {"Address":"fd00:1::5"}]}]},
  {"MacAddress":"00:22:48:26:3d:be","IPSubnets":[{"Prefix":"10.1.0.0/24"}]}]}"#;

#[test]
fn both_forms_say_the_same() {
    let xml = Document::from_xml(XML.as_bytes()).unwrap();
    assert_eq!(xml, Document::from_json(JSON.as_bytes()).unwrap());
    assert_eq!(xml.interfaces.len(), 2);
    let with_mark = format!("\u{feff}{XML}");
    assert_eq!(xml, Document::from_xml(with_mark.as_bytes()).unwrap());
}

#[test]
fn the_nodes_own_address_is_reserved_and_the_gateway_is_the_first() {
    let document = Document::from_xml(XML.as_bytes()).unwrap();
    let subnets = document
        .select(Select::Primary)
        .unwrap()
        .for_containers()
        .unwrap();
    assert_eq!(subnets.len(), 2);
    let id = PoolId {
        scope: "node".to_owned(),
        name: "4".to_owned(),
    };
    let pool = Pool::new(id, vec![subnets[0].clone()]).unwrap();
    let spans: Vec<String> = pool
        .spans()
        .map(|span| format!("{}-{}", span.first(), span.last()))
        .collect();
    assert_eq!(spans, ["10.240.0.5-10.240.0.6"]);
    for (address, reserved) in [
        ("10.240.0.1", true),
        ("10.240.0.4", true),
        ("10.240.0.7", false),
    ] {
        let address = address.parse().unwrap();
        assert_eq!(pool.reserves(address), reserved, "{address}");
        assert!(!pool.contains(address), "{address}");
    }
    assert_eq!(subnets[0].gateway, Some("10.240.0.1".parse().unwrap()));
    assert_eq!(subnets[1].gateway, Some("fd00:1::1".parse().unwrap()));
}

#[test]
fn the_interface_is_chosen_by_mac_or_as_the_primary_one() {
    let document = Document::from_xml(XML.as_bytes()).unwrap();
    let by_mac = Select::Mac("00:22:48:26:3D:BE".parse().unwrap());
    assert!(!document.select(by_mac).unwrap().primary);
    let unknown = Select::Mac("00:00:5e:00:00:01".parse().unwrap());
    let error = document.select(unknown).unwrap_err().to_string();
    assert!(
        error.contains("2 interfaces, none of them 00:00:5e:00:00:01"),
        "{error}"
    );

    let any = XML.replace("002248263dbe", "*");
    let any = Document::from_xml(any.as_bytes()).unwrap();
    assert_eq!(any.select(unknown).unwrap().mac, None);

    let none = XML.replace(r#" IsPrimary="true">"#, ">");
    let none = Document::from_xml(none.as_bytes()).unwrap();
    assert!(matches!(
        none.select(Select::Primary),
        Err(DocumentError::NoInterface(_))
    ));
}

fn refused(xml: &str, says: &str) {
    let error = Document::from_xml(xml.as_bytes()).unwrap_err().to_string();
    assert!(error.contains(says), "{xml:.200}: {error}");
}

#[test]
fn what_is_malformed_is_refused_with_its_place() {
    refused("", "no root element");
    refused("<html><body/></html>", "want one root element, Interfaces");
    refused("<Interfaces/><Interfaces/>", "want one root element");
    refused("{}", "text outside of the root element");
    refused("<Interfaces><Interface", "not well-formed");
    refused("<Interfaces><a></b></Interfaces>", "not well-formed");
    refused(&XML.replace("</Interfaces>", ""), "ends within Interfaces");
    refused(
        &XML.replace("10.240.0.0/16", "10.240.0.0"),
        "IPSubnet[0]: Prefix is",
    );
    refused(
        &XML.replace("10.240.0.6", "10.240.0.256"),
        "Address is \"10.240.0.256\"",
    );
    refused(
        &XML.replace("10.240.0.6", "10.241.0.6"),
        "10.241.0.6 is not in the prefix",
    );
    refused(&XML.replace("10.240.0.6", "&x;"), "not well-formed");
    refused(
        &XML.replace("002248263DBD", "00224826"),
        "MacAddress is \"00224826\"",
    );
    refused(
        &XML.replace("\"True\"", "\"maybe\""),
        "IsPrimary is \"maybe\"",
    );
    refused(
        &XML.replace("<Interface MacAddress=\"002248263DBD\"", "<Interface"),
        "MacAddress is \"\"",
    );
    refused(
        &format!("<Interfaces>{}", "<a>".repeat(20)),
        "levels of elements",
    );
    let utf16: Vec<u8> = XML.encode_utf16().flat_map(u16::to_le_bytes).collect();
    Document::from_xml(&utf16).unwrap_err();
}

#[test]
fn entities_and_document_types_are_refused() {
    let bomb = format!(
        "<!DOCTYPE x [<!ENTITY a \"{}\"><!ENTITY b \"&a;&a;\">]>{}",
        "x".repeat(99),
        &XML[XML.find("<Interfaces").unwrap()..]
    );
    refused(&bomb, "a document type, which is refused");
}

#[test]
fn sizes_are_bounded() {
    refused(&" ".repeat(MAX_DOCUMENT + 1), "more than the 1048576");
    let mut json = String::from(
        r#"{"Interfaces":[{"MacAddress":"*","IPSubnets":[{"Prefix":"::/0","IPAddresses":["#,
    );
    for at in 0..=MAX_ADDRESSES {
        write!(
            json,
            "{}{{\"Address\":\"::\"}}",
            if at == 0 { "" } else { "," }
        )
        .unwrap();
    }
    json.push_str("]}]}]}");
    let error = Document::from_json(json.as_bytes()).unwrap_err();
    assert!(
        matches!(
            error,
            DocumentError::TooMuch {
                what: "addresses",
                ..
            }
        ),
        "{error}"
    );
}

proptest! {
    #[test]
    fn no_mutation_panics(
        at in any::<prop::sample::Index>(),
        with in prop::collection::vec(any::<u8>(), 0..6),
        cut in 0usize..40,
    ) {
        for text in [XML, JSON] {
            let mut bytes = text.as_bytes().to_vec();
            let at = at.index(bytes.len());
            let end = (at + cut).min(bytes.len());
            bytes.splice(at..end, with.iter().copied());
            for document in [Document::from_xml(&bytes), Document::from_json(&bytes)].into_iter().flatten() {
                for interface in &document.interfaces {
                    let _ = interface.for_containers();
                }
            }
        }
    }
}
