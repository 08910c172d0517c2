//! Where a node learns its addresses: the wire server's XML, Azure Stack's JSON, the file of a node's Pod CIDRs, `resolv.conf`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| watari_fuzz::ipam_document(bytes));
