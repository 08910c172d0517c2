//! Where a node learns its addresses: the wire server's XML, Azure Stack's JSON, the file of a
//! node's Pod CIDRs, `resolv.conf`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use watari_ipam::{Document, parse_node_file, parse_resolv_conf};

fuzz_target!(|bytes: &[u8]| {
    let _ = Document::from_xml(bytes);
    let _ = Document::from_json(bytes);
    let _ = parse_node_file(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = parse_resolv_conf(text);
    }
});
