//! What the kernel answers on a route netlink socket: untrusted until parsed.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| watari_fuzz::netlink_answer(bytes));
