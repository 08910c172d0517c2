//! What the kernel answers on an nftables socket: untrusted until parsed.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| watari_fuzz::nft_answer(bytes));
